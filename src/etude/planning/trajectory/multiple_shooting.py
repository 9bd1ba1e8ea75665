"""Multiple shooting: iLQR and DDP from a guess of the states as well as the controls.

The guessed states need not obey the dynamics. A step of length α closes the fraction α of every
gap, and after the first full step the method is single shooting. An unstable system, which diverges
under any guess of its controls, can so be solved from a guess of its states: feedback keeps each
simulation near them (Giftthaler et al., 2018; Mastalli et al., 2020).
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
    """Minimize the cost locally from the first of `states` [T + 1, n].

    The other states and `controls` [T, m] are the initial guess. While gaps are open an iteration
    may raise the cost, but not the merit function cost + ν |gaps|₁, with ν as in Nocedal & Wright,
    2006, eq. 18.36. The result's `gap` is 0 once all gaps have closed, and only then can it
    converge. Everything else is as in `ilqr`, errors included.
    """
    states, controls = jnp.asarray(states), jnp.asarray(controls)
    if states.ndim != 2 or len(states) != len(controls) + 1:
        raise InvalidInput(
            f"the states are {list(states.shape)} and the controls are {list(controls.shape)}; "
            f"they must be [T + 1, n] and [T, m]"
        )
    check_shapes(problem, states[0], controls)
    result = _multiple_shooting(problem, states, controls, tolerance, iterations, second_order)
    require_finite(problem, result)
    return result


@partial(jax.jit, static_argnames=("iterations", "second_order"))
def _multiple_shooting(problem, states, controls, tolerance, iterations, second_order):
    if bounds := control_bounds(problem, controls):
        controls = jnp.clip(controls, *bounds)
    gaps = jax.vmap(problem.dynamics)(states[:-1], controls) - states[1:]
    costs = jax.vmap(problem.cost)(states[:-1], controls, jnp.arange(len(controls)))
    trajectory = Trajectory(states, controls, gaps, costs.sum() + problem.final_cost(states[-1]))
    return optimize(problem, trajectory, tolerance, iterations, second_order)
