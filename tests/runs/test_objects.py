"""Runs on environments that are given as objects: trained, evaluated, resumed and loaded, and known
again."""

import contextlib
import json
import re
import shutil
from pathlib import Path

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import here, programs_kept
from gymnasium_probes import Counter
from records import rewrite_config

import etude
from etude.environments import probes
from etude.environments.protocol import StepResult
from etude.environments.wrappers.time_limit import TimeLimit
from etude.errors import InvalidInput
from etude.runs.interrupt import InterruptHandler
from etude.runs.job import make_environment, train_job
from etude.runs.job_checkpoints import checkpoint_template, jobs_for
from etude.runs.options import RunOptions
from etude.runs.run import create_run
from etude.runs.train import resolve_settings
from etude.spaces import Discrete

STEPS = 400
SMALL = dict(steps=STEPS, evaluation_episodes=10, progress=False)
README = Path(etude.__file__).parents[2] / "README.md"


@pytest.fixture(scope="module", autouse=True)
def programs():
    with programs_kept():
        yield


class Corridor:
    """Walk from the left end to the right one, where the reward is; half of the steps slip."""

    observation_space, action_space = Discrete(5), Discrete(2)

    def reset(self, key):
        return jnp.int32(0), jnp.int32(0)

    def step(self, position, action, key):
        step = (2 * action - 1) * jax.random.bernoulli(key, 0.5)
        position = jnp.clip(position + step, 0, 4)
        at_end = position == 4
        return position, StepResult(position, at_end.astype(jnp.float32), at_end, jnp.bool_(False))


class Walk(gymnasium.Env):
    """The same for Gymnasium, cut off after 50 steps."""

    observation_space, action_space = gymnasium.spaces.Discrete(5), gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position = self.time = 0
        return 0, {}

    def step(self, action):
        self.time += 1
        step = (2 * action - 1) * int(self.np_random.random() < 0.5)
        self.position = min(max(self.position + step, 0), 4)
        at_end = self.position == 4
        return self.position, float(at_end), at_end, self.time == 50, {}


def corridor():
    return TimeLimit(Corridor(), 50)


FORMS = {
    "jax": (corridor(), "Corridor"),
    "factory": (lambda: Walk(), "lambda"),
    "class": (Walk, "Walk"),
}


def content(directory):
    """Rows of metrics, and the bytes of the last checkpoint."""
    last = max((directory / "checkpoints").iterdir(), key=lambda path: int(path.name[5:]))
    return (
        (directory / "metrics.csv").read_bytes(),
        last.name,
        (last / "arrays.safetensors").read_bytes(),
    )


def train_until(settings, directory, steps=STEPS):
    """Train until a little after a number of steps, as if the process were killed then."""
    run = create_run(settings, directory)
    for event in train_job(settings, *run.jobs, InterruptHandler(), pytest.fail):
        if event.steps > steps:
            break


