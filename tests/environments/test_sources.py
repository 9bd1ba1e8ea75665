"""From an id, a function or an object written in JAX to copies of an environment, or to one clear
message why not."""

import math
import sys
from functools import partial
from types import ModuleType

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium_probes import Counter, TimeLimited
from gymnasium_spaces import ACTIONS, OBSERVATIONS, Faulty, Noise, Unmakeable

import etude
from etude.environments import probes
from etude.environments.backends.gymnasium_envs import GymnasiumEnvs
from etude.environments.backends.jax_envs import JaxEnvs
from etude.environments.backends.zero_envs import ZeroEnvs
from etude.environments.classic import PORTS
from etude.environments.factories import is_picklable, name_of_function
from etude.environments.protocol import StepResult
from etude.environments.sources import environment_source
from etude.environments.wrappers.time_limit import TimeLimit
from etude.errors import InvalidInput
from etude.spaces import Discrete
from etude.struct import replace


def make_counter():
    return Counter(3)


class Masked(Counter):
    """Tells which actions it allows."""

    def reset(self, **options):
        return super().reset(**options)[0], {"action_mask": np.int8([1, 0])}

    def step(self, action):
        return *super().step(action)[:-1], {"action_mask": np.int8([0, 1])}


class Callable(TimeLimited):
    def __call__(self):
        return TimeLimited()


class Makers:
    """An object that is called to make an environment."""

    def __call__(self):
        return Counter()


@pytest.mark.parametrize(
    "factory, name",
    [
        (make_counter, "make_counter"),
        (Counter, "Counter"),
        (lambda: Counter(3), "lambda"),
        (partial(Counter, length=3), "Counter"),
        (Makers(), "Makers"),
    ],
)
def test_a_function_makes_the_copies(factory, name):
    source = environment_source(factory)
    assert (source.name, source.kind, source.choose_backend("auto")) == (
        name,
        "factory",
        "gymnasium",
    )
    environment = source.make(3, "auto")
    assert isinstance(environment, GymnasiumEnvs) and environment.spec.num_envs == 3
    assert len({id(env.unwrapped) for env in environment.vector_env.envs}) == 3
    assert environment.spec == source.outline(3, "gymnasium").spec
    assert name_of_function(factory) == name


def test_the_id_of_what_a_function_makes_is_known():
    """So that a planner finds its model."""
    assert etude.make(lambda: gymnasium.make("CartPole-v1")).spec.id == "CartPole-v1"
    assert etude.make(Counter).spec.id == ""


@pytest.mark.parametrize(
    "environment, name",
    [
        (probes.Counter(3), "Counter"),
        (TimeLimit(TimeLimit(probes.Counter(), 5), 4), "Counter"),
        (PORTS["CartPole-v1"](gravity=3.0), "CartPole"),
    ],
)
def test_an_environment_written_in_jax_is_made_of_itself(environment, name):
    source = environment_source(environment)
    assert (source.name, source.kind, source.choose_backend("auto")) == (name, "jax", "jax")
    made = etude.make(environment, 5)
    assert isinstance(made, JaxEnvs) and made.spec.num_envs == 5
    assert made.environment is environment


@pytest.mark.parametrize("environment", [make_counter, probes.Counter(3), "CartPole-v1"])
def test_frames_are_stacked_in_every_form(environment):
    stacked, plain = etude.make(environment, 2, frame_stack=3), etude.make(environment, 2)
    shape = plain.spec.observation.shape
    assert stacked.spec.observation.shape == (3, *shape)
    assert environment_source(environment, frame_stack=3).outline(2, "auto").spec == stacked.spec


def test_masks_are_observed_of_what_a_function_makes():
    environment = etude.make(Masked, 2, action_masks=True)
    observation = jax.jit(environment.reset)(jax.random.key(0))[1]
    np.testing.assert_array_equal(observation["action_mask"], [[1, 0], [1, 0]])


SAME = Counter()


def make_vector():
    return gymnasium.vector.SyncVectorEnv([Counter, Counter])


