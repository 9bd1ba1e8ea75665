"""The options of a run, which are the same words on the command line, in Python and in files."""

import dataclasses
import json

import pytest
from commands import here, programs_kept

import etude
from etude.cli.main import Train
from etude.cli.nested import known_flag_types
from etude.runs.options import RecordedOptions, RunOptions, make_options
from etude.runs.run import create_run, defaults_for, preset_note, resolve_settings
from etude.runs.settings import NOT_PLAIN, Settings

NAMES = [field.name for field in dataclasses.fields(RunOptions)]


@pytest.fixture(scope="module", autouse=True)
def programs():
    with programs_kept():
        yield


def test_an_option_is_a_flag_and_a_keyword_and_a_key_by_one_name(tmp_path):
    said = here("train", "dqn", "CartPole-v1", "--help", cwd=tmp_path).stdout
    for name in NAMES:
        assert f"--{name.replace('_', '-')}" in said
    assert set(NAMES) <= {field.name for field in dataclasses.fields(Train)}
    kept = {field.name for field in dataclasses.fields(Settings)} - {*NOT_PLAIN}
    assert {field.name for field in dataclasses.fields(RecordedOptions)} <= kept
    settings = resolve_settings(etude.DQN(), "CartPole-v1", RunOptions(steps=1000))
    config = json.loads(
        (create_run(settings, tmp_path / "run").directory / "config.json").read_text()
    )
    assert kept <= set(config)


def test_no_option_has_the_name_of_a_hyperparameter():
    """Or one flag would stand for two things."""
    for name in ("dqn", "ppo", "sac", "mpc"):
        assert not set(NAMES) & set(known_flag_types(defaults_for(name, "CartPole-v1")[0]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(step=3), r"a run has no option step; did you mean steps\? there are steps, seeds"),
        (dict(xyzzy=3), "a run has no option xyzzy; there are steps"),
        (dict(steps=0), "steps is 0; it must be a whole number of at least 1"),
        (dict(steps="3"), "steps is '3'; it must be a whole number"),
        (dict(steps=1e5), "steps is 100000.0; it must be a whole number"),
        (dict(seeds=True), "seeds is True; it must be a whole number"),
        (dict(seed=-1), "seed is -1; it must be a whole number of at least 0"),
        (dict(seed=2**32), r"seed is 4294967296; with 1 seeds it must stay below 4294967296"),
        (dict(num_envs=0), "num_envs is 0"),
        (dict(checkpoint_interval=0), "checkpoint_interval is 0"),
        (dict(options=3), "options is 3; give a dict, such as {'gravity': -5.0}"),
        (dict(initial="policy=x"), "initial is 'policy=x'; give a dict"),
        (dict(video=1), "video is 1; give True or False"),
        (dict(action_masks="yes"), "action_masks is 'yes'; give True or False"),
        (dict(backend="gpu"), "backend is 'gpu'; choose one of auto, jax, envpool, gymnasium"),
    ],
    ids=str,
)
def test_an_option_that_does_not_fit_is_refused_in_one_message(tmp_path, options, message):
    for keywords in (options, {"steps": 100} | options):
        with pytest.raises(etude.InvalidInput, match=message):
            etude.train("q-learning", "FrozenLake-v1", **{"out": tmp_path / "run"} | keywords)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("algorithm", "message"),
    [
        ("pop", r"no algorithm is called 'pop'; did you mean ppo or trpo\?"),
        (3, "int has no init and no act and no update"),
        (object(), "object has no init"),
        (etude.PPO(hidden=[32, 32]), r"hidden is \[32, 32\]; write it as a tuple: \(32, 32\)"),
        (etude.PPO(hidden=32), r"hidden is 32; write it as a tuple: \(32,\)"),
        (etude.DQN(replay="prioritized"), r"replay is 'prioritized'; it must be Uniform\(...\) or"),
        (etude.DQN(replay=etude.Prioritized), "replay is <class .*; it must be Uniform"),
        (etude.DQN(replay=etude.Prioritized(alpha=-1)), "replay.alpha is -1; it must be at least"),
    ],
    ids=["name", "number", "object", "list", "size", "word", "kind", "bound"],
)
def test_what_is_no_algorithm_or_has_no_such_setting_is_refused(tmp_path, algorithm, message):
    with pytest.raises(etude.InvalidInput, match=message):
        etude.train(algorithm, "CartPole-v1", steps=1000, out=tmp_path / "run")
    assert not any(tmp_path.iterdir())


def config_of(run):
    config = json.loads((run.directory / "config.json").read_text())
    return {key: value for key, value in config.items() if key not in ("versions", "machine")}


