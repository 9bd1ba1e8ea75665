"""A run that was killed and resumed is the run that never stopped, bit for bit."""
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from etude.storage import metrics_csv

from commands import here, kill, start, until

DQN = ("dqn", "CartPole-v1", "--rollout-length", "8", "--gradient-steps", "4", "--hidden", "16", "--batch-size", "16",
       "--capacity", "2000", "--warmup-steps", "200")
PPO = ("ppo", "CartPole-v1", "--rollout-length", "16", "--num-envs", "4", "--batch-size", "32", "--hidden", "16",
       "--normalize-observation", "--normalize-reward")
COMMON = ("--evaluation-episodes", "2")
KILLED = [(PPO, "jax", 30_000), (DQN, "gymnasium", 12_000)]
# and with many seeds below: dqn in one program on jax, ppo over processes on gymnasium


@pytest.mark.parametrize(("algorithm", "backend", "steps"), KILLED, ids=[f"{words[0]}-{backend}" for words, backend, _ in KILLED])
def test_killed_and_resumed_equals_uninterrupted(tmp_path, algorithm, backend, steps):
    asked = ("train", *algorithm, *COMMON, "--backend", backend, "--steps", steps)
    assert here(*asked, "--out", "whole", cwd=tmp_path).returncode == 0
    process = start(*asked, "--out", "killed", cwd=tmp_path)
    until(lambda: checkpoints(tmp_path / "killed"), process)
    kill(process)
    before = checkpoints(tmp_path / "killed")
    assert before and max(before) < steps * 0.95, "it was to be killed on its way"
    resumed = here("resume", "killed", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    same(tmp_path / "whole", tmp_path / "killed")


def test_many_seeds_in_one_program_resume_exactly(tmp_path):
    """Killed twice: before there is a checkpoint, from where it begins again, and after one."""
    asked = ("train", *DQN, *COMMON, "--seeds", 2, "--steps", 30_000)
    assert here(*asked, "--out", "whole", cwd=tmp_path).returncode == 0
    process = start(*asked, "--out", "killed", cwd=tmp_path)
    until((tmp_path / "killed/config.json").exists, process)
    kill(process)
    assert not checkpoints(tmp_path / "killed")
    process = start("resume", "killed", cwd=tmp_path)
    until(lambda: checkpoints(tmp_path / "killed"), process)
    kill(process)
    assert here("resume", "killed", cwd=tmp_path).returncode == 0
    same(tmp_path / "whole", tmp_path / "killed")


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path):
    process = start("train", *DQN, *COMMON, "--steps", 10_000_000, "--out", "run", cwd=tmp_path)
    until(lambda: (tmp_path / "run/metrics.csv").exists(), process)
    time.sleep(1)
    began = time.monotonic()
    said = kill(process, signal.SIGINT)
    assert time.monotonic() - began < 10
    assert process.returncode == 130
    assert "saved" in said and "etude resume run" in said
    (step,) = checkpoints(tmp_path / "run")
    less = here("resume", "run", "--steps", step, cwd=tmp_path)
    assert less.returncode == 2 and "10,000,000" in less.stderr


def test_a_slow_environment_is_left_within_ten_seconds(tmp_path):
    """One rollout of it takes minutes: the chunk is cancelled, and the last checkpoint stands."""
    (tmp_path / "slow.py").write_text(SLOW)
    process = start("train", "ppo", "slow:Slow-v0", "--num-envs", 1, "--rollout-length", 512, "--batch-size", 64, "--steps", 1024,
                    "--out", "run", cwd=tmp_path)
    until((tmp_path / "stepping").exists, process)
    began = time.monotonic()
    said = kill(process, signal.SIGTERM)
    assert time.monotonic() - began < 10
    assert process.returncode == 143
    assert "etude resume run" in said


def test_seeds_over_processes_resume_exactly(tmp_path):
    """And each is the seed alone."""
    asked = ("train", *PPO, *COMMON, "--backend", "gymnasium", "--steps", 12_000)
    for seed in (0, 1):
        assert here(*asked, "--seed", seed, "--out", f"seed_{seed}", cwd=tmp_path).returncode == 0
    process = start(*asked, "--seeds", 2, "--out", "killed", cwd=tmp_path)
    until(lambda: all(checkpoints(tmp_path / "killed" / seed) for seed in ("seed_0", "seed_1")), process)
    kill(process)                                         # its children end by themselves
    resumed = here("resume", "killed", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    for seed in ("seed_0", "seed_1"):
        same(tmp_path / seed, tmp_path / "killed" / seed)


def test_a_finished_run_goes_on_further(tmp_path):
    assert here("train", *DQN, *COMMON, "--steps", 4_000, "--out", "run", cwd=tmp_path).returncode == 0
    again = here("resume", "run", cwd=tmp_path)
    assert again.returncode == 2 and "--steps" in again.stderr
    assert here("resume", "run", "--steps", 8_000, cwd=tmp_path).returncode == 0
    steps = metrics_csv.read_metrics(tmp_path / "run/metrics.csv")["step"]
    assert steps[-1] == 8_000 and (np.diff(steps) > 0).all()


def checkpoints(run: Path) -> list[int]:
    return sorted(int(path.name[5:]) for path in run.glob("checkpoints/step_*"))


def same(whole: Path, resumed: Path) -> None:
    """The same metric rows and the same weights, bit for bit."""
    assert (whole / "metrics.csv").read_bytes() == (resumed / "metrics.csv").read_bytes()
    step = checkpoints(whole)[-1]
    assert step == checkpoints(resumed)[-1]
    ours, theirs = (load_file(run / f"checkpoints/step_{step}/arrays.safetensors") for run in (whole, resumed))
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        assert array.tobytes() == theirs[name].tobytes(), name


SLOW = '''
import time
import gymnasium
import numpy as np


class Slow(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (1,))
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        open("stepping", "w").close()
        time.sleep(0.5)
        return np.zeros(1, np.float32), 0.0, False, False, {}


gymnasium.register("Slow-v0", Slow)
'''
