"""Run a planner on a control problem or a game: `etude plan PROBLEM --planner NAME`.

Results are plan.json, and of a control problem plan.png (states, controls, cost by iteration) and
motion.mp4, of a game tree.png (the search tree).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np

from etude.errors import InvalidInput
from etude.kinds import kinds_of, tag_of
from etude.planning.planners import AnyPlanner, SamplingPlanner
from etude.planning.problems import (
    AcrobotSwingUp,
    Car,
    CartPoleSwingUp,
    DoubleIntegrator,
    PendulumSwingUp,
    Quadrotor,
)
from etude.planning.protocol import Planner, TrajectoryOptimizer
from etude.planning.trajectory.ilqr import simulate_controls
from etude.planning.trajectory.optimizers import (
    DDP,
    ILQR,
    Collocation,
    GradientShooting,
    MultipleShooting,
)
from etude.planning.tree import games, mcts
from etude.planning.tree.evaluation import Rollout
from etude.planning.tree.rules import UCT
from etude.planning.tree.tree import SearchSettings, Tree
from etude.reporting import plan_figures
from etude.storage import files
from etude.struct import nested, static, struct, validate
from etude.types import Array

PROBLEMS: dict[str, Any] = {
    "double-integrator": DoubleIntegrator(),
    "pendulum": PendulumSwingUp(),
    "cart-pole": CartPoleSwingUp(),
    "acrobot": AcrobotSwingUp(),
    "quadrotor": Quadrotor(),
    "car": Car(),
}
NUM_EARLIER = 2  # plans between the first guess and the last plan that a video shows
GAMES = {"tic-tac-toe": games.TIC_TAC_TOE, "connect-four": games.CONNECT_FOUR}


@struct
class TreeSearch:
    """Monte Carlo tree search of a game; its iterations are simulations."""

    tag = "mcts"


# default iterations; 100 for the others
ITERATIONS: dict[type, int] = {
    ILQR: 200,
    DDP: 200,
    MultipleShooting: 200,
    GradientShooting: 500,
    Collocation: 1_000,
    TreeSearch: 1_000,
}


@struct
class PlanSettings:
    """How to plan."""

    planner: AnyPlanner | TreeSearch = nested(ILQR())
    """Planner of the controls; mcts searches games."""
    iterations: int = static(0, at_least=0)
    """Iterations of the planner, simulations of mcts; 0: the planner's default."""
    samples: int = static(500, at_least=1)
    """Plans sampled in each iteration, of icem in the first; no effect with derivatives."""

    def validate_fields(self) -> None:
        if isinstance(self.planner, SamplingPlanner):
            self.planner.check_samples(self.samples)

    @property
    def num_iterations(self) -> int:
        return self.iterations or ITERATIONS.get(type(self.planner), 100)


class PlannedPath(NamedTuple):
    """A planned trajectory, and those of the planner's iterations."""

    states: Any  # [T + 1, n]
    controls: Any  # [T, m]
    costs: Any  # [iteration + 1], from the first guess on; collocation has the last one alone
    history: Any  # [iteration + 1, T, m]: the controls of these costs


def default_settings(problem: str) -> PlanSettings:
    """The settings with the default planner for a problem: iLQR, and tree search for a game."""
    return PlanSettings(TreeSearch()) if problem in GAMES else PlanSettings()


