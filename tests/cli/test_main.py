"""What the command line answers: to good input with a whole run, to bad input with one message and
status 2."""

import json
import shutil
import sys

import imageio.v2 as imageio
import numpy as np
import pytest
from commands import etude, here
from records import rewrite_config

from etude.runs.run import load
from etude.storage import metrics_csv

SMALL = ("--rollout-length", "16", "--num-envs", "4", "--batch-size", "32", "--hidden", "8")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A small finished run of two seeds, in a directory to work in."""
    directory = tmp_path_factory.mktemp("trained")
    asked = (
        "train",
        "ppo",
        "CartPole-v1",
        *SMALL,
        "--steps",
        "3000",
        "--seeds",
        "2",
        "--out",
        "run",
        "--evaluation-episodes",
        "4",
    )
    done = here(*asked, cwd=directory)
    assert done.returncode == 0, done.stderr
    return directory, done.stdout


def refused(directory, *arguments: str) -> str:
    """The one message with which the arguments are refused; nothing may be left in the
    directory."""
    before = sorted(directory.rglob("*"))
    done = here(*arguments, cwd=directory)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr + done.stdout
    assert sorted(directory.rglob("*")) == before
    return done.stderr + done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("train ppo CartPol-v1", ("CartPol-v1", "CartPole-v1")),
        ("train pppo CartPole-v1", ("pppo", "ppo", "dqn")),
        ("train ppo", ("environment",)),
        ("train ppo LunarLander-v2", ("LunarLander-v2", "LunarLander-v3")),
        ("train ppo HalfCheetah-v2", ("HalfCheetah-v2", "HalfCheetah-v5")),
        ("train ppo nowhere_to_be_found:Env-v0", ("nowhere_to_be_found",)),
        ("train pqn Pendulum-v1", ("Discrete", "Box", "ppo")),
        ("train ppo CartPole-v1 --steps 0", ("steps", "0", "at least 1")),
        ("train ppo CartPole-v1 --steps -3", ("steps", "-3")),
        ("train ppo CartPole-v1 --steps many", ("steps", "many")),
        ("train ppo CartPole-v1 --steps 10", ("steps", "10", "iteration")),
        ("train ppo CartPole-v1 --seeds 0", ("seeds", "0")),
        ("train ppo CartPole-v1 --seed -1", ("seed", "-1")),
        ("train ppo CartPole-v1 --seed 4294967296", ("seed", "4294967296")),
        ("train ppo CartPole-v1 --num-envs 0", ("num_envs", "0")),
        ("train ppo CartPole-v1 --learning-rate -0.1", ("learning_rate", "-0.1", "above 0")),
        ("train ppo CartPole-v1 --learning-rate nan", ("learning_rate", "nan")),
        ("train ppo CartPole-v1 --discount 1.5", ("discount", "1.5", "at most 1")),
        ("train ppo CartPole-v1 --hidden 64 0", ("hidden", "0")),
        ("train ppo CartPole-v1 --batch-size 100000", ("batch_size", "100000")),
        (
            "train dqn CartPole-v1 --batch-size 200 --capacity 100",
            ("batch_size", "200", "capacity", "100"),
        ),
        ("train ppo CartPole-v1 --backend tpu", ("backend", "tpu")),
        ("train ppo LunarLander-v3 --backend jax", ("LunarLander-v3", "JAX port")),
        ("train ppo CartPole-v1 --learning-rat 1", ("learning-rat",)),
        ("train ppo CartPole-v1 --options gravity", ("gravity", "NAME=VALUE")),
        ("train ppo CartPole-v1 --options gravty=3", ("gravty",)),
        ("resume nowhere", ("nowhere", "not a run")),
        ("evaluate nowhere", ("nowhere", "not a run")),
        ("record CartPole-v1", ("--expert", "--out")),
        ("record CartPole-v1 --expert random --out a.npz", ("episodes", "missing")),
        ("record CartPole-v1 --expert randm --episodes 3 --out a.npz", ("randm", "random")),
        ("record CartPole-v1 --expert dqn --episodes 3 --out a.npz", ("dqn", "learn", "run")),
        ("record CartPole-v1 --expert random --episodes 0 --out a.npz", ("episodes", "0")),
        ("record CartPole-v1 --expert random --episodes 3 --out a.csv", ("a.csv", "a.npz")),
        ("record CartPole-v1 --expert random --episodes 3 --out a/b.npz", ("b.npz", "directory a")),
        ("record CartPol-v1 --expert random --episodes 3 --out a.npz", ("CartPole-v1",)),
        ("dance", ("dance", "train")),
        ("environments NoSuchThing", ("NoSuchThing",)),
    ],
)
def test_bad_input_is_one_message_and_status_2(tmp_path, arguments, words):
    message = refused(tmp_path, *arguments.split())
    for word in words:
        assert word in message


@pytest.mark.slow
def test_an_output_directory_that_holds_something_is_refused(tmp_path, trained):
    directory, _ = trained
    shutil.copytree(directory / "run", tmp_path / "run")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.tex").write_text("dear")
    for out, word in (("run", "another run"), ("full", "not empty")):
        asked = ("train", "ppo", "CartPole-v1", *SMALL, "--steps", "3000", "--out", out)
        assert word in refused(tmp_path, *asked)


@pytest.mark.slow
def test_a_run_leaves_what_it_should(trained):
    directory, said = trained
    run = directory / "run"
    summary = json.loads((run / "summary.json").read_text())
    assert {
        "algorithm",
        "environment",
        "backend",
        "seeds",
        "steps",
        "wall_seconds",
        "compile_seconds",
        "train_steps_per_second",
    } <= summary.keys()
    assert (
        summary["algorithm"],
        summary["environment"],
        summary["backend"],
        summary["seeds"],
        summary["steps"],
    ) == ("ppo", "CartPole-v1", "jax", 2, 2944)
    evaluation = summary["evaluation"]
    assert {
        "environment",
        "episodes",
        "explore",
        "deterministic",
        "cut",
        "max_steps",
        "which",
        "steps",
        "mean",
        "std",
        "iqm",
        "ci95",
        "per_seed",
        "returns",
    } == evaluation.keys()
    assert [len(returns) for returns in evaluation["returns"]] == [4, 4] and len(
        evaluation["per_seed"]
    ) == 2
    config = json.loads((run / "config.json").read_text())
    assert (
        config["backend"] == "jax"
        and config["machine"]["cores"] >= 1
        and "jax" in config["versions"]
    )
    metrics = metrics_csv.read_metrics(run / "metrics.csv")
    known = json.loads((run / "checkpoints/step_2944/facts.json").read_text())["metrics"]
    assert known == metrics_csv.measure_rows(run / "metrics.csv", 2944)
    assert known["rows"] == len(metrics["step"]) == len(load(run).metrics["step"]) > 0
    assert load(run).summary == {x: y for x, y in summary.items() if x != "sha256"}
    assert not (run / "writer.lock").exists()
    assert set(metrics["seed"]) == {0.0, 1.0} and metrics["step"][-1] == 2944
    assert (run / "learning_curve.png").stat().st_size > 10_000
    assert len(list((run / "checkpoints").iterdir())) == 2
    assert "run" in said and "jax backend" in said and "95 % interval" in said


@pytest.mark.system
def test_a_process_trains_and_watches_as_a_user_has_them(tmp_path, monkeypatch):
    """Compiled well, and with a screen that nobody sees."""
    asked = (
        "train",
        "ppo",
        "CartPole-v1",
        *SMALL,
        "--steps",
        "3000",
        "--seeds",
        "2",
        "--out",
        "run",
        "--evaluation-episodes",
        "4",
        "--video",
    )
    done = etude(*asked, cwd=tmp_path, well=True)
    assert done.returncode == 0, done.stderr
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    shown = etude("watch", "run", "--episodes", "2", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert [line[:9] for line in shown.stdout.splitlines()] == ["episode 1", "episode 2"]


@pytest.mark.slow
def test_the_video_shows_the_episode(trained):
    directory, _ = trained
    asked = ("evaluate", "run", "--episodes", "2", "--video")
    assert here(*asked, cwd=directory).returncode == 0
    frames = imageio.mimread(directory / "run/video/episode_1.mp4", memtest=False)
    assert len(frames) >= 8 and frames[0].ndim == 3 and (frames[0] != frames[-1]).any()


@pytest.mark.slow
def test_watch_opens_a_window_where_there_is_a_screen(trained, monkeypatch):
    directory, _ = trained
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    if sys.platform.startswith("linux"):
        refused = here("watch", "run", cwd=directory)
        assert (
            refused.returncode == 2
            and "no screen" in refused.stderr
            and "etude evaluate run --video" in refused.stderr
        )
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")  # a screen that nobody sees
    shown = here("watch", "run", "--episodes", "2", cwd=directory)
    assert shown.returncode == 0, shown.stderr
    assert [line[:9] for line in shown.stdout.splitlines()] == ["episode 1", "episode 2"]


@pytest.mark.slow
def test_evaluate_judges_anew(trained):
    directory, _ = trained
    done = here("evaluate", "run", "--episodes", "6", "--stochastic", cwd=directory)
    assert done.returncode == 0, done.stderr
    evaluation = json.loads((directory / "run/evaluation.json").read_text())
    assert evaluation["episodes"] == 6 and not evaluation["deterministic"]
    assert "stochastic" in done.stdout


@pytest.mark.slow
def test_a_damaged_checkpoint_falls_back_and_says_so(trained, tmp_path):
    directory, _ = trained
    shutil.copytree(directory / "run", tmp_path / "run")
    steps = sorted((tmp_path / "run/checkpoints").iterdir(), key=lambda path: int(path.name[5:]))
    arrays = steps[-1] / "arrays.safetensors"
    arrays.write_bytes(arrays.read_bytes()[:-1] + bytes([arrays.read_bytes()[-1] ^ 1]))
    done = here("evaluate", "run", "--episodes", "2", cwd=tmp_path)
    assert done.returncode == 0 and steps[-1].name in done.stderr
    for path in steps:
        (path / "manifest.json").write_text("{}")
    done = here("evaluate", "run", "--episodes", "2", cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr and "checkpoint" in done.stderr


@pytest.mark.slow
def test_a_checkpoint_of_another_algorithm_is_refused(trained, tmp_path):
    directory, _ = trained
    shutil.copytree(directory / "run", tmp_path / "run")
    config = json.loads((tmp_path / "run/config.json").read_text())
    changed = config["hyperparameters"] | {"hidden": [8, 8]}
    rewrite_config(tmp_path / "run", {"hyperparameters": changed})
    done = here("evaluate", "run", "--episodes", "2", cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"format": 99}, "format"),
        ({"algorithm": "os.system"}, "os.system"),
        ({"steps": "many"}, "steps"),
        ({"steps": -1}, "steps"),
        ({"hyperparameters": {"learning_rate": 1}}, "hyperparameters"),
        ({"environment": "this:That-v0"}, "--environment"),
        ({"num_envs": None}, "num_envs"),
        ({"backend": "rm -rf"}, "backend"),
    ],
)
@pytest.mark.slow
def test_a_config_that_was_tampered_with_is_refused(trained, tmp_path, change, word):
    directory, _ = trained
    shutil.copytree(directory / "run", tmp_path / "run")
    rewrite_config(tmp_path / "run", change)
    assert word in refused(tmp_path, "evaluate", "run", "--episodes", "2")
    assert "this" not in sys.modules


def test_help_names_every_hyperparameter_with_its_default(tmp_path):
    for name, flags in (
        (
            "dqn",
            (
                "--learning-rate",
                "--discount",
                "--hidden",
                "--batch-size",
                "--capacity",
                "--gradient-steps",
            ),
        ),
        ("ppo", ("--rollout-length", "--gae-lambda", "--clip", "--steps", "--seeds", "--num-envs")),
    ):
        done = here("train", name, "CartPole-v1", "--help", cwd=tmp_path)
        assert done.returncode == 0
        assert all(flag in done.stdout for flag in flags) and "default" in done.stdout


def test_lists(tmp_path):
    for arguments, words in (
        (["algorithms"], ("dqn", "ppo")),
        (["environments", "CartPole"], ("CartPole-v1", "jax", "gymnasium")),
    ):
        done = here(*arguments, cwd=tmp_path)
        assert done.returncode == 0
        assert all(word in done.stdout for word in words)


EXPERTS = """
def balance(observation):
    return int(observation[2] + observation[3] > 0)


