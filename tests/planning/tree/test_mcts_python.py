"""Tree search in plain Python on Gymnasium's environments; that its tree is the compiled one is
tested with that one."""

import copy

import gymnasium
import numpy as np
import pytest

from etude.errors import InvalidInput
from etude.planning.tree.mcts_python import (
    Node,
    SimulatorRollout,
    _copy_simulator,
    best_action,
    every_action,
    search_simulator,
)
from etude.planning.tree.rules import PUCT, UCT
from etude.planning.tree.tree import SearchSettings


def search(simulator, num_actions, settings, rng, evaluate=None, rule=None):
    """Search with one rule, UCT by default, and rollouts by default; all actions are legal."""
    legal, rule = every_action(num_actions), rule or UCT()
    evaluate = evaluate or SimulatorRollout(legal, settings)
    return search_simulator(simulator, legal, evaluate, rule, rule, rng, settings)


def luck(env):
    return env.unwrapped.np_random.bit_generator.state


@pytest.mark.slow
def test_it_balances_the_pole_of_a_gymnasium_environment():
    """For 60 steps, where chance lasts about 22; and the environment stands where it stood after
    each search."""
    env, rng = gymnasium.make("CartPole-v1"), np.random.default_rng(0)
    env.reset(seed=0)
    settings = SearchSettings(20, horizon=20)
    for _ in range(60):
        before = (env.unwrapped.state, luck(env))
        root = search(env, 2, settings, rng, rule=UCT(5.0))
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
        int(search(env, 4, SearchSettings(4, horizon=1), rng).children[2].simulator.unwrapped.s)
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


@pytest.mark.parametrize("value, worth", [(None, 3.0), (10.0, 3 + 10.0)])
def test_a_time_limit_cuts_off_play_and_what_comes_later_has_its_value(value, worth):
    evaluate = None if value is None else lambda road, rng, steps_left: ([0.0], value)
    root = search(Road(3), 1, SearchSettings(6, horizon=50), np.random.default_rng(0), evaluate)
    nodes = [root]
    while nodes[-1].children[0]:
        nodes.append(nodes[-1].children[0])
    assert len(nodes) == 4 and nodes[-1].is_truncated and not nodes[-1].is_over
    if value is None:
        assert root.return_sum / root.visits == worth
    else:
        assert nodes[-1].return_sum / nodes[-1].visits == 1 + 10
        assert root.return_sum == (1 + 10) + (2 + 10) + 4 * worth


def test_puct_begins_with_the_likeliest_action():
    logits = np.log([0.2, 0.5, 0.3])
    evaluate = lambda road, rng, steps_left: (logits, 0.0)
    rng = np.random.default_rng(0)
    root = search(Road(9), 3, SearchSettings(1, horizon=5), rng, evaluate, PUCT())
    assert [child is not None for child in root.children] == [False, True, False]
    own = lambda node, uniform: 2
    root = search(Road(9), 3, SearchSettings(4, horizon=5), rng, evaluate, own)
    assert root.children[2].children[2].visits == 3 and root.children[:2] == [None, None]


def test_what_cannot_be_copied_is_refused():
    class Bound(Road):
        def __deepcopy__(self, memo):
            raise TypeError("cannot pickle 'SwigPyObject' object")

    with pytest.raises(InvalidInput, match="cannot be copied .TypeError.*SwigPyObject"):
        search(Bound(3), 1, SearchSettings(), np.random.default_rng(0))

    class Forgetful(Road, gymnasium.utils.EzPickle):
        def __init__(self, limit):
            gymnasium.utils.EzPickle.__init__(self, limit)
            super().__init__(limit)

    road = Forgetful(3)
    road.step(0)
    assert copy.deepcopy(road).left == 3 and road.left == 2  # as LunarLander-v3 does
    with pytest.raises(InvalidInput, match="starts from scratch, not from its current state"):
        search(road, 1, SearchSettings(), np.random.default_rng(0))
    with pytest.raises(InvalidInput, match="simulations is 0"):
        search(Road(3), 1, SearchSettings(0), np.random.default_rng(0))


def test_the_best_action_is_the_most_visited():
    leaf = Node(None, [], [], [None, None, None])
    root = copy.deepcopy(leaf)
    assert best_action(root) == 0
    root.children = [None, copy.deepcopy(leaf), copy.deepcopy(leaf)]
    root.children[1].visits, root.children[2].visits = 3, 5
    assert best_action(root) == 2
