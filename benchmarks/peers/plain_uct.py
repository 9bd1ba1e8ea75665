"""UCT in plain Python, with no library and nothing general about it, on tic-tac-toe; the work is
given as JSON."""

import json
import math
import platform
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import stopwatch

LINES = ((0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6))
THROUGH = [[line for line in LINES if cell in line] for cell in range(9)]


class Node:
    """A board as whoever is to move sees it, and what was found there."""

    __slots__ = ("board", "children", "over", "reward", "total", "untried", "visits")

    def __init__(self, board, reward=0.0, over=False):
        self.board, self.reward, self.over = board, reward, over
        self.untried = [] if over else free(board)
        self.children, self.visits, self.total = [], 0, 0.0


def free(board):
    return [cell for cell in range(9) if not board[cell]]


def move(board, cell):
    """The board as the other player then sees it, the reward, and whether play is over."""
    board = board[:]
    board[cell] = 1
    won = any(board[a] == board[b] == board[c] == 1 for a, b, c in THROUGH[cell])
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
            child = Node(*move(node.board, cell))
            node.children.append(child)
            node = child
            path.append(node)
        value = played(node.board, node.over)
        for node in reversed(path):
            node.visits += 1
            node.total += value
            value = node.reward - value
    return root


def played(board, over):
    """What comes of moves at random, to whoever is to move."""
    value, side = 0.0, 1.0
    while not over:
        board, reward, over = move(board, random.choice(free(board)))
        value, side = value + side * reward, -side
    return value


work = json.loads(sys.argv[1])
random.seed(work["seed"])
took = stopwatch.seconds(lambda: search([0] * 9, work["simulations"]), work["budget"])
print(
    json.dumps(
        {
            "steps": work["simulations"],
            "seconds": took,
            "versions": {"Python": platform.python_version()},
        }
    )
)
