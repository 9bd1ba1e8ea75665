"""Tree search in plain Python on Gymnasium's environments; that its tree is the compiled one is
tested with that one."""

import copy

import gymnasium
import numpy as np
import pytest

from etude.errors import InvalidInput
from etude.planning.tree.mcts import UCT
from etude.planning.tree.mcts_python import Node, _copy_simulator, best_action, search_simulator


def luck(env):
    return env.unwrapped.np_random.bit_generator.state


@pytest.mark.slow
def test_it_balances_the_pole_of_a_gymnasium_environment():
    """For 60 steps, where chance lasts about 22; and the environment stands where it stood after
    each search."""
    env, rng = gymnasium.make("CartPole-v1"), np.random.default_rng(0)
    env.reset(seed=0)
    uct = UCT(num_actions=2, simulations=20, horizon=20, exploration=5.0)
    for _ in range(60):
        before = (env.unwrapped.state, luck(env))
        root = search_simulator(uct, env, rng)
        assert (env.unwrapped.state, luck(env)) == before and root.visits == 20
        assert not env.step(best_action(root))[2]


@pytest.mark.slow
def test_the_search_does_not_know_what_the_environment_will_draw():
    """On slippery ice one step right of the start ends in one of three cells, whatever generator
    the environment holds."""
    env = gymnasium.make("FrozenLake-v1", is_slippery=True)
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    ends = {
        int(
            search_simulator(UCT(num_actions=4, simulations=4, horizon=1), env, rng)
            .children[2]
            .simulator.unwrapped.s
        )
        for _ in range(30)
    }
    assert ends == {0, 1, 4}
    assert luck(_copy_simulator(env, rng)) != luck(env)


class Road:
    """Reward 1 a step, and a time limit."""

    def __init__(self, limit):
        self.left = limit

    def step(self, action):
        self.left -= 1
        return None, 1.0, False, self.left == 0, {}


@pytest.mark.parametrize("value, worth", [(None, 3.0), (lambda road: 10.0, 3 + 10.0)])
def test_a_time_limit_cuts_off_play_and_what_comes_later_has_its_value(value, worth):
    root = search_simulator(
        UCT(num_actions=1, simulations=6, horizon=50, value=value),
        Road(3),
        np.random.default_rng(0),
    )
    node, depth = root, 0
    while node.children[0]:
        node, depth = node.children[0], depth + 1
    assert depth == 3 and not node.terminated and node.untried == []
    if value is None:
        assert root.return_sum / root.visits == worth
    else:
        assert (
            node.return_sum / node.visits == 10
            and root.return_sum == (1 + 10) + (2 + 10) + 4 * worth
        )


def test_what_cannot_be_copied_is_refused():
    class Bound(Road):
        def __deepcopy__(self, memo):
            raise TypeError("cannot pickle 'SwigPyObject' object")

    with pytest.raises(InvalidInput, match="cannot be copied .TypeError.*SwigPyObject"):
        search_simulator(UCT(num_actions=1), Bound(3), np.random.default_rng(0))

    class Forgetful(Road, gymnasium.utils.EzPickle):
        def __init__(self, limit):
            gymnasium.utils.EzPickle.__init__(self, limit)
            super().__init__(limit)

    road = Forgetful(3)
    road.step(0)
    assert copy.deepcopy(road).left == 3 and road.left == 2  # as LunarLander-v3 does
    with pytest.raises(InvalidInput, match="starts from scratch, not from its current state"):
        search_simulator(UCT(num_actions=1), road, np.random.default_rng(0))
    with pytest.raises(InvalidInput, match="simulations is 0"):
        search_simulator(UCT(num_actions=1, simulations=0), Road(3), np.random.default_rng(0))


def test_the_best_action_is_the_most_visited():
    leaf = Node(None, 0.0, False, [], [None, None, None])
    root = copy.deepcopy(leaf)
    assert best_action(root) == 0
    root.children = [None, copy.deepcopy(leaf), copy.deepcopy(leaf)]
    root.children[1].visits, root.children[2].visits = 3, 5
    assert best_action(root) == 2