@pytest.mark.slow
def test_the_same_words_make_the_same_run(tmp_path, monkeypatch):
    """With the preset, in Python as on the command line; a budget of one's own is kept."""
    words = ("q-learning", "FrozenLake-v1")
    done = here(
        "train",
        *words,
        "--steps",
        "300",
        "--evaluation-episodes",
        "1",
        "--out",
        "cli",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    run = etude.train(
        *words, steps=300, evaluation_episodes=1, out=tmp_path / "python", progress=False
    )
    assert config_of(run) == config_of(etude.load(tmp_path / "cli"))
    assert run.summary["evaluation"] == etude.load(tmp_path / "cli").summary["evaluation"]


def test_a_name_takes_the_preset_and_its_budget_counts_environment_steps():
    algorithm, options = defaults_for("dqn", "CartPole-v1")
    preset = etude.preset("dqn", "CartPole-v1")
    assert algorithm == preset.algorithm
    assert options == {"num_envs": preset.num_envs, "steps": preset.steps}
    assert defaults_for("dqn", "CartPole-v1", has_dataset=True) == (
        preset.algorithm,
        {"num_envs": preset.num_envs},
    )
    assert defaults_for("dqn", "FrozenLake-v1") == (etude.DQN(), {})
    assert make_options({}).steps == 100_000


@pytest.mark.parametrize(
    ("algorithm", "says"),
    [(etude.DQN(), True), (etude.DQN, True), (etude.DQN(n_step=2), False), ("dqn", False)],
    ids=["instance", "class", "changed", "name"],
)
def test_defaults_where_there_is_a_preset_are_pointed_out(tmp_path, capsys, algorithm, says):
    """Before anything is trained: here it stops at a directory that is in use."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "file").touch()
    if not isinstance(algorithm, str):
        instance = algorithm() if isinstance(algorithm, type) else algorithm
        assert bool(preset_note(instance, "CartPole-v1")) is says
        assert preset_note(instance, "FrozenLake-v1") == ""
    with pytest.raises(etude.InvalidInput, match="exists and is not empty"):
        etude.train(algorithm, "CartPole-v1", steps=1000, out=tmp_path / "run")


OWN = '''
import jax.numpy as jnp
import etude
from etude.struct import static

@etude.algorithm
class Always:
    """Takes one action, always."""

    choice: int = static(1, at_least=0)
    """The action."""
    rollout_length: int = static(1, at_least=1)

    def init(self, key, spec):
        return jnp.zeros(1)

    def act(self, state, observation, memory, key, explore):
        return jnp.full(len(observation), self.choice), memory

    def update(self, state, experience, key):
        return state, {"updates": 0}

class Plain:
    pass

'''


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A directory with a module that no test imported before."""
    name = f"own_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(OWN)
    return tmp_path, name


@pytest.mark.slow
def test_an_algorithm_of_ones_own_is_taken_from_the_command_line(own):
    """Where a directory holds a run of it, no file makes it be imported."""
    directory, module = own
    name = f"{module}:Always"
    said = here("train", name, "CartPole-v1", "--help", cwd=directory).stdout
    assert "--choice INT" in said and "Takes one action, always." in said
    flags = "--choice 0 --steps 20 --evaluation-episodes 1 --out run"
    done = here("train", name, "CartPole-v1", *flags.split(), cwd=directory)
    assert done.returncode == 0, done.stderr
    assert "Always on CartPole-v1" in done.stdout
    config = json.loads((directory / "run" / "config.json").read_text())
    assert config["algorithm"] == name and config["hyperparameters"]["choice"] == 0
    for command in ("evaluate run", "resume run --steps 40", "watch run"):
        refused = here(*command.split(), cwd=directory)
        assert refused.returncode == 2
        assert f"{name} is not one of etude's" in refused.stderr
        assert f"add --algorithm {name}" in refused.stderr
    done = here(*f"evaluate run --algorithm {name} --episodes 2".split(), cwd=directory)
    assert done.returncode == 0, done.stderr
    done = here(*f"resume run --algorithm {name} --steps 40".split(), cwd=directory)
    assert done.returncode == 0, done.stderr
    other = here("evaluate", "run", "--algorithm", f"{module}:Plain", cwd=directory)
    assert other.returncode == 2 and "is not a class under the decorator" in other.stderr


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{}:Nothing", "algorithm '{}:Nothing': {} has no Nothing"),
        ("{}:Plain", "algorithm '{}:Plain' is not a class under the decorator @etude.algorithm"),
        ("nowhere_at_all:Mine", "the module 'nowhere_at_all' cannot be imported"),
        (":Mine", "algorithm ':Mine'"),
    ],
)
def test_a_wrong_name_of_ones_own_is_refused_in_one_line(own, name, message):
    directory, module = own
    done = here("train", name.format(module), "CartPole-v1", cwd=directory)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert message.replace("{}", module) in done.stderr
