"""Compiled tree search against the same in plain Python, node by node, and in games against players
of known strength."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from etude.errors import InvalidInput
from etude.planning.protocol import ModelStep
from etude.planning.tree import mcts_python
from etude.planning.tree.games import (
    CONNECT_FOUR,
    TIC_TAC_TOE,
    one_ply_player,
    perfect_player,
    play_match,
)
from etude.planning.tree.mcts import UCT, sample_legal, search
from etude.struct import replace, struct

KEY = jax.random.key(0)


class Board:
    """Tic-tac-toe in plain Python, as a simulator; the board as whoever is to move sees it."""

    LINES = ((0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6))

    def __init__(self, board):
        self.board = list(board)

    def step(self, action):
        self.board[action] = 1
        won = any(all(self.board[cell] == 1 for cell in line) for line in self.LINES)
        self.board = [-stone for stone in self.board]
        return self.board, float(won), won or 0 not in self.board, False, {}

    def legal(self):
        return [stone == 0 for stone in self.board]


STATES, ACTIONS = 12, 3
_draw = np.random.default_rng(3)
NEXT = _draw.integers(STATES, size=(STATES, ACTIONS))
REWARD = _draw.normal(size=(STATES, ACTIONS)).astype(np.float32)
ENDS = _draw.random((STATES, ACTIONS)) < 0.15
LEGAL = _draw.random((STATES, ACTIONS)) < 0.8
LEGAL[np.arange(STATES), _draw.integers(ACTIONS, size=STATES)] = True
VALUE = _draw.normal(size=STATES).astype(np.float32)


@struct
class Table:
    """A certain MDP of random rewards and ends."""

    def step(self, state, action, key):
        return ModelStep(
            jnp.asarray(NEXT, jnp.int32)[state, action],
            jnp.asarray(REWARD)[state, action],
            jnp.asarray(ENDS)[state, action],
        )


class Walk:
    """The same as a simulator."""

    def __init__(self, state):
        self.state = state

    def step(self, action):
        reward, ends = REWARD[self.state, action], ENDS[self.state, action]
        self.state = NEXT[self.state, action]
        return self.state, reward, ends, False, {}


class Numbers:
    """Stands in for a generator: rows of numbers drawn before."""

    def __init__(self, rows):
        self.rows = iter(rows)

    def random(self, size):
        row = next(self.rows)
        assert len(row) == size
        return row


def numbers_of(key, uct):
    """The uniform numbers that settle the choices of a search, [simulation, horizon + 1]."""
    drawn = jax.random.uniform(jax.random.split(key)[0], (uct.simulations * (uct.horizon + 1),))
    return np.asarray(drawn, float).reshape(uct.simulations, -1)


def assert_same(tree, root, index=0):
    """Node by node; how many there are."""
    assert (tree.visits[index], tree.terminated[index]) == (root.visits, root.terminated)
    np.testing.assert_allclose(tree.return_sum[index], root.return_sum, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(tree.reward[index], root.reward, rtol=1e-6)
    assert tree.fully_expanded[index] == (not root.untried and any(root.children))
    assert [child > 0 for child in tree.children[index]] == [
        child is not None for child in root.children
    ]
    below = [
        assert_same(tree, child, tree.children[index, action])
        for action, child in enumerate(root.children)
        if child
    ]
    return 1 + sum(below)


GAME = UCT(9, 250, horizon=9, players=2, legal=TIC_TAC_TOE.legal)
OPENING, MIDDLE = np.zeros(9, int), np.array([1, 0, -1, 0, -1, 0, 1, 0, 0])


@pytest.mark.slow
def test_a_game_has_the_tree_of_plain_python():
    """From two roots at once; near the end of a game few nodes are left, and much is terminal."""
    boards, keys = np.int8([OPENING, MIDDLE]).reshape(2, 3, 3), jax.random.split(KEY)
    found = jax.jit(jax.vmap(partial(search, GAME, TIC_TAC_TOE)))(boards, keys)
    for i, board in enumerate((OPENING, MIDDLE)):
        one = jax.tree.map(lambda x, i=i: np.asarray(x)[i], found)
        root = mcts_python.search_simulator(
            replace(GAME, legal=Board.legal), Board(board), Numbers(numbers_of(keys[i], GAME))
        )
        nodes = assert_same(one.tree, root)
        assert nodes == (one.tree.visits > 0).sum() == (251 if i == 0 else nodes)
        assert one.action == mcts_python.best_action(root)
        np.testing.assert_array_equal(
            one.visits, [child.visits if child else 0 for child in root.children]
        )
        values = [
            mcts_python._q_value(GAME, child) if child else -np.inf for child in root.children
        ]
        np.testing.assert_allclose(one.values, values, rtol=1e-4)
        assert one.visits.sum() == 250 and root.visits == 250
    assert GAME.bootstrap_discount == -1 and replace(ONE, discount=0.9).bootstrap_discount == 0.9


ONE = UCT(ACTIONS, 250, horizon=7, legal=lambda state: jnp.asarray(LEGAL)[state])
DEFAULTS = {
    "random": ({}, {}),
    "policy": (
        {
            "policy": lambda state, key: jnp.argmax(
                jnp.where(jnp.asarray(LEGAL), REWARD, -jnp.inf)[state]
            )
        },
        {"policy": lambda walk, rng: int(np.argmax(np.where(LEGAL, REWARD, -np.inf)[walk.state]))},
    ),
    "value": (
        {"value": lambda state: jnp.asarray(VALUE)[state]},
        {"value": lambda walk: VALUE[walk.state]},
    ),
}


@pytest.mark.parametrize(
    "default", ["random", pytest.param("policy", marks=pytest.mark.slow), "value"]
)
def test_a_model_with_rewards_has_the_tree_of_plain_python(default):
    """With illegal actions, ends and a horizon that is reached; C and γ are traced."""
    ours, theirs = DEFAULTS[default]

    @jax.jit
    def run(exploration, discount):
        return search(
            replace(ONE, exploration=exploration, discount=discount, **ours),
            Table(),
            jnp.int32(1),
            KEY,
        )

    for exploration, discount in ((3.0, 0.9), (1.0, 0.5)):
        found = jax.tree.map(np.asarray, run(exploration, discount))
        uct = replace(
            ONE,
            exploration=exploration,
            discount=discount,
            legal=lambda walk: LEGAL[walk.state],
            **theirs,
        )
        root = mcts_python.search_simulator(uct, Walk(1), Numbers(numbers_of(KEY, ONE)))
        assert assert_same(found.tree, root) > 60
        assert found.action == mcts_python.best_action(root)
        assert depth_of(root) == ONE.horizon


def depth_of(node):
    return max((1 + depth_of(child) for child in node.children if child), default=0)


@pytest.mark.slow
@pytest.mark.parametrize("discount", [1.0, 0.6])
def test_visits_go_to_the_best_plan(discount):
    """Of all plans of four steps, by brute force, from every state."""

    def worth(state, action, steps):
        later = (
            0 if ENDS[state, action] or steps == 1 else max(worths(NEXT[state, action], steps - 1))
        )
        return REWARD[state, action] + discount * later

    def worths(state, steps):
        return [
            worth(state, action, steps) if LEGAL[state, action] else -np.inf
            for action in range(ACTIONS)
        ]

    uct = replace(
        ONE,
        horizon=4,
        simulations=1500,
        discount=discount,
        exploration=1.0,
        legal=lambda walk: LEGAL[walk.state],
    )
    for state in range(STATES):
        root = mcts_python.search_simulator(uct, Walk(state), np.random.default_rng(state))
        chosen, exact = mcts_python.best_action(root), worths(state, 4)
        assert exact[chosen] > max(exact) - 0.01  # two are as good as the best within that
        np.testing.assert_allclose(
            mcts_python._q_value(uct, root.children[chosen]), max(exact), atol=0.2
        )


@pytest.mark.slow
def test_a_tree_plans_for_one_course_of_luck_and_many_trees_for_all():
    """Action 1 pays 1 or 0 by a coin of 0.3; in one tree it is always the one that came up
    first."""

    @struct
    class Coin:
        def step(self, state, action, key):
            return ModelStep(
                state,
                jnp.where(action == 1, jax.random.bernoulli(key, 0.3).astype(float), 0.4),
                jnp.bool_(True),
            )

    keys = jax.random.split(KEY, 2000)
    found = jax.jit(
        jax.vmap(lambda key: search(UCT(2, 10, horizon=1), Coin(), jnp.zeros(()), key))
    )(keys)
    paid = np.asarray(found.values[:, 1])
    assert set(paid) == {0, 1} and abs(paid.mean() - 0.3) < 0.04
    np.testing.assert_array_equal(found.action, np.where(paid == 1, 1, 0))
    np.testing.assert_allclose(found.values[:, 0], 0.4)


@pytest.mark.slow
def test_tic_tac_toe_is_never_lost_to_perfect_play():
    """1,000 simulations a move whose default policy sees one move ahead; 10 games with the first
    move and 10 with the second."""
    uct = UCT(
        9, 1000, horizon=9, players=2, legal=TIC_TAC_TOE.legal, policy=one_ply_player(TIC_TAC_TOE)
    )
    results = matches(TIC_TAC_TOE, uct, perfect_player(TIC_TAC_TOE), 20)
    np.testing.assert_array_equal(results, 0)


@pytest.mark.system
def test_connect_four_is_won_against_a_player_who_sees_one_move():
    uct = UCT(7, 200, horizon=42, players=2, legal=CONNECT_FOUR.legal)
    results = matches(CONNECT_FOUR, uct, one_ply_player(CONNECT_FOUR), 10)
    assert (results == 1).sum() >= 9


def matches(game, uct, opponent, games):
    """Results of so many games for the search, which starts half of them, [game]."""

    def player(board, key):
        return search(uct, game, board, key).action

    run = jax.jit(
        jax.vmap(
            lambda key, second_starts: play_match(game, player, opponent, key, second_starts).result
        )
    )
    return np.asarray(run(jax.random.split(KEY, games), jnp.arange(games) % 2 == 1))


@pytest.mark.slow
def test_where_nothing_is_legal_there_is_nothing_to_search():
    uct = UCT(ACTIONS, 3, horizon=2, legal=lambda state: jnp.zeros(ACTIONS, bool))
    found = jax.tree.map(np.asarray, jax.jit(lambda: search(uct, Table(), jnp.int32(0), KEY))())
    assert found.action == 0 and (found.visits == 0).all() and (found.values == -jnp.inf).all()
    assert found.tree.visits.tolist() == [3, 0, 0, 0] and found.tree.return_sum[0] == 0


def test_every_action_in_question_is_picked_alike():
    among = jnp.array([False, True, False, True, True])
    numbers = np.float32(
        [*(np.arange(3000) + 0.5) / 3000, 0, np.nextafter(np.float32(1), np.float32(0))]
    )
    *picked, first, last = np.asarray(jax.jit(jax.vmap(partial(sample_legal, among)))(numbers))
    assert np.bincount(picked, minlength=5).tolist() == [0, 1000, 0, 1000, 1000]
    assert (first, last) == (1, 4)


def test_bad_input():
    for wrong, message in (
        ({"num_actions": 0}, "num_actions is 0"),
        ({"simulations": 0}, "simulations is 0; it must be at least 1"),
        ({"horizon": 0}, "horizon is 0"),
        ({"players": 3}, "players is 3"),
        ({"discount": 1.5}, "discount"),
        ({"exploration": -1.0}, "exploration is -1.0"),
        (
            {"policy": lambda state, key: 0, "value": lambda state: 0.0},
            "policy and value are both given",
        ),
        ({"num_actions": 4}, r"legal gives an array of shape \(3,\) for 4 actions"),
    ):
        with pytest.raises(InvalidInput, match=message):
            search(replace(ONE, **wrong), Table(), np.int32(0), KEY)
