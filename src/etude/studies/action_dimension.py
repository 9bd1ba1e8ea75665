"""How many numbers a planner of samples can choose well at a fixed number of samples.

A point mass in n dimensions is brought to rest at the origin, so a plan of T steps has n T numbers.
The dimensions do not touch each other, hence the problem becomes no harder but by their number:

    xₜ₊₁ = A xₜ + B uₜ,   cost Σₜ (|pₜ|² + 0.1 |vₜ|² + 0.1 |uₜ|²) / 2

LQR gives the least cost J* exactly, and J₀ is the cost of doing nothing. The share of the optimum
that a plan of cost J reaches is (J₀ − J) / (J₀ − J*). At 400 samples it falls with the dimension:
for random shooting at once, until its plans are worse than none, and later for CEM and iCEM, which
look where the last samples were good.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from etude.errors import InvalidInput
from etude.planning.plans import return_of_plans
from etude.planning.protocol import LiftedModel, ModelStep
from etude.planning.sampling.cem import CEM
from etude.planning.sampling.icem import ICEM
from etude.planning.sampling.random_shooting import RandomShooting
from etude.planning.trajectory.lqr import LinearQuadratic, lqr
from etude.reporting import planning_figures, statistics
from etude.studies.measurement import begin_or_go_on, save
from etude.types import Array

HORIZON, TIME_STEP = 20, 0.1  # T; s
WEIGHTS = (1.0, 0.1, 0.1)  # of position, velocity and control in the cost
START = 0.35  # to either side in each dimension; the optimal controls are then in [-1, 1]
ITERATIONS = 4  # of a search, which share its samples
PLANNERS: dict[str, Any] = {"random shooting": RandomShooting(), "CEM": CEM(), "iCEM": ICEM()}


def measure_action_dimension(
    dimensions: Sequence[int] = (1, 2, 4, 8, 16, 32),
    samples: int = 400,
    seeds: int = 20,
    out: str | Path | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Measure the share of the optimum that planners reach by dimension of actions, and draw it.

    Writes action_dimension.json and .png into the directory `out`. Where it has a measurement, the
    dimensions that are missing are added, and it is drawn again.

    Args:
        dimensions: numbers of elements of an action.
        samples: plans that a search evaluates in its four iterations together, or fewer (iCEM).
        seeds: of the start and of the search, at least 2.
        out: the directory; by default runs/action_dimension.

    Returns:
        The directory and the content of the file, whose "planners" has for each planner the result
        of `statistics.summarize_returns` by dimension; a return is a share, 1 at the optimum.

    Raises:
        InvalidInput: for arguments that cannot be measured, and a directory with a measurement with
            other settings.
    """
    if not dimensions or min(dimensions) < 1:
        raise InvalidInput(f"dimensions is {tuple(dimensions)}; give at least one, each 1 or more")
    if seeds < 2:
        raise InvalidInput(f"seeds is {seeds}; give at least 2")
    for planner in PLANNERS.values():
        planner.check_samples(samples // ITERATIONS)
    directory = Path(out or "runs/action_dimension")
    path = directory / "action_dimension.json"
    settings = {"samples": samples, "seeds": seeds}
    measured = begin_or_go_on(path, settings, {"planners": {name: {} for name in PLANNERS}})
    directory.mkdir(parents=True, exist_ok=True)
    for dimension in dimensions:
        for name, planner in PLANNERS.items():
            if str(dimension) in measured["planners"][name]:
                continue
            keys = jax.random.split(jax.random.key(dimension), seeds)
            shares = np.asarray(shares_of_optimum(planner, keys, dimension, samples))
            summary = statistics.summarize_returns(shares[:, None].tolist())
            measured["planners"][name][str(dimension)] = summary
            save(path, measured)
    planning_figures.draw_summaries(
        directory / "action_dimension.png",
        measured["planners"],
        "share of the optimum",
        f"elements of an action; a plan is {HORIZON} actions",
        title="Planners of samples by dimension of actions",
        subtitle=f"a point mass, {samples} samples; 1 is LQR's optimum, 0 is to do nothing; IQM of "
        f"{seeds} seeds",
        logarithmic="x",
    )
    return directory, measured


@partial(jax.jit, static_argnums=(0, 2, 3))
def shares_of_optimum(planner: Any, keys: Array, dimension: int, samples: int) -> Array:
    """The share of the optimum that one search reaches, for each key: [key]."""
    model = LiftedModel(lambda state, control, key: step_mass(state, control), ends=False)
    # the cost-to-go of one dimension; the optimum is its sum over all of them
    of_one = jax.tree.map(lambda x: x[0], lqr(point_mass()).value)
    nothing = jnp.zeros((HORIZON, dimension))

    def search(key):
        key_start, key_search = jax.random.split(key)
        position = START * jax.random.rademacher(key_start, (dimension,), jnp.float32)
        start = jnp.concatenate([position, jnp.zeros(dimension)])
        return_of = return_of_plans(model, start[None, None], key_start)
        found = planner.plan(
            return_of,
            planner.init(nothing),
            key_search,
            samples=samples // ITERATIONS,
            iterations=ITERATIONS,
        )
        least = jax.vmap(of_one)(start.reshape(2, dimension).T).sum()
        at_rest = -return_of(nothing[None])[0]
        return (at_rest + found.value) / (at_rest - least)

    return jax.vmap(search)(keys)


def step_mass(state: Array, control: Array) -> ModelStep:
    """One step of the point mass, from (position, velocity) [2n] under a force [n]."""
    position, velocity = jnp.split(state, 2)
    of_position, of_velocity, of_control = WEIGHTS
    cost = (
        of_position * (position**2).sum()
        + of_velocity * (velocity**2).sum()
        + of_control * (control**2).sum()
    ) / 2
    next_velocity = velocity + TIME_STEP * control
    next_state = jnp.concatenate([position + TIME_STEP * next_velocity, next_velocity])
    return ModelStep(next_state, -cost, jnp.ones(()))


def point_mass() -> LinearQuadratic:
    """The problem in one dimension, for LQR."""
    F = jnp.array([[1, TIME_STEP, TIME_STEP**2], [0, 1, TIME_STEP]])
    C = jnp.diag(jnp.array(WEIGHTS))
    return LinearQuadratic(jnp.tile(F, (HORIZON, 1, 1)), jnp.tile(C, (HORIZON, 1, 1)))
