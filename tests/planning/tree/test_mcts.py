"""Compiled tree search against the same in plain Python, node by node, and in games against players
of known strength."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from etude.errors import InvalidInput
from etude.planning.protocol import LiftedModel, ModelStep
from etude.planning.tree import mcts, mcts_python
from etude.planning.tree.evaluation import Rollout
from etude.planning.tree.games import (
    CONNECT_FOUR,
    TIC_TAC_TOE,
    one_ply_player,
    perfect_player,
    play_match,
)
from etude.planning.tree.mcts import search
from etude.planning.tree.rules import PUCT, UCT
from etude.planning.tree.tree import SearchSettings, sample_legal, untried_rank
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

    def __deepcopy__(self, memo):
        return Board(self.board)


STATES, ACTIONS = 12, 3
_draw = np.random.default_rng(3)
NEXT = _draw.integers(STATES, size=(STATES, ACTIONS))
REWARD = _draw.normal(size=(STATES, ACTIONS)).astype(np.float32)
ENDS = _draw.random((STATES, ACTIONS)) < 0.15
LEGAL = _draw.random((STATES, ACTIONS)) < 0.8
LEGAL[np.arange(STATES), _draw.integers(ACTIONS, size=STATES)] = True
VALUE = _draw.normal(size=STATES).astype(np.float32)
LOGITS = _draw.normal(size=(STATES, ACTIONS)).astype(np.float32)


def table_step(state, action, key):
    """A certain MDP of random rewards and ends."""
    return ModelStep(
        jnp.asarray(NEXT, jnp.int32)[state, action],
        jnp.asarray(REWARD)[state, action],
        1 - jnp.asarray(ENDS, jnp.float32)[state, action],
    )


TABLE = LiftedModel(table_step, legal_one=lambda state: jnp.asarray(LEGAL)[state])


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


def numbers_of(key, settings):
    """The uniform numbers of a search as in plain Python: those of the root's evaluation first."""
    of_root, of_simulations = mcts.draw(settings, key)
    rows = [of_root.uniforms[None], of_simulations.uniforms]
    return Numbers(np.concatenate(rows).astype(float))


def assert_same(tree, node, index=0):
    """Node by node; how many there are."""
    assert (tree.visits[index], tree.continues[index] == 0) == (node.visits, node.is_over)
    ours = tree.return_sum[index], tree.reward[index], tree.raw_value[index]
    theirs = node.return_sum, node.reward, node.raw_value
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(tree.prior_logits[index], node.prior_logits, rtol=1e-6)
    rank = np.asarray(untried_rank(tree, index))
    if not node.is_over:
        np.testing.assert_array_equal(np.flatnonzero(tree.legal[index]), node.legal)
        np.testing.assert_array_equal(np.flatnonzero(np.diff(rank, prepend=0)), node.untried)
    assert [child > 0 for child in tree.children[index]] == [
        child is not None for child in node.children
    ]
    below = [
        assert_same(tree, child, tree.children[index, action])
        for action, child in enumerate(node.children)
        if child
    ]
    return 1 + sum(below)


def search_compiled(model, state, evaluate, rule, key, settings):
    """Search from a state of a lifted model with one rule."""
    state = jax.tree.map(lambda x: jnp.asarray(x)[None, None], state)
    legal = model.legal(state)[0, 0]
    return search(model, state, legal, evaluate, rule, rule, key, settings)


GAME = SearchSettings(250, horizon=9, players=2)
OPENING, MIDDLE = np.zeros(9, int), np.array([1, 0, -1, 0, -1, 0, 1, 0, 0])


