"""Multiple shooting: iLQR and DDP that are given states as well as controls (Giftthaler et al.,
2018; Mastalli et al., 2020).

The states of the guess need not obey the dynamics. A step of length α closes the share α of every
gap, and after the first full step the rest is single shooting. A system that runs away from every
guess of its controls can so be solved from a guess of where it should be: no simulation is ever
longer than what feedback keeps near that.
"""

from functools import partial

import jax
import jax.numpy as jnp

from etude.errors import InvalidInput
from etude.planning.protocol import Problem
from etude.planning.trajectory.ddp import control_bounds
from etude.planning.trajectory.ilqr import (
    ILQRResult,
    Trajectory,
    check_shapes,
    optimize,
    require_finite,
)
from etude.types import Array


def multiple_shooting(
    problem: Problem,
    states: Array,
    controls: Array,
    *,
    iterations: int = 100,
    tolerance: float | Array = 1e-4,
    second_order: bool = False,
) -> ILQRResult:
    """The path of least cost, locally, from the first of `states` [T + 1, n]; the others and
    `controls` [T, m] are a guess.

    While gaps are open an iteration may raise the cost, but not cost + ν |gaps|₁, with ν just great
    enough for that (Nocedal & Wright, 2006, eq. 18.36). The plan's `gap` is 0 once they have
    closed, and only then has it converged. For the rest this is `ilqr`, errors included.
    """
    states, controls = jnp.asarray(states), jnp.asarray(controls)
    if states.ndim != 2 or len(states) != len(controls) + 1:
        raise InvalidInput(
            f"the states are {list(states.shape)} and the controls are {list(controls.shape)}; "
            f"they must be [T + 1, n] and [T, m]"
        )
    check_shapes(problem, states[0], controls)
    plan = _multiple_shooting(problem, states, controls, tolerance, iterations, second_order)
    require_finite(problem, plan)
    return plan


@partial(jax.jit, static_argnames=("iterations", "second_order"))
def _multiple_shooting(problem, states, controls, tolerance, iterations, second_order):
    if box := control_bounds(problem, controls):
        controls = jnp.clip(controls, *box)
    gaps = jax.vmap(problem.dynamics)(states[:-1], controls) - states[1:]
    costs = jax.vmap(problem.cost)(states[:-1], controls, jnp.arange(len(controls)))
    path = Trajectory(states, controls, gaps, costs.sum() + problem.final_cost(states[-1]))
    return optimize(problem, path, tolerance, iterations, second_order)
