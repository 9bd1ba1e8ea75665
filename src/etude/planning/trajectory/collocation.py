"""Direct collocation: optimal control as a sparse nonlinear program over states and controls.

    min Σₖ h Σⱼ bⱼ cost(xₖⱼ, uₖⱼ) + final_cost(x(T)),    xₖᵢ = xₖ₀ + h Σⱼ aᵢⱼ derivative(xₖⱼ, uₖⱼ)

Interval k of length h has two or three equidistant points, whose first and last it shares with its
neighbors. aᵢⱼ and bⱼ integrate the polynomial through the points: two points are the trapezoid
rule, three are Hermite–Simpson in its separated form (Hargraves & Paris, 1987; Betts, "Practical
methods for optimal control", 2010, chapter 4; Kelly, "An introduction to trajectory optimization",
2017). JAX computes the derivatives in float64, interval by interval, so all matrices are sparse.
The solver is scipy's `trust-constr`, an interior point method with trust regions (Byrd, Hribar &
Nocedal, 1999).
"""

import warnings
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import Bounds, NonlinearConstraint, minimize
from scipy.sparse import csr_matrix, vstack

from etude.errors import InvalidInput
from etude.struct import static, struct
from etude.types import Array

Method = Literal["trapezoid", "hermite_simpson"]
STAGES = {"trapezoid": 2, "hermite_simpson": 3}  # number of points of an interval


def zero_cost(state: Array) -> Array:
    """Return zero: the default final cost."""
    return jnp.zeros((), state.dtype)


def unconstrained(state: Array, control: Array) -> Array:
    """Return no constraint, [0]: the default inequality."""
    return jnp.zeros(0, state.dtype)


@struct
class ContinuousProblem:
    """The problem min ∫ cost(x, u) dt + final_cost(x(T)) over [0, T], dx/dt = derivative(x, u).

    States are [n], controls [m]. For a free final time add a constant state and multiply
    `derivative` and `cost` by it.
    """

    duration: float  # T
    start: Any  # [n]: initial state; NaN elements are free
    end: Any  # [n]: final state; NaN elements are free
    low: Any  # [m]: lower bounds of the controls, or −inf
    high: Any  # [m]: upper bounds of the controls, or inf
    derivative: Callable[[Array, Array], Array] = static()
    cost: Callable[[Array, Array], Array] = static()  # per unit of time
    state_low: Any = -np.inf  # number or [n]: lower bounds of the states
    state_high: Any = np.inf  # number or [n]: upper bounds of the states
    final_cost: Callable[[Array], Array] = static(zero_cost)
    inequality: Callable[[Array, Array], Array] = static(unconstrained)  # g(x, u) ≥ 0, [k]


