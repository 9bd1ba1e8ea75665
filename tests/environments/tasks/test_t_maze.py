"""The T-maze in JAX and for Gymnasium: equal step by step, and a task for a memory alone."""

import warnings

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from twins import play_both

import etude
from etude.algorithms.control.heuristic import Heuristic
from etude.environments.registry import env_factory
from etude.environments.tasks.picture import FAILURE, POINT, START, SUCCESS, WALL
from etude.environments.tasks.t_maze import TMaze, TMazeState, limited_t_maze
from etude.environments.tasks.t_maze_env import CUE, TMazeEnv, empty_maze
from etude.errors import InvalidInput
from etude.rollout import bind_policy, evaluate
from etude.struct import validate
from etude.tabular.evaluation import expected_return
from etude.tabular.mdp import make_mdp

NAME = "etude/TMaze-v0"
LEFT, AHEAD, RIGHT = 0, 1, 2


@pytest.mark.parametrize("side", [-1, 1])
def test_both_kinds_step_alike_and_as_the_task_says(side):
    """With walls run into, both turns, and the limit of 100 steps."""
    port = limited_t_maze()
    reset = jax.jit(port.reset)
    key = next(k for k in jax.random.split(jax.random.key(0), 20) if reset(k)[1][0] == side)
    to_junction = [LEFT, RIGHT] + [AHEAD] * 9 + [LEFT, AHEAD, AHEAD]
    for ending in ([LEFT], [RIGHT], [AHEAD] * 200):
        env = env_factory(NAME)()
        env.reset(seed=0)
        env.unwrapped.side = side
        state, first = reset(key)
        np.testing.assert_array_equal(first, [side, 0])
        np.testing.assert_array_equal(env.unwrapped._observe(), [side, 0])
        seen, total, terminated, info = play_both(port, state, env, to_junction + ending)
        assert not seen[:, 0].any()  # nor at the start, after the first step
        np.testing.assert_array_equal(seen[:, 1], np.arange(len(seen)) >= 12)
        is_right = ending == [{-1: LEFT, 1: RIGHT}[side]]
        assert total == info["is_success"] == is_right
        assert (terminated, len(seen)) == ((True, 15) if len(ending) == 1 else (False, 100))


def test_it_is_an_environment_of_gymnasium():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "(?s).*gymnasium.make")  # the check asks for it
        check_env(TMazeEnv(render_mode="rgb_array"))
    in_jax, in_python = (etude.make(NAME, 2, backend).spec for backend in ("jax", "gymnasium"))
    assert (in_jax.observation, in_jax.action) == (in_python.observation, in_python.action)
    assert gymnasium.spec(NAME).max_episode_steps == 100


def test_the_sides_are_equally_probable():
    _, first = jax.jit(jax.vmap(TMaze().reset))(jax.random.split(jax.random.key(0), 1000))
    env = TMazeEnv()
    env.reset(seed=0)
    for cues in (first[:, 0], [env.reset()[0][0] for _ in range(1000)]):
        assert set(np.unique(cues)) == {-1, 1} and abs(np.mean(cues)) < 0.1


def maze_as_process(maze):
    """The exact process of a maze, and what is seen in its states.

    A state is (is it the first step, position, side), and what is seen is the number of a row among
    those that there are: left, right, nothing, junction.
    """
    states = [
        (first, position, side)
        for first in (True, False)
        for position in range(1 if first else maze.length + 1)
        for side in (-1, 1)
    ]
    transition, reward, termination = np.zeros((3, len(states), 3, len(states)))
    step = jax.jit(maze.step)
    for i, (_, position, side) in enumerate(states):
        for action in range(3):
            state = TMazeState(jnp.int32(position), jnp.int32(side))
            state, result = step(state, jnp.int32(action), jax.random.key(0))
            index = i, action, states.index((False, int(state.position), side))
            transition[index], reward[index] = 1, result.reward
            termination[index] = result.terminated
    initial = [first / 2 for first, *_ in states]
    seen = [(side > 0) if first else 2 + (at == maze.length) for first, at, side in states]
    return make_mdp(transition, reward, termination, initial), np.array(seen, int), states


def test_without_a_memory_a_policy_is_right_half_of_the_time():
    """Every policy, exactly: also one that takes a step aside after one of the cues."""
    process, seen, states = maze_as_process(TMaze(length=3))
    value = jax.jit(expected_return)
    rng = np.random.default_rng(0)
    for _ in range(20):
        policy = rng.dirichlet(np.full(3, 0.5), 4)[seen]
        np.testing.assert_allclose(value(process, policy), 0.5, atol=2e-4)
    remembers = np.eye(3)[[1 + side * (at == 3) for _, at, side in states]]
    np.testing.assert_allclose(value(process, remembers), 1, atol=1e-5)


def test_the_heuristic_remembers():
    """Along several episodes of each copy, with a memory that begins anew."""
    mazes, heuristic = etude.make(NAME, 4, "jax"), Heuristic()
    state = heuristic.init(jax.random.key(0), mazes.spec)
    policy = bind_policy(heuristic, state, mazes)
    returns, lengths = jax.jit(lambda key: evaluate(mazes, policy, key, 20))(jax.random.key(0))
    np.testing.assert_array_equal([returns, lengths], [[1] * 20, [11] * 20])


def test_the_length_of_the_corridor_is_a_parameter():
    env = TMazeEnv(length=4)
    env.reset(seed=0)
    seen = [env.step(AHEAD)[0][1] for _ in range(5)]
    assert seen == [0, 0, 0, 1, 1]
    for maze in (lambda length: validate(TMaze(length)), TMazeEnv):
        maze(length=99)  # the turn is step 100, the last before the time limit
        for length in (0, 100):
            with pytest.raises(InvalidInput, match=f"length is {length}"):
                maze(length=length)


def test_a_picture_shows_the_cue_the_walker_and_the_reward():
    env = TMazeEnv(render_mode="rgb_array")
    env.reset(seed=0)
    env.side = 1  # right is below

    def color_at(x, y):
        return tuple(env.render()[*np.round(empty_maze(10).place((x, y))).astype(int)])

    assert color_at(0, 0) == POINT and color_at(5, 1) == WALL
    assert (color_at(0, -1), color_at(0, 1)) == (CUE, START)
    assert color_at(10, -1.37) == SUCCESS
    for _ in range(10):
        env.step(AHEAD)
    assert color_at(0, -1) == START and color_at(10, 0) == POINT
    env.step(LEFT)
    assert color_at(10, 1) == FAILURE and TMazeEnv().render() is None
