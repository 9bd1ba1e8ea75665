"""Run UCT for tic-tac-toe in plain Python, without a library, on a workload given as JSON."""

import json
import math
import platform
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import stopwatch

LINES = ((0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6))
LINES_OF_CELL = [[line for line in LINES if cell in line] for cell in range(9)]


class Node:
    """A board from the view of the player to move, with its statistics."""

    __slots__ = ("board", "children", "is_over", "reward", "total", "untried", "visits")

    def __init__(self, board, reward=0.0, is_over=False):
        self.board, self.reward, self.is_over = board, reward, is_over
        self.untried = [] if is_over else legal_moves(board)
        self.children, self.visits, self.total = [], 0, 0.0


def legal_moves(board):
    return [cell for cell in range(9) if not board[cell]]


def play_move(board, cell):
    """Return the board from the view of the other player, the reward, and whether play is over."""
    board = board[:]
    board[cell] = 1
    won = any(board[a] == board[b] == board[c] == 1 for a, b, c in LINES_OF_CELL[cell])
    return [-stone for stone in board], float(won), won or 0 not in board


def search(board, simulations):
    root = Node(board)
    for _ in range(simulations):
        node, path = root, [root]
        while not node.untried and node.children:
            log = 2 * math.log(node.visits)
            node = max(
                node.children,
                key=lambda child: (
                    child.reward - child.total / child.visits + math.sqrt(2 * log / child.visits)
                ),
            )
            path.append(node)
        if node.untried:
            cell = node.untried.pop(random.randrange(len(node.untried)))
            child = Node(*play_move(node.board, cell))
            node.children.append(child)
            node = child
            path.append(node)
        value = random_playout(node.board, node.is_over)
        for node in reversed(path):
            node.visits += 1
            node.total += value
            value = node.reward - value
    return root


def random_playout(board, is_over):
    """Return the outcome of random moves for the player to move."""
    value, side = 0.0, 1.0
    while not is_over:
        board, reward, is_over = play_move(board, random.choice(legal_moves(board)))
        value, side = value + side * reward, -side
    return value


workload = json.loads(sys.argv[1])
random.seed(workload["seed"])
seconds = stopwatch.median_seconds(
    lambda: search([0] * 9, workload["simulations"]), workload["budget"]
)
print(
    json.dumps(
        {
            "steps": workload["simulations"],
            "seconds": seconds,
            "versions": {"Python": platform.python_version()},
        }
    )
)
