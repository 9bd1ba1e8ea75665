"""Simulators stepped by a callback: what they tell and are given crosses intact, and what goes
wrong is named."""

import itertools
from functools import partial

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.spaces import Box
from gymnasium_probes import Counter
from gymnasium_spaces import ACTIONS, OBSERVATIONS, Faulty, Noise

from etude.environments.backends.gymnasium_envs import GymnasiumEnvs
from etude.errors import EnvironmentFault, InvalidInput
from etude.spaces import Discrete, space_from_gymnasium
from etude.training import run_compiled

KEY = jax.random.key(0)


def play(environment, actions, key=KEY):
    """(observation acted on, outcome) [time, env] from a fresh start under `actions` [time, env,
    ...], in NumPy."""

    def step(carry, action):
        state, observation = carry
        state, following, outcome = environment.step(state, action, KEY)
        return (state, following), (observation, outcome)

    return jax.tree.map(
        np.asarray, jax.jit(lambda: jax.lax.scan(step, environment.reset(key), actions)[1])()
    )


def random_actions(environment, steps, seed=0):
    """As a policy would choose them, [time, env, ...]: choices from 0, numbers also from outside
    [-1, 1]."""
    rng, shape = np.random.default_rng(seed), (steps, environment.spec.num_envs)
    match environment.spec.action:
        case Discrete(n=n):
            return jnp.asarray(rng.integers(n, size=shape))
    return jnp.asarray(
        rng.uniform(-1.5, 1.5, (*shape, *environment.spec.action.shape)).astype(np.float32)
    )


