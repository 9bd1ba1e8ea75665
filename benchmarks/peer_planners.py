"""Planners beside those of other libraries: what is measured, and the ratios that etude is held
to."""

from typing import Any, NamedTuple

from works import OURS, PEERS, SCHEDULER, THREADS, Bar, Side

BUDGET = 3.0  # seconds that answers are repeated for, in each measurement
FLAG = SCHEDULER.split("=")[0]
# named, for problems.py imports etude
SCHEDULERS = {
    f"XLA's scheduler: {name}": {"XLA_FLAGS": f"{FLAG}={value}"}
    for name, value in (("its own", "true"), ("etude's", "false"))
}
ETUDE, ONE, LEAN, PLAIN = "etude", "etude, 1 root", "plain Python", "etude in plain Python"
MCTX, MBRL, TRAJAX = "mctx", "mbrl-lib", "trajax"
SIDE = {
    ETUDE: Side(ETUDE, OURS, "ours_planners.py", {}, {"": {}}),
    ONE: Side(ONE, OURS, "ours_planners.py", {"roots": 1}, {"": {}}),
    PLAIN: Side(PLAIN, OURS, "plain_mcts.py", {}, {"": {}}),
    LEAN: Side(LEAN, OURS, "peers/plain_uct.py", {}, {"": {}}),
    MCTX: Side(MCTX, PEERS, "peers/mctx_search.py", {}, SCHEDULERS),
    MBRL: Side(MBRL, PEERS, "peers/mbrl_cem.py", {}, THREADS),
    TRAJAX: Side(TRAJAX, PEERS, "peers/trajax_planners.py", {}, SCHEDULERS),
}


class Contest(NamedTuple):
    """The same planning for all sides; rates are of `unit`."""

    title: str
    unit: str
    settings: dict[str, Any]
    bars: list[Bar]

    @property
    def sides(self) -> list[Side]:
        return [
            SIDE[label]
            for label in dict.fromkeys(label for bar in self.bars for label in (bar.ours, bar.peer))
        ]


def trees(roots: int, simulations: int, leaves: str) -> dict[str, Any]:
    return {"planner": "mcts", "roots": roots, "simulations": simulations, "leaves": leaves}


CONTESTS = {
    # leaves are worth 0, so that the time is the tree's own
    "mcts-100": Contest(
        "MCTS on tic-tac-toe: 32 roots × 100 simulations, leaves worth 0",
        "simulations",
        trees(32, 100, "zero"),
        [Bar(ETUDE, MCTX, 0.9)],
    ),
    "mcts-1000": Contest(
        "MCTS on tic-tac-toe: 32 roots × 1,000 simulations, leaves worth 0",
        "simulations",
        trees(32, 1000, "zero"),
        [Bar(ETUDE, MCTX, 0.9)],
    ),
    "mcts-python": Contest(
        "MCTS on tic-tac-toe: 32 roots × 100 simulations, leaves played to the end",
        "simulations",
        trees(32, 100, "played"),
        [Bar(ETUDE, PLAIN, 50), Bar(ETUDE, LEAN, 50), Bar(ONE, LEAN)],
    ),
    "cem-pendulum": Contest(
        "CEM on Pendulum-v1: 100 samples × 25 steps × 4 iterations",
        "plans",
        {
            "planner": "cem",
            "model": "pendulum",
            "samples": 100,
            "horizon": 25,
            "iterations": 4,
            "elites": 10,
            "smoothing": 0.1,
        },
        [Bar(ETUDE, MBRL, 5)],
    ),
    "cem-acrobot": Contest(
        "CEM on the acrobot: 400 samples × 50 steps × 10 iterations",
        "plans",
        {
            "planner": "cem",
            "model": "acrobot",
            "samples": 400,
            "iterations": 10,
            "elites": 40,
            "smoothing": 0.1,
        },
        [Bar(ETUDE, TRAJAX, 2)],
    ),
    "ilqr-acrobot": Contest(
        "iLQR on the acrobot: 50 steps, to a gradient of 1e-4, in double precision",
        "iterations",
        {"planner": "ilqr", "iterations": 100, "x64": True},
        [Bar(ETUDE, TRAJAX, 2)],
    ),
}
