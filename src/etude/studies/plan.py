"""A planner on a problem, and what is to be seen of it: `etude plan PROBLEM --planner NAME`.

plan.json  plan.png (the path, the controls, the cost by iteration)  motion.mp4        tree.png,
           of tree search on a game
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax

from etude.errors import InvalidInput
from etude.planning.problems import (
    AcrobotSwingUp,
    Car,
    CartPoleSwingUp,
    DoubleIntegrator,
    PendulumSwingUp,
    Quadrotor,
)
from etude.planning.sampling.cem import cem, check_elites
from etude.planning.sampling.icem import icem
from etude.planning.sampling.mppi import mppi
from etude.planning.sampling.random_shooting import random_shooting
from etude.planning.trajectory.collocation import ContinuousProblem, collocate
from etude.planning.trajectory.gradient_shooting import gradient_shooting
from etude.planning.trajectory.ilqr import ilqr, simulate_controls
from etude.planning.trajectory.multiple_shooting import multiple_shooting
from etude.planning.tree import games, mcts
from etude.reporting import plan_figures
from etude.storage import files
from etude.types import Array

PlannerName = Literal[
    "ilqr",
    "ddp",
    "multiple_shooting",
    "gradient_shooting",
    "collocation",
    "random_shooting",
    "cem",
    "icem",
    "mppi",
    "mcts",
]
PROBLEMS: dict[str, Any] = {
    "double-integrator": DoubleIntegrator(),
    "pendulum": PendulumSwingUp(),
    "cart-pole": CartPoleSwingUp(),
    "acrobot": AcrobotSwingUp(),
    "quadrotor": Quadrotor(),
    "car": Car(),
}
GAMES = {"tic-tac-toe": games.TIC_TAC_TOE, "connect-four": games.CONNECT_FOUR}
# else 100
ITERATIONS = {
    "collocation": 1_000,
    "gradient_shooting": 500,
    "ilqr": 200,
    "ddp": 200,
    "multiple_shooting": 200,
}


class PlannedPath(NamedTuple):
    """A path and how it was found."""

    states: Any  # [T + 1, n]
    controls: Any  # [T, m]
    costs: Any  # by iteration, the first guess before all; of collocation the last alone


def plan(
    problem: str,
    planner: PlannerName | None = None,
    *,
    iterations: int | None = None,
    samples: int = 500,
    elites: int = 50,
    seed: int = 0,
    video: bool = True,
    out: str | Path | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Plan on a problem from a random start, and draw what came of it; the directory, and what
    plan.json says.

    problem      one of PROBLEMS, or of GAMES, which are for mcts
    planner      the default is ilqr, and mcts for games
    iterations   of the planner, or simulations of mcts; its own default when None
    samples      plans drawn in each iteration of the sampling planners, of which cem and icem refit
                 to `elites`

    Raises InvalidInput for names there are not, for a planner that does not fit the problem, for
    numbers out of bounds, and for a directory that holds a plan already.
    """
    if problem not in PROBLEMS | GAMES:
        raise InvalidInput(
            f"no problem is called {problem!r}; there are {', '.join([*PROBLEMS, *GAMES])}"
        )
    planner = planner or ("mcts" if problem in GAMES else "ilqr")
    if planner not in get_args(PlannerName):
        raise InvalidInput(
            f"planner is {planner!r}; choose one of {', '.join(get_args(PlannerName))}"
        )
    if (planner == "mcts") != (problem in GAMES):
        raise InvalidInput(
            f"{planner} does not plan on {problem}: mcts searches the games {', '.join(GAMES)}, "
            "and the other "
            "planners choose controls"
        )
    for name, value in (("iterations", iterations), ("samples", samples)):
        if value is not None and value < 1:
            raise InvalidInput(f"{name} is {value}; it must be at least 1")
    check_elites(samples, elites)
    directory = Path(out) if out is not None else Path("runs") / f"plan-{problem}-{planner}"
    if (directory / "plan.json").exists():
        raise InvalidInput(f"{directory} holds a plan already; give another --out")
    key = jax.random.key(seed)
    if planner == "mcts":
        return search_game(problem, iterations or 1_000, key, directory)
    found = run_planner(
        PROBLEMS[problem], planner, iterations or ITERATIONS.get(planner, 100), samples, elites, key
    )
    return write_plan(problem, planner, found, directory, video)


