"""The fork in JAX and for Gymnasium: equal step by step, and a task for two modes alone."""

import warnings

import jax
import numpy as np
import pytest
import scipy.stats
from gymnasium.utils.env_checker import check_env
from twins import play_both

import etude
from etude.algorithms.control.heuristic import HEURISTICS, Heuristic
from etude.environments.registry import env_factory
from etude.environments.tasks import fork_env
from etude.environments.tasks.fork import Fork
from etude.environments.tasks.fork_env import ForkEnv, empty_course
from etude.environments.tasks.picture import FAILURE, FLOOR, POINT, SUCCESS, TRAIL, WALL
from etude.rollout import bind_policy, init_rollout_state, rollout

NAME = "etude/Fork-v0"


@pytest.mark.parametrize("seed", range(6))
def test_both_kinds_move_alike_and_as_the_task_says(seed):
    """To the wall, into the disc and past it, with the path and the distances in float64."""
    rng = np.random.default_rng(seed)
    drift = [1.5, -1.5, 0.9, -0.9, 0.0, 0.3][seed]
    actions = (drift + rng.uniform(-0.2, 0.2, (20, 1))).astype(np.float32)
    port, env = Fork(), env_factory(NAME)()
    state, first = jax.jit(port.reset)(jax.random.key(seed))
    env.reset(seed=0)
    env.unwrapped.trail = [np.asarray(first)]
    seen, total, terminated, info = play_both(port, state, env, actions, tolerance=1e-6)
    y = [first[1]]
    for action in actions:
        y.append(np.clip(y[-1] + 0.125 * np.clip(float(action[0]), -1, 1), -1, 1))
    path = np.stack([np.linspace(-1, 1, 17)[1:], y[1:17]], 1)
    is_in_disc = np.hypot(path[:, 0] + 0.1, path[:, 1]) < 0.58
    collides = is_in_disc.any()
    steps = int(is_in_disc.argmax()) + 1 if collides else 16
    assert terminated and len(seen) == steps and collides == (seed > 3)
    np.testing.assert_allclose(seen, path[:steps], atol=1e-5)
    assert total == info["is_success"] == (not collides)
    assert (np.abs(seen[:, 1]) == 1).any() == (seed < 4)


def test_it_is_an_environment_of_gymnasium():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "(?s).*gymnasium.make")  # the check asks for it
        check_env(ForkEnv("rgb_array"))
    in_jax, in_python = (etude.make(NAME, 2, backend).spec for backend in ("jax", "gymnasium"))
    assert (in_jax.observation, in_jax.action) == (in_python.observation, in_python.action)


def test_starts_are_uniform():
    _, in_jax = jax.jit(jax.vmap(Fork().reset))(jax.random.split(jax.random.key(0), 1000))
    env = ForkEnv()
    env.reset(seed=0)
    for starts in (np.asarray(in_jax), np.stack([env.reset()[0] for _ in range(1000)])):
        assert (starts[:, 0] == -1).all()
        assert scipy.stats.kstest(starts[:, 1], "uniform", (-0.02, 0.04)).pvalue > 1e-3


def test_the_heuristic_passes_on_both_sides_by_a_coin_for_each_episode():
    """400 copies play their second and third episodes, in which the memory is drawn anew."""
    forks, heuristic = etude.make(NAME, 400, "jax"), Heuristic()
    state = heuristic.init(jax.random.key(0), forks.spec)

    @jax.jit
    def play(key):
        policy = bind_policy(heuristic, state, forks)
        start = init_rollout_state(forks, policy, key)
        return rollout(forks, policy, start, key, 48)[1]

    played = jax.device_get(play(jax.random.key(0)))
    np.testing.assert_array_equal(played.done, (np.arange(48) % 16 == 15)[:, None].repeat(400, 1))
    assert (played.reward == played.done).all()
    sides = np.sign(played.next_observation[15::16, :, 1])  # [episode, copy]
    np.testing.assert_array_equal(played.memory[::16], sides)
    np.testing.assert_array_equal(played.memory[15::16], sides)
    assert abs(sides.mean()) < 4 / np.sqrt(sides.size)
    # one episode's side says nothing of the next one's
    assert (np.abs(np.corrcoef(sides) - np.eye(3)) < 4 / np.sqrt(400)).all()


