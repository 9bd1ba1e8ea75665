"""The options of a run: flags, keyword arguments and keys of config.json by one declaration."""

import dataclasses
import json
import math
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from commands import here

import etude
from etude.cli import flags
from etude.cli.main import Train
from etude.errors import InvalidInput
from etude.runs.defaults import defaults_for
from etude.runs.options import AT_LEAST, AT_MOST, RecordedOptions, RunOptions
from etude.runs.threads import threads_in_use
from etude.runs.train import preset_note

NAMES = [field.name for field in dataclasses.fields(RunOptions)]


@pytest.fixture(autouse=True)
def untrained():
    """Runs are made and not trained."""
    with mock.patch("etude.runs.train.run_training") as run_training:
        yield run_training


def config_of(directory):
    """The content of config.json but for versions and machine."""
    config = json.loads((directory / "config.json").read_text())
    return {name: value for name, value in config.items() if name not in ("versions", "machine")}


def test_every_option_is_a_flag_a_keyword_and_a_key(tmp_path):
    hints = flags.type_hints_of(Train)
    assert [name for name in NAMES if name not in hints] == []
    done = here("train", "dqn", "CartPole-v1", "--help", cwd=tmp_path)
    assert [name for name in NAMES if flags.flag_name(name) not in done.stdout] == []
    given = dict(
        steps=9_000,
        seeds=3,
        seed=7,
        workers=2,
        replay_limit=500,
        evaluation_episodes=5,
        evaluate_every=1_000,
        evaluate_with=3,
        until=475.0,
        patience=4,
        threads=threads_in_use(),
        keys=None,
        speed=1.0,
        frame_stack=2,
        action_masks=False,
        options={"sutton_barto_reward": True},
        environment_timeout=60,
        max_evaluation_steps=900,
        backend="gymnasium",
        num_envs=2,
        dataset=None,
        expert=None,
        initial={},
        torso=None,
        out=tmp_path / "run",
        checkpoint_interval=100,
        video=False,
    )
    assert list(given) == NAMES
    etude.train(etude.DQN, "CartPole-v1", progress=False, **given)
    config = config_of(tmp_path / "run")
    for field in dataclasses.fields(RecordedOptions):
        assert config[field.name] == given[field.name]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stepz": 1}, "a run has no option stepz; did you mean steps\\? there are steps, seeds, "),
        ({"learning_rate": 1.0}, "a run has no option learning_rate; there are steps"),
        *(({name: True}, f"{name} is True; it must be a whole number of") for name in AT_LEAST),
        *(({n: low - 1}, f"{n} is {low - 1}; .* at least {low}") for n, low in AT_LEAST.items()),
        *(
            ({n: high + 1}, f"{n} is {high + 1}; .* at most {high:,}")
            for n, high in AT_MOST.items()
        ),
        ({"steps": 10**4000}, "steps is a whole number of more than 18 digits; it must be at most"),
        ({"steps": 1e5}, "steps is 100000.0; it must be a whole number"),
        ({"steps": "100"}, "steps is '100'; it must be a whole number"),
        ({"workers": None}, "workers is None; it must be a whole number"),
        ({"seed": 2**32 - 1, "seeds": 2}, f"with 2 seeds it must stay below {2**32 - 1}"),
        ({"video": "yes"}, "video is 'yes'; it must be True or False"),
        ({"action_masks": 1}, "action_masks is 1; it must be True or False"),
        ({"options": [1]}, r"options is \[1\]; it must be a dict"),
        ({"initial": "policy=run"}, "initial is 'policy=run'; it must be a dict"),
        ({"initial": {"policy": 5}}, "initial policy is 5; give a Run, or the directory of one"),
        ({"dataset": 5}, "dataset is 5; give an .npz of NumPy .*, or an etude.Dataset"),
        ({"until": "solve"}, "until is 'solve'; it must be a mean return, or solved for the"),
        ({"until": True}, "until is True; it must be a mean return"),
        ({"until": math.inf}, "until is inf; it must be a mean return"),
        ({"until": 475}, "until is 475, and there are no evaluations .* give evaluate_every"),
        ({"patience": 3}, "patience is 3, and there are no evaluations .* give evaluate_every"),
        ({"backend": "tpu"}, "backend is 'tpu'; choose one of"),
    ],
    ids=str,
)
def test_an_option_that_is_none_or_out_of_bounds_is_refused(tmp_path, options, message):
    with pytest.raises(InvalidInput, match=message):
        etude.train(etude.DQN, "CartPole-v1", out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_solved_is_the_threshold_of_gymnasium(tmp_path):
    """Refused for environments without one."""
    flags_of = ["--evaluate-every", "1000", "--until", "solved", "--out"]
    typed = here("train", "dqn", "CartPole-v1", *flags_of, "typed", cwd=tmp_path)
    assert typed.returncode == 0, typed.stderr
    assert config_of(tmp_path / "typed")["until"] == 475.0
    assert etude.load(tmp_path / "typed").settings.until == 475.0
    refused = here("train", "dqn", "CliffWalking-v1", *flags_of, "other", cwd=tmp_path)
    assert refused.returncode == 2
    assert "Gymnasium has no reward threshold for CliffWalking-v1" in refused.stderr
    number = here("train", "dqn", "CartPole-v1", *flags_of[:3], "1e2", "--out", "n", cwd=tmp_path)
    assert number.returncode == 0 and config_of(tmp_path / "n")["until"] == 100.0


def test_the_command_line_and_python_give_the_same_run(tmp_path):
    """Each with the preset of the environment, or without where there is none."""
    for name, environment, options in (
        ("dqn", "CartPole-v1", {}),
        ("ppo", "Acrobot-v1", {"seeds": 2, "steps": 200_000}),
        ("q-learning", "CliffWalking-v1", {}),
    ):
        words = [f"--{option}={value}" for option, value in options.items()]
        out = f"typed-{name}"
        typed = here("train", name, environment, *words, "--out", out, cwd=tmp_path)
        assert typed.returncode == 0, typed.stderr
        etude.train(name, environment, out=tmp_path / name, progress=False, **options)
        assert config_of(tmp_path / name) == config_of(tmp_path / out)


def test_the_budget_of_a_preset_counts_environment_steps():
    """So with a dataset it says nothing, nor does the number of copies; its algorithm does."""
    preset = etude.preset("dqn", "CartPole-v1")
    plays, options = defaults_for("dqn", "CartPole-v1")
    reads, others = defaults_for("dqn", "CartPole-v1", has_dataset=True)
    assert plays == reads == preset.algorithm
    assert options == {"num_envs": preset.num_envs, "steps": preset.steps}
    assert others == {}


def test_the_budget_of_a_preset_that_never_plays_counts_gradient_steps():
    preset = etude.preset("bc", "LunarLander-v3")
    for has_dataset in (False, True):
        algorithm, options = defaults_for("bc", "LunarLander-v3", has_dataset)
        assert algorithm == preset.algorithm
        assert options == {"num_envs": 1, "steps": preset.steps}


def test_a_dataset_sets_the_budget_of_a_preset_aside(tmp_path):
    """On the command line as in Python, where None is none."""
    recorded = dict(
        observations=np.zeros((3, 4), np.float32),
        actions=np.zeros(2, int),
        rewards=np.ones(2, np.float32),
        terminations=np.array([False, True]),
        truncations=np.zeros(2, bool),
        episode_lengths=np.array([2]),
    )
    np.savez(tmp_path / "data.npz", **recorded)
    words = ("--dataset", "data.npz", "--out", "typed")
    assert here("train", "dqn", "CartPole-v1", *words, cwd=tmp_path).returncode == 0
    for name, dataset in (("read", tmp_path / "data.npz"), ("played", None)):
        out = tmp_path / name
        etude.train("dqn", "CartPole-v1", dataset=dataset, out=out, progress=False)
    steps = [config_of(tmp_path / name)["steps"] for name in ("typed", "read", "played")]
    assert steps == [RunOptions().steps] * 2 + [etude.preset("dqn", "CartPole-v1").steps]


def test_a_class_is_its_defaults(tmp_path):
    for name, algorithm in (("class", etude.PPO), ("object", etude.PPO())):
        etude.train(algorithm, "CartPole-v1", out=tmp_path / name, progress=False)
    assert config_of(tmp_path / "class") == config_of(tmp_path / "object")


def test_defaults_where_there_is_a_preset_say_so(tmp_path, capsys):
    for algorithm in (etude.DQN, etude.DQN(), etude.FittedQ(), etude.DQN(discount=0.9)):
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        etude.train(algorithm, "CartPole-v1", out=out, progress=False)
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("general defaults") == 2
    assert (
        "there is a preset for CartPole-v1, which etude.train('dqn', 'CartPole-v1') takes" in said
    )
    assert preset_note(etude.DQN(), "Taxi-v3") == preset_note(etude.DQN(), lambda: None) == ""


@pytest.mark.parametrize(
    ("algorithm", "message"),
    [
        (etude.DQN(hidden=[32, 32]), r"hidden is \[32, 32\]; write it as a tuple: \(32, 32\)$"),
        (etude.PPO(hidden=32), r"hidden is 32; write it as a tuple: \(32,\)$"),
        (etude.PPO(hidden=(32.5,)), "hidden is 32.5; it must be a whole number"),
        (etude.PPO(epochs=1.5), "epochs is 1.5; it must be a whole number"),
        (etude.PPO(epochs=True), "epochs is True; it must be a whole number"),
        (etude.DQN(double="no"), "double is 'no'; it must be True or False"),
        (etude.DQN(double=1), "double is 1; it must be True or False"),
        (etude.PPO(learning_rate="x"), "learning_rate is 'x'; it must be a number"),
        (5, "int has no init and no act .*; an algorithm is a class with init"),
        (["dqn"], "list has no init and no act"),
        (None, "NoneType has no init and no act"),
        ("", "no algorithm is called ''; there are"),
        ("dqm", "no algorithm is called 'dqm'; did you mean dqn"),
    ],
    ids=str,
)
def test_an_algorithm_that_is_none_is_refused_in_one_message(tmp_path, algorithm, message):
    with pytest.raises(InvalidInput, match=message) as error:
        etude.train(algorithm, "CartPole-v1", out=tmp_path / "run")
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def test_whole_numbers_of_numpy_are_whole_numbers(tmp_path):
    ppo = etude.PPO(epochs=np.int64(2), learning_rate=np.float32(0.5))
    etude.train(ppo, "CartPole-v1", out=tmp_path / "run", progress=False)


@pytest.mark.parametrize("environment", [5, None, ["CartPole-v1"], Path("CartPole-v1")], ids=str)
@pytest.mark.parametrize("algorithm", ["dqn", etude.DQN], ids=["name", "class"])
def test_an_environment_that_is_none_is_refused_in_one_message(tmp_path, algorithm, environment):
    with pytest.raises(InvalidInput, match="environment is .*; give a Gymnasium id, a function"):
        etude.train(algorithm, environment, out=tmp_path / "run")