@struct
class CollocationSolution:
    """A trajectory through the collocation points, which are equidistant in time; float64."""

    times: np.ndarray  # [point]
    states: np.ndarray  # [point, n]
    controls: np.ndarray  # [point, m]
    derivatives: np.ndarray  # dx/dt, [point, n]
    cost: float
    violation: float  # the largest violation of a constraint
    iterations: int
    converged: bool  # else the solver ran out of iterations: feasible, but not optimal
    stages: int = static()  # points of an interval

    def interpolate(self, times: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
        """Return states [..., n] and controls [..., m] at `times` [...] within the duration.

        Controls are the polynomial through an interval's points, states the integral of the
        polynomial through the derivatives.
        """
        nodes = self.times[:: self.stages - 1]
        h = nodes[1] - nodes[0]
        interval = np.clip(np.searchsorted(nodes, times, "right") - 1, 0, len(nodes) - 2)
        values, integrals = lagrange_basis((np.asarray(times) - nodes[interval]) / h, self.stages)
        indices = interval_indices(len(nodes) - 1, self.stages)[interval]
        states = self.states[indices[..., 0]] + h * np.einsum(
            "...s,...sn->...n", integrals, self.derivatives[indices]
        )
        return states, np.einsum("...s,...sm->...m", values, self.controls[indices])


def collocate(
    problem: ContinuousProblem,
    intervals: int,
    method: Method = "hermite_simpson",
    *,
    guess: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]] | None = None,
    tolerance: float = 1e-6,
    iterations: int = 500,
) -> CollocationSolution:
    """Solve the problem with `intervals` intervals: a local minimum near the initial guess.

    Constraints hold at the collocation points. `guess` takes times [point] to states [point, n] and
    controls [point, m], such as another solution's `interpolate`; the default is a straight line
    of states from start to end, with zero controls. `tolerance` is that of the gradient of the
    Lagrangian and of every constraint.

    Raises InvalidInput for shapes that do not fit together, for bounds that contradict each other,
    for an initial guess whose cost or constraints are not finite, and when the solver finds no
    feasible trajectory, naming the largest violation.
    """
    if method not in STAGES or intervals < 1:
        raise InvalidInput(
            f"method is {method!r} and intervals {intervals}; choose {' or '.join(STAGES)}, and "
            "at least 1"
        )
    with jax.enable_x64(True):
        validate_problem(problem)
        program = NonlinearProgram(problem, intervals, STAGES[method])
        with warnings.catch_warnings():
            # the solver handles a singular Jacobian by another factorization
            warnings.filterwarnings("ignore", "Singular Jacobian")
            result = minimize(
                program.cost,
                program.initial_guess(guess),
                jac=program.gradient,
                hess=program.cost_hessian,
                method="trust-constr",
                bounds=Bounds(*program.bounds),
                constraints=NonlinearConstraint(
                    program.constraints,
                    *program.constraint_bounds,
                    program.jacobian,
                    program.constraint_hessian,
                ),
                options={
                    "maxiter": iterations,
                    "gtol": tolerance,
                    "xtol": 1e-10,
                    # with the default of 1 the solver takes many small steps at first
                    "initial_tr_radius": 100.0,
                },
            )
        return program.solution(result, tolerance)


# `points` [point, n + m] hold a state and a control each; `interval_points` [stage, n + m] are
# those of one interval, and `indices` [interval, stage] take the one from the other.


def lagrange_basis(t: np.ndarray | float, stages: int) -> tuple[np.ndarray, np.ndarray]:
    """Evaluate the Lagrange polynomials of equidistant points in [0, 1], and their integrals.

    Both are [..., stage], at `t` [...]. The integrals start at 0.
    """
    # [power, stage]
    coefficients = np.linalg.inv(np.vander(np.linspace(0, 1, stages), increasing=True))
    power = np.arange(stages)
    t = np.asarray(t)[..., None]
    return t**power @ coefficients, t ** (power + 1) / (power + 1) @ coefficients


def interval_indices(intervals: int, stages: int) -> np.ndarray:
    """Return the indices of each interval's points, [interval, stage]."""
    return (stages - 1) * np.arange(intervals)[:, None] + np.arange(stages)


def defects(problem: ContinuousProblem, interval_points: Array, h: float | Array) -> Array:
    """Return xᵢ − x₀ − h Σⱼ aᵢⱼ derivative(xⱼ, uⱼ) of all points but the first, [(stage − 1) n]."""
    states, controls = split_points(problem, interval_points)
    stages = len(interval_points)
    weights = lagrange_basis(np.linspace(0, 1, stages), stages)[1]  # aᵢⱼ
    return (
        states[1:] - states[0] - h * weights[1:] @ jax.vmap(problem.derivative)(states, controls)
    ).ravel()


def running_cost(problem: ContinuousProblem, interval_points: Array, h: float | Array) -> Array:
    """Return h Σⱼ bⱼ cost(xⱼ, uⱼ), []."""
    weights = jnp.asarray(lagrange_basis(1.0, len(interval_points))[1])  # bⱼ
    return h * weights @ jax.vmap(problem.cost)(*split_points(problem, interval_points))


def split_points(problem: ContinuousProblem, points: Any) -> tuple[Any, Any]:
    """Split points [..., n + m] into states [..., n] and controls [..., m]."""
    return points[..., : len(problem.start)], points[..., len(problem.start) :]