@pytest.mark.slow
def test_a_game_has_the_tree_of_plain_python():
    """From two roots at once; near the end of a game few nodes are left, and much is terminal."""
    boards, keys = np.int8([OPENING, MIDDLE]).reshape(2, 3, 3), jax.random.split(KEY)
    model = TIC_TAC_TOE.model
    run = lambda board, key: search_compiled(model, board, Rollout(model, GAME), UCT(), key, GAME)
    found = jax.jit(jax.vmap(run))(boards, keys)
    for i, board in enumerate((OPENING, MIDDLE)):
        one = jax.tree.map(lambda x, i=i: np.asarray(x)[i], found)
        root = mcts_python.search_simulator(
            Board(board),
            Board.legal,
            mcts_python.SimulatorRollout(Board.legal, GAME),
            UCT(),
            UCT(),
            numbers_of(keys[i], GAME),
            GAME,
        )
        nodes = assert_same(one.tree, root)
        assert nodes == (one.tree.visits > 0).sum() == (251 if i == 0 else nodes)
        assert one.action == mcts_python.best_action(root)
        np.testing.assert_array_equal(
            one.visits, [child.visits if child else 0 for child in root.children]
        )
        values = [mcts_python._q_value(child) if child else -np.inf for child in root.children]
        np.testing.assert_allclose(one.values, values, rtol=1e-4)
        assert one.visits.sum() == 250 and root.visits == 250
    assert GAME.bootstrap_discount == -1 and replace(ONE, discount=0.9).bootstrap_discount == 0.9


ONE = SearchSettings(250, horizon=7)
legal_of = lambda walk: LEGAL[walk.state]
# evaluation of the compiled search, and of that in plain Python, by settings
DEFAULTS = {
    "random": (
        lambda settings: Rollout(TABLE, settings),
        lambda settings: mcts_python.SimulatorRollout(legal_of, settings),
    ),
    "policy": (
        lambda settings: Rollout(
            TABLE,
            settings,
            lambda state, key: jnp.argmax(
                jnp.where(jnp.asarray(LEGAL), REWARD, -jnp.inf)[state[0, 0]]
            ),
        ),
        lambda settings: mcts_python.SimulatorRollout(
            legal_of,
            settings,
            lambda walk, rng: int(np.argmax(np.where(LEGAL, REWARD, -np.inf)[walk.state])),
        ),
    ),
    "value": (
        lambda settings: (
            lambda state, key, steps_left: (
                jnp.asarray(LOGITS)[state[0, 0]],
                jnp.asarray(VALUE)[state[0, 0]],
            )
        ),
        lambda settings: (
            lambda walk, rng, steps_left: (LOGITS[walk.state], float(VALUE[walk.state]))
        ),
    ),
}


@pytest.mark.parametrize(
    ("default", "rule"),
    [
        ("random", UCT(3.0)),
        pytest.param("policy", UCT(3.0), marks=pytest.mark.slow),
        ("value", UCT(3.0)),
        ("value", PUCT()),
    ],
    ids=str,
)
def test_a_model_with_rewards_has_the_tree_of_plain_python(default, rule):
    """With illegal actions, ends and a horizon that is reached; constants and γ are traced."""
    ours, theirs = DEFAULTS[default]

    @jax.jit
    def run(rule, settings):
        return search_compiled(TABLE, jnp.int32(1), ours(settings), rule, KEY, settings)

    other = UCT(1.0) if isinstance(rule, UCT) else PUCT(2.5, 30.0)
    for one_rule, discount in ((rule, 0.9), (other, 0.5)):
        settings = replace(ONE, discount=discount)
        found = jax.tree.map(np.asarray, run(one_rule, settings))
        root = mcts_python.search_simulator(
            Walk(1), legal_of, theirs(settings), one_rule, one_rule, numbers_of(KEY, ONE), settings
        )
        assert assert_same(found.tree, root) > 40
        assert found.action == mcts_python.best_action(root)
        assert depth_of(root) == ONE.horizon
    assert run._cache_size() == 1


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

    settings = replace(ONE, horizon=4, simulations=1500, discount=discount)
    rollout, rule = mcts_python.SimulatorRollout(legal_of, settings), UCT(1.0)
    for state in range(STATES):
        rng = np.random.default_rng(state)
        root = mcts_python.search_simulator(
            Walk(state), legal_of, rollout, rule, rule, rng, settings
        )
        chosen, exact = mcts_python.best_action(root), worths(state, 4)
        assert exact[chosen] > max(exact) - 0.01  # two are as good as the best within that
        np.testing.assert_allclose(
            mcts_python._q_value(root.children[chosen]), max(exact), atol=0.2
        )


