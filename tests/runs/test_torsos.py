"""Runs with networks of the user's own: trained, resumed and loaded with what makes them, which is
asked for by name, for no file holds code."""

import json
import shutil
import sys
from pathlib import Path
from unittest import mock

import equinox as eqx
import jax
import numpy as np
import pytest
from commands import here, programs_kept
from owner import Owner
from records import metadata_of, rewrite_config
from torsos import Own, own, wider

import etude
from etude.errors import InvalidInput
from etude.runs.config import from_json, to_json
from etude.runs.display import run_headline
from etude.runs.experts import make_expert
from etude.runs.interrupt import InterruptHandler
from etude.runs.job import train_job
from etude.runs.job_checkpoints import checkpoint_template, save_job
from etude.runs.options import RunOptions
from etude.runs.run import create_run
from etude.runs.torsos import find_torso, with_torso
from etude.runs.train import resolve_settings
from etude.storage.files import CorruptFile
from etude.struct import replace

STEPS = 640
PPO = etude.PPO(rollout_length=16, batch_size=32, epochs=1, hidden=(4,))
PQN = etude.PQN(rollout_length=16, batch_size=32, epochs=1, hidden=(4,))
OPTIONS = dict(steps=STEPS, num_envs=2, evaluation_episodes=2)
KEY = jax.random.key(0)
README = Path(etude.__file__).parents[2] / "README.md"


@pytest.fixture(scope="module", autouse=True)
def programs():
    with programs_kept():
        yield


def settings_of(torso, environment="CartPole-v1", algorithm=PPO, **options):
    algorithm = replace(algorithm, torso=torso)
    return resolve_settings(algorithm, environment, RunOptions(**OPTIONS | options))


def begun(directory, torso, **options):
    """A run with a checkpoint of random numbers, as if it had been trained for a while."""
    settings, rng = settings_of(torso, **options), np.random.default_rng(0)
    run = create_run(settings, directory)
    for job in run.jobs:
        outline = settings.outline()
        shapes = checkpoint_template(settings, job, outline, {}).train_state
        numbers = jax.tree.map(lambda x: rng.uniform(1, 2, x.shape).astype(x.dtype), shapes)
        save_job(job, outline, numbers, metadata_of(settings, job, 2))
    return run


def train_until(settings, directory, steps=STEPS):
    """Train until a little after a number of steps, as if the process were killed then."""
    run = create_run(settings, directory)
    for event in train_job(settings, *run.jobs, InterruptHandler(), pytest.fail):
        if event.steps > steps:
            break


def content(directory):
    """Rows of metrics, and the bytes of the last checkpoint."""
    last = max((directory / "checkpoints").iterdir(), key=lambda path: int(path.name[5:]))
    arrays = (last / "arrays.safetensors").read_bytes()
    return (directory / "metrics.csv").read_bytes(), last.name, arrays


@pytest.mark.slow
def test_a_run_that_was_cut_off_goes_on_bit_for_bit_with_its_torso(tmp_path):
    settings = settings_of(Own, algorithm=PQN)
    train_until(settings, tmp_path / "whole")
    train_until(settings, tmp_path / "cut", 0.45 * STEPS)
    with pytest.raises(InvalidInput, match="this run's torso is torsos:Own, and a file never make"):
        etude.resume(tmp_path / "cut")
    run = etude.resume(tmp_path / "cut", torso=Own, progress=False)
    assert content(tmp_path / "cut") == content(tmp_path / "whole")

    (state,) = etude.load(tmp_path / "cut", torso="torsos:Own").states()
    jax.tree.map(np.testing.assert_array_equal, state, run.states()[0])
    network = state.q.network.encoder.network
    assert isinstance(network, Own) and network.mlp.activation is jax.nn.silu
    assert "torso   torsos:Own" in run_headline(run.settings, run.directory)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with a torso, and with a checkpoint."""
    return begun(tmp_path_factory.mktemp("runs") / "own", own)


@pytest.fixture(scope="module")
def without(tmp_path_factory):
    """The directory of a run of etude's own networks, which never trained."""
    settings = settings_of(None)
    return create_run(settings, tmp_path_factory.mktemp("runs") / "without").directory


