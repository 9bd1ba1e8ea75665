"""Run a planner on a control problem or a game: `etude plan PROBLEM --planner NAME`.

Results are plan.json, and of a control problem plan.png (states, controls, cost by iteration) and
motion.mp4, of a game tree.png (the search tree).
"""

from collections.abc import Callable, Iterator
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
from etude.planning.tree.evaluation import Rollout
from etude.planning.tree.rules import UCT
from etude.planning.tree.tree import SearchSettings, Tree
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
# default numbers of iterations; 100 for the others
ITERATIONS = {
    "collocation": 1_000,
    "gradient_shooting": 500,
    "ilqr": 200,
    "ddp": 200,
    "multiple_shooting": 200,
}


class PlannedPath(NamedTuple):
    """A planned trajectory, and its cost over the iterations of the planner."""

    states: Any  # [T + 1, n]
    controls: Any  # [T, m]
    costs: Any  # [iteration + 1], from the first guess on; collocation has the last one alone


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
    """Plan on a problem from a random start and draw the result.

    Returns the directory and the content of plan.json.

    problem      one of PROBLEMS, or of GAMES for mcts
    planner      ilqr when None, and mcts for games
    iterations   of the planner, or simulations of mcts; the planner's default when None
    samples      plans in each iteration of a sampling planner
    elites       of these, the number to which cem and icem refit

    Raises InvalidInput for unknown names, for a planner that does not fit the problem, for numbers
    out of bounds, and for a directory with a plan in it.
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
            "and the other planners choose controls"
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
    path = run_planner(
        PROBLEMS[problem], planner, iterations or ITERATIONS.get(planner, 100), samples, elites, key
    )
    return write_plan(problem, planner, path, directory, video)


def run_planner(
    problem: Any, planner: PlannerName, iterations: int, samples: int, elites: int, key: Array
) -> PlannedPath:
    """Plan from a random initial state; NumPy arrays of float64 or float32."""
    key_start, key_search = jax.random.split(key)
    start = problem.initial_state(key_start)
    guess = zero_controls(problem)
    match planner:
        case "ilqr" | "ddp":
            solution = ilqr(
                problem, start, guess, iterations=iterations, second_order=planner == "ddp"
            )
            path = PlannedPath(
                solution.states, solution.controls, solution.costs[: int(solution.iterations) + 1]
            )
        case "multiple_shooting":
            line_guess = start + jnp.linspace(0, 1, problem.horizon + 1)[:, None] * (-start)
            solution = multiple_shooting(problem, line_guess, guess, iterations=iterations)
            path = PlannedPath(
                solution.states, solution.controls, solution.costs[: int(solution.iterations) + 1]
            )
        case "gradient_shooting":
            descent = gradient_shooting(
                problem, start, guess, optax.adam(0.1), iterations=iterations
            )
            path = PlannedPath(descent.states, descent.controls, descent.costs)
        case "collocation":
            path = run_collocation(problem, start, guess[0], iterations)
        case _:
            score = lambda plans: (
                -jax.vmap(lambda controls: simulate_controls(problem, start, controls)[1].sum())(
                    plans
                )
            )
            controls, costs = run_sampling_planner(
                planner, score, guess, problem, iterations, samples, elites, key_search
            )
            path = PlannedPath(simulate_controls(problem, start, controls)[0], controls, costs)
    return PlannedPath(*map(np.asarray, path))


def zero_controls(problem: Any) -> Array:
    """The first guess of the controls, [horizon, m]: those without cost."""
    return jnp.tile(
        problem.hover() if hasattr(problem, "hover") else jnp.zeros(len(problem.low)),
        (problem.horizon, 1),
    )


def run_collocation(
    problem: Any, start: Array, rest_control: Array, iterations: int
) -> PlannedPath:
    """Plan by Hermite–Simpson collocation from a straight line to the origin.

    The result is sampled at the times of the problem's steps.
    """
    duration, steps = problem.horizon * problem.time_step, problem.horizon
    constraints: dict[str, Any] = (
        {"inequality": lambda x, u: problem.clearance(x)[None]}
        if hasattr(problem, "clearance")
        else {}
    )
    free_state, bounds = (
        np.full(len(start), np.nan),
        (np.asarray(problem.low), np.asarray(problem.high)),
    )
    continuous_problem = ContinuousProblem(
        duration,
        np.asarray(start),
        free_state,
        *bounds,
        problem.derivative,
        problem.running_cost,
        final_cost=problem.final_cost,
        **constraints,
    )

    def line_guess(times):
        fraction = times[:, None] / duration
        return (1 - fraction) * np.asarray(start), np.tile(
            np.asarray(rest_control), (len(times), 1)
        )

    solution = collocate(continuous_problem, steps // 2, guess=line_guess, iterations=iterations)
    times = np.linspace(0, duration, steps + 1)
    states, controls = solution.interpolate(times)
    return PlannedPath(states, controls[:-1], np.array([solution.cost]))


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
    """Run a sampling planner; return its best controls and the lowest cost after each iteration.

    The costs begin with that of the guess.
    """
    bounds = {"low": jnp.asarray(problem.low), "high": jnp.asarray(problem.high)}
    width = bounds["high"] - bounds["low"]
    settings: dict[str, Any] = {"samples": samples, "iterations": 1} | bounds

    @jax.jit
    def improve(mean, std, elite_plans, key):
        """Return (candidate, its value, mean, std, elite plans) after an iteration."""
        match planner:
            case "random_shooting":
                return (
                    *random_shooting(score, key, guess.shape, samples, **bounds),
                    mean,
                    std,
                    elite_plans,
                )
            case "cem":
                result = cem(score, key, mean, std, **settings, elites=elites, smoothing=0.1)
            case "icem":
                result, elite_plans = icem(
                    score,
                    key,
                    mean,
                    std,
                    **settings,
                    elites=elites,
                    exponent=2.0,
                    reused_plans=elite_plans,
                )
            case _:
                result = mppi(score, key, mean, std, **settings, exponent=2.0)
        return result.best, result.value, result.mean, result.std, elite_plans

    mean, std, elite_plans = guess, jnp.broadcast_to(width / 4, guess.shape), guess[None]
    best, best_cost = guess, -float(score(guess[None])[0])
    costs = [best_cost]
    for key_iteration in jax.random.split(key, iterations):
        candidate, value, mean, std, elite_plans = improve(mean, std, elite_plans, key_iteration)
        if -float(value) < best_cost:
            best, best_cost = candidate, -float(value)
        costs.append(best_cost)
    return best, np.array(costs)


def write_plan(
    name: str, planner: PlannerName, path: PlannedPath, directory: Path, video: bool
) -> tuple[Path, dict[str, Any]]:
    """Write plan.json, plan.png and motion.mp4 into a directory."""
    problem = PROBLEMS[name]
    solved = bool(problem.is_solved(jnp.asarray(path.states)))
    results = {
        "problem": name,
        "planner": planner,
        "solved": solved,
        "cost": float(path.costs[-1]),
        "costs": path.costs.tolist(),
        "time_step": problem.time_step,
        "states": path.states.tolist(),
        "controls": path.controls.tolist(),
    }
    directory.mkdir(parents=True, exist_ok=True)
    files.write_json(directory / "plan.json", results)
    outcome = "the goal is reached" if solved else "the goal is not reached"
    subtitle = f"{planner}, cost {results['cost']:.4g}; {outcome}"
    plan_figures.draw_path(
        directory / "plan.png",
        plan_figures.LABELS[name],
        problem,
        path,
        title=f"A plan for the {name}",
        subtitle=subtitle,
    )
    if video:
        plan_figures.write_motion(directory / "motion.mp4", name, problem, path)
    return directory, results


def search_game(
    name: str, simulations: int, key: Array, directory: Path
) -> tuple[Path, dict[str, Any]]:
    """Search a game from its initial state and draw the tree."""
    game = GAMES[name]
    model, board = game.model, game.initial_state()[None, None]
    settings = SearchSettings(simulations, game.num_cells, 2)
    run = lambda state, key: mcts.search(
        model,
        state,
        model.legal(state)[0, 0],
        Rollout(model, settings),
        UCT(),
        UCT(),
        key,
        settings,
    )
    result = jax.device_get(jax.jit(run)(board, key))
    results = {
        "problem": name,
        "planner": "mcts",
        "simulations": simulations,
        "action": int(result.action),
        "visits": result.visits.tolist(),
        "values": [float(value) if np.isfinite(value) else None for value in result.values],
    }
    directory.mkdir(parents=True, exist_ok=True)
    files.write_json(directory / "plan.json", results)
    plan_figures.draw_tree(
        directory / "tree.png",
        dict(most_visited(result.tree)),
        title=f"A tree of {name}",
        subtitle=f"{simulations:,} simulations; the {plan_figures.MAX_TREE_NODES} states visited "
        "most, with branches as wide as their visits",
    )
    return directory, results


def most_visited(tree: Tree) -> Iterator[tuple[int, tuple[int, int, int, float]]]:
    """Yield (node, (parent, action, visits, mean return)) of the most visited nodes.

    Parents come before their children.
    """
    parents = {
        int(child): (node, action)
        for node, children in enumerate(tree.children)
        for action, child in enumerate(children)
        if child > 0
    }
    nodes = sorted(parents, key=lambda node: (-tree.visits[node], node))[
        : plan_figures.MAX_TREE_NODES
    ]
    for node in sorted(nodes):  # parents have smaller indices and at least as many visits
        yield (
            node,
            (
                *parents[node],
                int(tree.visits[node]),
                # to the player to move there; the sum is the opponent's
                -float(tree.return_sum[node] / tree.visits[node]),
            ),
        )