@pytest.mark.slow
def test_a_tree_plans_for_one_course_of_luck_and_many_trees_for_all():
    """Action 1 pays 1 or 0 by a coin of 0.3; in one tree it is always the one that came up
    first."""

    def toss(state, action, key):
        pay = jnp.where(action == 1, jax.random.bernoulli(key, 0.3).astype(float), 0.4)
        return ModelStep(state, pay, jnp.zeros(()))

    coin = LiftedModel(toss, legal_one=lambda state: jnp.ones(2, bool))
    settings = SearchSettings(10, horizon=1)
    run = lambda key: search_compiled(
        coin, jnp.zeros(()), Rollout(coin, settings), UCT(), key, settings
    )
    found = jax.jit(jax.vmap(run))(jax.random.split(KEY, 2000))
    paid = np.asarray(found.values[:, 1])
    assert set(paid) == {0, 1} and abs(paid.mean() - 0.3) < 0.04
    np.testing.assert_array_equal(found.action, np.where(paid == 1, 1, 0))
    np.testing.assert_allclose(found.values[:, 0], 0.4)


@pytest.mark.slow
def test_tic_tac_toe_is_never_lost_to_perfect_play():
    """1,000 simulations a move whose default policy sees one move ahead; 10 games with the first
    move and 10 with the second."""
    results = matches(TIC_TAC_TOE, 1000, perfect_player(TIC_TAC_TOE), 20, sees=True)
    np.testing.assert_array_equal(results, 0)


@pytest.mark.system
def test_connect_four_is_won_against_a_player_who_sees_one_move():
    results = matches(CONNECT_FOUR, 200, one_ply_player(CONNECT_FOUR), 10)
    assert (results == 1).sum() >= 9


def matches(game, simulations, opponent, games, sees=False):
    """Results of so many games for the search, which starts half of them, [game].

    Its default policy sees one move ahead or none.
    """
    settings = SearchSettings(simulations, game.num_cells, players=2)
    sighted = one_ply_player(game)
    policy = (lambda state, key: sighted(state[0, 0], key)) if sees else None
    evaluate = Rollout(game.model, settings, policy)

    def player(board, key):
        return search_compiled(game.model, board, evaluate, UCT(), key, settings).action

    run = jax.jit(
        jax.vmap(
            lambda key, second_starts: play_match(game, player, opponent, key, second_starts).result
        )
    )
    return np.asarray(run(jax.random.split(KEY, games), jnp.arange(games) % 2 == 1))


@pytest.mark.slow
def test_where_nothing_is_legal_there_is_nothing_to_search():
    model = replace(TABLE, legal_one=lambda state: jnp.zeros(ACTIONS, bool))
    settings = SearchSettings(3, horizon=2)
    run = lambda: search_compiled(
        model, jnp.int32(0), Rollout(model, settings), UCT(), KEY, settings
    )
    found = jax.tree.map(np.asarray, jax.jit(run)())
    assert found.action == 0 and (found.visits == 0).all() and (found.values == -jnp.inf).all()
    assert found.tree.visits.tolist() == [3, 0, 0, 0] and found.tree.return_sum[0] == 0


@struct
class Scorer:
    """Weights of a linear network that gives prior logits and a value."""

    weights: jax.Array  # [ACTIONS + 1, STATES]

    def __call__(self, state, key, steps_left):
        *logits, value = self.weights[:, state[0, 0]]
        return jnp.stack(logits), value