def test_config_json_holds_a_name_alone(run, without):
    configs = [
        json.loads((directory / "config.json").read_text())["hyperparameters"]
        for directory in (run.directory, without)
    ]
    assert [config["torso"] for config in configs] == ["torsos:own", None]
    assert etude.load(run.directory, torso=own).settings == replace(run.settings, source=mock.ANY)
    assert etude.load(without).settings.algorithm == PPO


def other(key, space):
    return Own(key, space)


@pytest.mark.parametrize(
    ("torso", "message"),
    [
        (
            None,
            r"this run's torso is torsos:own, and a file never makes etude import a module; add "
            r"--torso torsos:own \(in Python torso=..., the function\)",
        ),
        (other, "this run's torso is torsos:own, not .*test_torsos:other"),
        ("torsos:wider", "this run's torso is torsos:own, not torsos:wider"),
        ("torsos:missing", "torso 'torsos:missing': torsos has no missing"),
        ("torsos", "torso is 'torsos'; name a function in a module, as module:function"),
        (eqx.nn.Identity(), "this run's torso is torsos:own, not equinox.nn.*Identity"),
    ],
    ids=["none", "another", "another by name", "no such name", "no module", "a network"],
)
def test_another_torso_is_refused_by_name(run, torso, message):
    for open_run in (etude.load, etude.resume):
        with pytest.raises(InvalidInput, match=message):
            open_run(run.directory, torso=torso)


def test_a_run_without_one_takes_none(without, tmp_path):
    with pytest.raises(
        InvalidInput, match="torso is torsos:own, and this run of ppo has none; leave it"
    ):
        etude.load(without, torso=own)
    settings = resolve_settings(etude.QLearning(), "FrozenLake-v1", RunOptions(steps=100))
    create_run(settings, tmp_path / "table")
    with pytest.raises(InvalidInput, match="this run of q-learning has none; leave it out"):
        etude.load(tmp_path / "table", torso=own)


@pytest.mark.parametrize("found", [3, "own", ["torsos:own"]], ids=str)
def test_a_config_with_another_torso_is_corrupt(without, tmp_path, found):
    shutil.copy(without / "config.json", tmp_path)
    config = json.loads((without / "config.json").read_text())
    rewrite_config(tmp_path, {"hyperparameters": config["hyperparameters"] | {"torso": found}})
    with pytest.raises(CorruptFile, match="gives torso as .*, which is no name module:function"):
        etude.load(tmp_path)


def test_one_of_the_same_name_and_other_networks_is_refused_by_its_arrays(run):
    """And nothing of the run is changed."""
    before = (run.directory / "config.json").read_bytes()

    def same_name(key, space):
        return wider(key, space)

    same_name.__qualname__ = "own"
    message = (
        r"policy.torso.encoder.parameters\['.mlp.layers\[1\].bias'\] is F32 \(2,\) instead of "
    )
    with pytest.raises(CorruptFile, match=message):
        etude.load(run.directory, torso=same_name).states()
    with pytest.raises(CorruptFile, match="use the algorithm, sizes, torso and environment"):
        etude.resume(run.directory, 10 * STEPS, torso=same_name)
    assert (run.directory / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    ("torso", "environment", "command"),
    [
        (own, "CartPole-v1", "etude resume run --torso torsos:own"),
        (lambda key, space: own(key, space), "CartPole-v1", "etude.resume('run', torso=...)"),
        (own, etude.make, "etude.resume('run', torso=..., environment=...)"),
    ],
    ids=["named", "lambda", "object"],
)
def test_what_resumes_a_run_names_its_torso(torso, environment, command):
    kind = "id" if isinstance(environment, str) else "factory"
    settings = replace(settings_of(torso), environment_kind=kind)
    assert settings.resume_command(Path("run")) == command
    said = "\n".join(run_headline(settings, Path("run")))
    assert ("from Python alone" in said) == ("..." in command)