def fails(observation):
    return balance(observation["pole"])
"""


def test_record_writes_what_a_function_of_ones_own_played(tmp_path, monkeypatch):
    (tmp_path / "my_experts.py").write_text(EXPERTS)
    asked = ("--episodes", "3", "--options", "max_episode_steps=150", "--out", "data.npz")
    done = here("record", "CartPole-v1", "--expert", "my_experts:balance", *asked, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "data.npz") as arrays:
        assert arrays["environment_id"] == "CartPole-v1"
        steps = arrays["rewards"].size
        assert arrays["episode_lengths"].sum() == steps
        assert arrays["observations"].shape == (steps + 3, 4)
        lengths = arrays["episode_lengths"].astype(np.float64)  # reward 1 a step
    said = " ".join(done.stdout.split())
    for words in (
        "expert │ my_experts:balance",
        "environment │ CartPole-v1",
        "episodes │ 3",
        f"steps │ {steps}",
        f"{lengths.mean():.1f} ± {lengths.std(ddof=1):.3g}",
        "written data.npz",
    ):
        assert words in said

    assert "data.npz exists already" in refused(
        tmp_path, "record", "CartPole-v1", "--expert", "my_experts:balance", *asked
    )
    monkeypatch.delitem(sys.modules, "my_experts")


@pytest.mark.slow
def test_an_expert_that_fails_is_named_with_the_line_at_fault(tmp_path, monkeypatch):
    (tmp_path / "my_experts.py").write_text(EXPERTS)
    asked = ("--expert", "my_experts:fails", "--episodes", "3", "--out", "data.npz")
    done = here("record", "CartPole-v1", *asked, cwd=tmp_path)
    assert done.returncode == 1
    assert 'return balance(observation["pole"])' in done.stderr
    assert "etude: expert my_experts:fails raised IndexError: " in done.stderr
    assert not (tmp_path / "data.npz").exists()
    monkeypatch.delitem(sys.modules, "my_experts")


@pytest.mark.system
def test_what_was_recorded_at_random_teaches_to_do_better(tmp_path):
    """As the README has it: from random episodes alone, without playing, several times their
    return."""
    asked = ("--expert", "random", "--episodes", "100", "--out", "random.npz")
    done = etude("record", "CartPole-v1", *asked, cwd=tmp_path, well=True)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "random.npz") as arrays:
        at_random = arrays["rewards"].sum() / len(arrays["episode_lengths"])
    assert 15 < at_random < 35
    asked = ("--dataset", "random.npz", "--steps", "5000", "--out", "run")
    done = etude("train", "fitted-q", "CartPole-v1", *asked, cwd=tmp_path, well=True)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["evaluation"]["mean"] > 3 * at_random


FAULTY = """
import gymnasium
import numpy as np


