"""Run etude's tree search in plain Python on a workload given as JSON.

It builds the same tree as the compiled search, node by node.
"""

import json
import sys

import numpy as np
import stopwatch

from etude.planning.tree.mcts_python import SimulatorRollout, search_simulator
from etude.planning.tree.rules import UCT
from etude.planning.tree.tree import SearchSettings
from etude.runs.versions import package_versions

LINES = ((0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6))


class Board:
    """Tic-tac-toe as a simulator, with the board of the player to move."""

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


workload = json.loads(sys.argv[1])
settings = SearchSettings(workload["simulations"], horizon=9, players=2)
rng, rollout = np.random.default_rng(workload["seed"]), SimulatorRollout(Board.legal, settings)


def run():
    search_simulator(Board([0] * 9), Board.legal, rollout, UCT(), UCT(), rng, settings)


seconds = stopwatch.median_seconds(run, workload["budget"])
print(
    json.dumps(
        {"steps": workload["simulations"], "seconds": seconds, "versions": package_versions()}
    )
)
