"""The settings of a run in config.json: written and read again they are the same, and what no run
has written is refused in one message."""

import dataclasses
import json
import math
from pathlib import Path

import jax
import numpy as np
import pytest
from owner import Owner

from etude.algorithms import ALGORITHMS, algorithm_factory
from etude.algorithms.control.mpc import MPC
from etude.algorithms.trust_region.ppo import PPO
from etude.algorithms.value.boltzmann import Boltzmann
from etude.algorithms.value.distributional_heads import CategoricalHead, QuantileHead
from etude.algorithms.value.dqn import DQN
from etude.algorithms.value.epsilon_greedy import EpsilonGreedy
from etude.algorithms.value.heads import ScalarHead
from etude.data.replay.prioritized import Prioritized
from etude.environments.sources import environment_source
from etude.errors import InvalidInput
from etude.estimators.running_statistics import Normalization
from etude.nn.noisy import NoisyLayers
from etude.nn.recurrent import GRU, LSTM
from etude.planning.planners import CEM, CMAES, ICEM, GradientShooting, RandomShooting
from etude.presets import PRESETS
from etude.runs.config import from_json, to_json
from etude.runs.settings import DatasetRecord, InitialRecord, Settings
from etude.storage import files
from etude.struct import replace


def settings_of(algorithm, name="dqn"):
    return Settings(
        name=name,
        algorithm=algorithm,
        source=environment_source("CartPole-v1", {"gravity": 9.8}),
        environment="CartPole-v1",
        environment_kind="id",
        backend="gymnasium",
        steps=10**7,
        num_envs=4,
        options={"gravity": 9.8},
    )


def config_of(algorithm, name="dqn"):
    """The content of config.json as it is read from the file."""
    return json.loads(files.encode_json(to_json(settings_of(algorithm, name))))


def config_with(algorithm, name, **changes):
    settings = dataclasses.replace(settings_of(algorithm, name), options={}, **changes)
    return json.loads(files.encode_json(to_json(settings)))


def assert_same(read, written):
    """Of the same types too: 1 is not 1.0."""
    assert read.source.name == written.source.name and read.source.options == {"gravity": 9.8}
    read = dataclasses.replace(read, source=written.source)
    assert read == written and repr(read) == repr(written)


WIDE_CEM = {"kind": "cem", "elites": 99, "std": 1.0, "smoothing": 0.0, "follow": "best"}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_defaults_of_every_algorithm_are_read_as_they_were_written(name):
    for value in (
        algorithm_factory(name)(),
        *(preset.algorithm for (owner, _), preset in PRESETS.items() if owner == name),
    ):
        assert_same(from_json(config_of(value, name)), settings_of(value, name))


@pytest.mark.parametrize(
    "value",
    [
        DQN(head=ScalarHead("squared"), maximizer=RandomShooting()),
        DQN(head=CategoricalHead(11, -0.1, 1 / 3), maximizer=CEM(4)),
        DQN(head=QuantileHead(7), maximizer=CMAES()),
        MPC(planner=ICEM(noise_exponent=0.1 + 0.2, follow="mean")),
        MPC(planner=GradientShooting(1e-30)),
        DQN(replay=Prioritized(0.1, 0.7, math.inf), noisy=NoisyLayers(0.3)),
        DQN(exploration=Boltzmann(math.pi, 1e-30), learning_rate_decay=math.inf),
        DQN(exploration=EpsilonGreedy(0.1 + 0.2, 0.0)),
        PPO(recurrent=GRU(3), normalize_reward=Normalization(math.inf)),
        PPO(recurrent=LSTM(3), normalize_observation=Normalization(5.0)),
    ],
    ids=str,
)
def test_every_kind_is_read_as_it_was_written_bit_for_bit(value):
    name = type(value).__name__.lower()
    assert_same(from_json(config_of(value, name)), settings_of(value, name))


def test_the_class_of_another_algorithm_is_refused():
    with pytest.raises(InvalidInput, match="this run's algorithm is dqn, not .*:PPO"):
        from_json(config_of(DQN()), algorithm=PPO)