def test_every_successor_is_true():
    """10^5 steps of copies whose episodes have different lengths."""
    copies, steps = 50, 2000
    lengths = 3 + np.arange(copies) % 11
    makers = iter([10, *(int(length) for length in lengths)])

    def make():
        environment = Counter(next(makers))
        environment.observation_space = Box(0, 100, (1,), np.float32)
        return environment

    environment = GymnasiumEnvs(make, copies)
    observation, outcome = play(environment, np.zeros((steps, copies), np.int32))
    assert observation.size == 10**5
    assert (outcome.next_observation == observation + 1).all() and (outcome.reward == 1).all()
    np.testing.assert_array_equal(outcome.terminated, outcome.next_observation[..., 0] == lengths)
    assert not outcome.truncated.any()
    ended = outcome.terminated[:-1]
    assert (observation[0] == 0).all() and (observation[1:][ended] == 0).all()
    np.testing.assert_array_equal(observation[1:][~ended], outcome.next_observation[:-1][~ended])
    np.testing.assert_array_equal(outcome.terminated.sum(0), steps // lengths)


@pytest.mark.parametrize(
    "name", ["CartPole-v1", pytest.param("Pendulum-v1", marks=pytest.mark.slow)]
)
def test_play_is_that_of_gymnasium_by_hand(name):
    """Step by step from the same seeds, over terminations, time limits and the random restarts
    after them."""
    copies, steps = 3, 80
    make = partial(gymnasium.make, name, max_episode_steps=15)
    environment = GymnasiumEnvs(make, copies)
    actions = random_actions(environment, steps)
    observation, outcome = play(environment, actions)
    scale = 1 if name == "CartPole-v1" else 2
    for i in range(copies):
        env = make()
        seeds, number = environment.vector_env.seeds[i], 0
        first, _ = env.reset(seed=seeds(number))
        for t in range(steps):
            np.testing.assert_array_equal(observation[t, i], first)
            action = np.asarray(actions[t, i])
            first, *told, _ = env.step(
                int(action) if scale == 1 else scale * np.clip(action, -1, 1)
            )
            np.testing.assert_array_equal(outcome.next_observation[t, i], first)
            np.testing.assert_array_equal(
                [outcome.reward[t, i], outcome.terminated[t, i], outcome.truncated[t, i]],
                np.float32(told),
            )
            if told[1] or told[2]:
                number += 1
                first, _ = env.reset(seed=seeds(number))
    assert outcome.truncated.any() and (name != "CartPole-v1" or outcome.terminated.any())


@pytest.mark.slow
def test_a_reset_starts_the_same_play_again():
    """Also after other play, and every copy has its own."""
    environment = GymnasiumEnvs(Noise, 4)
    actions = random_actions(environment, 30)
    observation, outcome = play(environment, actions)
    other, _ = play(environment, actions, jax.random.key(1))
    again, repeated = play(environment, actions)
    np.testing.assert_array_equal(observation, again)
    jax.tree.map(np.testing.assert_array_equal, outcome, repeated)
    assert (observation[0] != other[0]).all()
    assert len(np.unique(observation[:, :, 0])) == 4 * 30


def flat(space, value):
    """The leaves of an observation as the agent should see them: choices counted from 0, no 64-bit
    numbers."""
    match space:
        case gymnasium.spaces.Dict():
            return [leaf for name in sorted(space) for leaf in flat(space[name], value[name])]
        case gymnasium.spaces.Tuple():
            return [
                leaf for part, own in zip(space, value, strict=True) for leaf in flat(part, own)
            ]
        case gymnasium.spaces.Discrete() | gymnasium.spaces.MultiDiscrete():
            return [np.asarray(value - space.start, np.int32)]
    narrow = {np.dtype("float64"): np.float32, np.dtype("int64"): np.int32}
    return [np.asarray(value, narrow.get(space.dtype, space.dtype))]


@pytest.mark.slow
@pytest.mark.parametrize("space", OBSERVATIONS.values(), ids=OBSERVATIONS)
def test_observations_of_every_kind_cross_intact(space):
    copies, steps = 2, 20
    environment = GymnasiumEnvs(partial(Noise, space), copies)
    assert environment.spec.observation == space_from_gymnasium(space)
    observation, outcome = play(environment, random_actions(environment, steps))
    seen, after = jax.tree.leaves(observation), jax.tree.leaves(outcome.next_observation)
    assert jax.tree.structure(observation) == jax.tree.structure(
        environment.spec.observation.zeros()
    )
    for i, simulator in enumerate(environment.vector_env.envs):
        told = iter(simulator.told)
        first = flat(space, next(told)[0])
        for t in range(steps):
            for given, expected in zip(seen, first, strict=True):
                assert given.dtype == expected.dtype
                np.testing.assert_array_equal(given[t, i], expected)
            successor, reward, terminated, truncated = next(told)
            for given, expected in zip(after, flat(space, successor), strict=True):
                np.testing.assert_array_equal(given[t, i], expected)
            assert outcome.reward[t, i] == np.float32(reward)
            assert (outcome.terminated[t, i], outcome.truncated[t, i]) == (terminated, truncated)
            first = flat(space, next(told)[0] if terminated or truncated else successor)


@pytest.mark.parametrize(
    "kind, chosen, given",
    [
        ("discrete", [[0, 2]], [-1, 1]),
        (
            "multidiscrete",
            [[[[0, 0], [0, 0]], [[1, 2], [3, 1]]]],
            [[[0, 5], [-3, 0]], [[1, 7], [0, 1]]],
        ),
        (
            "multibinary",
            [[[[0, 1], [1, 0]], [[1, 1], [0, 0]]]],
            [[[0, 1], [1, 0]], [[1, 1], [0, 0]]],
        ),
        ("bounded", [[[-1, 0], [0.5, 9]]], [[-2, 5], [1, 10]]),
        ("unbounded", [[[-30, 0], [0.5, 9]]], [[-30, 0], [0.5, 9]]),
        ("float64", [[[0.5], [-7]]], [[1], [-2]]),
        ("integers", [[[-1, 1], [0.09, -0.5]]], [[0, 10], [5, 2]]),
    ],
)
def test_actions_reach_the_simulator_in_its_own_terms(kind, chosen, given):
    space = ACTIONS[kind]
    environment = GymnasiumEnvs(partial(Noise, OBSERVATIONS["box"], space), 2)
    play(
        environment,
        jnp.asarray(chosen, jnp.float32 if isinstance(space, gymnasium.spaces.Box) else jnp.int32),
    )
    for simulator, expected in zip(environment.vector_env.envs, given, strict=True):
        (action,) = simulator.given
        if kind == "discrete":
            assert type(action) is int and action == expected
        else:
            assert (
                isinstance(action, np.ndarray)
                and action.dtype == space.dtype
                and action.shape == space.shape
            )
            np.testing.assert_array_equal(action, expected)
        assert space.contains(action)


def of_three(bad):
    """A maker of copies of which number 1 is `bad`; the first environment made tells what the
    spaces are."""
    number = itertools.count()
    return lambda: bad() if next(number) == 2 else Faulty(fault="no", at=-1)


@pytest.mark.parametrize(
    "fault, message, cause",
    [
        ("raise", "it raised ZeroDivisionError: the simulator broke", ZeroDivisionError),
        ("nan observation", "its observation is NaN", None),
        ("nan reward", "its reward is NaN", None),
        ("infinite", r"its observation is inf, or beyond float32 at index \[0\]", None),
        ("shape", r"its observation has shape \(3,\), and its space says \(2,\)", None),
        ("none", r"its observation is None \(NoneType\), and its space is Box", None),
        ("bad reward", r"its reward is 'much' \(str\); it has to be one number", None),
        ("too few", r"it returned 3 values, and step\(\) has to return \(obs", None),
    ],
)
def test_what_goes_wrong_names_the_copy_and_its_step(fault, message, cause):
    """Step 7 is in the second episode."""
    environment = GymnasiumEnvs(of_three(partial(Faulty, fault, at=7)), 3)
    with pytest.raises(
        EnvironmentFault, match=f"^copy 1 of Faulty failed at its step 7: {message}"
    ) as failure:
        run_compiled(lambda: play(environment, jnp.zeros((20, 3), jnp.int32)))
    assert (
        type(failure.value.__cause__) is (cause or type(None))
        and failure.value.__suppress_context__
    )
    if cause is ZeroDivisionError:
        # it says where in the simulator
        assert failure.value.__cause__.__traceback__.tb_next is not None


@pytest.mark.parametrize(
    "fault, message",
    [("raise", "it raised ZeroDivisionError"), ("nan observation", "its observation")],
)
def test_a_failing_reset_is_named(fault, message):
    environment = GymnasiumEnvs(of_three(partial(Faulty, fault, at=0)), 3)
    with pytest.raises(
        EnvironmentFault, match=f"^copy 1 of Faulty failed at its first reset: {message}"
    ):
        run_compiled(jax.jit(environment.reset), KEY)


def test_a_failing_restart_is_named():
    """The reset that follows the end of an episode belongs to the step that ended it."""
    environment = GymnasiumEnvs(of_three(partial(Faulty, "shape", at=5)), 3)
    with pytest.raises(
        EnvironmentFault, match="^copy 1 of Faulty failed at its step 5: its observation has shape"
    ):
        run_compiled(lambda: play(environment, jnp.zeros((20, 3), jnp.int32)))


def test_a_part_of_an_observation_is_named_by_its_path():
    class Wrong(Noise):
        def reset(self, **options):
            value, info = super().reset(**options)
            return {**value, "z": value["z"][:1]}, info

    environment = GymnasiumEnvs(partial(Wrong, OBSERVATIONS["dict"]), 1)
    with pytest.raises(
        EnvironmentFault,
        match=r"its observation\['z'\] has shape \(1,\), and its space says \(2,\)",
    ):
        run_compiled(jax.jit(environment.reset), KEY)


@pytest.mark.parametrize("role", ["observation", "action"])
def test_unsupported_spaces_are_refused_by_name(role):
    text = gymnasium.spaces.Text(5)
    make = partial(Noise, **{f"{role}_space": text})
    with pytest.raises(
        InvalidInput, match=rf"the {role} space is Text\(.*\); Text is not supported there"
    ):
        GymnasiumEnvs(make, 1)


def test_an_environment_may_use_jax_itself():
    class Own(Counter):
        def step(self, action):
            observation, reward, *rest = super().step(action)
            return np.asarray(jnp.asarray(observation) + 0), float(jnp.float32(reward)), *rest

    observation, outcome = play(GymnasiumEnvs(Own, 2), np.zeros((10, 2), np.int32))
    assert (outcome.next_observation == observation + 1).all()


def test_closing_closes_every_copy():
    closed = []

    class Closing(Counter):
        def close(self):
            closed.append(self)

    environment = GymnasiumEnvs(Closing, 3)
    environment.close()
    assert len(set(closed)) == 4  # and the one that told its spaces


def test_vmap_over_it_is_refused_with_the_way_out():
    environment = GymnasiumEnvs(Counter, 1)
    with pytest.raises(InvalidInput, match="vmap reached a call of Python, .*; train one seed aft"):
        jax.vmap(environment.reset)(jax.random.split(jax.random.key(0), 2))