def test_the_heuristic_goes_around_the_disc_on_the_side_where_it_is():
    """Whatever was drawn; near the middle, where the two ways part, it is what was drawn."""
    observation = np.float32([[-0.5, 0.6], [-0.5, -0.6], [-1, 0.02], [-1, 0.02], [0, 0.8]])
    drawn = np.float32([-1, 1, -1, 1, 1])
    action, side = HEURISTICS[NAME].act(observation, drawn)
    np.testing.assert_array_equal(side, [1, -1, -1, 1, 1])
    np.testing.assert_allclose(action, [[1], [-1], [-1], [1], [0]], atol=1e-6)


def test_the_heuristic_can_be_recorded_in_gymnasium():
    dataset = etude.record(NAME, "heuristic", episodes=20, progress=False)
    np.testing.assert_array_equal(dataset.episode_lengths, [16] * 20)
    ends = np.asarray(dataset.transitions.next_observation)[15::16]
    np.testing.assert_allclose(np.abs(ends), [[1, 0.8]] * 20, atol=1e-6)
    assert set(np.sign(ends[:, 1])) == {-1, 1}


def demonstrations(rng, episodes):
    """Positions and actions of an expert that is written out here, in the Gymnasium version."""
    env = ForkEnv()
    env.reset(seed=0)
    positions, actions = [], []
    for _ in range(episodes):
        (position, _), side, ended = env.reset(), rng.choice([-1, 1]), False
        while not ended:
            action = np.clip([(0.8 * side - position[1]) / 0.125], -1, 1).astype(np.float32)
            positions.append(position)
            actions.append(action)
            position, _, ended, _, _ = env.step(action)
    return np.array(positions), np.array(actions)


def test_the_mean_of_the_demonstrations_collides_and_one_of_them_passes():
    """By a kernel around the position: the mean action of the neighbors, or one drawn of them."""
    rng = np.random.default_rng(0)
    positions, actions = demonstrations(rng, 40)
    env = ForkEnv()
    env.reset(seed=1)
    passed, on_the_left = {"mean": [], "one": []}, []
    for _ in range(50):
        for kind in passed:
            (position, _), ended = env.reset(), False
            while not ended:
                distance = ((positions - position) ** 2).sum(-1)
                weight = np.exp(-(distance - distance.min()) / (2 * 0.05**2))
                weight /= weight.sum()
                chosen = np.eye(len(weight))[rng.choice(len(weight), p=weight)]
                action = (weight if kind == "mean" else chosen) @ actions
                position, reward, ended, _, info = env.step(action)
            passed[kind].append(reward)
            assert reward == info["is_success"]
        on_the_left.append(position[1] > 0)
    assert np.mean(passed["mean"]) <= 0.05 and np.mean(passed["one"]) >= 0.9
    assert 0.3 < np.mean(on_the_left) < 0.7


def test_a_picture_shows_the_point_its_path_and_the_disc():
    env = ForkEnv("rgb_array")

    def play(action):
        env.reset(seed=0)
        ended = False
        while not ended:
            ended = env.step([action])[2]

    def color_at(x, y):
        return tuple(env.render()[*np.round(empty_course().place((x, y))).astype(int)])

    play(1.0)
    assert env.render().dtype == np.uint8 and env.render().shape == empty_course().pixels.shape
    assert (color_at(1, 1), color_at(0, 1), color_at(-0.1, 0)) == (SUCCESS, TRAIL, WALL)
    assert color_at(-0.8, -0.8) == FLOOR and color_at(0, 1.06) == WALL
    play(0.0)
    assert color_at(*env.trail[-1]) == FAILURE
    env.reset(seed=0)
    assert color_at(*env.trail[-1]) == POINT and ForkEnv().render() is None


def test_the_constants_are_those_that_the_task_says():
    said = " ".join(Fork.__doc__.split())
    assert f"forward by {fork_env.FORWARD} a step" in said
    assert f"in units of {fork_env.SIDEWAYS}" in said
    assert f"at {fork_env.DISC} and radius {fork_env.RADIUS}" in said.replace("0)", "0.0)")
    assert f"within {fork_env.START_SPREAD} of 0" in said
    assert f"after {fork_env.NUM_STEPS} steps" in said


@pytest.mark.parametrize("delay, passes", [(0, True), (1, False)])
def test_the_first_step_has_to_choose_a_side(delay, passes):
    for start in (-0.02, 0.02):
        env = ForkEnv()
        env.reset(seed=0)
        env.trail = [np.float32([-1, start])]
        ends = [env.step([float(t >= delay)])[2:] for t in range(16)]
        first_end = next(end for end in ends if end[0])
        assert first_end[2]["is_success"] is passes
