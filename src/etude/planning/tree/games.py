"""Board games as models for tree search: tic-tac-toe, connect four and other m,n,k-games.

A state is the board, int8 [row, column], from the view of the player to move: 1 for own stones, -1
for the opponent's, 0 for empty cells. The reward of a move goes to the player who made it.
`solve_game` computes the exact values of small games; `play_match` plays one game between two
players, functions (state, key) -> action. All functions but `solve_game` are pure, so a `vmap`
plays many games at once.
"""

from collections.abc import Callable
from functools import reduce
from itertools import product
from operator import and_
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from etude.errors import InvalidInput
from etude.planning.protocol import LiftedModel, ModelStep
from etude.planning.tree.tree import sample_legal
from etude.struct import static, struct
from etude.types import Array

Player = Callable[[Array, Array], Array]  # board [row, column] and key to action []

# (rows, columns) from one stone of a line to the next
DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1))
MAX_CELLS = 12  # of a board to solve: a table of 3¹² = 531,441 boards


@struct
class Game:
    """A game of two players who place stones in turn until one has `line_length` in a line.

    The winner's last move has reward 1; a full board is a draw, reward 0. Actions are cells, row by
    row, or with gravity columns, whose stones fall to row 0 or onto the stones below. An illegal
    action places no stone and passes the turn.
    """

    rows: int = static()
    columns: int = static()
    line_length: int = static()
    has_gravity: bool = static(False)

    @property
    def num_cells(self) -> int:
        return self.rows * self.columns

    @property
    def num_actions(self) -> int:
        return self.columns if self.has_gravity else self.num_cells

    def initial_state(self) -> Array:
        """Return the empty board."""
        return jnp.zeros((self.rows, self.columns), jnp.int8)

    def legal(self, state: Array) -> Array:
        """Return the mask of legal actions, bool [action]."""
        return state[-1] == 0 if self.has_gravity else state.ravel() == 0

    def step(self, state: Array, action: Array, key: Array) -> ModelStep:
        """Place a stone and return the board from the opponent's view; `key` is unused."""
        board = jnp.where(self.placement(state, action), jnp.int8(1), state)
        won = has_line(board == 1, self.line_length)
        is_over = won | (board != 0).all()
        return ModelStep(-board, won.astype(jnp.float32), 1.0 - is_over)

    @property
    def model(self) -> LiftedModel:
        """The game as a model for tree search."""
        return LiftedModel(self.step, legal_one=self.legal)

    def placement(self, state: Array, action: Array) -> Array:
        """Return the cell that the action's stone takes, as a mask bool [row, column]."""
        if self.has_gravity:
            height = (state != 0).sum(0)
            return (jnp.arange(self.rows)[:, None] == height) & (jnp.arange(self.columns) == action)
        return (jnp.arange(self.num_cells).reshape(state.shape) == action) & (state == 0)


TIC_TAC_TOE = Game(3, 3, 3)
CONNECT_FOUR = Game(6, 7, 4, has_gravity=True)


def has_line(stones: Array, line_length: int) -> Array:
    """Whether `stones`, bool [row, column], have a row, column or diagonal of `line_length`."""
    rows, columns = stones.shape
    is_line = jnp.bool_(False)
    for down, right in DIRECTIONS:
        # the region of cells where a line can start
        height, width = rows - down * (line_length - 1), columns - abs(right) * (line_length - 1)
        if height > 0 and width > 0:
            offset = (line_length - 1) * (right < 0)
            shifted = (
                stones[down * k :, offset + right * k :][:height, :width]
                for k in range(line_length)
            )
            is_line |= reduce(and_, shifted).any()
    return is_line


@struct
class GameSolution:
    """Minimax values and optimal moves of all boards; `board_index` is a board's row."""

    value: np.ndarray  # int8, [board]: 1 if the player to move wins, -1 if they lose, 0 for a draw
    # bool, [board, action]: optimal moves; none where the game is over or the board unreachable
    best_actions: np.ndarray


def board_index(board: Array) -> Array:
    """Return the index of a small board among all boards: its cells are digits in base 3."""
    return ((board.ravel() + 1) * 3 ** jnp.arange(board.size)).sum()


