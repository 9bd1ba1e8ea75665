"""Pushing in JAX and for Gymnasium: equal step by step, and a task with two ways."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from gymnasium.utils.env_checker import check_env
from twins import play_both

import etude
from etude.algorithms.control.heuristic import HEURISTICS
from etude.environments.registry import env_factory
from etude.environments.tasks import push_env
from etude.environments.tasks.picture import FLOOR, POINT, SUCCESS, WALL
from etude.environments.tasks.push import Push, PushState, limited_push
from etude.environments.tasks.push_env import PushEnv, empty_table

NAME = "etude/Push-v0"


def place(env, pusher, block):
    env.reset(seed=0)
    env.unwrapped.pusher, env.unwrapped.block = np.float32(pusher), np.float32(block)
    return PushState(jnp.array(pusher, jnp.float32), jnp.array(block, jnp.float32))


@pytest.mark.parametrize("way", ["straight", "oblique", "wall"])
def test_both_kinds_move_alike_and_as_the_task_says(way):
    """To the target, past it until the time is over, and into the wall, with float64."""
    actions = np.random.default_rng(0).uniform(-0.2, 0.2, (110, 2)).astype(np.float32)
    pusher = dict(straight=(-0.48, 0), oblique=(-0.5, 0.1), wall=(0.4, 0.1))[way]
    actions += dict(straight=(1.5, 0), oblique=(0.2, 0), wall=(-1, 0))[way]
    if way == "straight":
        actions[:, 1] = 0
    env = env_factory(NAME)()
    port = limited_push()
    state, _ = port.reset(jax.random.key(0))
    state = type(state)(place(env, pusher, (0, 0)), state.time)
    seen, total, terminated, info = play_both(port, state, env, actions, tolerance=5e-5)
    at, block = np.array(pusher, float), np.zeros(2)
    for action, row in zip(actions, seen, strict=False):
        at = np.clip(at + 0.05 * np.clip(action.astype(float), -1, 1), -1, 1)
        if np.hypot(*(block - at)) < 0.25:
            block = at + 0.25 * (block - at) / np.hypot(*(block - at))
        np.testing.assert_allclose(row, [*at, *block], atol=1e-4)
    assert terminated == total == info["is_success"] == (way == "straight")
    assert len(seen) == 100 or way == "straight"
    assert (np.hypot(*(block - [0.6, 0])) <= 0.05) == (way == "straight")
    assert np.abs(block).max() > 0.1  # it was pushed
    assert (np.abs(seen[:, 0]) == 1).any() == (way == "wall")


def test_it_is_an_environment_of_gymnasium():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "(?s).*gymnasium.make")  # the check asks for it
        check_env(PushEnv("rgb_array"))
    in_jax, in_python = (etude.make(NAME, 2, backend).spec for backend in ("jax", "gymnasium"))
    assert (in_jax.observation, in_jax.action) == (in_python.observation, in_python.action)


def test_starts_are_uniform_around_their_places():
    _, in_jax = jax.jit(jax.vmap(Push().reset))(jax.random.split(jax.random.key(0), 500))
    env = PushEnv()
    env.reset(seed=0)
    for starts in (np.asarray(in_jax), np.stack([env.reset()[0] for _ in range(500)])):
        for values, middle in zip(starts.T, (0.35, 0, 0, 0), strict=True):
            assert scipy.stats.kstest(values, "uniform", (middle - 0.05, 0.1)).pvalue > 1e-3
        assert (np.hypot(*(starts[:, :2] - starts[:, 2:]).T) > 0.2499).all()


@pytest.fixture(scope="module")
def play():
    """A function that plays actions of (observation, memory) from 1,000 starts, compiled."""
    port = Push()

    def run(act, memory):
        def step(carry, _):
            state, memory, was_there = carry
            action, memory = act(jax.vmap(port.observe)(state), memory)
            moved, result = jax.vmap(port.step, (0, 0, None))(state, action, None)
            state = jax.tree.map(lambda a, b: jnp.where(was_there[:, None], a, b), state, moved)
            return (state, memory, was_there | result.terminated), state

        start, _ = jax.vmap(port.reset)(jax.random.split(jax.random.key(1), len(memory)))
        (_, memory, is_there), states = jax.lax.scan(
            step, (start, memory, jnp.zeros(len(memory), bool)), None, 100
        )
        return is_there, states, memory

    return jax.jit(run, static_argnums=0)


def test_the_heuristic_succeeds_on_both_sides(play):
    controller = HEURISTICS[NAME]
    drawn = controller.initial_memory(1000, jax.random.key(0))
    is_there, states, side = jax.device_get(play(controller.act, drawn))
    assert is_there.mean() >= 0.98 and is_there[side > 0].all() and is_there[side < 0].all()
    np.testing.assert_array_equal(side, drawn)
    assert abs(side.mean()) < 4 / np.sqrt(1000)
    # it is on that side where it passes the block
    at = (states.pusher[..., 0] < states.block[..., 0]).argmax(0)
    height = (states.pusher - states.block)[at, np.arange(1000), 1]
    np.testing.assert_array_equal(np.sign(height), side)


@pytest.mark.system
def test_the_mean_of_both_ways_does_not_get_there(play):
    def mean(observation, memory):
        ways = [HEURISTICS[NAME].act(observation, side * jnp.ones_like(memory)) for side in (-1, 1)]
        return (ways[0][0] + ways[1][0]) / 2, memory

    is_there, *_ = jax.device_get(play(mean, jnp.zeros(1000)))
    assert is_there.mean() < 0.1


def test_the_heuristic_goes_on_where_it_is():
    """Whatever was drawn, on the side where it is; behind the block it pushes to the target."""
    observation = np.float32([[0, 0.32, 0, 0], [0, -0.32, 0, 0], [0.32, 0, 0, 0], [-0.25, 0, 0, 0]])
    action, side = jax.jit(HEURISTICS[NAME].act)(observation, np.float32([-1, 1, -1, 1]))
    np.testing.assert_array_equal(side[:3], [1, -1, -1])
    assert action[0, 0] < -0.9 and action[1, 0] < -0.9 and action[2, 1] < -0.9
    np.testing.assert_allclose(action[3], [1, 0], atol=1e-5)


def test_a_picture_shows_the_discs_and_the_target():
    env = PushEnv("rgb_array")
    place(env, (-0.5, -0.5), (0, 0.4))

    def color_at(*position):
        return tuple(env.render()[tuple(np.round(empty_table().place(position)).astype(int))])

    assert color_at(-0.5, -0.5) == POINT and color_at(0.1, 0.4) == WALL
    assert color_at(0.6, 0) == push_env.DESIRED and color_at(0.3, -0.3) == FLOOR
    env.block = np.float32([0.62, 0])
    assert color_at(0.7, 0) == SUCCESS and PushEnv().render() is None


def test_the_constants_are_those_that_the_task_says():
    said = " ".join(Push.__doc__.split())
    assert f"radius {push_env.PUSHER_RADIUS} and {push_env.BLOCK_RADIUS}" in said
    assert f"in units of {push_env.STEP_SIZE}" in said
    assert f"target is at ({push_env.TARGET[0]}, 0)" in said
    assert f"pusher at ({push_env.START_DISTANCE}, 0)" in said
    assert f"uniform within {push_env.SPREAD}" in said
    assert f"within {push_env.TOLERANCE} of the target" in said
    assert f"after {push_env.MAX_STEPS} steps" in said
