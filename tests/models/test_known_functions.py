"""Known rewards and ends against the environments' own steps, and what a wrong one is told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import etude
from etude.data.transition import Transition
from etude.environments.registry import env_factory
from etude.errors import InvalidInput
from etude.models import known_functions as module
from etude.models.known_functions import (
    MUJOCO,
    KnownFunctions,
    check_known_functions,
    known_functions,
)
from etude.models.true_models import STATE_FROM_OBSERVATION
from etude.spaces import from_environment_action, space_from_gymnasium
from etude.struct import replace

# (lowest, highest) state of the classic ones, where some steps end an episode and most do not
STATES = {
    "CartPole-v1": ([-2.5, -3, -0.25, -3], [2.5, 3, 0.25, 3]),
    "Pendulum-v1": ([-20, -8], [20, 8]),
    "Acrobot-v1": ([-3, -3, -12, -28], [3, 3, 12, 28]),
    "MountainCar-v0": ([0.3, -0.07], [0.6, 0.07]),
    "MountainCarContinuous-v0": ([0.3, -0.07], [0.6, 0.07]),
    "etude/CartPoleContinuous-v0": ([-2.5, -3, -0.25, -3], [2.5, 3, 0.25, 3]),
    "etude/CartPoleSwingUp-v0": ([-2.5, -3, -4, -5], [2.5, 3, 4, 5]),
}
REWARDS = {*STATES, "InvertedPendulum-v5"}  # whose reward is known too
ENDLESS = {"Pendulum-v1", "HalfCheetah-v5", "etude/CartPoleSwingUp-v0"}


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """Nothing is registered before a test, nor after it."""
    monkeypatch.setattr(module, "USER_FUNCTIONS", {})


def real_steps(name, count):
    """`count` steps of uniformly random actions on Gymnasium: from random states where those can
    be set, else of whole episodes."""
    env, rng = env_factory(name)(), np.random.default_rng(0)
    env.action_space.seed(0)
    space, plain = space_from_gymnasium(env.action_space, "action"), env.unwrapped
    observation, _ = env.reset(seed=0)
    rows = []
    for _ in range(count):
        if name in STATES:
            env.reset()
            plain.state = rng.uniform(*STATES[name])
            names = [name for name in ("_get_obs", "_get_ob", "_observe") if hasattr(plain, name)]
            observation = getattr(plain, names[0])() if names else plain.state
        action = env.action_space.sample()
        next_observation, reward, terminated, truncated, _ = env.step(action)
        rows.append(
            Transition(
                np.float32(observation),
                from_environment_action(space, np.asarray(action)),
                np.float32(reward),
                np.float32(next_observation),
                terminated,
                truncated,
            )
        )
        observation = env.reset()[0] if terminated or truncated else next_observation
    env.close()
    return jax.tree.map(lambda *leaves: np.stack(leaves), *rows)


@pytest.mark.parametrize("name", [*STATES, *MUJOCO])
def test_what_is_built_in_is_what_gymnasium_steps(name):
    if name in MUJOCO:
        pytest.importorskip("mujoco")
    known, steps = known_functions(name), real_steps(name, 400)
    arguments = steps.observation, steps.action, steps.next_observation
    call = jax.jit(
        lambda *step: [f and jax.vmap(f)(*step) for f in (known.reward, known.terminated)]
    )
    reward, terminated = call(*arguments)
    np.testing.assert_array_equal(terminated, steps.terminated)
    assert steps.terminated.any() == (name not in ENDLESS) and not steps.terminated.all()
    assert (known.reward is not None) == (name in REWARDS)
    if known.reward:
        np.testing.assert_allclose(reward, steps.reward, rtol=2e-5, atol=2e-5)


def test_every_environment_with_a_known_state_has_known_functions():
    assert STATES.keys() == STATE_FROM_OBSERVATION.keys()
    assert known_functions("Acrobot-v1") == known_functions("Acrobot-v1")
    assert hash(known_functions("Acrobot-v1")) == hash(known_functions("Acrobot-v1"))


def test_a_double_pendulum_falls_where_its_tip_is_low():
    """Angles of both links, the second relative, of a tip just above and just below 1 m."""
    ends = known_functions("InvertedDoublePendulum-v5").terminated
    for second in (-0.4, 0.0, 0.5):
        for height in (0.999, 1.001):
            # the tip at the end of both links: its direction turns with the first angle
            x, y = 0.6 * np.sin(second), 0.6 * (1 + np.cos(second))
            first = np.arccos(height / np.hypot(x, y)) - np.arctan2(x, y)
            angles = np.array([first, second])
            seen = np.concatenate([[0.3], np.sin(angles), np.cos(angles), np.zeros(4)])
            assert bool(ends(None, None, np.float32(seen))) == (height < 1)


@pytest.mark.parametrize(
    "name, healthy, ends",
    [
        ("Hopper-v5", [1.2, 0.1], [[0.69, 0], [1.2, 0.21], [1.2, -0.21], [np.nan, 0]]),
        ("Walker2d-v5", [1.2, -0.9], [[0.79, 0], [2.01, 0], [1.2, 1.01], [1.2, -1.01]]),
        ("InvertedPendulum-v5", [0.9, 0.19], [[0, 0.21], [0, -0.21], [np.inf, 0]]),
    ],
)
def test_each_limit_of_a_body_ends_an_episode(name, healthy, ends):
    function, rest = known_functions(name).terminated, np.zeros(9)
    told = [bool(function(None, None, np.float32([*row, *rest]))) for row in (healthy, *ends)]
    assert told == [False, *[True] * len(ends)]
    if name == "Hopper-v5":  # a joint beyond its range
        assert bool(function(None, None, np.float32([1.2, 0, *rest[:-1], 101])))


def reward_of_distance(state, action, next_state):
    return -((next_state - state)[0] ** 2) - 0.1 * action[0]


def is_far(state, action, next_state):
    return next_state[0] > 1


def walk(count=6):
    """Steps of a point whose reward and end are the two functions above, in plain NumPy."""
    rng = np.random.default_rng(1)
    state, action = rng.normal(size=(count, 2)), rng.uniform(-1, 1, (count, 1))
    next_state = state + rng.normal(size=(count, 2))
    next_state[:, 0] = [0.2, 1.5, -3, 0.9, 2, 0.1]
    return Transition(
        state.astype(np.float32),
        action.astype(np.float32),
        (-((next_state - state)[:, 0] ** 2) - 0.1 * action[:, 0]).astype(np.float32),
        next_state.astype(np.float32),
        next_state[:, 0] > 1,
        np.zeros(count, bool),
    )


def test_right_functions_pass_and_either_may_be_missing():
    for known in (
        KnownFunctions(reward_of_distance, is_far),
        KnownFunctions(terminated=is_far),
        KnownFunctions(lambda *step: 0.9995 * reward_of_distance(*step)),  # within the tolerance
    ):
        check_known_functions(known, walk(), "mine/Point-v0")
    none = jax.tree.map(lambda x: x[:0], walk())
    check_known_functions(KnownFunctions(reward_of_distance), none, "mine/Point-v0")


@pytest.mark.parametrize(
    "known, message",
    [
        (
            KnownFunctions(lambda *step: reward_of_distance(*step) * 1.002),
            r"known reward of step 1 of mine/Point-v0 is -.*own was -.*by action \[",
        ),
        (
            KnownFunctions(
                lambda *step: jnp.where(is_far(*step), jnp.nan, reward_of_distance(*step))
            ),
            "known reward of step 1 of mine/Point-v0 is nan, and the environment's own was -",
        ),
        (
            KnownFunctions(terminated=lambda s, a, n: n[0] > 0.85),
            r"known terminated of step 3 of mine/Point-v0 is True, .* was False, from observation "
            r"\[.*\(of a policy\) to \[0.899.*mend it with etude.register_reward\('mine/Point-v0'",
        ),
        (
            KnownFunctions(lambda s, a, n: n - s),
            r"known reward of mine/Point-v0 has shape \[2\]; return a single number",
        ),
        (
            KnownFunctions(terminated=lambda s, a, n: float(n[0]) > 1),
            "known terminated of mine/Point-v0 raised .*Concret.*; it is traced by JAX: write it "
            "in jax.numpy",
        ),
        (
            KnownFunctions(lambda s, a: 0.0),
            r"known reward of mine/Point-v0 raised TypeError: .*\(state, action, next_state\)",
        ),
    ],
)
def test_a_wrong_function_is_told_with_the_step_and_both_values(known, message):
    with pytest.raises(InvalidInput, match=message):
        check_known_functions(known, walk(), "mine/Point-v0")


def test_an_end_may_differ_where_rounding_crosses_the_edge():
    """0.2 and a little is above 0.2 in the environment's float64, and not in float32."""
    steps = walk()
    exact = 1 + 1e-9
    next_state = steps.next_observation.copy()
    next_state[0, 0] = np.float32(exact)
    steps = replace(
        steps, next_observation=next_state, terminated=next_state[:, 0].astype(float) > 1
    )
    steps.terminated[0] = exact > 1
    assert not is_far(None, None, next_state[0]) and steps.terminated[0]
    check_known_functions(KnownFunctions(terminated=is_far), steps, "mine/Point-v0")


def test_registered_functions_come_first_and_the_rest_stays():
    with pytest.raises(InvalidInput, match="'mine/Point-v0' are not known; those of CartPole-v1, "):
        known_functions("mine/Point-v0")
    etude.register_reward("mine:mine/Point-v0", reward_of_distance)
    assert known_functions("mine/Point-v0") == KnownFunctions(reward_of_distance)
    etude.register_reward("mine/Point-v0", terminated=is_far)  # replaces the first
    assert known_functions("a:mine/Point-v0") == KnownFunctions(terminated=is_far)
    etude.register_reward("Hopper-v5", reward_of_distance)
    assert known_functions("Hopper-v5") == KnownFunctions(reward_of_distance, module.hopper_ends)
    with pytest.raises(InvalidInput, match="those of .*, mine/Point-v0 are"):
        known_functions("Ant-v5")


def test_what_is_no_function_is_refused():
    with pytest.raises(InvalidInput, match="neither a reward nor an end of 'A-v0' is given"):
        etude.register_reward("A-v0")
    with pytest.raises(InvalidInput, match="terminated is True; give a function of"):
        etude.register_reward("A-v0", reward_of_distance, True)