def solve_game(game: Game) -> GameSolution:
    """Solve the game by exhaustive search (negamax with a table of the visited boards).

    Raises InvalidInput for a board of more than 12 cells.
    """
    if game.num_cells > MAX_CELLS:
        raise InvalidInput(
            f"a board of {game.rows} × {game.columns} has {game.num_cells} cells; up to "
            f"{MAX_CELLS} can be solved"
        )
    lines, value = winning_lines(game), np.zeros(3**game.num_cells, np.int8)
    best_actions = np.zeros((3**game.num_cells, game.num_actions), bool)
    visited = set()

    def board_value(board):
        index = sum((stone + 1) * 3**cell for cell, stone in enumerate(board))
        if index not in visited:
            visited.add(index)
            q = {action: move_value(board, cell) for action, cell in legal_moves(game, board)}
            value[index] = max(q.values())
            best_actions[index, [a for a, q_a in q.items() if q_a == value[index]]] = True
        return int(value[index])

    def move_value(board, cell):
        board = (*board[:cell], 1, *board[cell + 1 :])
        if any(all(board[cell] == 1 for cell in line) for line in lines[cell]):
            return 1
        return -board_value(tuple(-stone for stone in board)) if 0 in board else 0

    board_value((0,) * game.num_cells)
    return GameSolution(value, best_actions)


def legal_moves(game: Game, board: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return (action, cell) of every legal move on a flat board."""
    empty_cells = [cell for cell, stone in enumerate(board) if stone == 0]
    if not game.has_gravity:
        return [(cell, cell) for cell in empty_cells]
    lowest_cell = {cell % game.columns: cell for cell in reversed(empty_cells)}
    return sorted(lowest_cell.items())


def winning_lines(game: Game) -> list[list[list[int]]]:
    """Return for each cell the lines through it, as lists of cells."""
    lines = [[] for _ in range(game.num_cells)]
    for row, column, (down, right) in product(range(game.rows), range(game.columns), DIRECTIONS):
        line = [(row + down * k, column + right * k) for k in range(game.line_length)]
        if all(0 <= r < game.rows and 0 <= c < game.columns for r, c in line):
            cells = [r * game.columns + c for r, c in line]
            for cell in cells:
                lines[cell].append(cells)
    return lines


def perfect_player(game: Game) -> Player:
    """Return a player that picks a random optimal move.

    Raises InvalidInput as `solve_game` does.
    """
    best_actions = jnp.asarray(solve_game(game).best_actions)
    return lambda board, key: random_legal(best_actions[board_index(board)], key)


def one_ply_player(game: Game) -> Player:
    """Return a player that wins in one move if it can, else blocks, else moves at random."""

    def player(board, key):
        winning_moves = lambda board: jax.vmap(
            lambda action: game.step(board, action, key).reward > 0
        )(jnp.arange(game.num_actions))
        wins, threats = winning_moves(board), winning_moves(-board)
        forced = jnp.where(wins.any(), wins, threats)
        return random_legal(jnp.where(forced.any(), forced, game.legal(board)), key)

    return player


def random_legal(legal: Array, key: Array) -> Array:
    """Sample an action uniformly from the mask `legal`, bool [action]."""
    return sample_legal(legal, jax.random.uniform(key))


@struct
class Match:
    """The result and the moves of one game."""

    result: Array  # 1 if the first of the two players won, -1 if the second did, 0 for a draw
    moves: Array  # int32, [cell]: actions in order; -1 after the end of the game


class _MatchState(NamedTuple):
    """Carry of the scan over rounds."""

    board: Array  # [row, column], from the view of the player to move
    is_over: Array  # bool, []
    result: Array  # [], as in `Match`


def play_match(
    game: Game, first: Player, second: Player, key: Array, second_starts: Array | bool = False
) -> Match:
    """Play one game; `vmap` it over keys and over `second_starts` to play many.

    A player who makes an illegal move loses.
    """

    def move(state, player, sign, key, skip):
        board = state.board
        action = player(board, key)
        step, legal = game.step(board, action, key), game.legal(board)[action]
        next_state = _MatchState(
            step.state, (step.continues == 0) | ~legal, sign * jnp.where(legal, step.reward, -1)
        )
        skip |= state.is_over
        return jax.tree.map(
            lambda old, new: jnp.where(skip, old, new), state, next_state
        ), jnp.where(skip, -1, action)

    def play_round(state, round_and_key):
        round_index, key = round_and_key
        key_second, key_first = jax.random.split(key)
        state, second_action = move(
            state, second, -1, key_second, (round_index == 0) & ~jnp.asarray(second_starts)
        )
        state, first_action = move(state, first, 1, key_first, False)
        return state, jnp.stack([second_action, first_action])

    # a round is a move of the second player, skipped in the first round unless they start, and
    # one of the first
    rounds = game.num_cells // 2 + 1
    state = _MatchState(game.initial_state(), jnp.bool_(False), jnp.zeros(()))
    (_, _, result), moves = jax.lax.scan(
        play_round, state, (jnp.arange(rounds), jax.random.split(key, rounds))
    )
    moves = jnp.where(second_starts, moves.ravel(), jnp.roll(moves.ravel(), -1))
    return Match(result, moves[: game.num_cells])