def run_planner(
    problem: Any, planner: PlannerName, iterations: int, samples: int, elites: int, key: Array
) -> PlannedPath:
    """The path from a random first state, as float64 or float32 arrays of numpy."""
    key_start, key_search = jax.random.split(key)
    start = problem.initial_state(key_start)
    guess = zero_controls(problem)
    match planner:
        case "ilqr" | "ddp":
            made = ilqr(problem, start, guess, iterations=iterations, second_order=planner == "ddp")
            found = PlannedPath(made.states, made.controls, made.costs[: int(made.iterations) + 1])
        case "multiple_shooting":
            line = start + jnp.linspace(0, 1, problem.horizon + 1)[:, None] * (-start)
            made = multiple_shooting(problem, line, guess, iterations=iterations)
            found = PlannedPath(made.states, made.controls, made.costs[: int(made.iterations) + 1])
        case "gradient_shooting":
            descent = gradient_shooting(
                problem, start, guess, optax.adam(0.1), iterations=iterations
            )
            found = PlannedPath(descent.states, descent.controls, descent.costs)
        case "collocation":
            found = run_collocation(problem, start, guess[0], iterations)
        case _:
            score = lambda plans: (
                -jax.vmap(lambda controls: simulate_controls(problem, start, controls)[1].sum())(
                    plans
                )
            )
            controls, costs = run_sampling_planner(
                planner, score, guess, problem, iterations, samples, elites, key_search
            )
            found = PlannedPath(simulate_controls(problem, start, controls)[0], controls, costs)
    return PlannedPath(*map(np.asarray, found))


def zero_controls(problem: Any) -> Array:
    """The first guess, [horizon, m]: controls that cost nothing."""
    return jnp.tile(
        problem.hover() if hasattr(problem, "hover") else jnp.zeros(len(problem.low)),
        (problem.horizon, 1),
    )


