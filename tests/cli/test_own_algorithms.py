"""An algorithm of a user's module on the command line: trained by its name module:Class, and asked
for again where a file alone would make etude import it."""

import json
import sys

import pytest
from commands import here

MODULE = '''
"""A module of one's own."""

import jax.numpy as jnp

import etude
from etude.struct import static, struct, traced


@struct
class State:
    level: object


@etude.algorithm
class MyAlgorithm:
    """Always the same action."""

    my_field: int = static(1, at_least=1)
    """How far the level rises in an update."""
    rate: float = traced(0.5, above=0)
    """Not read."""
    rollout_length = 5

    def init(self, key, spec):
        return State(jnp.float32(0))

    def act(self, state, observation, memory, key, explore):
        return jnp.zeros(observation.shape[:1], int), memory

    def update(self, state, experience, key):
        level = state.level + self.my_field
        return State(level), {"level": level, "updates": jnp.int32(1)}


class Undecorated:
    pass


def function():
    pass


@struct
class Struct:
    level: object


@etude.algorithm
class Required:
    level: int = static()
'''
ASKED = ("CartPole-v1", "--steps", 20, "--evaluation-episodes", 1, "--backend", "gymnasium")


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    """A folder with the module, which no test before has imported."""
    (tmp_path / "my_module.py").write_text(MODULE)
    monkeypatch.delitem(sys.modules, "my_module", raising=False)
    yield
    sys.modules.pop("my_module", None)


def train(directory, *words):
    done = here("train", "my_module:MyAlgorithm", *ASKED, *words, "--out", "run", cwd=directory)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_is_trained_evaluated_and_resumed_by_its_name(tmp_path):
    said = train(tmp_path, "--my-field", 3)
    assert "MyAlgorithm on CartPole-v1" in said
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert config["algorithm"] == "my_module:MyAlgorithm" and config["num_envs"] == 1
    assert config["hyperparameters"] == {"my_field": 3, "rate": 0.5}
    rows = (tmp_path / "run/metrics.csv").read_text().splitlines()
    assert rows[-1].split(",")[rows[0].split(",").index("level")] == "12.0"

    del sys.modules["my_module"]
    for command in ("resume", "evaluate", "watch"):
        words = ("--steps", 25) if command == "resume" else ()
        done = here(command, "run", *words, cwd=tmp_path)
        assert done.returncode == 2 and "Traceback" not in done.stderr
        assert (
            "this run's algorithm my_module:MyAlgorithm is not one of etude's, and a file never "
            "makes etude import a module; add --algorithm my_module:MyAlgorithm"
        ) in " ".join(done.stderr.split())
        assert "my_module" not in sys.modules

    name = ("--algorithm", "my_module:MyAlgorithm")
    assert here("evaluate", "run", *name, "--episodes", 2, cwd=tmp_path).returncode == 0
    assert here("resume", "run", *name, "--steps", 25, cwd=tmp_path).returncode == 0
    assert json.loads((tmp_path / "run/summary.json").read_text())["steps"] == 25
    other = here("resume", "run", "--algorithm", "etude:DQN", "--steps", 30, cwd=tmp_path)
    assert other.returncode == 2
    assert "algorithm is my_module:MyAlgorithm, not" in " ".join(other.stderr.split())


def test_its_help_has_its_fields(tmp_path):
    done = here("train", "my_module:MyAlgorithm", "CartPole-v1", "--help", cwd=tmp_path)
    assert done.returncode == 0
    for words in ("Always the same action", "--my-field", "How far the level rises", "--seeds"):
        assert words in done.stdout


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:Class", "the module 'no_such_module' cannot be imported"),
        (":Class", "algorithm is ':Class'; write it as module:Name, with one colon"),
        ("my_module:", "algorithm is 'my_module:'; write it as module:Name"),
        ("my_module:Missing", "my_module has no Missing"),
        ("my_module:Undecorated", "is not a class under the decorator @etude.algorithm"),
        ("my_module:function", "is not a class under the decorator @etude.algorithm"),
        ("my_module:etude", "is not a class under the decorator @etude.algorithm"),
        ("my_module:Struct", "is not a class under the decorator @etude.algorithm"),
        ("my_module:Required", "has no default of level; give it one"),
        ("MyAlgorithm", "no algorithm is called 'MyAlgorithm'"),
    ],
)
def test_what_is_no_algorithm_is_refused_in_one_line(tmp_path, name, message):
    done = here("train", name, *ASKED, "--out", "run", cwd=tmp_path)
    assert done.returncode == 2 and message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--my-feld", 3), "did you mean --my-field?"),
        (("--my-field", 0), "my_field is 0; it must be at least 1"),
        (("--my-field", "x"), "--my-field is 'x'; it must be a whole number"),
    ],
)
def test_its_flags_are_checked_as_those_of_etude(tmp_path, words, message):
    done = here("train", "my_module:MyAlgorithm", *ASKED, *words, "--out", "run", cwd=tmp_path)
    assert done.returncode == 2 and message in " ".join(done.stderr.split())
