"""The trajectory optimizers as values: iLQR, DDP, shooting of two kinds, collocation.

They minimize the cost of a problem by its derivatives, from a first guess of the controls.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from etude.planning.plans import shift_plan
from etude.planning.protocol import ContinuousTimeProblem, Problem, Solution
from etude.planning.trajectory.collocation import ContinuousProblem, collocate
from etude.planning.trajectory.gradient_shooting import gradient_shooting
from etude.planning.trajectory.ilqr import ILQRResult, ilqr
from etude.planning.trajectory.multiple_shooting import multiple_shooting
from etude.struct import struct, traced
from etude.types import Array


@struct
class ILQR:
    """Iterative LQR: a Gauss-Newton method, solved by LQR around the current trajectory."""

    tolerance: float = traced(1e-4, above=0)
    """Norm of the gradient of the cost by the controls at which it has converged."""

    shift = staticmethod(shift_plan)

    def solve(
        self, problem: Problem, state: Array, controls: Array, *, iterations: int
    ) -> Solution:
        return solution_of(
            ilqr(problem, state, controls, iterations=iterations, tolerance=self.tolerance)
        )


@struct
class DDP:
    """Differential dynamic programming: iLQR with the second derivatives of the dynamics."""

    tolerance: float = traced(1e-4, above=0)
    """Norm of the gradient of the cost by the controls at which it has converged."""

    shift = staticmethod(shift_plan)

    def solve(
        self, problem: Problem, state: Array, controls: Array, *, iterations: int
    ) -> Solution:
        return solution_of(
            ilqr(
                problem,
                state,
                controls,
                iterations=iterations,
                tolerance=self.tolerance,
                second_order=True,
            )
        )


@struct
class MultipleShooting:
    """iLQR from a guess of the states too: a straight line to the origin, where the goal is."""

    tolerance: float = traced(1e-4, above=0)
    """Norm of the gradient of the cost by the controls at which it has converged."""

    shift = staticmethod(shift_plan)

    def solve(
        self, problem: Problem, state: Array, controls: Array, *, iterations: int
    ) -> Solution:
        fraction = jnp.linspace(0, 1, len(controls) + 1)[:, None]
        line = state + fraction * -state
        return solution_of(
            multiple_shooting(
                problem, line, controls, iterations=iterations, tolerance=self.tolerance
            )
        )


@struct
class GradientShooting:
    """Gradient descent on the controls by Adam, through the dynamics."""

    learning_rate: float = traced(0.1, above=0)
    """Step size of Adam, in units of the controls."""

    shift = staticmethod(shift_plan)

    def solve(
        self, problem: Problem, state: Array, controls: Array, *, iterations: int
    ) -> Solution:
        return gradient_shooting(
            problem, state, controls, optax.adam(self.learning_rate), iterations=iterations
        )


@struct
class Collocation:
    """Hermite–Simpson collocation with SciPy's interior point method: seconds for a plan.

    It starts from a straight line to the origin, where the goal is, and keeps clear of obstacles.
    It runs outside of compiled programs, so it plans once and does not act.
    """

    tolerance: float = traced(1e-6, above=0)
    """Gradient of the Lagrangian, and violation of each constraint, at which it has converged."""

    shift = staticmethod(shift_plan)

    def solve(
        self, problem: ContinuousTimeProblem, state: Array, controls: Array, *, iterations: int
    ) -> Solution:
        """Solve with half as many intervals as steps; the first control is that of rest.

        The result is sampled at the times of the problem's steps, and has no history.
        """
        start, steps = np.asarray(state), len(controls)
        duration = steps * problem.time_step

        def line_guess(times):
            fraction = times[:, None] / duration
            return (1 - fraction) * start, np.tile(np.asarray(controls[0]), (len(times), 1))

        constraints: dict[str, Any] = (
            {"inequality": lambda x, u: problem.clearance(x)[None]}
            if hasattr(problem, "clearance")
            else {}
        )
        continuous = ContinuousProblem(
            duration,
            start,
            np.full(len(start), np.nan),  # the end is free
            np.asarray(problem.low),
            np.asarray(problem.high),
            problem.derivative,
            problem.running_cost,
            final_cost=problem.final_cost,
            **constraints,
        )
        solution = collocate(
            continuous,
            steps // 2,
            guess=line_guess,
            iterations=iterations,
            tolerance=self.tolerance,
        )
        states, sampled = solution.interpolate(np.linspace(0, duration, steps + 1))
        return Solution(
            states,
            sampled[:-1],
            np.asarray(solution.cost),
            np.asarray(0),
            np.array([solution.cost]),
            sampled[None, :-1],
        )


def solution_of(result: ILQRResult) -> Solution:
    """What iLQR and its kin found, as a solution."""
    return Solution(
        result.states,
        result.controls,
        result.cost,
        result.iterations,
        result.costs,
        result.controls_history,
    )
