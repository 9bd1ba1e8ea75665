"""The point room in JAX and for Gymnasium: equal step by step, and a task of goals."""

import warnings

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from gymnasium.utils.env_checker import check_env

import etude
from etude.environments.goals import GoalReward, check_goal_reward, goal_reward_for
from etude.environments.sources import environment_source
from etude.environments.tasks import point_room_env
from etude.environments.tasks.picture import FLOOR, POINT, WALL
from etude.environments.tasks.point_room import POINT_ROOMS, PointRoom
from etude.environments.tasks.point_room_env import PointRoomEnv, empty_room, move_point

KEY = jax.random.key(0)
every_room = pytest.mark.parametrize("name", POINT_ROOMS)


def random_moves(count, continuous, seed=0):
    """Positions, also at the walls, actions, also from outside their bounds, and noise."""
    rng = np.random.default_rng(seed)
    positions = np.clip(rng.uniform(-1.1, 1.1, (count, 2)), -1, 1).astype(np.float32)
    actions = rng.uniform(-1.5, 1.5, (count, 2)) if continuous else rng.integers(5, size=count)
    noise = rng.normal(0, 0.01, count).astype(np.float32)
    return positions, actions.astype(np.float32 if continuous else int), noise


@pytest.mark.parametrize("continuous", [False, True])
def test_both_kinds_move_alike_from_the_same_place_with_the_same_noise(continuous):
    """With the steps of the notebook written out, in float64."""
    positions, actions, noise = random_moves(2000, continuous)
    in_jax = jax.jit(jax.vmap(PointRoom(continuous=continuous).move))(positions, actions, noise)
    names = ["up", "right", "down", "left", "stay"]
    steps = dict(up=(0, 1), right=(1, 0), down=(0, -1), left=(-1, 0), stay=(0, 0))
    directions = np.clip(actions, -1, 1) if continuous else [steps[names[a]] for a in actions]
    in_numpy = [
        move_point(*row) for row in zip(positions, np.float32(directions), noise, strict=True)
    ]
    expected = positions + 0.05 * np.float64(directions) + np.float64(noise)[:, None]
    # a compiler may round a product and a sum at once
    np.testing.assert_allclose(in_jax, in_numpy, rtol=0, atol=1.2e-7 if continuous else 0)
    np.testing.assert_allclose(in_numpy, np.clip(expected, -1, 1), atol=2e-7)
    assert np.asarray(in_jax).dtype == np.asarray(in_numpy).dtype == np.float32
    assert (np.abs(in_numpy) == 1).any()


class SameNoise:
    """A generator of Gymnasium that gives this noise."""

    def __init__(self, values):
        self.values = iter(values)

    def standard_normal(self):
        return next(self.values)


@every_room
def test_an_episode_is_the_same_with_the_same_goal_and_noise(name):
    """Observations, rewards and the time limit, over all 50 steps."""
    env = gymnasium.make(name, disable_env_checker=True)
    port = POINT_ROOMS[name]()
    keys = jax.random.split(KEY, 51)
    state, first = port.reset(keys[0])
    seen, _ = env.reset(seed=1)
    env.unwrapped.goal = seen["desired_goal"] = np.asarray(first["desired_goal"])
    env.unwrapped.np_random = SameNoise(np.asarray(jax.vmap(jax.random.normal)(keys[1:])))
    jax.tree.map(np.testing.assert_array_equal, dict(first), seen)
    step, toward = jax.jit(port.step), np.sign(np.asarray(first["desired_goal"]))
    for t in range(50):
        x, y = seen["desired_goal"] - seen["observation"]
        action = [[0, 2][int(y < 0)], [1, 3][int(x < 0)]][t % 2]  # toward the goal, in turn
        if port.environment.continuous:
            action = toward if t % 2 else np.float32([0.3, -1.2])
        state, result = step(state, action, keys[t + 1])
        seen, reward, terminated, truncated, info = env.step(action)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=5e-6),
            dict(result.next_observation),
            seen,
        )
        told = (float(result.reward), bool(result.terminated), bool(result.truncated))
        assert told == (reward, terminated, truncated) == (reward, False, t == 49)
        assert info["is_success"] == (reward == 0)
    assert port.environment.continuous or reward == 0


@pytest.mark.parametrize("continuous", [False, True])
def test_it_is_an_environment_of_gymnasium(continuous):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "(?s).*gymnasium.make")  # the check asks for it
        check_env(PointRoomEnv(continuous, "rgb_array"))


@every_room
def test_both_kinds_have_the_same_spec(name):
    in_jax, in_python = (etude.make(name, 2, backend).spec for backend in ("jax", "gymnasium"))
    assert (in_jax.observation, in_jax.action) == (in_python.observation, in_python.action)
    assert goal_reward_for(in_jax) == goal_reward_for(in_python) == in_jax.goal_reward
    assert isinstance(goal_reward_for(in_python), GoalReward)
    assert gymnasium.spec(name).max_episode_steps == POINT_ROOMS[name]().limit == 50