def test_seeds_of_what_no_other_process_can_have_train_one_after_another(tmp_path):
    for torso, is_parallel in ((own, True), (lambda key, space: own(key, space), False)):
        settings = settings_of(torso, backend="gymnasium", seeds=2)
        assert create_run(settings, tmp_path / f"{is_parallel}").is_parallel == is_parallel


def started(source, torso, **options):
    return settings_of(torso, initial={"policy": source}, **options)


def test_the_policy_of_another_run_is_taken_over_with_its_torso(run, without):
    """Its torso is that of the run that starts."""
    (theirs,) = run.states()
    taken = started(run.directory, own).initial_components["policy"][0]
    jax.tree.map(
        lambda x, y: np.testing.assert_array_equal(x[0], y), taken, theirs.learner.networks.policy
    )
    for torso, message in (
        (None, "this run's torso is torsos:own, .* add --torso torsos:own"),
        (wider, "this run's torso is torsos:own, not torsos:wider"),
    ):
        with pytest.raises(InvalidInput, match=message):
            started(run.directory, torso)
    with pytest.raises(
        InvalidInput, match="torso is torsos:own there and None here. Add --torso tor"
    ):
        started(run, None)
    with pytest.raises(
        InvalidInput, match="torso is None there and torsos:own here. Leave out --to"
    ):
        started(without, own)


def test_a_run_with_a_torso_is_an_expert(run):
    spec = run.settings.outline().spec
    make = lambda expert, **options: make_expert(expert, "CartPole-v1", spec, KEY, **options)
    jax.tree.map(
        np.testing.assert_array_equal, make(run.directory, torso=own).state, run.states()[0]
    )
    assert make(run).policy.torso is own
    with pytest.raises(InvalidInput, match="this run's torso is torsos:own, .* add --torso"):
        make(run.directory)
    with pytest.raises(InvalidInput, match="torso is torsos:own, and the expert random has none"):
        make("random", torso=own)


def test_the_expert_of_a_run_is_named_by_its_path_and_has_the_torso_of_the_learner(run):
    """Where both have the same; one with another is given as a Run."""
    dagger = etude.DAgger(rollout_length=16, gradient_steps=2, batch_size=8)
    ask = lambda torso, expert: resolve_settings(
        replace(dagger, torso=torso), "CartPole-v1", RunOptions(steps=64, expert=expert)
    )
    settings = ask(own, run.directory)
    assert settings.outside.expert.policy.torso is own
    with pytest.raises(
        InvalidInput, match="is torsos:own, not torsos:wider; load the run with its"
    ):
        ask(wider, run.directory)


