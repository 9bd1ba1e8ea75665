"""Games of stones in a line, as models to search: tic-tac-toe, connect four, and any other size of
board.

A state is the board, int8 [row, column], as whoever is to move sees it: 1 for their own stones, -1
for the other's, 0 for none. A move's reward goes to the one who made it. `solve` knows the small
games exactly; `play` sets two players, functions (state, key) -> action, against each other. All
but `solve` is pure, and a `vmap` plays many games at once.
"""

from collections.abc import Callable
from functools import reduce
from itertools import product
from operator import and_

import jax
import jax.numpy as jnp
import numpy as np

from etude.errors import InvalidInput
from etude.planning.protocol import ModelStep
from etude.planning.tree.mcts import sample_legal
from etude.struct import static, struct
from etude.types import Array

Player = Callable[[Array, Array], Array]  # board [row, column] and key to action []

# (rows, columns) from a stone to the next one of its line
DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1))
MAX_CELLS = 12  # cells of a board that is solved: 3¹² = 531,441 rows of a table


@struct
class Game:
    """Two players lay stones in turn; `length` of one's own in a line win, reward 1, and a full
    board is a draw, reward 0.

    Actions are cells, row by row; or columns where stones fall, down to row 0 or onto the stones
    that lie there. An illegal action lays no stone, and the other player is to move.
    """

    rows: int = static()
    columns: int = static()
    length: int = static()
    falls: bool = static(False)

    @property
    def cells(self) -> int:
        return self.rows * self.columns

    @property
    def actions(self) -> int:
        return self.columns if self.falls else self.cells

    def initial(self) -> Array:
        """The empty board."""
        return jnp.zeros((self.rows, self.columns), jnp.int8)

    def legal(self, state: Array) -> Array:
        """Which actions lay a stone, bool [action]."""
        return state[-1] == 0 if self.falls else state.ravel() == 0

    def step(self, state: Array, action: Array, key: Array) -> ModelStep:
        """The board as the other player then sees it; nothing is left to chance."""
        board = jnp.where(self.stone(state, action), jnp.int8(1), state)
        won = has_line(board == 1, self.length)
        return ModelStep(-board, won.astype(jnp.float32), won | (board != 0).all())

    def stone(self, state: Array, action: Array) -> Array:
        """Where the action's stone comes to lie, bool [row, column]."""
        if self.falls:
            height = (state != 0).sum(0)
            return (jnp.arange(self.rows)[:, None] == height) & (jnp.arange(self.columns) == action)
        return (jnp.arange(self.cells).reshape(state.shape) == action) & (state == 0)


TIC_TAC_TOE = Game(3, 3, 3)
CONNECT_FOUR = Game(6, 7, 4, falls=True)


def has_line(stones: Array, length: int) -> Array:
    """Whether so many of `stones`, bool [row, column], lie next to each other along a row, a column
    or a diagonal."""
    rows, columns = stones.shape
    found = jnp.bool_(False)
    for down, right in DIRECTIONS:
        # of where a line can begin
        height, width = rows - down * (length - 1), columns - abs(right) * (length - 1)
        if height > 0 and width > 0:
            first = (length - 1) * (right < 0)
            shifted = (
                stones[down * k :, first + right * k :][:height, :width] for k in range(length)
            )
            found |= reduce(and_, shifted).any()
    return found


@struct
class GameSolution:
    """What every board is worth under the best play of both, and the moves that keep it so; rows
    are `index` of the board."""

    # int8, [board]: 1 if whoever is to move wins, -1 if they lose, 0 if it is a draw
    value: np.ndarray
    # bool, [board, action]; of none where play has ended or the board cannot come about
    best: np.ndarray


def board_index(board: Array) -> Array:
    """The row of a small board in a table of all: its cells are digits in base 3."""
    return ((board.ravel() + 1) * 3 ** jnp.arange(board.size)).sum()


