"""etude's tree search in plain Python, which makes the compiled one's tree node by node, at the
work given as JSON."""

import json
import sys

import numpy as np
import stopwatch

from etude.planning.tree.mcts import UCT
from etude.planning.tree.mcts_python import search_simulator
from etude.runs.settings import package_versions

LINES = ((0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6))


class Board:
    """Tic-tac-toe as a simulator; the board as whoever is to move sees it."""

    def __init__(self, cells):
        self.cells = cells

    def step(self, action):
        cells = self.cells
        cells[action] = 1
        won = any(cells[a] == cells[b] == cells[c] == 1 for a, b, c in LINES)
        self.cells = [-stone for stone in cells]
        return self.cells, float(won), won or 0 not in cells, False, {}

    def legal(self):
        return [stone == 0 for stone in self.cells]


work = json.loads(sys.argv[1])
uct, rng = (
    UCT(9, work["simulations"], horizon=9, players=2, legal=Board.legal),
    np.random.default_rng(work["seed"]),
)
took = stopwatch.seconds(lambda: search_simulator(uct, Board([0] * 9), rng), work["budget"])
print(json.dumps({"steps": work["simulations"], "seconds": took, "versions": package_versions()}))