def run_collocation(problem: Any, start: Array, rest: Array, iterations: int) -> PlannedPath:
    """By Hermite–Simpson's rule, the guess being a straight line to the origin; at the times of the
    problem's steps."""
    duration, steps = problem.horizon * problem.time_step, problem.horizon
    clear: dict[str, Any] = (
        {"inequality": lambda x, u: problem.clearance(x)[None]}
        if hasattr(problem, "clearance")
        else {}
    )
    free, box = np.full(len(start), np.nan), (np.asarray(problem.low), np.asarray(problem.high))
    posed = ContinuousProblem(
        duration,
        np.asarray(start),
        free,
        *box,
        problem.derivative,
        problem.running_cost,
        final_cost=problem.final_cost,
        **clear,
    )

    def line(times):
        share = times[:, None] / duration
        return (1 - share) * np.asarray(start), np.tile(np.asarray(rest), (len(times), 1))

    made = collocate(posed, steps // 2, guess=line, iterations=iterations)
    times = np.linspace(0, duration, steps + 1)
    states, controls = made.interpolate(times)
    return PlannedPath(states, controls[:-1], np.array([made.cost]))


def run_sampling_planner(
    planner: PlannerName,
    score: Callable[[Array], Array],
    guess: Array,
    problem: Any,
    iterations: int,
    samples: int,
    elites: int,
    key: Array,
) -> tuple[Array, np.ndarray]:
    """The best controls of a sampling planner, an iteration at a time, and the least cost until
    each, the guess's before all."""
    box = {"low": jnp.asarray(problem.low), "high": jnp.asarray(problem.high)}
    width = box["high"] - box["low"]
    size: dict[str, Any] = {"samples": samples, "iterations": 1} | box

    @jax.jit
    def improve(mean, std, kept, key):
        """(candidate, its value, mean, std, kept) after an iteration."""
        match planner:
            case "random_shooting":
                return *random_shooting(score, key, guess.shape, samples, **box), mean, std, kept
            case "cem":
                after = cem(score, key, mean, std, **size, elites=elites, smoothing=0.1)
            case "icem":
                after, kept = icem(
                    score, key, mean, std, **size, elites=elites, exponent=2.0, reused_plans=kept
                )
            case _:
                after = mppi(score, key, mean, std, **size, exponent=2.0)
        return after.best, after.value, after.mean, after.std, kept

    mean, std, kept = guess, jnp.broadcast_to(width / 4, guess.shape), guess[None]
    best, least = guess, -float(score(guess[None])[0])
    costs = [least]
    for key_draw in jax.random.split(key, iterations):
        candidate, value, mean, std, kept = improve(mean, std, kept, key_draw)
        if -float(value) < least:
            best, least = candidate, -float(value)
        costs.append(least)
    return best, np.array(costs)


def write_plan(
    name: str, planner: PlannerName, found: PlannedPath, directory: Path, video: bool
) -> tuple[Path, dict[str, Any]]:
    """Write plan.json, plan.png and motion.mp4."""
    problem = PROBLEMS[name]
    solved = bool(problem.solved(jnp.asarray(found.states)))
    said = {
        "problem": name,
        "planner": planner,
        "solved": solved,
        "cost": float(found.costs[-1]),
        "costs": found.costs.tolist(),
        "time_step": problem.time_step,
        "states": found.states.tolist(),
        "controls": found.controls.tolist(),
    }
    directory.mkdir(parents=True, exist_ok=True)
    files.write_json(directory / "plan.json", said)
    subtitle = f"{planner}, cost {said['cost']:.4g}; {'the goal is reached' if solved else 'the goal is not reached'}"
    plan_figures.draw_path(
        directory / "plan.png",
        plan_figures.LABELS[name],
        problem,
        found,
        title=f"A plan for the {name}",
        subtitle=subtitle,
    )
    if video:
        plan_figures.write_motion(directory / "motion.mp4", name, problem, found)
    return directory, said


def search_game(
    name: str, simulations: int, key: Array, directory: Path
) -> tuple[Path, dict[str, Any]]:
    """Search a game from its start, and draw the tree."""
    game = GAMES[name]
    uct = mcts.UCT(game.num_actions, simulations, game.num_cells, 2, legal=game.legal)
    found = jax.device_get(jax.jit(partial(mcts.search, uct, game))(game.initial_state(), key))
    said = {
        "problem": name,
        "planner": "mcts",
        "simulations": simulations,
        "action": int(found.action),
        "visits": found.visits.tolist(),
        "values": [float(value) if np.isfinite(value) else None for value in found.values],
    }
    directory.mkdir(parents=True, exist_ok=True)
    files.write_json(directory / "plan.json", said)
    plan_figures.draw_tree(
        directory / "tree.png",
        dict(most_visited(found.tree)),
        title=f"A tree of {name}",
        subtitle=f"{simulations:,} simulations; the {plan_figures.BRANCHES} states visited most, "
        "as wide as they "
        "were visited often",
    )
    return directory, said


def most_visited(tree: mcts.Tree) -> Iterator[tuple[int, tuple[int, int, int, float]]]:
    """(node, (its parent, the action that led there, its visits, its mean return)) of the nodes
    visited most, parents first."""
    parents = {
        int(child): (node, action)
        for node, children in enumerate(tree.children)
        for action, child in enumerate(children)
        if child > 0
    }
    shown = sorted(parents, key=lambda node: (-tree.visits[node], node))[: plan_figures.BRANCHES]
    for node in sorted(shown):  # a parent was there before its children, and visited as often
        yield (
            node,
            (
                *parents[node],
                int(tree.visits[node]),
                float(tree.return_sum[node] / tree.visits[node]),
            ),
        )