@pytest.mark.parametrize(
    "asked, message",
    [
        (
            dict(environment=SAME),
            "environment is <Counter.*, one object, and each copy needs its own; give a function "
            "that makes a new gymnasium.Env at each call, and num_envs for the copies",
        ),
        (dict(environment=Callable()), "environment is <Callable.*, and each copy needs its own"),
        (dict(environment=make_vector()), "one object, and each copy needs its own"),
        (
            dict(environment=make_vector),
            "make_vector returns SyncVectorEnv, a gymnasium.vector.VectorEnv, which etude does not "
            "step; return a single gymnasium.Env",
        ),
        (dict(environment=lambda: SAME), "lambda returns the same environment twice; make a new"),
        (
            dict(environment=lambda: gymnasium.wrappers.TimeLimit(SAME, 4), num_envs=2),
            "lambda returns the same environment twice",
        ),
        (dict(environment=lambda: 3), "lambda returns 3, which is no gymnasium.Env; return a new"),
        (
            dict(environment=lambda: probes.Counter()),
            r"returns Counter\(.* .an environment written in JAX is given itself",
        ),
        (
            dict(environment=lambda size: Counter(size)),
            r"lambda\(\) raises TypeError: .*'size'; it is to make a gymnasium.Env, without argu",
        ),
        (dict(environment=Unmakeable), r"Unmakeable\(\) raises OSError: no licence"),
        (
            dict(environment=partial(Noise, gymnasium.spaces.Text(5))),
            r"the observation space is Text\(.*\); Text is not supported there",
        ),
        (dict(environment=3), "environment is 3; give a Gymnasium id, a function that makes a"),
        (dict(environment=None), "environment is None; give a Gymnasium id"),
        (
            dict(environment=Counter, options={"length": 3}),
            r"options are \{'length': 3\}; they are those of gymnasium.make, for an environment",
        ),
        (
            dict(environment=probes.Counter(), options={"length": 3}),
            r"options are \{'length': 3\}; they are those of gymnasium.make",
        ),
        (
            dict(environment=Counter, backend="jax"),
            "backend is 'jax'; what Counter makes is stepped on gymnasium",
        ),
        (
            dict(environment=lambda: Counter(), workers=2),
            "workers is 2, and no other process can have lambda; define it with `def` at the top",
        ),
        (dict(environment=Counter, num_envs=0), "num_envs is 0; it must be at least 1"),
        (dict(environment=Counter, frame_stack=0), "frame_stack is 0; it must be at least 1"),
        (dict(environment=probes.Counter(), num_envs=0), "num_envs is 0; it must be at least 1"),
        (
            dict(environment=probes.Counter(), backend="gymnasium"),
            "backend is 'gymnasium'; Counter is written in JAX, and stepped on jax alone",
        ),
        (
            dict(environment=probes.Counter(), workers=2),
            "workers is 2; Counter is written in JAX, and stepped on jax alone",
        ),
        (
            dict(environment=probes.Counter(), action_masks=True),
            "action_masks is for the info of Gymnasium",
        ),
        (
            dict(environment=probes.Counter),
            r"environment is the class Counter; .* is an object: Counter\(\)",
        ),
    ],
)
def test_what_cannot_be_had_is_said_in_one_message(asked, message):
    with pytest.raises(InvalidInput, match=message):
        etude.make(**asked)


class Wrong(probes.Counter):
    """A counter whose methods return something else."""

    def __init__(self, **changes):
        object.__setattr__(self, "changes", changes)
        super().__init__()

    def reset(self, key):
        state, observation = super().reset(key)
        return state, self.changes.get("reset", observation)

    def step(self, state, action, key):
        state, result = super().step(state, action, key)
        changes = {name: value for name, value in self.changes.items() if name in vars(result)}
        return self.changes.get("state", state), replace(result, **changes)


class ThreeNumbers(probes.Counter):
    def step(self, state, action, key):
        return state, (state, 1.0, False)