def test_new_weights_compile_nothing_and_the_mask_is_of_the_root_alone():
    """The root's mask has an action that the model forbids there, and lacks one that it allows."""
    state = next(state for state in range(STATES) if LEGAL[state].sum() == 2)
    mask = ~LEGAL[state]
    mask[np.argmax(LEGAL[state])] = True
    settings = SearchSettings(60, horizon=5, discount=0.9)

    @jax.jit
    def run(scorer, rule, legal, key):
        return search(TABLE, jnp.int32([[state]]), legal, scorer, rule, rule, key, settings)

    rng, trees = np.random.default_rng(0), []
    for rule in (PUCT(), PUCT(2.0)):
        scorer = Scorer(jnp.float32(rng.normal(size=(ACTIONS + 1, STATES))))
        found = jax.tree.map(np.asarray, run(scorer, rule, mask, KEY))
        trees.append(found.tree.visits)
        assert found.visits.sum() == 60 and (found.visits[~mask] == 0).all()
        tree = found.tree
        np.testing.assert_array_equal(tree.legal[0], mask)
        used = np.flatnonzero(tree.visits[1:]) + 1
        np.testing.assert_array_equal(tree.legal[used], LEGAL[tree.state[used, 0, 0]])
        assert not (tree.children[used] > 0)[~tree.legal[used]].any()
        np.testing.assert_allclose(tree.raw_value[0], scorer.weights[-1, state], rtol=1e-6)
    assert run._cache_size() == 1 and (trees[0] != trees[1]).any()


def test_a_model_that_doubts_discounts_what_comes_later():
    """An episode that goes on with probability c is worth γc of what comes later."""
    chain = LiftedModel(
        lambda state, action, key: ModelStep(state + 1, jnp.ones(()), jnp.float32(0.5)),
        legal_one=lambda state: jnp.ones(1, bool),
    )
    settings = SearchSettings(1, horizon=3, discount=0.8)
    run = lambda: search_compiled(
        chain, jnp.int32(0), Rollout(chain, settings), UCT(), KEY, settings
    )
    np.testing.assert_allclose(jax.jit(run)().values, [1 + 0.4 + 0.4**2], rtol=1e-6)


def test_every_action_in_question_is_picked_alike():
    among = jnp.array([False, True, False, True, True])
    numbers = np.float32(
        [*(np.arange(3000) + 0.5) / 3000, 0, np.nextafter(np.float32(1), np.float32(0))]
    )
    *picked, first, last = np.asarray(jax.jit(jax.vmap(sample_legal, (None, 0)))(among, numbers))
    assert np.bincount(picked, minlength=5).tolist() == [0, 1000, 0, 1000, 1000]
    assert (first, last) == (1, 4)


def test_bad_input():
    fine = {
        "model": TABLE,
        "state": jnp.int32([[0]]),
        "legal": LEGAL[0],
        "evaluate": lambda state, key, steps_left: (jnp.zeros(ACTIONS), 0.0),
        "root_rule": UCT(),
        "interior_rule": UCT(),
        "key": KEY,
        "settings": ONE,
    }
    grows = LiftedModel(
        lambda state, action, key: ModelStep(jnp.append(state, 0), 0.0, 1.0), legal_one=TABLE.legal
    )
    for wrong, message in (
        ({"settings": replace(ONE, simulations=0)}, "simulations is 0; it must be at least 1"),
        ({"settings": replace(ONE, horizon=0)}, "horizon is 0"),
        ({"settings": replace(ONE, players=3)}, "players is 3"),
        ({"settings": replace(ONE, discount=1.5)}, "discount"),
        ({"root_rule": UCT(-1.0)}, "exploration is -1.0"),
        ({"interior_rule": PUCT(c_base=0.0)}, "c_base is 0.0"),
        ({"legal": LEGAL[:1]}, r"legal has shape \(1, 3\); make it one bool for each action"),
        (
            {"legal": np.ones(4, bool)},
            r"the legal actions of LiftedModel have shape \(1, 1, 3\), and those of the root "
            r"\(4,\)",
        ),
        (
            {"evaluate": lambda state, key, steps_left: (jnp.zeros(4), 0.0)},
            r"evaluate gives prior logits of shape \(4,\) and a value of shape \(\); make them "
            r"\(3,\) and \(\)",
        ),
        (
            {
                "model": replace(grows, legal_one=lambda state: jnp.ones(ACTIONS, bool)),
                "state": jnp.zeros((1, 1, 2)),
            },
            r"a step of LiftedModel leads from a state of float32\[1, 1, 2\] to one of "
            r"float32\[1, 1, 3\]",
        ),
    ):
        with pytest.raises(InvalidInput, match=message):
            search(**(fine | wrong))
