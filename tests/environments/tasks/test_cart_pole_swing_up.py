"""The cart-pole swing-up in JAX and for Gymnasium: equal step by step, and as the task says."""

import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import scipy.integrate
import scipy.stats
from gymnasium.utils.env_checker import check_env
from twins import play_both

import etude
from etude.environments.registry import env_factory
from etude.environments.tasks import cart_pole_swing_up_env
from etude.environments.tasks.cart_pole_swing_up import (
    CartPoleSwingUpTask,
    limited_cart_pole_swing_up,
)
from etude.environments.tasks.cart_pole_swing_up_env import CartPoleSwingUpEnv, cart_pole_derivative
from etude.environments.tasks.picture import POINT, SUCCESS

NAME = "etude/CartPoleSwingUp-v0"


def test_both_kinds_move_alike_and_as_the_task_says():
    """Gently, for a chaotic system forgets where it began; the first step also beside SciPy."""
    actions = np.random.default_rng(0).uniform(-0.3, 0.3, (110, 1)).astype(np.float32)
    actions[0] = 1.7  # beyond the bound
    env, port = env_factory(NAME)(), limited_cart_pole_swing_up()
    env.reset(seed=0)
    begun = env.unwrapped.state
    state, _ = port.reset(jax.random.key(0))
    state = type(state)(jnp.asarray(begun), state.time)
    seen, total, terminated, _ = play_both(port, state, env, actions, tolerance=2e-3)
    assert len(seen) == 100 and not terminated and total < 0
    exact = scipy.integrate.solve_ivp(
        lambda _, x: cart_pole_derivative(x, 10.0), (0, 0.05), begun, rtol=1e-9, atol=1e-9
    ).y[:, -1]
    expected = [*exact[:2], math.cos(exact[2]), math.sin(exact[2]), exact[3]]
    np.testing.assert_allclose(seen[0], expected, atol=1e-4)


def test_the_reward_is_that_of_the_state_before_the_step():
    env = CartPoleSwingUpEnv()
    env.state = np.float32([0.5, 2, 1, 3])
    _, reward, *_ = env.step([0.5])
    expected = 1 - math.cos(1) + 0.1 * 0.25 + 0.01 * 4 + 0.01 * 9 + 0.1 * 0.25
    np.testing.assert_allclose(reward, -expected, rtol=1e-5)


def test_it_is_an_environment_of_gymnasium():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "(?s).*gymnasium.make")  # the check asks for it
        warnings.filterwarnings("ignore", "(?s).*infinity")  # of a track without ends
        check_env(CartPoleSwingUpEnv("rgb_array"))
    in_jax, in_python = (etude.make(NAME, 2, backend).spec for backend in ("jax", "gymnasium"))
    assert (in_jax.observation, in_jax.action) == (in_python.observation, in_python.action)


def test_the_pole_hangs_at_first():
    states, _ = jax.vmap(CartPoleSwingUpTask().reset)(jax.random.split(jax.random.key(0), 500))
    env = CartPoleSwingUpEnv()
    env.reset(seed=0)
    of_env = []
    for _ in range(500):
        env.reset()
        of_env.append(env.state)
    for starts in (np.asarray(states), np.stack(of_env)):
        for values, middle in zip(starts.T, (0, 0, math.pi, 0), strict=True):
            assert scipy.stats.kstest(values, "uniform", (middle - 0.2, 0.4)).pvalue > 1e-3


def test_a_picture_shows_the_pole():
    env = CartPoleSwingUpEnv("rgb_array")
    env.reset(seed=0)
    for angle, color in ((0.0, SUCCESS), (math.pi, POINT)):
        env.state = np.float32([0, 0, angle, 0])
        picture = env.render()
        assert (picture == color).all(-1).any()
        other = POINT if color == SUCCESS else SUCCESS
        assert not (picture == other).all(-1).any()
    assert CartPoleSwingUpEnv().render() is None


def test_the_constants_are_those_that_the_task_says():
    said = " ".join(CartPoleSwingUpTask.__doc__.split())
    task = cart_pole_swing_up_env
    assert f"a force of {task.MAX_FORCE:g} a N during {task.TIME_STEP} s" in said
    assert f"{task.POSITION_COST} position² + {task.VELOCITY_COST} velocity²" in said
    assert f"{task.RATE_COST} rate² + {task.FORCE_COST} a²" in said
    assert f"within {task.START_RANGE} of that" in said
    assert f"after {task.MAX_STEPS} steps" in said