def total_cost(problem: ContinuousProblem, points: Array, indices: Array) -> Array:
    """Return the cost of all points [point, n + m], []."""
    h = problem.duration / len(indices)
    integral = jax.vmap(lambda interval: running_cost(problem, interval, h))(points[indices]).sum()
    return integral + problem.final_cost(split_points(problem, points[-1])[0])


@jax.jit
def cost_and_gradient(problem, points, indices):
    """Return the cost and its gradient [point, n + m]."""
    return jax.value_and_grad(total_cost, 1)(problem, points, indices)


@jax.jit
def constraints_and_jacobians(problem, points, indices):
    """Return (defects, Jacobians) of the intervals and (inequalities, Jacobians) of the points.

    Defects are [interval, (stage − 1) n], inequalities [point, k]. A Jacobian is by the elements of
    one interval or one point.
    """

    def with_jacobian(function):
        return jax.vmap(lambda x: (function(x), jax.jacfwd(function)(x).reshape(-1, x.size)))

    h = problem.duration / len(indices)
    gaps = with_jacobian(lambda interval: defects(problem, interval, h))(points[indices])
    inequality = lambda point: problem.inequality(*split_points(problem, point))
    return gaps, with_jacobian(inequality)(points)


@jax.jit
def hessian_blocks(
    problem, points, indices, cost_weight, defect_multipliers, inequality_multipliers
):
    """Return Hessians of the Lagrangian, cost_weight × cost + multipliers × constraints.

    The first are by the elements of each interval, the second by those of each point.
    """
    h = problem.duration / len(indices)

    def interval_lagrangian(interval, multipliers):
        interval = interval.reshape(indices.shape[1], -1)
        return cost_weight * running_cost(problem, interval, h) + multipliers @ defects(
            problem, interval, h
        )

    def point_lagrangian(point, multipliers, is_last):
        state, control = split_points(problem, point)
        return is_last * cost_weight * problem.final_cost(state) + multipliers @ problem.inequality(
            state, control
        )

    is_last = jnp.arange(len(points)) == len(points) - 1
    return (
        jax.vmap(jax.hessian(interval_lagrangian))(
            points[indices].reshape(len(indices), -1), defect_multipliers
        ),
        jax.vmap(jax.hessian(point_lagrangian))(points, inequality_multipliers, is_last),
    )


def assemble_sparse(
    blocks: Array, rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]
) -> csr_matrix:
    """Assemble dense blocks [block, i, j] into a sparse matrix; overlapping elements add up.

    `rows` [block, i] and `columns` [block, j] are the blocks' indices in the matrix.
    """
    coordinates = [
        np.broadcast_to(index, blocks.shape).ravel()
        for index in (rows[:, :, None], columns[:, None])
    ]
    return csr_matrix((np.ravel(blocks), coordinates), shape)


