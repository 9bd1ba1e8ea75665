"""Games of stones in a line against a board in plain Python, what is known of them, and players
whose moves are known."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from etude.errors import InvalidInput
from etude.planning.tree.games import (
    CONNECT_FOUR,
    TIC_TAC_TOE,
    Game,
    board_index,
    has_line,
    one_ply_player,
    perfect_player,
    play_match,
    solve_game,
)

KEY = jax.random.key(0)
SMALL = Game(3, 3, 3, has_gravity=True)


def slow_line(stones, length):
    """Look from every stone in all eight directions."""
    rows, columns = stones.shape
    for row, column in np.argwhere(stones):
        for down, right in ((0, 1), (1, 0), (1, 1), (1, -1), (0, -1), (-1, 0), (-1, -1), (-1, 1)):
            line = [(row + down * k, column + right * k) for k in range(length)]
            if all(0 <= r < rows and 0 <= c < columns and stones[r, c] for r, c in line):
                return True
    return False


@pytest.mark.parametrize(
    "shape, length", [((3, 3), 3), ((6, 7), 4), ((2, 5), 3), ((5, 1), 2), ((2, 2), 3)]
)
def test_a_line_is_found_wherever_it_lies(shape, length):
    stones = (
        np.random.default_rng(0).random((300, *shape)) < np.linspace(0.2, 0.8, 300)[:, None, None]
    )
    found = jax.jit(jax.vmap(partial(has_line, line_length=length)))(stones)
    expected = [slow_line(board, length) for board in stones]
    np.testing.assert_array_equal(found, expected)
    assert length > max(shape) or 0 < sum(expected) < 300


@pytest.mark.parametrize("game", [TIC_TAC_TOE, CONNECT_FOUR], ids=["tic-tac-toe", "connect four"])
def test_random_games_go_as_on_a_board_of_plain_python(game):
    step, legal = jax.jit(game.step), jax.jit(game.legal)
    ends = set()
    for seed in range(12):
        rng, state, board, mover = (
            np.random.default_rng(seed),
            game.initial_state(),
            np.zeros((game.rows, game.columns), int),
            1,
        )
        for _ in range(game.num_cells):
            free = [
                a
                for a in range(game.num_actions)
                if (board[-1, a] if game.has_gravity else board.flat[a]) == 0
            ]
            assert np.flatnonzero(legal(state)).tolist() == free
            action = rng.choice(free)
            row, column = (
                (np.flatnonzero(board[:, action] == 0)[0], action)
                if game.has_gravity
                else divmod(action, game.columns)
            )
            board[row, column] = mover
            after = step(state, action, KEY)
            mover, state = -mover, after.state
            np.testing.assert_array_equal(state, mover * board)
            won = slow_line(board == -mover, game.line_length)
            assert after.reward == won and after.continues == (not (won or (board != 0).all()))
            if not after.continues:
                ends.add(won)
                break
        assert not after.continues
    assert True in ends


@pytest.mark.parametrize(
    "game", [TIC_TAC_TOE, CONNECT_FOUR, SMALL], ids=["tic-tac-toe", "connect four", "small"]
)
def test_an_illegal_action_lays_no_stone(game):
    step, state = jax.jit(game.step), game.initial_state()
    for _ in range(game.rows if game.has_gravity else 1):
        state = step(state, 1, KEY).state
    assert not jax.jit(game.legal)(state)[1]
    np.testing.assert_array_equal(step(state, 1, KEY).state, -np.asarray(state))


@pytest.mark.slow
@pytest.mark.parametrize(
    "game, boards", [(TIC_TAC_TOE, 4520), (SMALL, None)], ids=["tic-tac-toe", "small"]
)
def test_values_satisfy_bellman_on_every_board(game, boards):
    """max over a of (r, or minus what the other gets), as the model steps; 4,520 of tic-tac-toe's
    5,478 boards go on."""
    solution = solve_game(game)
    rows = np.flatnonzero(solution.best_actions.any(1))
    assert boards in (None, len(rows)) and board_index(game.initial_state()) in rows
    states = (
        (rows[:, None] // 3 ** np.arange(game.num_cells) % 3 - 1)
        .astype(np.int8)
        .reshape(-1, game.rows, game.columns)
    )

    @jax.jit
    @jax.vmap
    def gains(state):
        after = jax.vmap(lambda action: game.step(state, action, KEY))(jnp.arange(game.num_actions))
        later = -after.continues * jnp.asarray(solution.value)[jax.vmap(board_index)(after.state)]
        return board_index(state), jnp.where(game.legal(state), after.reward + later, -2)

    back, gain = gains(states)
    np.testing.assert_array_equal(back, rows)
    np.testing.assert_array_equal(gain.max(1), solution.value[rows])
    np.testing.assert_array_equal(gain == gain.max(1, keepdims=True), solution.best_actions[rows])


@pytest.mark.slow
def test_what_everybody_knows_of_tic_tac_toe():
    solution, state = solve_game(TIC_TAC_TOE), TIC_TAC_TOE.initial_state()
    assert (
        solution.value[board_index(state)] == 0 and solution.best_actions[board_index(state)].all()
    )
    corner = TIC_TAC_TOE.step(state, 0, KEY).state
    assert np.flatnonzero(solution.best_actions[board_index(corner)]).tolist() == [4]
    edge = TIC_TAC_TOE.step(corner, 1, KEY).state
    assert solution.value[board_index(edge)] == 1


def test_a_large_board_is_not_solved():
    with pytest.raises(InvalidInput, match="a board of 6 × 7 has 42 cells; up to 12"):
        solve_game(CONNECT_FOUR)


def test_the_player_of_one_ply_wins_then_blocks_then_plays_at_random():
    player = jax.jit(jax.vmap(one_ply_player(CONNECT_FOUR), in_axes=(None, 0)))
    keys = jax.random.split(KEY, 200)
    board = np.zeros((6, 7), np.int8)
    assert set(np.asarray(player(jnp.asarray(board), keys))) == set(range(7))
    board[:3, 6], board[:3, 0] = 1, -1  # three high each
    assert set(np.asarray(player(jnp.asarray(board), keys))) == {6}
    board[3, 6] = -1
    assert set(np.asarray(player(jnp.asarray(board), keys))) == {0}
    board[3, 0], board[4:, 0] = 1, [1, -1]  # a full column
    assert set(np.asarray(player(jnp.asarray(board), keys))) == set(range(1, 7))


def first_free(board, key):
    return (board.ravel() == 0).argmax()


def last_free(board, key):
    return 8 - (board.ravel()[::-1] == 0).argmax()


@pytest.mark.parametrize(
    "second_starts, result, moves", [(False, 1, [0, 8, 1, 7, 2]), (True, -1, [8, 0, 7, 1, 6])]
)
def test_a_match_goes_move_by_move(second_starts, result, moves):
    match = jax.jit(
        lambda second_starts: play_match(TIC_TAC_TOE, first_free, last_free, KEY, second_starts)
    )(second_starts)
    assert match.result == result
    assert match.moves.tolist() == moves + [-1] * 4


def test_an_illegal_move_loses():
    stubborn = lambda board, key: jnp.int32(4)
    match, turned = jax.jit(
        lambda: (
            play_match(TIC_TAC_TOE, first_free, stubborn, KEY),
            play_match(TIC_TAC_TOE, stubborn, first_free, KEY),
        )
    )()
    assert match.result == 1 and match.moves.tolist()[:5] == [0, 4, 1, 4, -1]
    assert turned.result == -1


@pytest.mark.slow
def test_perfect_play_never_loses():
    """A draw against itself, whoever starts; some wins against the player of one ply, who knows no
    forks."""
    best = perfect_player(TIC_TAC_TOE)
    keys, starts = jax.random.split(KEY, 60), jnp.arange(60) % 2 == 1
    for other, results in ((best, {0}), (one_ply_player(TIC_TAC_TOE), {0, 1})):
        many = jax.jit(
            jax.vmap(
                lambda key, start, other=other: play_match(TIC_TAC_TOE, best, other, key, start)
            )
        )(keys, starts)
        assert set(np.asarray(many.result)) == results
