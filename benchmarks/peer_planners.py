"""Planning workloads: planners compared with those of other libraries, and speed targets."""

from typing import Any, NamedTuple

from workloads import ETUDE_PYTHON, PEER_PYTHON, THREADS, XLA_FLAG, Side, Target

BUDGET = 3.0  # seconds of a measurement, in which plans are repeated
FLAG_NAME = XLA_FLAG.split("=")[0]
# set explicitly, since problems.py imports etude, which sets the flag
SCHEDULERS = {
    f"XLA's scheduler: {name}": {"XLA_FLAGS": f"{FLAG_NAME}={value}"}
    for name, value in (("its own", "true"), ("etude's", "false"))
}
ETUDE, ETUDE_ONE_ROOT, PLAIN_PYTHON, ETUDE_PYTHON_MCTS = (
    "etude",
    "etude, 1 root",
    "plain Python",
    "etude in plain Python",
)
MCTX, MBRL, TRAJAX = "mctx", "mbrl-lib", "trajax"
SIDE = {
    ETUDE: Side(ETUDE, ETUDE_PYTHON, "run_etude_planners.py", {}, {"": {}}),
    ETUDE_ONE_ROOT: Side(
        ETUDE_ONE_ROOT, ETUDE_PYTHON, "run_etude_planners.py", {"roots": 1}, {"": {}}
    ),
    ETUDE_PYTHON_MCTS: Side(ETUDE_PYTHON_MCTS, ETUDE_PYTHON, "run_python_mcts.py", {}, {"": {}}),
    PLAIN_PYTHON: Side(PLAIN_PYTHON, ETUDE_PYTHON, "peers/plain_uct.py", {}, {"": {}}),
    MCTX: Side(MCTX, PEER_PYTHON, "peers/mctx_search.py", {}, SCHEDULERS),
    MBRL: Side(MBRL, PEER_PYTHON, "peers/mbrl_cem.py", {}, THREADS),
    TRAJAX: Side(TRAJAX, PEER_PYTHON, "peers/trajax_planners.py", {}, SCHEDULERS),
}


class PlannerWorkload(NamedTuple):
    """A planning problem for all sides; rates are in `unit` per second."""

    title: str
    unit: str
    settings: dict[str, Any]
    targets: list[Target]

    @property
    def sides(self) -> list[Side]:
        return [
            SIDE[label]
            for label in dict.fromkeys(
                label for target in self.targets for label in (target.etude, target.peer)
            )
        ]


def mcts_settings(roots: int, simulations: int, leaves: str) -> dict[str, Any]:
    """The settings of a tree search."""
    return {"planner": "mcts", "roots": roots, "simulations": simulations, "leaves": leaves}


PLANNER_WORKLOADS = {
    # leaves have value 0, so that only the tree takes time
    "mcts-100": PlannerWorkload(
        "MCTS on tic-tac-toe: 32 roots × 100 simulations, leaves worth 0",
        "simulations",
        mcts_settings(32, 100, "zero"),
        [Target(ETUDE, MCTX, 0.9)],
    ),
    "mcts-1000": PlannerWorkload(
        "MCTS on tic-tac-toe: 32 roots × 1,000 simulations, leaves worth 0",
        "simulations",
        mcts_settings(32, 1000, "zero"),
        [Target(ETUDE, MCTX, 0.9)],
    ),
    "mcts-python": PlannerWorkload(
        "MCTS on tic-tac-toe: 32 roots × 100 simulations, leaves played to the end",
        "simulations",
        mcts_settings(32, 100, "played"),
        [
            Target(ETUDE, ETUDE_PYTHON_MCTS, 50),
            Target(ETUDE, PLAIN_PYTHON, 50),
            Target(ETUDE_ONE_ROOT, PLAIN_PYTHON),
        ],
    ),
    "cem-pendulum": PlannerWorkload(
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
        [Target(ETUDE, MBRL, 5)],
    ),
    "cem-acrobot": PlannerWorkload(
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
        [Target(ETUDE, TRAJAX, 2)],
    ),
    "ilqr-acrobot": PlannerWorkload(
        "iLQR on the acrobot: 50 steps, to a gradient of 1e-4, in double precision",
        "iterations",
        {"planner": "ilqr", "iterations": 100, "x64": True},
        [Target(ETUDE, TRAJAX, 2)],
    ),
}