@pytest.mark.parametrize(
    "form", ["jax", "factory", pytest.param("class", marks=pytest.mark.system)]
)
def test_an_object_is_trained_on_resumed_evaluated_and_loaded(tmp_path, capsys, form):
    """Cut off after its fourth checkpoint, it goes on as the run that never stopped, bit for
    bit."""
    environment, name = FORMS[form]
    settings = resolve_settings(
        etude.QLearning(), environment, RunOptions(steps=STEPS, evaluation_episodes=10)
    )
    train_until(settings, tmp_path / "whole")
    train_until(settings, tmp_path / "cut", 0.45 * STEPS)
    run = etude.resume(tmp_path / "cut", environment=environment)
    assert content(tmp_path / "cut") == content(tmp_path / "whole")

    said = " ".join(capsys.readouterr().out.split())
    assert "resume from Python alone, which holds the environment: etude.resume('" in said
    assert "evaluating on the environment itself" in said and "Gymnasium" not in said
    evaluation = run.summary["evaluation"]
    assert evaluation["environment"] == "the environment itself"
    assert len(evaluation["returns"][0]) == 10 and run.summary["environment"] == name
    config = json.loads((run.directory / "config.json").read_text())
    assert config["environment"] == name
    assert config["environment_kind"] == ("jax" if form == "jax" else "factory")
    assert config["spaces"].keys() == {"observation", "action"}
    assert "n=5" in config["spaces"]["observation"]

    (state,) = etude.load(tmp_path / "cut", environment=environment).states()
    np.testing.assert_array_equal(state.q, run.states()[0].q)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A directory with a run on each form, which never trained."""
    directory = tmp_path_factory.mktemp("runs")
    for form, environment in {"id": "FrozenLake-v1", "jax": corridor(), "factory": Walk}.items():
        settings = resolve_settings(etude.QLearning(), environment, RunOptions(steps=STEPS))
        create_run(settings, directory / form)
    return directory


@pytest.mark.parametrize(
    ("form", "environment", "message"),
    [
        ("jax", None, r"trained on Corridor, an object of Python that no file holds; go on in Pyt"),
        (
            "factory",
            "Walk",
            r"go on in Python, with etude.resume\(path, environment=...\) or etude",
        ),
        ("id", Walk, "this run was trained on FrozenLake-v1, not on .*Walk"),
        ("id", "CartPole-v1", "this run was trained on FrozenLake-v1, not on CartPole-v1"),
        ("jax", Walk, "trained on a jax environment, Corridor, and Walk is a factory one"),
        ("factory", corridor(), "on a factory environment, Walk, and Corridor is a jax one"),
        (
            "jax",
            probes.Counter(),
            r"the observation space of Counter is Box\(.*, and that of the run, .* Corridor, is "
            r"Discrete\(n=5.*; give the environment of the run",
        ),
        ("factory", Counter, r"the observation space of Counter is Box\(.* Walk, is Discrete\(n=5"),
    ],
)
def test_another_environment_is_refused(runs, form, environment, message):
    for open_run in (etude.load, etude.resume):
        with pytest.raises(InvalidInput, match=message):
            open_run(runs / form, environment=environment)


@pytest.mark.parametrize("command", ["resume", "evaluate", "watch"])
def test_the_command_line_names_the_way_through_python(runs, command):
    for form, words in (("jax", ()), ("factory", ("--environment", "Walk"))):
        done = here(command, form, *words, cwd=runs)
        assert done.returncode == 2 and "Traceback" not in done.stderr
        assert "etude.resume(path, environment=...)" in " ".join(done.stderr.split())


def test_what_a_name_in_a_file_says_is_not_imported(runs, tmp_path):
    shutil.copytree(runs / "factory", tmp_path / "run")
    rewrite_config(tmp_path / "run", {"environment": "this:That-v0"})
    done = here("evaluate", "run", "--environment", "this:That-v0", cwd=tmp_path)
    assert done.returncode == 2 and "an object of Python" in " ".join(done.stderr.split())
    assert etude.load(tmp_path / "run", environment=Walk).settings.environment == "this:That-v0"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (dict(environment=lambda: Walk(), workers=2), "workers is 2, and no other process can"),
        (dict(environment=Walk, backend="jax"), "backend is 'jax'; what Walk makes is stepped on"),
        (dict(environment=Walk, video=True), "has the render_mode None; pictures need 'rgb_array'"),
        (dict(environment=corridor(), video=True), "Corridor is written in JAX, and draws no pict"),
        (dict(environment=Walk(), steps=100), "one object, and each copy needs its own"),
        (dict(environment=Walk, options={"a": 1}), "options are {'a': 1}"),
        (dict(environment=probes.Counter()), "q-learning keeps a value for each of so many states"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path, asked, message):
    with contextlib.chdir(tmp_path), pytest.raises(InvalidInput, match=message):
        etude.train(etude.QLearning(), **(SMALL | asked))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_seeds_of_a_lambda_train_one_after_another(tmp_path):
    """Each is the seed alone."""
    environment = FORMS["factory"][0]
    run = etude.train(etude.QLearning(), environment, seeds=2, out=tmp_path / "run", **SMALL)
    assert not run.is_parallel and len(run.summary["evaluation"]["per_seed"]) == 2
    assert set(run.metrics["seed"]) == {0, 1}
    settings = resolve_settings(etude.QLearning(), environment, RunOptions(steps=STEPS, seed=1))
    train_until(settings, tmp_path / "alone")
    assert content(tmp_path / "alone") == content(run.directory / "seed_1")


@pytest.mark.system
def test_seeds_and_workers_of_a_function_that_can_be_imported_have_processes(tmp_path):
    run = etude.train(
        etude.QLearning(), Counters, seeds=2, workers=1, out=tmp_path / "run", **SMALL
    )
    assert run.is_parallel and (run.directory / "seed_1/checkpoints").is_dir()


class Counters(gymnasium.Env):
    """Goes on for ten steps; counts how many of its kind were made."""

    made = 0
    observation_space, action_space = gymnasium.spaces.Discrete(11), gymnasium.spaces.Discrete(2)

    def __init__(self):
        type(self).made += 1
        self.render_mode = "rgb_array"

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return 0, {}

    def step(self, action):
        self.time += 1
        return self.time, 1.0, self.time == 10, False, {}

    def render(self):
        return np.zeros((16, 16, 3), np.uint8)


@pytest.mark.parametrize("form", ["id", pytest.param("factory", marks=pytest.mark.slow)])
def test_one_environment_beside_the_copies_tells_what_they_are(tmp_path, monkeypatch, form):
    monkeypatch.setattr(Counters, "made", 0)
    monkeypatch.setitem(
        gymnasium.registry,
        "etude-tests/Counters-v0",
        gymnasium.envs.registration.EnvSpec("etude-tests/Counters-v0", Counters),
    )
    environment = "etude-tests/Counters-v0" if form == "id" else Counters
    run = etude.train(etude.QLearning(), environment, num_envs=8, out=tmp_path / "run", **SMALL)
    assert Counters.made == 8 + 10 + 1
    run.states()
    assert Counters.made == 8 + 10 + 1
    run.evaluate(episodes=3)
    assert Counters.made == 8 + 10 + 1 + 3


@pytest.mark.slow
def test_what_a_function_makes_is_filmed_in_its_own_render_mode(tmp_path):
    run = etude.train(etude.QLearning(), Counters, video=True, out=tmp_path / "run", **SMALL)
    assert [path.name for path in (run.directory / "video").iterdir()] == ["episode_1.mp4"]


def test_the_template_of_a_checkpoint_needs_no_environment(tmp_path):
    settings = resolve_settings(
        etude.DQN(hidden=(8,)),
        "CartPole-v1",
        RunOptions(backend="gymnasium", steps=1000, frame_stack=2),
    )
    (job,) = jobs_for(settings, tmp_path)
    outline = settings.source.outline(settings.num_envs, settings.backend)
    templates = [
        checkpoint_template(settings, job, environment, {"episode_log": [8, 3]})
        for environment in (make_environment(settings, job), outline)
    ]
    shapes = [jax.tree.map(lambda x: (x.shape, x.dtype), each) for each in templates]
    assert shapes[0] == shapes[1]


def test_the_readme_runs(tmp_path):
    """Its section on environments of one's own, with fewer steps."""
    section = README.read_text().split("**An environment of your own**")[1]
    code = section.split("```python")[1].split("```")[0]
    assert code.count("etude.train(") == 3
    shortened, changes = re.subn(
        r"steps=[\d_]+", "steps=200, evaluation_episodes=10, progress=False", code
    )
    assert changes == 3
    with contextlib.chdir(tmp_path):
        exec(compile(shortened, "README.md", "exec"), {"__name__": "readme"})
    names = sorted(path.name.split("-2")[0] for path in (tmp_path / "runs").iterdir())
    assert names == ["q-learning-Corridor", "q-learning-FrozenLake-v1", "q-learning-make_lake"]
