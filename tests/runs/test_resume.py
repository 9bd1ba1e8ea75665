"""A run that was killed and resumed is the run that never stopped, bit for bit."""

import contextlib
import os
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from commands import here, kill, programs_kept, start, until
from safetensors.numpy import load_file

from etude.algorithms.trust_region.ppo import PPO
from etude.algorithms.value.dqn import DQN
from etude.estimators.running_statistics import Normalization
from etude.runs.interrupt import InterruptHandler
from etude.runs.job import train_job
from etude.runs.job_checkpoints import TrainJob, jobs_for
from etude.runs.options import RunOptions
from etude.runs.run import create_run, load
from etude.runs.train import resolve_settings
from etude.storage import metrics_csv

DQN_WORDS = (
    "dqn",
    "CartPole-v1",
    "--rollout-length",
    "8",
    "--gradient-steps",
    "4",
    "--hidden",
    "16",
    "--batch-size",
    "16",
    "--capacity",
    "2000",
    "--warmup-steps",
    "200",
)
PPO_WORDS = (
    "ppo",
    "CartPole-v1",
    "--rollout-length",
    "16",
    "--num-envs",
    "4",
    "--batch-size",
    "32",
    "--hidden",
    "16",
    "--normalize-observation",
    "--normalize-reward",
)
COMMON = ("--evaluation-episodes", "2")
SMALL_DQN = DQN(
    rollout_length=8, gradient_steps=4, hidden=(16,), batch_size=16, capacity=2000, warmup_steps=200
)
SMALL_PPO = PPO(
    rollout_length=16,
    batch_size=32,
    hidden=(16,),
    normalize_observation=Normalization(),
    normalize_reward=Normalization(),
)


@pytest.fixture(scope="module", autouse=True)
def programs():
    with programs_kept():
        yield


def trained(settings, part, stop=lambda update: False):
    """Train until the end, or until `stop` of an update, as if the process were killed as it is
    told of."""

    def warn(text):
        assert text.startswith("playing the running episodes again: "), text

    for update in train_job(settings, part, InterruptHandler(), warn):
        if stop(update):
            break


# Within this process: what lies on the disk between two chunks is what a kill leaves


@pytest.mark.parametrize(
    ("algorithm", "backend", "num_envs", "seeds", "steps"),
    [
        pytest.param(
            SMALL_DQN, "jax", 1, 2, 4_000, id="many seeds in one program", marks=pytest.mark.system
        ),
        # that an environment in Python goes on is seen in the tests of resuming too
        pytest.param(
            SMALL_DQN, "gymnasium", 1, 1, 1_200, id="dqn on gymnasium", marks=pytest.mark.system
        ),
        pytest.param(
            SMALL_PPO, "gymnasium", 4, 1, 9_600, id="ppo on gymnasium", marks=pytest.mark.system
        ),
    ],
)
def test_what_was_cut_off_and_resumed_equals_uninterrupted(
    tmp_path, algorithm, backend, num_envs, seeds, steps
):
    """Cut off where there is a checkpoint and rows after it, which are written anew."""
    settings = resolve_settings(
        algorithm,
        "CartPole-v1",
        RunOptions(steps=steps, seeds=seeds, backend=backend, num_envs=num_envs),
    )
    (whole,) = jobs_for(settings, tmp_path / "whole")
    cut = tmp_path / "cut"

    def copy(update):
        if (
            not cut.exists()
            and (there := checkpoints(whole.directory))
            and 0.3 * steps < max(there) < update.steps
        ):
            shutil.copytree(whole.directory, cut)

    trained(settings, whole, copy)
    assert (
        max(checkpoints(cut))
        < metrics_csv.read_metrics(cut / "metrics.csv")["step"][-1]
        < steps * 0.95
    ), "a row is to be written anew"
    trained(settings, TrainJob(whole.seeds, cut))
    same(whole.directory, cut)