def plan(
    problem: str,
    planner: AnyPlanner | TreeSearch | str | None = None,
    *,
    iterations: int = 0,
    samples: int = 500,
    seed: int = 0,
    video: bool = True,
    out: str | Path | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Plan on a problem from a random start and draw the result.

    Args:
        problem: one of PROBLEMS, or of GAMES for tree search.
        planner: a planner, such as `etude.ICEM(elites=50)`, or the name of one with its defaults;
            by default iLQR, and "mcts" for games.
        iterations: of the planner, or simulations of the tree search; 0: the planner's default.
        samples: plans in each iteration of a sampling planner.
        seed: of the start and of the planner.
        video: film the motion too.
        out: the directory; by default runs/plan-PROBLEM-PLANNER.

    Returns:
        The directory and the content of plan.json.

    Raises:
        InvalidInput: for unknown names, a planner that does not fit the problem, numbers out of
            bounds, and a directory with a plan in it.
    """
    chosen: Any = default_settings(problem).planner if planner is None else planner
    if isinstance(chosen, str):
        kinds = kinds_of(get_type_hints(PlanSettings)["planner"])
        if chosen not in kinds:
            raise InvalidInput(f"planner is {chosen!r}; choose one of {', '.join(kinds)}")
        chosen = kinds[chosen]()
    return plan_with(PlanSettings(chosen, iterations, samples), problem, seed, video, out)


def plan_with(
    settings: PlanSettings, problem: str, seed: int, video: bool, out: str | Path | None
) -> tuple[Path, dict[str, Any]]:
    """Plan with these settings; the other arguments are those of `plan`."""
    if problem not in PROBLEMS | GAMES:
        raise InvalidInput(
            f"no problem is called {problem!r}; there are {', '.join([*PROBLEMS, *GAMES])}"
        )
    validate(settings)
    name = tag_of(type(settings.planner))
    if isinstance(settings.planner, TreeSearch) != (problem in GAMES):
        raise InvalidInput(
            f"{name} does not plan on {problem}: mcts searches the games {', '.join(GAMES)}, "
            "and the other planners choose controls"
        )
    directory = Path(out) if out is not None else Path("runs") / f"plan-{problem}-{name}"
    if (directory / "plan.json").exists():
        raise InvalidInput(f"{directory} holds a plan already; give another --out")
    key = jax.random.key(seed)
    if problem in GAMES:
        return search_game(problem, settings.num_iterations, key, directory)
    path = find_path(PROBLEMS[problem], settings, key)
    return write_plan(problem, name, path, directory, video)


def find_path(problem: Any, settings: PlanSettings, key: Array) -> PlannedPath:
    """Plan from a random initial state; NumPy arrays of float64 or float32."""
    key_start, key_search = jax.random.split(key)
    start, guess = problem.initial_state(key_start), zero_controls(problem)
    if isinstance(settings.planner, SamplingPlanner):
        path = search_path(problem, settings, start, guess, key_search)
    else:
        optimizer: TrajectoryOptimizer = settings.planner  # type: ignore[assignment]
        solution = optimizer.solve(problem, start, guess, iterations=settings.num_iterations)
        ran = slice(int(solution.iterations) + 1)
        path = PlannedPath(
            solution.states, solution.controls, solution.costs[ran], solution.controls_history[ran]
        )
    return PlannedPath(*map(np.asarray, path))


def search_path(
    problem: Any, settings: PlanSettings, start: Array, guess: Array, key: Array
) -> PlannedPath:
    """The best controls of a sampling planner, which searches in the box [-1, 1]."""
    low, high = jnp.asarray(problem.low), jnp.asarray(problem.high)
    center, half_width = (low + high) / 2, (high - low) / 2
    planner: Planner = settings.planner  # type: ignore[assignment]

    def cost(plan):
        return simulate_controls(problem, start, center + half_width * plan)[1].sum()

    @jax.jit
    def search(key):
        first = (guess - center) / half_width
        result = planner.plan(
            lambda plans: -jax.vmap(cost)(plans),
            planner.init(first),
            key,
            samples=settings.samples,
            iterations=settings.num_iterations,
        )
        costs = jnp.append(cost(first), -result.history.values)
        plans = jnp.concatenate([first[None], result.history.plans])
        # the first guess is the best plan for as long as no plan costs less
        best = jnp.where(costs <= costs[0], jnp.arange(len(costs)), 0)
        controls = (center + half_width * plans)[best]
        return simulate_controls(problem, start, controls[-1])[0], controls, costs[best]

    states, controls, costs = search(key)
    return PlannedPath(states, controls[-1], costs, controls)


def zero_controls(problem: Any) -> Array:
    """The first guess of the controls, [horizon, m]: those without cost."""
    return jnp.tile(
        problem.hover() if hasattr(problem, "hover") else jnp.zeros(len(problem.low)),
        (problem.horizon, 1),
    )


def write_plan(
    name: str, planner: str, path: PlannedPath, directory: Path, video: bool
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
        earlier = earlier_paths(problem, path)
        plan_figures.write_motion(directory / "motion.mp4", name, problem, path, earlier)
    return directory, results


def earlier_paths(problem: Any, path: PlannedPath) -> dict[int, Any]:
    """The states of plans on the way to the last one, by iteration: of equally many improvements.

    They are of those iterations that lowered the cost; a path without a history has none.
    """
    improved = 1 + np.flatnonzero(np.diff(path.costs) < 0)
    if not len(improved):
        return {}
    chosen = np.append(0, improved[np.linspace(0, len(improved) - 1, NUM_EARLIER + 1).astype(int)])
    return {
        int(i): simulate_controls(problem, path.states[0], path.history[i])[0]
        for i in dict.fromkeys(chosen.tolist()[:-1])
    }


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
