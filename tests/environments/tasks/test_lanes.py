"""The lane in JAX and for Gymnasium: equal step by step, and cameras with a true perspective."""

import warnings
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from gymnasium.utils.env_checker import check_env
from twins import play_both

import etude
from etude.algorithms.control.heuristic import HEURISTICS
from etude.environments.registry import env_factory
from etude.environments.tasks import lanes_env
from etude.environments.tasks.lanes import Lanes, LanesState, limited_lanes
from etude.environments.tasks.lanes_env import LanesEnv
from etude.environments.tasks.picture import FAILURE, POINT

NAME = "etude/Lanes-v0"
ACT = jax.jit(HEURISTICS[NAME].act)
DISTANCES = [2, 20 / 9, 2.5, 20 / 7, 10 / 3, 4, 5, 20 / 3, 10]


def middle(phases, x):
    """The road, written out."""
    return 2 * np.sin(2 * np.pi * x / 60 + phases[0]) + np.sin(2 * np.pi * x / 31 + phases[1])


def lateral(env, ahead, offset=0.0):
    """How far to the left the middle is, where a root finder meets the line across."""
    forward = np.array([np.cos(env.heading), np.sin(env.heading)])
    left = np.array([-forward[1], forward[0]])

    def height(across):
        x, y = env.position + ahead * forward + (offset + across) * left
        return y - middle(env.phases, x)

    return scipy.optimize.brentq(height, -20, 20)


def put(env, seed):
    """Put the car anywhere on a random road, somewhat off the middle."""
    rng = np.random.default_rng(seed)
    env.reset(seed=seed)
    x = rng.uniform(0, 100)
    env.phases = rng.uniform(0, 2 * np.pi, 2)
    slope = (middle(env.phases, x + 1e-5) - middle(env.phases, x - 1e-5)) / 2e-5
    env.heading = float(np.arctan(slope) + rng.uniform(-0.2, 0.2))
    env.position = np.array([x, middle(env.phases, x) + rng.uniform(-0.8, 0.8)])


@pytest.fixture(scope="module")
def gusty():
    """Steps in JAX with a gust in each of them; it is compiled once."""
    return SimpleNamespace(step=jax.jit(Lanes(gust_probability=1.0).step))


class SameGusts:
    """A generator of Gymnasium whose gusts are those that JAX draws from a key."""

    def uniform(self, low, high):
        key_size, _ = jax.random.split(jax.random.key(0))
        return float(jax.random.uniform(key_size, minval=-1, maxval=1))

    def random(self):
        return 0.0


def test_both_kinds_move_alike_with_the_same_gusts(gusty):
    """A gust to the same side in each step, which the car steers against until it cannot."""
    env = LanesEnv(gust_probability=1.0)
    env.reset(seed=0)
    env._np_random = SameGusts()
    gust = env.np_random.uniform(-1, 1)
    env.position = env.position - [0, 1.3 * np.sign(gust)]
    state = LanesState(*(jnp.array(x, jnp.float32) for x in (env.phases, env.position, 0.0)))
    env.heading = 0.0
    actions = np.full((40, 1), -np.sign(gust) * 0.4, np.float32)
    at, heading = env.position.copy(), 0.0
    seen, total, terminated, info = play_both(gusty, state, env, actions, tolerance=2e-4)
    for action in actions[: len(seen)]:  # along an arc, in a hundred pieces
        for _ in range(100):
            at = at + 0.01 * np.array([np.cos(heading), np.sin(heading)])
            heading += 0.01 * 0.15 * action[0]
        at = at + gust * np.array([-np.sin(heading), np.cos(heading)])
    np.testing.assert_allclose(env.position, at, atol=5e-3)
    assert 2 < len(seen) < 40 and terminated and not info["is_success"]
    assert total == len(seen) - 1  # the meters in the lane
    assert abs(lateral(env, 0)) > 1.5


def test_an_episode_goes_on_in_the_lane_until_its_time_is_over():
    """Steered by the heuristic, without gusts, in Gymnasium."""
    env = env_factory(NAME, {"gust_probability": 0.0})()
    observation, _ = env.reset(seed=3)
    for t in range(200):
        action = np.asarray(ACT(observation[None], ())[0][0])
        observation, reward, terminated, truncated, info = env.step(action)
        assert (reward, terminated, truncated) == (1, False, t == 199) and info["is_success"]
        assert abs(lateral(env.unwrapped, 0)) < 0.2