class NonlinearProgram:
    """Cost, constraints and their derivatives as functions of the free elements of the points.

    An element is fixed where its bounds are equal, as at a given start or end.
    """

    def __init__(self, problem: ContinuousProblem, intervals: int, stages: int):
        self.problem, self.indices = problem, interval_indices(intervals, stages)
        self.times = np.linspace(0, problem.duration, intervals * (stages - 1) + 1)
        low, high = variable_bounds(problem, len(self.times))
        self.low, self.high, self.free = low, high, low < high
        self.bounds = low[self.free], high[self.free]
        elements = np.arange(low.size).reshape(low.shape)
        self.point_elements = elements
        self.interval_elements = elements[self.indices].reshape(intervals, -1)
        (gaps, _), (inequalities, _) = self.evaluate(np.zeros(self.free.sum()))
        self.shapes = gaps.shape, inequalities.shape
        self.constraint_bounds = 0.0, np.r_[np.zeros(gaps.size), np.full(inequalities.size, np.inf)]

    def points(self, x):
        """Fill the points [point, n + m] with the free elements x [free]."""
        points = self.low.copy()
        points[self.free] = x
        return points

    def evaluate(self, x):
        """Return the constraints and their Jacobians, block by block."""
        return constraints_and_jacobians(self.problem, self.points(x), self.indices)

    def cost(self, x):
        """Return the cost as a float."""
        return float(cost_and_gradient(self.problem, self.points(x), self.indices)[0])

    def gradient(self, x):
        """Return the gradient of the cost, [free]."""
        return np.asarray(cost_and_gradient(self.problem, self.points(x), self.indices)[1])[
            self.free
        ]

    def constraints(self, x):
        """Return all defects and inequalities, [constraint]."""
        (gaps, _), (inequalities, _) = self.evaluate(x)
        return np.r_[np.ravel(gaps), np.ravel(inequalities)]

    def jacobian(self, x):
        """Return the sparse Jacobian of the constraints, [constraint, free]."""
        elements = self.interval_elements, self.point_elements
        groups = zip(self.evaluate(x), self.shapes, elements, strict=True)
        matrices = [
            assemble_sparse(
                blocks,
                np.arange(np.prod(shape)).reshape(shape),
                columns,
                (np.prod(shape), self.low.size),
            )
            for (_, blocks), shape, columns in groups
        ]
        return vstack(matrices, "csr")[:, self.free.ravel()]

    def cost_hessian(self, x):
        """Return the sparse Hessian of the cost, [free, free]."""
        return self.lagrangian_hessian(x, 1.0, np.zeros(sum(map(np.prod, self.shapes))))

    def constraint_hessian(self, x, multipliers):
        """Return the sparse Hessian of multipliers × constraints, [free, free]."""
        return self.lagrangian_hessian(x, 0.0, multipliers)

    def lagrangian_hessian(self, x, cost_weight, multipliers):
        """Return the sparse Hessian of cost_weight × cost + multipliers × constraints."""
        defect_shape, inequality_shape = self.shapes
        multipliers_by_kind = (
            multipliers[: np.prod(defect_shape)].reshape(defect_shape),
            multipliers[np.prod(defect_shape) :].reshape(inequality_shape),
        )
        blocks = hessian_blocks(
            self.problem, self.points(x), self.indices, cost_weight, *multipliers_by_kind
        )
        shape = self.low.size, self.low.size
        hessian = sum(
            assemble_sparse(block, elements, elements, shape)
            for block, elements in zip(
                blocks, (self.interval_elements, self.point_elements), strict=True
            )
        )
        return hessian[self.free.ravel()][:, self.free.ravel()]

    def initial_guess(self, guess):
        """Return the free elements [free] of the initial guess."""
        states, controls = guess(self.times) if guess else self.straight_line()
        x = np.clip(np.concatenate([states, controls], -1), self.low, self.high)[self.free]
        if not np.isfinite(self.cost(x) + np.sum(self.constraints(x))):
            raise InvalidInput(
                "the cost or a constraint of the first guess is not finite; give another guess"
            )
        return x

    def straight_line(self):
        """Return states on the line from start to end, and zero controls.

        An element that is free at one end is constant; one that is free at both is zero.
        """
        start, end = np.asarray(self.problem.start, float), np.asarray(self.problem.end, float)
        start, end = (
            np.nan_to_num(np.where(np.isnan(start), end, start)),
            np.nan_to_num(np.where(np.isnan(end), start, end)),
        )
        fraction = np.linspace(0, 1, len(self.times))[:, None]
        return start + fraction * (end - start), np.zeros((len(self.times), len(self.problem.low)))

    def solution(self, result, tolerance):
        """Convert scipy's result; raise InvalidInput if a violation exceeds `tolerance`."""
        points = self.points(result.x)
        violation, name = self.largest_violation(points)
        if not violation <= tolerance:
            raise InvalidInput(
                f"no trajectory keeps to all constraints after {result.nit} iterations: {name} by "
                f"{violation:.3g}; loosen the constraint, or give another duration, more "
                "intervals or a better guess"
            )
        states, controls = split_points(self.problem, points)
        derivatives = np.asarray(jax.vmap(self.problem.derivative)(states, controls))
        return CollocationSolution(
            self.times,
            states,
            controls,
            derivatives,
            float(result.fun),
            violation,
            int(result.nit),
            result.status in (1, 2),
            self.indices.shape[1],
        )

    def largest_violation(self, points):
        """Return the largest violation of a constraint, and that constraint in words."""
        (gaps, _), (inequalities, _) = jax.tree.map(np.asarray, self.evaluate(points[self.free]))
        n = len(self.problem.start)
        gaps = np.abs(gaps).reshape(-1, n)  # [point after the first, n]
        bound_violations = np.maximum(self.low - points, points - self.high)
        violations_by_kind = (
            ("the dynamics miss state", gaps, self.times[1:]),
            ("out of bounds is state", bound_violations[:, :n], self.times),
            ("out of bounds is control", bound_violations[:, n:], self.times),
            ("broken is inequality", -inequalities, self.times),
        )
        largest = []
        for name, violations, times in violations_by_kind:
            if violations.size:
                row, column = np.unravel_index(
                    np.nan_to_num(violations, nan=np.inf).argmax(), violations.shape
                )
                largest.append(
                    (float(violations[row, column]), f"{name} {column} at time {times[row]:.3g}")
                )
        violation, name = max(largest)
        return max(violation, 0.0), name