def test_every_episode_starts_in_the_center_with_a_goal_anywhere():
    _, in_jax = jax.jit(jax.vmap(PointRoom().reset))(jax.random.split(KEY, 1000))
    env = PointRoomEnv()
    env.reset(seed=0)
    in_python = [env.reset()[0] for _ in range(1000)]
    goals = np.stack([in_jax["desired_goal"], [x["desired_goal"] for x in in_python]])
    for starts in (in_jax["observation"], [x["achieved_goal"] for x in in_python]):
        assert not np.any(starts)
    for goals_of_kind in goals:
        for axis in range(2):
            test = scipy.stats.kstest(goals_of_kind[:, axis], "uniform", (-1, 2))
            assert test.pvalue > 1e-3
        assert abs(np.corrcoef(goals_of_kind.T)[0, 1]) < 0.1


def test_the_noise_of_a_step_has_the_deviation_that_it_says():
    state, _ = PointRoom().reset(KEY)
    stay = jax.vmap(lambda key: PointRoom().step(state, jnp.int32(4), key)[0].position)
    moved = np.asarray(jax.jit(stay)(jax.random.split(KEY, 2000)))
    np.testing.assert_array_equal(moved[:, 0], moved[:, 1])  # one number for both
    env = PointRoomEnv()
    env.reset(seed=0)
    walk = np.diff([env.step(4)[0]["observation"] for _ in range(2000)], axis=0)[:, 0]
    for noise in (moved[:, 0], walk):
        assert noise.std() == pytest.approx(0.01, rel=0.06) and abs(noise.mean()) < 1e-3


def test_the_reward_is_that_of_the_distance():
    rng = np.random.default_rng(0)
    achieved, desired = rng.uniform(-0.1, 0.1, (2, 4, 50, 2)).astype(np.float32)
    distance = np.sqrt(((achieved - desired) ** 2).sum(-1))
    expected = np.where(distance <= point_room_env.TOLERANCE, 0.0, -1.0)
    flags = jnp.zeros((4, 50), bool)
    reward, terminated = PointRoom().goal_reward(achieved, desired, flags)
    np.testing.assert_array_equal(reward, expected)
    np.testing.assert_array_equal(PointRoomEnv().compute_reward(achieved, desired, [{}]), expected)
    assert not terminated.any() and 0.1 < (expected == 0).mean() < 0.9


@pytest.mark.parametrize("name, backend", [*zip(POINT_ROOMS, ("jax", "gymnasium"), strict=True)])
def test_the_reward_in_jax_is_that_of_gymnasium(name, backend):
    source = environment_source(name)
    check_goal_reward(source.make(1, backend), name, source.spec.goal_reward)


def color_at(picture, *position):
    """The color at a position of the room."""
    return picture[*np.round(empty_room().place(position)).astype(int)]


def test_a_picture_shows_the_point_the_goal_and_the_walls():
    env = PointRoomEnv(render_mode="rgb_array")
    env.reset(seed=0)
    env.goal = np.float32([0.7, 0.6])
    env.position = np.float32([-0.98, -0.3])
    before = env.render()
    assert before.shape == (320, 320, 3) and before.dtype == np.uint8
    np.testing.assert_array_equal(color_at(before, -0.98, -0.3), POINT)
    np.testing.assert_array_equal(color_at(before, 0.7, 0.6), point_room_env.DESIRED)
    np.testing.assert_array_equal(color_at(before, 0.0, 1.05), WALL)
    np.testing.assert_array_equal(color_at(before, -0.25, -0.75), FLOOR)
    env.position = np.float32(
        [0.7, 0.56]
    )  # the disc of the goal has another color once it is reached
    assert (color_at(env.render(), 0.7, 0.63) != color_at(before, 0.7, 0.63)).any()
    for corner in ([-1, -1], [1, 1]):
        env.position = env.goal = np.float32(corner)
        env.render()
    assert PointRoomEnv().render() is None


@pytest.mark.system
@pytest.mark.parametrize("backend", ["jax", "gymnasium"])
def test_runs_on_both_backends(tmp_path, backend):
    run = etude.train(
        "random",
        "etude/PointRoom-v0",
        backend=backend,
        steps=100,
        num_envs=2,
        evaluation_episodes=4,
        out=tmp_path / "run",
        progress=False,
    )
    returns = np.array(run.summary["evaluation"]["returns"])
    assert (returns >= -50).all() and (returns <= 0).all() and run.settings.backend == backend


def test_the_constants_are_those_that_the_task_says():
    said = PointRoom.__doc__
    assert f"steps of {point_room_env.STEP_SIZE}" in said
    assert f"deviation {point_room_env.NOISE}" in said
    assert f"within {point_room_env.TOLERANCE} of the goal" in said
    assert f"after {point_room_env.MAX_STEPS} steps" in said
