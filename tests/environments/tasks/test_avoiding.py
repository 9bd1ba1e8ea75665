"""The course of discs in JAX and for Gymnasium: equal step by step, and 24 ways through it."""

import itertools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from gymnasium.utils.env_checker import check_env
from twins import play_both

import etude
from etude.algorithms.control import task_experts
from etude.algorithms.control.heuristic import HEURISTICS
from etude.environments.registry import env_factory
from etude.environments.tasks import avoiding_env
from etude.environments.tasks.avoiding import Avoiding, limited_avoiding
from etude.environments.tasks.avoiding_env import AvoidingEnv, avoiding_route, route_entropy
from etude.environments.tasks.picture import FAILURE, FLOOR, POINT, SUCCESS, WALL

NAME = "etude/Avoiding-v0"
DISCS = [(0.5, 0), (1.3, -0.2), (1.3, 0.2), (2.1, -0.4), (2.1, 0), (2.1, 0.4)]
ROUTES = np.array(list(itertools.product(range(2), range(3), range(4))))


def clearance(path):
    """The least distance of a path [time, 2] from a center, by points along each of its steps."""
    share = np.linspace(0, 1, 201)[:, None, None]
    points = (1 - share) * path[:-1] + share * path[1:]
    return np.sqrt(((points[..., None, :] - np.array(DISCS)) ** 2).sum(-1)).min()


@pytest.mark.parametrize("seed, ends", [(0, "disc"), (1, "finish"), (2, "time")])
def test_both_kinds_move_alike_and_as_the_task_says(seed, ends):
    """Into a disc, to the finish line along the wall, and nowhere, with the path in float64."""
    actions = np.random.default_rng(seed).uniform(-1.3, 1.3, (130, 2)).astype(np.float32)
    if ends == "disc":
        actions += [0.8, 0]
    elif ends == "finish":
        actions = np.where(np.arange(130)[:, None] < 25, [-0.5, 1], [0.9, 0.4]).astype(np.float32)
    else:
        actions -= np.float32([0.8, 0])
    port, env = limited_avoiding(), env_factory(NAME)()
    state, first = port.reset(jax.random.key(0))
    np.testing.assert_array_equal(first, env.reset(seed=0)[0])
    seen, total, terminated, info = play_both(port, state, env, actions, tolerance=2e-6)
    path = [np.zeros(2)]
    for action in actions[: len(seen)]:
        step = 0.05 * np.clip(action.astype(float), -1, 1)
        path.append(np.clip(path[-1] + step, [0, -1], [2.5, 1]))
    np.testing.assert_allclose(seen, path[1:], atol=1e-5)
    assert (clearance(np.array(path)) < 0.1) == (ends == "disc")
    assert clearance(np.array(path[:-1])) > 0.1  # it ends at the first touch
    assert terminated == (ends != "time") and (len(seen) == 120 or ends != "time")
    assert total == info["is_success"] == (ends == "finish")
    assert info["route"] == (23 if ends == "finish" else -1)


def test_a_step_that_cuts_through_a_disc_touches_it():
    env, step = AvoidingEnv(), jax.jit(Avoiding().step)
    for x, is_touched in ((0.4064, True), (0.39, False)):
        env.reset(seed=0)
        start = np.float32([x, 0.0436])  # both ends are outside of a circle around (0.5, 0)
        end = start + np.float32([0.05, 0.05])
        env.trail = [start]
        _, _, ends, *_ = env.step(np.ones(2))
        _, result = step(start, np.ones(2), jax.random.key(0))
        assert ends == result.terminated == is_touched == (clearance(np.stack([start, end])) < 0.1)


def test_it_is_an_environment_of_gymnasium():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "(?s).*gymnasium.make")  # the check asks for it
        check_env(AvoidingEnv("rgb_array"))
    in_jax, in_python = (etude.make(NAME, 2, backend).spec for backend in ("jax", "gymnasium"))
    assert (in_jax.observation, in_jax.action) == (in_python.observation, in_python.action)


@pytest.fixture(scope="module")
def played():
    """The paths [time, route, 2] of the heuristic on every route, with its actions and rewards."""
    port, controller = Avoiding(), HEURISTICS[NAME]

    @jax.jit
    def play(routes):
        def step(carry, _):
            position, memory = carry
            action, memory = controller.act(position, memory)
            position, result = jax.vmap(port.step, (0, 0, None))(position, action, None)
            return (position, memory), (position, action, result.reward, result.terminated, memory)

        start = jnp.zeros((len(routes), 2)), routes
        return jax.lax.scan(step, start, None, 80)[1]

    return jax.device_get(play(jnp.array(ROUTES, jnp.int32)))