@pytest.mark.parametrize(
    ("changes", "command"),
    [
        ({}, "etude resume run"),
        ({"name": "mine:Own"}, "etude resume run --algorithm mine:Own"),
        (
            {"name": "mine:Own", "environment": "mine:Env-v0"},
            "etude resume run --algorithm mine:Own --environment mine:Env-v0",
        ),
        ({"environment_kind": "factory"}, "etude.resume('run', environment=...)"),
        (
            {"dataset": DatasetRecord(path="", sha256="", steps=1, episodes=1, environment="")},
            "etude.resume('run', dataset=...)",
        ),
    ],
    ids=["id", "algorithm", "both", "object", "dataset"],
)
def test_what_resumes_a_run_can_be_typed(changes, command):
    settings = dataclasses.replace(settings_of(DQN()), **changes)
    assert settings.resume_command(Path("run")) == command


@pytest.mark.parametrize(
    ("own", "given", "message"),
    [
        (DQN(), DQN(learning_rate=0.5), "learning_rate is 0.001 in the run and 0.5 here"),
        (
            DQN(),
            DQN(noisy=NoisyLayers()),
            "than this run.* own: noisy.kind is None in the run and noisy-layers here",
        ),
        (DQN(noisy=NoisyLayers()), DQN(), "noisy.kind is noisy-layers in the run and None here"),
        (DQN(), DQN(replay=Prioritized()), "replay.kind is uniform in the run and prioritized"),
        (DQN(hidden=(8, 8)), DQN(), r"hidden is \[8, 8\] in the run and \["),
    ],
    ids=["number", "kind for none", "none for a kind", "kind", "sizes"],
)
def test_other_values_than_the_runs_are_refused_by_name(own, given, message):
    assert_same(from_json(config_of(own), algorithm=own), settings_of(own))
    with pytest.raises(InvalidInput, match=message):
        from_json(config_of(own), algorithm=given)


def test_what_a_dataset_or_a_start_from_a_run_sets_is_no_other_value():
    learned = DQN(plays=False)
    record = DatasetRecord(path="", sha256="", steps=1, episodes=1, environment="")
    assert from_json(config_with(learned, "dqn", dataset=record), DQN()).algorithm == learned
    begun = PPO(value_warmup_steps=10 * PPO().steps_per_update(4))
    initial = {"policy": InitialRecord(run="", seeds=1, sha256="")}
    config = config_with(begun, "ppo", initial=initial)
    for given in (PPO(), begun):
        assert from_json(config, given).algorithm == begun
    with pytest.raises(InvalidInput, match="value_warmup_steps is .* in the run and 7 here"):
        from_json(config, PPO(value_warmup_steps=7))


def test_numbers_of_arrays_are_written_as_numbers():
    swept = DQN(replay=Prioritized(alpha=np.float32(0.5)), learning_rate=jax.numpy.float32(0.25))
    plain = DQN(replay=Prioritized(alpha=0.5), learning_rate=0.25)
    assert_same(from_json(config_of(swept)), settings_of(plain))


def test_a_kind_is_an_object_with_its_tag():
    written = config_of(DQN(replay=Prioritized(beta_steps=math.inf)))["hyperparameters"]
    assert written["replay"] == {
        "kind": "prioritized",
        "alpha": 0.5,
        "beta": 0.4,
        "beta_steps": "inf",
    }
    assert written["noisy"] is None and written["maximizer"]["kind"] == "cem"


@pytest.mark.parametrize(
    "value",
    [
        Owner(),
        Owner(DQN(head=CategoricalHead(v_min=0.0), noisy=NoisyLayers())),
        Owner(PPO(recurrent=GRU(4), value_clip=math.inf), 2.0),
    ],
    ids=["default", "kinds", "another"],
)
def test_an_algorithm_in_a_field_is_read_as_it_was_written(value):
    config = config_of(value, "owner:Owner")
    assert config["hyperparameters"]["agent"]["kind"] == type(value.agent).__name__.lower()
    for given in (Owner, value):
        assert_same(from_json(config, algorithm=given), settings_of(value, "owner:Owner"))
    with pytest.raises(
        InvalidInput, match=r"algorithm .*:Owner is not one of etude's.*--algorithm .*:Owner"
    ):
        from_json(config)