@pytest.mark.parametrize(
    ("algorithm", "torso", "message"),
    [
        (
            etude.QLearning(),
            own,
            "torso is torsos:own, and q-learning takes none; leave it out .*dqn",
        ),
        (
            replace(PPO, torso=wider),
            own,
            "is torsos:own, and that of the algorithm is torsos:wider",
        ),
        (PPO, 3, "torso is 3; it must be a function, or None"),
        (
            replace(PPO, torso="torsos:own"),
            None,
            "torso is 'torsos:own'; it must be a function, or",
        ),
    ],
    ids=["table", "two", "number", "name"],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    tmp_path, algorithm, torso, message
):
    environment = "CartPole-v1" if hasattr(algorithm, "torso") else "FrozenLake-v1"
    with pytest.raises(InvalidInput, match=message):
        etude.train(algorithm, environment, torso=torso, out=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_the_torso_of_an_agent_in_a_field_is_the_runs_own():
    settings = resolve_settings(PPO, "CartPole-v1", RunOptions(**OPTIONS))
    owned = replace(settings, name="owner:Owner", algorithm=Owner(agent=replace(PPO, torso=own)))
    assert owned.torso == "torsos:own" and settings.torso == ""
    config = json.loads(json.dumps(to_json(owned)))
    assert config["hyperparameters"]["agent"]["torso"] == "torsos:own"
    assert from_json(config, Owner, torso=own).algorithm == owned.algorithm
    with pytest.raises(InvalidInput, match="this run's torso is torsos:own, .* add --torso"):
        from_json(config, Owner)
    assert with_torso(etude.GAIL(agent=PPO), "gail", own).agent.torso is own


# On the command line, where a person names it

MODULE = """
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

def mine(key, space):
    return eqx.nn.MLP(4, 2, 2, 1, key=key)

def matrix(key, space):
    return jax.tree_util.Partial(jnp.outer, np.ones(2))

def fails(key, space):
    raise ValueError(f"no network\\nof {space.shape}")

def one_argument(key):
    return mine(key, None)

network = mine(jax.random.key(0), None)
"""
ASKED = ("CartPole-v1", "--steps", 64, "--num-envs", 2, "--rollout-length", 16, "--batch-size", 32)


@pytest.fixture
def directory(tmp_path, monkeypatch):
    """A directory with a module of torsos, which no test before has imported."""
    (tmp_path / "my_torsos.py").write_text(MODULE)
    monkeypatch.delitem(sys.modules, "my_torsos", raising=False)
    yield tmp_path
    sys.modules.pop("my_torsos", None)


NAMED = ("--torso", "my_torsos:mine")


def test_a_run_asks_for_it_by_its_name(directory, monkeypatch):
    """A file that names it makes etude import nothing."""
    monkeypatch.syspath_prepend(directory)
    begun(directory / "run", find_torso(NAMED[1]))
    del sys.modules["my_torsos"]
    for command in ("resume", "evaluate", "watch"):
        done = here(command, "run", cwd=directory)
        assert done.returncode == 2 and "Traceback" not in done.stderr
        assert "add --torso my_torsos:mine" in " ".join(done.stderr.split())
        assert "my_torsos" not in sys.modules
    another = here("evaluate", "run", "--torso", "my_torsos:matrix", cwd=directory)
    assert another.returncode == 2
    assert "torso is my_torsos:mine, not my_torsos:matrix" in " ".join(another.stderr.split())
    assert here("evaluate", "run", *NAMED, "--episodes", 1, cwd=directory).returncode == 0


@pytest.mark.system
def test_it_is_trained_and_resumed_by_its_name(directory):
    words = (*ASKED, "--evaluation-episodes", 1, *NAMED, "--out", "run")
    done = here("train", "ppo", *words, cwd=directory)
    assert done.returncode == 0, done.stderr
    assert "torso   my_torsos:mine" in done.stdout
    assert here("resume", "run", *NAMED, "--steps", 96, cwd=directory).returncode == 0
    assert json.loads((directory / "run/summary.json").read_text())["steps"] == 96


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_torsos:matrix", "returns an array of float32 of shape (2, 4) for one value of Box"),
        ("my_torsos:fails", "torso my_torsos:fails raised ValueError: no network; it was called"),
        ("my_torsos:one_argument", "takes (key); it must take (key, space)"),
        ("my_torsos:network", "torso is MLP(...), which is a network itself; give the function"),
        ("my_torsos:missing", "my_torsos has no missing"),
        ("no_such_module:mine", "the module 'no_such_module' cannot be imported"),
        ("mine", "torso is 'mine'; name a function in a module, as module:function"),
    ],
)
def test_what_is_no_torso_is_refused_in_one_line(directory, name, message):
    done = here("train", "ppo", *ASKED, "--torso", name, "--out", "run", cwd=directory)
    assert done.returncode == 2 and message in " ".join(done.stderr.split())
    assert len(done.stderr.splitlines()) == 1 and not (directory / "run").exists()


def test_the_readme_runs(tmp_path, monkeypatch):
    """Its section on networks of one's own; its runs are made and not trained."""
    section = README.read_text().split("**Networks of your own**")[1]
    code = section.split("```python")[1].split("```")[0]
    assert code.count("etude.train(") == 2 and code.count("etude.load(") == 1
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": "readme"}
    with mock.patch("etude.runs.train.run_training", side_effect=lambda run, *_: run):
        exec(compile(code, "README.md", "exec"), names)
    assert names["run"].settings.torso == "readme:Residual"
    assert names["run"].settings.algorithm.torso is names["Residual"]