def test_the_heuristic_takes_every_route_smoothly_and_touches_nothing(played):
    positions, actions, rewards, ends, memory = played
    np.testing.assert_array_equal(memory, np.broadcast_to(ROUTES, memory.shape))
    lengths = ends.argmax(0) + 1
    assert lengths.max() < 75
    found = []
    for route, length in enumerate(lengths):
        path = np.concatenate([np.zeros((1, 2)), positions[:length, route]])
        assert rewards[length - 1, route] == 1 and clearance(path) > 0.18
        found.append(avoiding_route(path))
        turn = np.abs(np.diff(actions[:length, route], axis=0)).max()
        assert turn < 0.8  # of a range of 2
    np.testing.assert_array_equal(found, range(24))


def test_the_routes_are_drawn_uniformly():
    drawn = np.asarray(task_experts.draw_route(2400, jax.random.key(0)))
    routes = drawn @ [12, 4, 1]
    assert scipy.stats.chisquare(np.bincount(routes, minlength=24)).pvalue > 1e-3
    assert route_entropy(routes) > 0.99


def test_the_heuristic_keeps_the_gap_that_it_is_in():
    """Whoever brought it there; before a row it goes to the gap that was drawn."""
    position = np.float32([[0.5, -0.2], [2.1, 0.63], [0.2, -0.2], [1.3, 0.99]])
    drawn = np.int32([[1, 2, 3]] * 4)
    _, gaps = jax.jit(HEURISTICS[NAME].act)(position, drawn)
    np.testing.assert_array_equal(gaps, [[0, 2, 3], [1, 2, 3], [1, 2, 3], [1, 2, 3]])


def test_the_route_is_told_by_the_gaps():
    for route, (a, b, c) in enumerate(ROUTES):
        gaps = [0.4 * (a - 0.5), 0.4 * (b - 1), 0.4 * (c - 1.5)]
        path = [(0, 0), *zip((0.5, 1.3, 2.1), gaps, strict=True), (2.5, 0)]
        assert avoiding_route(np.array(path)) == route
        assert avoiding_route(np.array(path[:-2])) == -1
    back_and_again = [(0, 0), (0.6, 0.2), (0.4, 0.2), (0.6, -0.2), (1.4, 0), (2.2, 0.2)]
    assert avoiding_route(np.array(back_and_again)) == 4 * 1 + 2


def test_the_entropy_is_that_of_the_shares():
    routes = np.random.default_rng(0).integers(0, 7, 50)
    expected = scipy.stats.entropy(np.bincount(routes), base=24)
    assert route_entropy(routes) == pytest.approx(expected)
    assert route_entropy(np.append(routes, [-1, -1])) == pytest.approx(expected)
    assert route_entropy(np.full(9, 4)) == route_entropy(np.array([-1])) == 0
    assert route_entropy(np.arange(24)) == pytest.approx(1)


def test_a_picture_shows_the_point_the_discs_and_the_end():
    env = AvoidingEnv("rgb_array")
    env.reset(seed=0)
    picture = avoiding_env.empty_obstacles()

    def colors_at(*positions):
        drawn = env.render()
        places = (np.round(picture.place(position)).astype(int) for position in positions)
        return [tuple(drawn[tuple(place)]) for place in places]

    assert colors_at((0, 0), (2.51, 0.9)) == [POINT, SUCCESS]
    assert set(colors_at(*DISCS, (1, 1.05))) == {WALL}
    assert set(colors_at((0.5, -0.2), (0.5, 0.2))) == {FLOOR}
    env.trail += [np.float32([0.39, 0]), np.float32([0.44, 0])]
    assert colors_at((0.44, 0)) == [FAILURE]
    env.trail = [np.float32([2.5, 0.5])]
    assert colors_at((2.5, 0.5)) == [SUCCESS] and AvoidingEnv().render() is None


def test_the_constants_are_those_that_the_task_says():
    said = " ".join(Avoiding.__doc__.split())
    assert f"in units of {avoiding_env.STEP_SIZE}" in said
    assert "at x = {}, {} and {};".format(*avoiding_env.ROWS) in said
    assert f"are {avoiding_env.SPACING} apart" in said
    assert f"radius {avoiding_env.RADIUS}" in said and f"at x = {avoiding_env.FINISH}" in said
    assert f"after {avoiding_env.MAX_STEPS} steps" in said
    np.testing.assert_allclose(avoiding_env.DISCS, DISCS, atol=1e-12)