PRIORITIZED = {"kind": "prioritized", "alpha": 0.5, "beta": 0.4, "beta_steps": 1.0}
NO_KIND = "its kind must be one of uniform, prioritized"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"replay": {"kind": "os.system"}}, NO_KIND),
        ({"replay": {"kind": "none"}}, NO_KIND),
        ({"replay": {"kind": ["prioritized"]}}, NO_KIND),
        ({"replay": {"kind": {"kind": "uniform"}}}, NO_KIND),
        ({"replay": {"kind": 3}}, NO_KIND),
        ({"replay": {"kind": None}}, NO_KIND),
        ({"replay": {}}, NO_KIND),
        ({"replay": "uniform"}, NO_KIND),
        ({"replay": ["uniform"]}, NO_KIND),
        ({"replay": 1}, NO_KIND),
        ({"replay": True}, NO_KIND),
        ({"replay": None}, "config.json gives replay as None; its kind must be one of uniform"),
        ({"noisy": False}, "its kind must be one of noisy-layers, none"),
        ({"noisy": {"kind": "none"}}, "its kind must be one of noisy-layers, none"),
        ({"replay": {"kind": "prioritized"}}, "Prioritized has: replay.alpha, replay.beta, "),
        (
            {"replay": {**PRIORITIZED, "gamma": 1.0, "alpha.x": 2}},
            "other hyperparameters than Prioritized has: replay.alpha.x, replay.gamma",
        ),
        ({"replay": {"kind": "uniform", "alpha": 1.0}}, "than Uniform has: replay.alpha"),
        ({"replay": {**PRIORITIZED, "alpha": "0.5"}}, "replay.alpha as '0.5', which is no float"),
        ({"replay": {**PRIORITIZED, "alpha": None}}, "replay.alpha as None, which is no float"),
        ({"replay": {**PRIORITIZED, "alpha": True}}, "replay.alpha as True, which is no float"),
        ({"replay": {**PRIORITIZED, "alpha": [0.5]}}, r"replay.alpha as \[0.5\], which is no"),
        ({"replay": {**PRIORITIZED, "alpha": -1.0}}, "replay.alpha is -1.0; it must be at least 0"),
        ({"head": {"kind": "scalar", "loss_type": "l1"}}, "head.loss_type as 'l1', which is no"),
        ({"head": {"kind": "scalar", "loss_type": ["huber"]}}, r"loss_type as \['huber'\], which"),
        (
            {"head": {"kind": "quantile", "num_atoms": 5.0}},
            "head.num_atoms as 5.0, which is no int",
        ),
        (
            {"head": {"kind": "categorical", "num_atoms": 5, "v_min": 1, "v_max": 0.0}},
            "head: v_min 1.0 is not below v_max 0.0",
        ),
        ({"maximizer": WIDE_CEM}, "elites is 99; of 32 samples"),
        ({"replay": {**PRIORITIZED, "alpha": 10**400}}, "config.json is not that of a run"),
    ],
)
def test_a_kind_that_no_run_has_written_is_refused_in_one_message(changes, message):
    """CorruptFile is one of InvalidInput."""
    config = config_of(DQN())
    config["hyperparameters"] |= changes
    with pytest.raises(InvalidInput, match=message) as error:
        from_json(config)
    assert "\n" not in str(error.value)


def test_what_is_wrong_in_the_field_of_a_field_is_named_with_its_whole_path():
    for changes, message in (
        ({"replay": None}, "agent.replay as None"),
        ({"replay": PRIORITIZED | {"alpha": "x"}}, "agent.replay.alpha as 'x'"),
        ({"hidden": 64}, "agent.hidden as 64"),
        ({"kind": "sac"}, "its kind must be one of dqn, ppo"),
        ({"kind": "ppo"}, "other hyperparameters than PPO has: agent.adam_epsilon, "),
    ):
        config = config_of(Owner(), "owner:Owner")
        config["hyperparameters"]["agent"] |= changes
        with pytest.raises(InvalidInput, match=message):
            from_json(config, algorithm=Owner())


@pytest.mark.parametrize(
    "hyperparameters", [None, [], "dqn", 3, {}, {"replay": 1}, [["learning_rate", 1.0]]], ids=str
)
def test_hyperparameters_that_are_none_are_refused(hyperparameters):
    config = config_of(DQN()) | {"hyperparameters": hyperparameters}
    with pytest.raises(InvalidInput, match="config.json (names other|gives hyperparameters as)"):
        from_json(config)


def test_settings_are_unlike_where_a_kind_is():
    assert settings_of(DQN()) != settings_of(replace(DQN(), replay=Prioritized()))