@pytest.mark.parametrize("seed", range(4))
def test_a_picture_is_that_of_a_root_finder(seed):
    """A line between the centers of two pixels lights both, in the shares of its distances."""
    env = LanesEnv()
    put(env, seed)
    views = env.side_views()
    pictures = [(env._observe(), 0), (views["left"][0], 0.7), (views["right"][0], -0.7)]
    for picture, offset in pictures:
        for row, ahead in zip(picture, DISTANCES, strict=True):
            expected = np.zeros(22)  # with a column more at each side
            for line in (-1.5, 1.5):
                across = lateral(env, ahead, offset) + line
                column = 10.5 - across / (2 * ahead / 20)  # of expected, fractions included
                if 0 <= column < 21:
                    first = int(column)
                    expected[first] += 1 - (column - first)
                    expected[first + 1] += column - first
            np.testing.assert_allclose(row, expected[1:-1], atol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_a_side_view_is_that_of_a_car_there_and_corrected_as_the_expert_would(seed):
    env = LanesEnv()
    put(env, seed)
    views = env.side_views()
    (action,), _ = ACT(env._observe()[None], ())
    here = env.position
    for side, offset in (("left", 0.7), ("right", -0.7)):
        view, correction = views[side]
        env.position = here + offset * np.array([-np.sin(env.heading), np.cos(env.heading)])
        np.testing.assert_allclose(view, env._observe(), atol=1e-6)
        (there,), _ = ACT(view[None], ())
        np.testing.assert_allclose(action + correction, there, atol=1e-4)
        curvature = [2 * x / (x**2 + 25) for x in (lateral(env, 5), lateral(env, 5) + offset)]
        assert correction == pytest.approx((curvature[0] - curvature[1]) / 0.15, abs=1e-5)
        assert np.sign(correction) == -np.sign(offset)  # toward the middle
        assert 0.2 < abs(correction) <= 2 * 0.7 / 25 / 0.15  # the most, straight ahead
        env.position = here


def test_the_heuristic_knows_the_lane_from_one_line():
    """Where the other one is out of the picture, on either side."""

    def picture(middle):
        return lanes_env.lane_picture(np.full(9, middle))[None].astype(np.float32)

    for lateral_offset in (-4.0, -3.0, 0.0, 3.0, 4.0):
        (action,), _ = ACT(picture(lateral_offset), ())
        curvature = 2 * lateral_offset / (lateral_offset**2 + 25)
        assert action == pytest.approx(np.clip(curvature / 0.15, -1, 1), abs=1e-4)


def test_it_is_an_environment_of_gymnasium():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "(?s).*gymnasium.make")  # the check asks for it
        check_env(LanesEnv(render_mode="rgb_array"))
    in_jax, in_python = (etude.make(NAME, 2, backend).spec for backend in ("jax", "gymnasium"))
    assert (in_jax.observation, in_jax.action) == (in_python.observation, in_python.action)
    assert limited_lanes().limit == 200


def test_roads_and_gusts_are_drawn_as_the_task_says():
    """Phases uniform; a gust in a hundredth of the steps, uniform to both sides."""
    env = LanesEnv()
    env.reset(seed=0)
    starts = []
    for _ in range(200):
        env.reset()
        starts.append(env.phases)
        assert abs(lateral(env, 0)) < 1e-9 and abs(lateral(env, 0.01)) < 1e-5
    for phases in np.transpose(starts):
        assert scipy.stats.kstest(phases, "uniform", (0, 2 * np.pi)).pvalue > 1e-3
    pushes = []
    env.gust_probability = 0.2
    for _ in range(500):
        env.position, env.heading = np.zeros(2), 0.0
        env.step(np.zeros(1))
        pushes.append(env.position[1])
    gusts = np.array(pushes)[np.array(pushes) != 0]
    assert abs(len(gusts) / 500 - 0.2) < 0.07
    assert scipy.stats.kstest(gusts, "uniform", (-1, 2)).pvalue > 1e-3


def test_a_picture_from_above_shows_the_car_on_the_road():
    env = LanesEnv(render_mode="rgb_array")
    env.reset(seed=0)
    before = env.render()
    assert before.dtype == np.uint8 and before.shape[1:] == (360, 3)
    colors = {tuple(color) for color in before.reshape(-1, 3)}
    assert {POINT, lanes_env.ROAD, lanes_env.GRASS} <= colors and FAILURE not in colors
    env.position = env.position + np.array([0, 2])
    assert FAILURE in {tuple(color) for color in env.render().reshape(-1, 3)}
    assert LanesEnv().render() is None


def test_the_constants_are_those_that_the_task_says():
    said = " ".join(Lanes.__doc__.split())
    assert f"units of {lanes_env.MAX_CURVATURE}/m" in said
    assert f"probability {lanes_env.GUST_PROBABILITY} a step" in said
    assert f"lane is {2 * lanes_env.HALF_WIDTH:g} m wide" in said
    assert "wavelengths {:g} and {:g} m".format(*lanes_env.WAVELENGTHS) in said
    assert "amplitudes {:g} and {:g} m".format(*lanes_env.AMPLITUDES) in said
    assert f"after {lanes_env.MAX_STEPS} steps" in said
    np.testing.assert_allclose(lanes_env.DISTANCES, DISTANCES)