class Faulty(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, how="raise", when=600):
        self.how, self.when, self.time = how, when, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.time += 1
        observation, reward = np.zeros(2, np.float32), 1.0
        if self.time == self.when:
            if self.how == "raise":
                raise OSError("the robot fell over")
            if self.how == "reward":
                reward = 1e38
        return observation, reward, self.time % 10 == 0, False, {}


gymnasium.register("Faulty-v0", Faulty)
"""


@pytest.mark.parametrize(
    ("how", "words"),
    [
        pytest.param(
            "raise",
            ("the robot fell over", "copy 0", "step 600", "in step"),
            marks=pytest.mark.slow,
        ),
        pytest.param("reward", ("finite", "value_loss", "checkpoint"), marks=pytest.mark.slow),
    ],
)
def test_what_fails_while_training_is_named_and_the_checkpoint_kept(tmp_path, how, words):
    (tmp_path / "faulty.py").write_text(FAULTY)
    done = here(
        "train",
        "ppo",
        "faulty:Faulty-v0",
        *SMALL,
        "--steps",
        "6400",
        "--options",
        f'how="{how}"',
        "--checkpoint-interval",
        "640",
        "--out",
        "run",
        cwd=tmp_path,
    )
    assert done.returncode == 1
    for word in words:
        assert word in done.stderr
    assert list((tmp_path / "run/checkpoints").glob("step_*"))


@pytest.mark.slow
def test_options_reach_the_environment(tmp_path, monkeypatch):
    (tmp_path / "faulty.py").write_text(FAULTY)
    done = here(
        "train",
        "ppo",
        "faulty:Faulty-v0",
        *SMALL,
        "--steps",
        "640",
        "--options",
        "how=nothing",
        "--options",
        "when=3",
        "--out",
        "run",
        "--evaluation-episodes",
        "2",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run/config.json").read_text())["options"] == {
        "how": "nothing",
        "when": 3,
    }
    monkeypatch.delitem(sys.modules, "faulty")  # as in a process that has not imported it
    refused = here("evaluate", "run", cwd=tmp_path)
    assert refused.returncode == 2 and "--environment faulty:Faulty-v0" in refused.stderr
    assert "faulty" not in sys.modules
    assert (
        here(
            "evaluate", "run", "--episodes", "2", "--environment", "faulty:Faulty-v0", cwd=tmp_path
        ).returncode
        == 0
    )
