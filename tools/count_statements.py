"""Statements that a reader of plain DQN has before them, without docstrings and imports.

    python tools/count_statements.py

The loop and the method are one count. Heads, Q functions, exploration, schedules and counters,
which they call, are another.
"""

import ast
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "etude"
LOOP_AND_METHOD = (
    "training.py",
    "rollout.py",
    "algorithms/common/off_policy.py",
    "algorithms/value/dqn.py",
    "data/replay/uniform.py",
    "data/replay/ring_buffer.py",
)
BESIDE = (
    "algorithms/value/heads.py",
    "algorithms/value/q_functions.py",
    "algorithms/value/epsilon_greedy.py",
    "algorithms/common/exploration.py",
    "optim/schedules.py",
    "counters.py",
)


def count_statements(path: Path) -> int:
    """The statements of a file, nested ones too; no docstring, comment or import is one."""
    return sum(
        isinstance(node, ast.stmt)
        and not isinstance(node, ast.Import | ast.ImportFrom)
        and not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        for node in ast.walk(ast.parse(path.read_text()))
    )


if __name__ == "__main__":
    for title, names in (("loop and method", LOOP_AND_METHOD), ("beside them", BESIDE)):
        counts = {name: count_statements(SOURCE / name) for name in names}
        for name, count in counts.items():
            print(f"{count:6}  {name}")
        print(f"{sum(counts.values()):6}  {title}\n")