def validate_problem(problem: ContinuousProblem) -> None:
    """Raise InvalidInput unless the problem's functions fit the shapes of its start and bounds."""
    n, m = len(problem.start), len(problem.low)
    if (len(problem.end), len(problem.high)) != (n, m) or not problem.duration > 0:
        raise InvalidInput(
            f"start and end have {n} and {len(problem.end)} elements, low and high {m} and "
            f"{len(problem.high)}, and the duration is {problem.duration}; each two must agree, "
            "and the duration be above 0"
        )
    x, u = jnp.zeros(n), jnp.zeros(m)
    for name, output, expected in (
        ("derivative", jax.eval_shape(problem.derivative, x, u), (n,)),
        ("cost", jax.eval_shape(problem.cost, x, u), ()),
        ("final_cost", jax.eval_shape(problem.final_cost, x), ()),
    ):
        if output.shape != expected:
            raise InvalidInput(
                f"{name} gives {list(output.shape)} for a state [{n}] and a control [{m}]; "
                f"it must give {list(expected)}"
            )
    if jax.eval_shape(problem.inequality, x, u).ndim != 1:
        raise InvalidInput(
            "inequality gives a number or a matrix; it must give [k], one element for each "
            "constraint"
        )


def variable_bounds(problem: ContinuousProblem, points: int) -> tuple[np.ndarray, np.ndarray]:
    """Return lower and upper bounds [point, n + m]; they are equal at a fixed start or end."""
    n = len(problem.start)
    low, high = (
        np.concatenate([np.broadcast_to(state, n), control]).astype(float)
        for state, control in ((problem.state_low, problem.low), (problem.state_high, problem.high))
    )
    for i in np.flatnonzero(~(low <= high)):
        name = f"state {i}" if i < n else f"control {i - n}"
        raise InvalidInput(
            f"{name} is bounded from {low[i]:g} to {high[i]:g}; the lower bound must not be the "
            "higher"
        )
    lows, highs = np.tile(low, (points, 1)), np.tile(high, (points, 1))
    for name, index, value in (("start", 0, problem.start), ("end", -1, problem.end)):
        value = np.asarray(value, float)
        for i in np.flatnonzero((value < low[:n]) | (value > high[:n])):
            raise InvalidInput(
                f"the {name} has state {i} at {value[i]:g}; it must be in its bounds, {low[i]:g} "
                f"to {high[i]:g}"
            )
        is_fixed = ~np.isnan(value)
        lows[index, :n][is_fixed] = highs[index, :n][is_fixed] = value[is_fixed]
    return lows, highs