@pytest.mark.slow
def test_what_was_stopped_again_and_again_equals_uninterrupted(tmp_path):
    """Cut off before there is a checkpoint, from where it begins again; stopped by Ctrl-C, with all
    saved; then to its end, and beyond when more is asked for."""
    steps = 19_200
    settings = resolve_settings(
        SMALL_PPO,
        "CartPole-v1",
        RunOptions(steps=steps, backend="jax", num_envs=4, evaluation_episodes=2),
    )
    (whole,) = jobs_for(settings, tmp_path / "whole")
    (stopped,) = create_run(settings, tmp_path / "stopped").jobs
    trained(settings, whole)
    trained(settings, stopped, lambda update: update.steps > 0)
    assert not checkpoints(stopped.directory)
    with signaled(signal.SIGINT, lambda: checkpoints(stopped.directory)) as sent:
        done = here("resume", "stopped", cwd=tmp_path)
    assert sent and time.monotonic() - sent[0] < 10
    assert done.returncode == 130
    said = done.stdout + done.stderr
    assert "saved" in said and "etude resume stopped" in said
    reached = max(checkpoints(stopped.directory))
    assert reached < steps * 0.95, "it was to be stopped on its way"
    less = here("resume", "stopped", "--steps", reached - 64, cwd=tmp_path)
    assert less.returncode == 2 and f"{steps:,}" in less.stderr
    resumed = here("resume", "stopped", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    same(whole.directory, stopped.directory)

    again = here("resume", "stopped", cwd=tmp_path)
    assert again.returncode == 2 and "--steps" in again.stderr
    assert here("resume", "stopped", "--steps", steps + 3_200, cwd=tmp_path).returncode == 0
    column = metrics_csv.read_metrics(stopped.directory / "metrics.csv")["step"]
    assert column[-1] == steps + 3_200 and (np.diff(column) > 0).all()


@pytest.mark.slow
def test_a_slow_environment_is_left_within_ten_seconds(tmp_path, monkeypatch):
    """One rollout of it takes minutes: the chunk is cancelled, and the last checkpoint stands."""
    (tmp_path / "slow_environment.py").write_text(SLOW)
    with signaled(signal.SIGTERM, (tmp_path / "stepping").exists) as sent:
        done = here(
            "train",
            "ppo",
            "slow_environment:Slow-v0",
            "--num-envs",
            1,
            "--rollout-length",
            512,
            "--batch-size",
            64,
            "--steps",
            1024,
            "--out",
            "run",
            cwd=tmp_path,
        )
    assert sent and time.monotonic() - sent[0] < 10
    assert done.returncode == 143
    assert "etude resume run" in done.stderr + done.stdout


@contextlib.contextmanager
def signaled(number, condition):
    """Sends this process a signal once the condition holds; yields the list of the times at which
    it was sent."""
    over, sent = threading.Event(), []

    def ask():
        while not over.wait(0.01):
            if condition():
                sent.append(time.monotonic())
                return os.kill(os.getpid(), number)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        yield sent
    finally:
        over.set()
        thread.join()


# In processes of their own


@pytest.mark.slow
def test_seeds_over_processes_are_each_the_seed_alone(tmp_path):
    """The second is; the first is another."""
    asked = ("train", "q-learning", "FrozenLake-v1", "--backend", "gymnasium", "--steps", 3_200)
    together = here(*asked, "--seeds", 2, "--out", "together", cwd=tmp_path)
    assert together.returncode == 0, together.stderr
    settings = replace(load(tmp_path / "together").settings, seeds=1, seed=1)
    trained(settings, *jobs_for(settings, tmp_path / "seed_1"))
    same(tmp_path / "seed_1", tmp_path / "together/seed_1")
    first, second = (
        metrics_csv.read_metrics(tmp_path / f"together/seed_{i}/metrics.csv") for i in (0, 1)
    )
    assert set(first["seed"]) == {0} and set(second["seed"]) == {1}
    assert not np.array_equal(first["episode_return"], second["episode_return"], equal_nan=True)


@pytest.mark.system
@pytest.mark.parametrize(
    ("words", "backend", "seeds", "steps"),
    [
        (PPO_WORDS, "jax", 1, 30_000),
        (DQN_WORDS, "gymnasium", 1, 12_000),
        (DQN_WORDS, "jax", 2, 30_000),
    ],
)
@pytest.mark.parametrize("kills", [1, 2])
def test_killed_and_resumed_equals_uninterrupted(tmp_path, words, backend, seeds, steps, kills):
    asked = ("train", *words, *COMMON, "--backend", backend, "--seeds", seeds, "--steps", steps)
    assert here(*asked, "--out", "whole", cwd=tmp_path).returncode == 0
    process = start(*asked, "--out", "killed", cwd=tmp_path)
    if kills == 2:
        until((tmp_path / "killed/config.json").exists, process)
        kill(process)
        assert not checkpoints(tmp_path / "killed")
        process = start("resume", "killed", cwd=tmp_path)
    until(lambda: checkpoints(tmp_path / "killed"), process)
    kill(process)
    before = checkpoints(tmp_path / "killed")
    assert before and max(before) < steps * 0.95, "it was to be killed on its way"
    resumed = here("resume", "killed", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    same(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.slow
def test_a_signal_to_all_processes_is_answered_by_the_trainer_which_saves(tmp_path):
    """As a scheduler ends a job: the workers still tell what the checkpoint needs."""
    words = (*DQN_WORDS, *COMMON, "--num-envs", 2, "--backend", "gymnasium")
    asked = ("train", *words, "--steps", 4_000)
    assert here(*asked, "--out", "whole", cwd=tmp_path).returncode == 0
    process = start(
        *asked, "--workers", 2, "--out", "stopped", cwd=tmp_path, start_new_session=True
    )
    until(lambda: checkpoints(tmp_path / "stopped"), process)
    before = max(checkpoints(tmp_path / "stopped"))
    os.killpg(process.pid, signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 143, said
    assert "etude resume stopped" in said
    assert before <= max(checkpoints(tmp_path / "stopped")) < 4_000 * 0.95
    resumed = here("resume", "stopped", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    same(tmp_path / "whole", tmp_path / "stopped")


@pytest.mark.system
def test_seeds_over_processes_resume_exactly(tmp_path):
    """And each is the seed alone."""
    asked = ("train", *PPO_WORDS, *COMMON, "--backend", "gymnasium", "--steps", 12_000)
    for seed in (0, 1):
        assert here(*asked, "--seed", seed, "--out", f"seed_{seed}", cwd=tmp_path).returncode == 0
    process = start(*asked, "--seeds", 2, "--out", "killed", cwd=tmp_path)
    until(
        lambda: all(checkpoints(tmp_path / "killed" / seed) for seed in ("seed_0", "seed_1")),
        process,
    )
    kill(process)  # its children end by themselves
    resumed = here("resume", "killed", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    for seed in ("seed_0", "seed_1"):
        same(tmp_path / seed, tmp_path / "killed" / seed)


def checkpoints(run: Path) -> list[int]:
    return sorted(int(path.name[5:]) for path in run.glob("checkpoints/step_*"))


def same(whole: Path, resumed: Path) -> None:
    """The same metric rows and the same weights, bit for bit."""
    assert (whole / "metrics.csv").read_bytes() == (resumed / "metrics.csv").read_bytes()
    step = checkpoints(whole)[-1]
    assert step == checkpoints(resumed)[-1]
    ours, theirs = (
        load_file(run / f"checkpoints/step_{step}/arrays.safetensors") for run in (whole, resumed)
    )
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        assert array.tobytes() == theirs[name].tobytes(), name


SLOW = """
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
"""


TESTS = Path(__file__).parents[1]
LONG = f"""
import sys

import gymnasium

sys.path.append({str(TESTS)!r})
from gymnasium_probes import RandomWalk

gymnasium.register("Long-v0", RandomWalk, kwargs=dict(length=500, num_actions=2))
"""
LONG_STEPS, LONG_COPIES, KILLS = 48_000, 4, 20


@pytest.mark.system
def test_killed_at_random_moments_equals_uninterrupted_and_cuts_no_episode(tmp_path):
    """Episodes of 500 steps, which no checkpoint waits for; also killed before the first, and as
    one is written."""
    (tmp_path / "long_environment.py").write_text(LONG)
    words = (*PPO_WORDS[:1], "long_environment:Long-v0", *PPO_WORDS[2:], *COMMON)
    asked = ("train", *words, "--steps", LONG_STEPS, "--checkpoint-interval", 1_600)
    named = ("--environment", "long_environment:Long-v0")
    assert here(*asked, "--out", "whole", cwd=tmp_path).returncode == 0
    rows = metrics_csv.read_metrics(tmp_path / "whole/metrics.csv")
    assert rows["episodes"].sum() == LONG_COPIES * (LONG_STEPS // LONG_COPIES // 500)
    assert np.nanmin(rows["episode_length"]) == 500
    rng = np.random.default_rng(0)
    for i in range(KILLS):
        run = tmp_path / f"killed_{i}"
        process = start(*asked, "--out", run.name, cwd=tmp_path)
        until((run / "config.json").exists, process)
        goal = rng.uniform(0, 0.9) * LONG_STEPS
        until(lambda run=run, goal=goal: max(checkpoints(run), default=0) >= goal - 1_600, process)
        time.sleep(rng.uniform(0, 0.1))
        kill(process)
        resumed = here("resume", run.name, *named, cwd=tmp_path)
        assert resumed.returncode == 0, resumed.stderr
        same(tmp_path / "whole", run)