def solve_game(game: Game) -> GameSolution:
    """The value of every board that can come about, by looking at all that can follow (negamax).

    Raises InvalidInput for a board of more than 12 cells.
    """
    if game.cells > MAX_CELLS:
        raise InvalidInput(
            f"a board of {game.rows} × {game.columns} has {game.cells} cells; up to {MAX_CELLS} "
            "can be solved"
        )
    lines, value = lines_of(game), np.zeros(3**game.cells, np.int8)
    best = np.zeros((3**game.cells, game.actions), bool)
    seen = set()

    def worth(board):
        row = sum((stone + 1) * 3**cell for cell, stone in enumerate(board))
        if row not in seen:
            seen.add(row)
            outcomes = {action: outcome(board, cell) for action, cell in legal_moves(game, board)}
            value[row] = max(outcomes.values())
            best[row, [action for action, gain in outcomes.items() if gain == value[row]]] = True
        return int(value[row])

    def outcome(board, cell):
        board = (*board[:cell], 1, *board[cell + 1 :])
        if any(all(board[cell] == 1 for cell in line) for line in lines[cell]):
            return 1
        return -worth(tuple(-stone for stone in board)) if 0 in board else 0

    worth((0,) * game.cells)
    return GameSolution(value, best)


def legal_moves(game: Game, board: tuple[int, ...]) -> list[tuple[int, int]]:
    """(action, cell) of every legal move on a board given cell by cell."""
    free = [cell for cell, stone in enumerate(board) if stone == 0]
    if not game.falls:
        return [(cell, cell) for cell in free]
    lowest = {cell % game.columns: cell for cell in reversed(free)}
    return sorted(lowest.items())


def lines_of(game: Game) -> list[list[list[int]]]:
    """The lines that go through each cell, as lists of cells."""
    through = [[] for _ in range(game.cells)]
    for row, column, (down, right) in product(range(game.rows), range(game.columns), DIRECTIONS):
        line = [(row + down * k, column + right * k) for k in range(game.length)]
        if all(0 <= r < game.rows and 0 <= c < game.columns for r, c in line):
            cells = [r * game.columns + c for r, c in line]
            for cell in cells:
                through[cell].append(cells)
    return through


def perfect_player(game: Game) -> Player:
    """A player that makes no mistake, and chooses at random among the best moves. Raises
    InvalidInput as `solve` does."""
    best = jnp.asarray(solve_game(game).best)
    return lambda board, key: random_legal(best[board_index(board)], key)


def one_ply_player(game: Game) -> Player:
    """A player that wins where one move wins, else stops the other from winning with their next,
    else moves at random."""

    def player(board, key):
        winning = lambda side: jax.vmap(lambda action: game.step(side, action, key).reward > 0)(
            jnp.arange(game.actions)
        )
        wins, threats = winning(board), winning(-board)
        urgent = jnp.where(wins.any(), wins, threats)
        return random_legal(jnp.where(urgent.any(), urgent, game.legal(board)), key)

    return player


def random_legal(actions: Array, key: Array) -> Array:
    """One of the actions that are True, [action], all alike."""
    return sample_legal(actions, jax.random.uniform(key))


@struct
class Match:
    """What came of a game."""

    result: Array  # 1 if the first of the two players won, -1 if the second did, 0 for a draw
    moves: Array  # int32, [cell]: actions in order; -1 where play was over


def play_match(
    game: Game, first: Player, second: Player, key: Array, second_starts: Array | bool = False
) -> Match:
    """One game; `vmap` it over keys, and over who starts, to play many. A player who makes an
    illegal move has lost."""

    def move(standing, player, side, key, waits):
        board, over, _ = standing
        action = player(board, key)
        step, legal = game.step(board, action, key), game.legal(board)[action]
        moved = step.state, step.terminated | ~legal, side * jnp.where(legal, step.reward, -1)
        waits |= over
        return jax.tree.map(
            lambda old, new: jnp.where(waits, old, new), standing, moved
        ), jnp.where(waits, -1, action)

    def both(standing, turn):
        number, key = turn
        key_second, key_first = jax.random.split(key)
        standing, reply = move(
            standing, second, -1, key_second, (number == 0) & ~jnp.asarray(second_starts)
        )
        standing, action = move(standing, first, 1, key_first, False)
        return standing, jnp.stack([reply, action])

    turns = game.cells // 2 + 1  # of second and first, in which the second may miss one
    start = game.initial(), jnp.bool_(False), jnp.zeros(())
    (_, _, result), moves = jax.lax.scan(
        both, start, (jnp.arange(turns), jax.random.split(key, turns))
    )
    moves = jnp.where(second_starts, moves.ravel(), jnp.roll(moves.ravel(), -1))
    return Match(result, moves[: game.cells])