class Keyless(probes.Counter):
    def reset(self):
        return jnp.zeros(1), jnp.zeros(1)


class OwnSpaces(probes.Counter):
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self):
        pass


ZEROS = np.zeros(2, np.float32)


@pytest.mark.parametrize(
    "environment, message",
    [
        (Wrong(reset=ZEROS), r"reset: observation: float32\[2\], where float32\[1\] is expected"),
        (Wrong(next_observation=ZEROS), r"step: next_observation: float32\[2\], where float32\[1"),
        (Wrong(state=np.int32([0])), r"step: state: int32\[1\], where float32\[1\] is expected"),
        (Wrong(state=(ZEROS, ZEROS)), r"step: state: \('float32\[2\]', .*where float32\[1\]"),
        (Wrong(reward=np.int32(1)), r"step: reward: int32\[\], where float32\[\] is expected"),
        (Wrong(terminated=np.float32(1)), r"step: terminated: float32\[\], where bool\[\]"),
        (Wrong(truncated=np.zeros(1, bool)), r"step: truncated: bool\[1\], where bool\[\]"),
        (
            ThreeNumbers(),
            "step of ThreeNumbers returns tuple beside the state; return .*StepResult",
        ),
        (Keyless(), r"Keyless cannot be traced: TypeError: .*; it needs reset\(key\) -> \(state"),
        (OwnSpaces(), r"action_space of OwnSpaces is Discrete\(2\); .* spaces of etude.spaces"),
    ],
)
def test_what_does_not_keep_the_protocol_is_told_apart(environment, message):
    with pytest.raises(InvalidInput, match=message):
        environment_source(environment)


def test_right_after_all():
    """The changes of `Wrong` are all that is wrong with it; a truncation of Python's is one too."""
    environment_source(Wrong())
    environment_source(Wrong(truncated=False))

    class Choosing:
        observation_space, action_space = Discrete(3, start=1), Discrete(2, start=5)

        def reset(self, key):
            return {"at": jnp.int32(0)}, jnp.int32(0)

        def step(self, state, action, key):
            return state, StepResult(action - 5, jnp.float32(0), action > 5, jnp.bool_(False))

    environment_source(Choosing())


@pytest.mark.parametrize("observation", ["nested", "image"])
def test_zeros_stand_for_what_is_not_made(observation):
    """Same spec, same shapes and dtypes."""
    real = GymnasiumEnvs(partial(Noise, OBSERVATIONS[observation], ACTIONS["bounded"]), 3)
    outline = ZeroEnvs(real.spec)

    def shapes_of(environment):
        def both(key):
            state, observation = environment.reset(key)
            return observation, environment.step(state, jnp.zeros((3, 2)), key)[1:]

        return jax.tree.map(lambda x: (x.shape, x.dtype), jax.eval_shape(both, jax.random.key(0)))

    assert shapes_of(real) == shapes_of(outline)


def test_an_environment_that_is_gone_may_leave_its_place_to_another():
    """What counts is that one object does not come twice, not that one address does not."""
    source = environment_source(make_counter)
    for _ in range(20):
        source.make(2, "auto")


@pytest.mark.parametrize("with_file", [True, False])
def test_which_functions_cross_processes(monkeypatch, with_file):
    main = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    main.make = make = lambda: Counter()
    make.__module__, make.__qualname__ = "__main__", "make"
    if with_file:
        main.__file__ = "script.py"
    assert is_picklable(make) == with_file
    assert is_picklable(make_counter) and is_picklable(partial(Faulty, "raise"))
    assert not is_picklable(lambda: Counter())
    assert not is_picklable(partial(Noise, observation_space=lambda: 3))
    assert environment_source("CartPole-v1").is_picklable
    assert not environment_source(probes.Counter()).is_picklable


@pytest.mark.parametrize("seconds", [-1, math.nan, math.inf, 1e20])
def test_a_time_limit_that_is_none_is_refused(seconds):
    with pytest.raises(InvalidInput, match="environment_timeout is "):
        environment_source("CartPole-v1", environment_timeout=seconds)
