"""What a class must have to be an algorithm, and what it need not."""

import dataclasses
import math
from typing import ClassVar

import equinox as eqx
import jax
import optax
import pytest

from etude.algorithms import ALGORITHMS, algorithm_factory
from etude.algorithms.protocol import Algorithm, algorithm, check_algorithm, init_state
from etude.environments.backends.jax_envs import JaxEnvs
from etude.environments.probes import Counter
from etude.errors import InvalidInput
from etude.rollout import bind_policy
from etude.runs.train import train
from etude.struct import replace, struct, traced
from etude.training import progress

KEY = jax.random.key(0)


class Verbs:
    rate: float = traced(0.5, at_least=0)
    rollout_length = 1

    def init(self, key, spec):
        return ()

    def act(self, state, observation, memory, key, explore):
        return explore, memory

    def update(self, state, experience, key):
        return state, {"updates": 0}


@algorithm
class Forgetful(Verbs):
    rate: float = traced(0.5, at_least=0)


@algorithm
class Mindful(Verbs):
    rate: float = traced(0.5, at_least=0)
    default_num_envs: ClassVar[int] = 5

    def initial_memory(self, state, spec, key):
        return spec.num_envs, state


def test_a_class_that_says_nothing_of_memory_has_none_and_of_copies_one():
    spec = JaxEnvs(Counter(), 3).spec
    assert Forgetful().default_num_envs == 1 and Mindful().default_num_envs == 5
    assert Forgetful().initial_memory("state", spec, KEY) == ()
    assert Mindful().initial_memory("state", spec, KEY) == (3, "state")
    assert jax.tree.leaves(Forgetful(0.25)) == [0.25]  # a struct


def test_the_protocol_may_be_inherited():
    @algorithm
    class Typed(Verbs, Algorithm):
        rate: float = traced(0.5, at_least=0)

    assert Typed().initial_memory("state", JaxEnvs(Counter(), 3).spec, KEY) == ()


def test_memory_is_inherited():
    @algorithm
    class Heir(Mindful):
        pass

    assert Heir().initial_memory("state", JaxEnvs(Counter(), 3).spec, KEY) == (3, "state")


@pytest.mark.parametrize("explore", [False, True])
def test_a_bound_policy_has_state_environment_and_purpose(explore):
    policy = bind_policy(Mindful(), "state", JaxEnvs(Counter(), 3), explore)
    assert policy.initial_memory(KEY) == (3, "state")
    assert policy.act(None, "memory", KEY) == (explore, "memory")


@algorithm
class Stub(Algorithm):
    rate: float = traced(0.5, at_least=0)
    rollout_length = 1

    def init(self, key, spec):
        return ()

    def act(self, state, observation, memory, key, explore):
        return explore, memory


@algorithm
class Player:
    rollout_length = 1

    def init(self, key, spec):
        return ()

    def evaluate(self, state, outside, key):
        return {}

    def update(self, state, experience, key):
        return state, {"updates": 0}


def test_what_is_no_algorithm_is_told_what_it_lacks(tmp_path):
    @struct
    class Half:
        rate: float = 0.5

        def init(self, key, spec): ...

        def act(self, state, observation, memory, key, explore): ...

    wanted = "Half has no update and no rollout_length; .*@etude.algorithm"
    environment = JaxEnvs(Counter(), 1)
    for attempt in (
        lambda: check_algorithm(Half()),
        lambda: train(Half(), "CartPole-v1", steps=10, out=tmp_path / "run"),
        lambda: next(progress(Half(), environment, KEY, 10)),
    ):
        with pytest.raises(InvalidInput, match=wanted):
            attempt()
    assert not any(tmp_path.iterdir())
    with pytest.raises(InvalidInput, match="Bare is no algorithm yet; .*@etude.algorithm"):
        check_algorithm(struct(type("Bare", (Verbs,), {}))())
    with pytest.raises(InvalidInput, match="Stub has no update; "):
        check_algorithm(Stub())
    with pytest.raises(InvalidInput, match=r"Player has evaluate and no act, so it cannot play"):
        check_algorithm(Player())
    with pytest.raises(InvalidInput, match=r"rate is -1.0; it must be at least 0"):
        check_algorithm(Forgetful(-1.0))


def test_the_protocol_names_what_is_checked():
    assert {"init", "initial_memory", "act", "update"} <= set(dir(Algorithm))
    assert {"rollout_length", "default_num_envs"} <= set(Algorithm.__annotations__)


@pytest.mark.parametrize("fitted", [True, False])
def test_a_module_with_functions_among_its_leaves_is_told_the_way_out(fitted):
    """Whether an optimizer stumbles over it, or it reaches the state."""

    @algorithm
    class Own(Verbs):
        def init(self, key, spec):
            network = eqx.nn.MLP(1, 2, 2, 1, key=key)
            return network, optax.sgd(0.1, momentum=0.9).init(network) if fitted else ()

    said = "init of Own raised TypeError" if fitted else "the state of Own holds a function at"
    with pytest.raises(InvalidInput, match=f"{said}.*; an Equinox module has functions among"):
        jax.eval_shape(lambda key: init_state(Own(), key, JaxEnvs(Counter(), 1).spec), KEY)


def test_another_type_error_of_an_init_stays_what_it_is():
    @algorithm
    class Own(Verbs):
        def init(self, key, spec):
            return len(3)

    with pytest.raises(TypeError, match="has no len"):
        init_state(Own(), KEY, JaxEnvs(Counter(), 1).spec)


# What an infinite value leaves out: a clip, or a decay.
LIMITS = {
    "clip",
    "clip_decay",
    "exploration_steps",
    "harmonic_decay_steps",
    "learning_rate_decay",
    "max_gradient_norm",
    "target_noise_clip",
    "value_clip",
    "weight_clip",
}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_only_limits_may_be_infinite(name):
    made = algorithm_factory(name)()
    for field in dataclasses.fields(made):
        if not isinstance(getattr(made, field.name), float):
            continue
        if field.name in LIMITS:
            check_algorithm(replace(made, **{field.name: math.inf}))
            continue
        for value in (math.inf, -math.inf, math.nan):
            with pytest.raises(InvalidInput, match=f"^{field.name} is {value}; it must be "):
                check_algorithm(replace(made, **{field.name: value}))
