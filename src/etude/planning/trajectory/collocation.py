"""Direct collocation: the states are unknowns beside the controls, and the dynamics are
constraints.

    min Σₖ h Σⱼ bⱼ cost(xₖⱼ, uₖⱼ) + final_cost(x(T)),    xₖᵢ = xₖ₀ + h Σⱼ aᵢⱼ derivative(xₖⱼ, uₖⱼ)

Interval k of length h has two or three points at equal distances, its ends among them, which it
shares with its neighbors. aᵢⱼ and bⱼ integrate the polynomial through the points: with two that is
the trapezoid rule, with three Hermite–Simpson in its separated form (Hargraves & Paris, 1987;
Betts, "Practical methods for optimal control", 2010, chapter 4; Kelly, "An introduction to
trajectory optimization", 2017). Derivatives are JAX's, in float64, interval by interval: all
matrices are sparse. The solver is scipy's `trust-constr`, an interior point method with trust
regions (Byrd, Hribar & Nocedal, 1999).
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
STAGES = {"trapezoid": 2, "hermite_simpson": 3}  # points of an interval


def zero_cost(state: Array) -> Array:
    """A final cost of zero."""
    return jnp.zeros((), state.dtype)


def unconstrained(state: Array, control: Array) -> Array:
    """No inequality, [0]."""
    return jnp.zeros(0, state.dtype)


@struct
class ContinuousProblem:
    """min ∫ cost(x, u) dt + final_cost(x(T)) from 0 to T, where dx/dt = derivative(x, u).

    States are [n], controls [m]. An element of `start` or `end` that is NaN is free. A free
    duration is one more state that never changes, by which derivative and cost are multiplied.
    """

    duration: float  # T
    start: Any  # [n], or NaN
    end: Any  # [n], or NaN
    low: Any  # [m], of the controls; −inf where there is no bound
    high: Any  # [m], or inf
    derivative: Callable[[Array, Array], Array] = static()
    cost: Callable[[Array, Array], Array] = static()  # per unit of time
    state_low: Any = -np.inf  # a number or [n]
    state_high: Any = np.inf
    final_cost: Callable[[Array], Array] = static(zero_cost)
    inequality: Callable[[Array, Array], Array] = static(unconstrained)  # g(x, u) ≥ 0, [k]


@struct
class CollocationSolution:
    """A trajectory through the collocation points, equally spaced in time; float64."""

    times: np.ndarray  # [point]
    states: np.ndarray  # [point, n]
    controls: np.ndarray  # [point, m]
    slopes: np.ndarray  # dx/dt, [point, n]
    cost: float
    violation: float  # the most by which a constraint is violated
    iterations: int
    converged: bool  # else the solver ran out of iterations: feasible, but not the best
    stages: int = static()

    def at(self, times: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
        """States [..., n] and controls [..., m] at `times` [...] within the duration, as the method
        has them between its points.

        Controls are the polynomial through an interval's points, states the integral of that
        through the slopes.
        """
        nodes = self.times[:: self.stages - 1]
        length = nodes[1] - nodes[0]
        interval = np.clip(np.searchsorted(nodes, times, "right") - 1, 0, len(nodes) - 2)
        values, integrals = lagrange_basis(
            (np.asarray(times) - nodes[interval]) / length, self.stages
        )
        window = interval_indices(len(nodes) - 1, self.stages)[interval]
        states = self.states[window[..., 0]] + length * np.einsum(
            "...s,...sn->...n", integrals, self.slopes[window]
        )
        return states, np.einsum("...s,...sm->...m", values, self.controls[window])


def collocate(
    problem: ContinuousProblem,
    intervals: int,
    method: Method = "hermite_simpson",
    *,
    guess: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]] | None = None,
    tolerance: float = 1e-6,
    iterations: int = 500,
) -> CollocationSolution:
    """The best trajectory in so many intervals, near a first guess: a local minimum. Constraints
    hold at the points.

    `guess` takes times [point] to states [point, n] and controls [point, m], such as another
    solution's `at`; without one the states are on a straight line from start to end, and the
    controls zero. `tolerance` is that of the gradient of the Lagrangian, and of every constraint.

    Raises InvalidInput for shapes that do not fit together, for bounds that contradict each other,
    for a first guess whose cost or constraints are not finite, and when no trajectory was found
    that keeps to all constraints: which is broken worst, by how much and when.
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
            # where it is, the solver goes another way by itself
            warnings.filterwarnings("ignore", "Singular Jacobian")
            found = minimize(
                program.cost,
                program.first(guess),
                jac=program.gradient,
                hess=program.cost_curvature,
                method="trust-constr",
                bounds=Bounds(*program.bounds),
                constraints=NonlinearConstraint(
                    program.constraints, *program.allowed, program.jacobian, program.curvature
                ),
                options={
                    "maxiter": iterations,
                    "gtol": tolerance,
                    "xtol": 1e-10,
                    "initial_tr_radius": 100.0,
                },
            )  # of 1, the first steps are small and many
        return program.solution(found, tolerance)


# Points [point, n + m] hold a state and a control each; a window is the points of an interval,
# [stage, n + m].


def lagrange_basis(share: np.ndarray | float, stages: int) -> tuple[np.ndarray, np.ndarray]:
    """Lagrange's polynomials of equally spaced points in [0, 1] at `share` [...], and their
    integrals from 0, [..., stage]."""
    # [power, stage]
    coefficients = np.linalg.inv(np.vander(np.linspace(0, 1, stages), increasing=True))
    power = np.arange(stages)
    share = np.asarray(share)[..., None]
    return share**power @ coefficients, share ** (power + 1) / (power + 1) @ coefficients


def interval_indices(intervals: int, stages: int) -> np.ndarray:
    """The points of each interval, [interval, stage]."""
    return (stages - 1) * np.arange(intervals)[:, None] + np.arange(stages)


def defects(problem: ContinuousProblem, window: Array, length: float | Array) -> Array:
    """xᵢ − x₀ − h Σⱼ aᵢⱼ derivative(xⱼ, uⱼ) of the points but the first, [(stage − 1) n]."""
    states, controls = split_points(problem, window)
    weights = lagrange_basis(np.linspace(0, 1, len(window)), len(window))[1]  # aᵢⱼ
    return (
        states[1:]
        - states[0]
        - length * weights[1:] @ jax.vmap(problem.derivative)(states, controls)
    ).ravel()


def running_cost(problem: ContinuousProblem, window: Array, length: float | Array) -> Array:
    """h Σⱼ bⱼ cost(xⱼ, uⱼ)."""
    weights = jnp.asarray(lagrange_basis(1.0, len(window))[1])  # bⱼ
    return length * weights @ jax.vmap(problem.cost)(*split_points(problem, window))


def split_points(problem: ContinuousProblem, points: Any) -> tuple[Any, Any]:
    """States and controls, [..., n] and [..., m], of points [..., n + m]."""
    return points[..., : len(problem.start)], points[..., len(problem.start) :]


def total_cost(problem: ContinuousProblem, points: Array, window: Array) -> Array:
    """Of all points [point, n + m], by the `window` [interval, stage] of each interval."""
    length = problem.duration / len(window)
    running = jax.vmap(lambda one: running_cost(problem, one, length))(points[window]).sum()
    return running + problem.final_cost(split_points(problem, points[-1])[0])


@jax.jit
def cost_and_gradient(problem, points, window):
    """The cost, and its gradient [point, n + m]."""
    return jax.value_and_grad(total_cost, 1)(problem, points, window)


@jax.jit
def constraints_and_blocks(problem, points, window):
    """Defects [interval, (stage − 1) n] and inequalities [point, k], each with its derivative by
    its window or its point."""

    def both(function):
        return jax.vmap(lambda x: (function(x), jax.jacfwd(function)(x).reshape(-1, x.size)))

    length = problem.duration / len(window)
    gaps = both(lambda one: defects(problem, one, length))(points[window])
    return gaps, both(lambda point: problem.inequality(*split_points(problem, point)))(points)


@jax.jit
def curvature_blocks(problem, points, window, weight, on_defects, on_inequalities):
    """Second derivatives of weight × cost + multipliers × constraints, by each window's elements
    and by each point's."""
    length = problem.duration / len(window)

    def of_window(one, multipliers):
        one = one.reshape(window.shape[1], -1)
        return weight * running_cost(problem, one, length) + multipliers @ defects(
            problem, one, length
        )

    def of_point(point, multipliers, last):
        state, control = split_points(problem, point)
        return last * weight * problem.final_cost(state) + multipliers @ problem.inequality(
            state, control
        )

    last = jnp.arange(len(points)) == len(points) - 1
    return (
        jax.vmap(jax.hessian(of_window))(points[window].reshape(len(window), -1), on_defects),
        jax.vmap(jax.hessian(of_point))(points, on_inequalities, last),
    )


def assemble_sparse(
    blocks: Array, rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]
) -> csr_matrix:
    """The sparse matrix with `blocks` [block, i, j] at `rows` [block, i] and `columns` [block, j],
    added where they overlap."""
    at = [
        np.broadcast_to(index, blocks.shape).ravel()
        for index in (rows[:, :, None], columns[:, None])
    ]
    return csr_matrix((np.ravel(blocks), at), shape)


class NonlinearProgram:
    """The problem as the solver sees it: functions of those elements of the points that are not
    fixed."""

    def __init__(self, problem: ContinuousProblem, intervals: int, stages: int):
        self.problem, self.window = problem, interval_indices(intervals, stages)
        self.times = np.linspace(0, problem.duration, intervals * (stages - 1) + 1)
        low, high = variable_bounds(problem, len(self.times))
        self.low, self.high, self.free = low, high, low < high
        self.bounds = low[self.free], high[self.free]
        element = np.arange(low.size).reshape(low.shape)
        self.of_point, self.of_window = element, element[self.window].reshape(intervals, -1)
        (gaps, _), (inequalities, _) = self.evaluate(np.zeros(self.free.sum()))
        self.shapes = gaps.shape, inequalities.shape
        self.allowed = 0.0, np.r_[np.zeros(gaps.size), np.full(inequalities.size, np.inf)]

    def points(self, x):
        """[point, n + m] of the free elements [free]."""
        points = self.low.copy()
        points[self.free] = x
        return points

    def evaluate(self, x):
        return constraints_and_blocks(self.problem, self.points(x), self.window)

    def cost(self, x):
        return float(cost_and_gradient(self.problem, self.points(x), self.window)[0])

    def gradient(self, x):
        return np.asarray(cost_and_gradient(self.problem, self.points(x), self.window)[1])[
            self.free
        ]

    def constraints(self, x):
        (gaps, _), (inequalities, _) = self.evaluate(x)
        return np.r_[np.ravel(gaps), np.ravel(inequalities)]

    def jacobian(self, x):
        """Sparse, [constraint, free]."""
        parts = zip(self.evaluate(x), self.shapes, (self.of_window, self.of_point), strict=True)
        matrices = [
            assemble_sparse(
                blocks,
                np.arange(np.prod(shape)).reshape(shape),
                of,
                (np.prod(shape), self.low.size),
            )
            for (_, blocks), shape, of in parts
        ]
        return vstack(matrices, "csr")[:, self.free.ravel()]

    def cost_curvature(self, x):
        return self.second(x, 1.0, np.zeros(sum(map(np.prod, self.shapes))))

    def curvature(self, x, multipliers):
        return self.second(x, 0.0, multipliers)

    def second(self, x, weight, multipliers):
        """Sparse, [free, free]."""
        gaps, inequalities = self.shapes
        parts = (
            multipliers[: np.prod(gaps)].reshape(gaps),
            multipliers[np.prod(gaps) :].reshape(inequalities),
        )
        blocks = curvature_blocks(self.problem, self.points(x), self.window, weight, *parts)
        shape = self.low.size, self.low.size
        whole = sum(
            assemble_sparse(block, of, of, shape)
            for block, of in zip(blocks, (self.of_window, self.of_point), strict=True)
        )
        return whole[self.free.ravel()][:, self.free.ravel()]

    def first(self, guess):
        """The elements [free] to start from."""
        states, controls = guess(self.times) if guess else self.straight()
        first = np.clip(np.concatenate([states, controls], -1), self.low, self.high)[self.free]
        if not np.isfinite(self.cost(first) + np.sum(self.constraints(first))):
            raise InvalidInput(
                "the cost or a constraint of the first guess is not finite; give another guess"
            )
        return first

    def straight(self):
        """States on the line from start to end, a free element staying where the other end fixes
        it; controls of zero."""
        start, end = np.asarray(self.problem.start, float), np.asarray(self.problem.end, float)
        start, end = (
            np.nan_to_num(np.where(np.isnan(start), end, start)),
            np.nan_to_num(np.where(np.isnan(end), start, end)),
        )
        share = np.linspace(0, 1, len(self.times))[:, None]
        return start + share * (end - start), np.zeros((len(self.times), len(self.problem.low)))

    def solution(self, found, tolerance):
        """What the solver found; InvalidInput where that breaks a constraint by more than
        `tolerance`."""
        points = self.points(found.x)
        violation, name = self.worst(points)
        if not violation <= tolerance:
            raise InvalidInput(
                f"no trajectory keeps to all constraints after {found.nit} iterations: {name} by "
                f"{violation:.3g}; "
                "loosen the constraint, or give another duration, more intervals or a better guess"
            )
        states, controls = split_points(self.problem, points)
        slopes = np.asarray(jax.vmap(self.problem.derivative)(states, controls))
        return CollocationSolution(
            self.times,
            states,
            controls,
            slopes,
            float(found.fun),
            violation,
            int(found.nit),
            found.status in (1, 2),
            self.window.shape[1],
        )

    def worst(self, points):
        """The most by which a constraint is violated, and that constraint in words."""
        (gaps, _), (inequalities, _) = jax.tree.map(np.asarray, self.evaluate(points[self.free]))
        n = len(self.problem.start)
        gaps = np.abs(gaps).reshape(-1, n)  # [point after the first, n]
        outside = np.maximum(self.low - points, points - self.high)
        tables = (
            ("the dynamics miss state", gaps, self.times[1:]),
            ("out of bounds is state", outside[:, :n], self.times),
            ("out of bounds is control", outside[:, n:], self.times),
            ("broken is inequality", -inequalities, self.times),
        )
        worst = []
        for name, table, times in tables:
            if table.size:
                when, which = np.unravel_index(
                    np.nan_to_num(table, nan=np.inf).argmax(), table.shape
                )
                worst.append(
                    (float(table[when, which]), f"{name} {which} at time {times[when]:.3g}")
                )
        violation, name = max(worst)
        return max(violation, 0.0), name


def validate_problem(problem: ContinuousProblem) -> None:
    """Hold the problem's functions to the shapes of its start and its bounds; raises
    InvalidInput."""
    n, m = len(problem.start), len(problem.low)
    if (len(problem.end), len(problem.high)) != (n, m) or not problem.duration > 0:
        raise InvalidInput(
            f"start and end have {n} and {len(problem.end)} elements, low and high {m} and "
            f"{len(problem.high)}, "
            f"and the duration is {problem.duration}; each two must agree, and the duration be "
            "above 0"
        )
    x, u = jnp.zeros(n), jnp.zeros(m)
    for name, value, wanted in (
        ("derivative", jax.eval_shape(problem.derivative, x, u), (n,)),
        ("cost", jax.eval_shape(problem.cost, x, u), ()),
        ("final_cost", jax.eval_shape(problem.final_cost, x), ()),
    ):
        if value.shape != wanted:
            raise InvalidInput(
                f"{name} gives {list(value.shape)} for a state [{n}] and a control [{m}]; "
                f"it must give {list(wanted)}"
            )
    if jax.eval_shape(problem.inequality, x, u).ndim != 1:
        raise InvalidInput(
            "inequality gives a number or a matrix; it must give [k], one element for each "
            "constraint"
        )


def variable_bounds(problem: ContinuousProblem, points: int) -> tuple[np.ndarray, np.ndarray]:
    """The least and the most that each element of the points may be, [point, n + m]; equal where
    start and end fix it."""
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
    for name, where, value in (("start", 0, problem.start), ("end", -1, problem.end)):
        value = np.asarray(value, float)
        for i in np.flatnonzero((value < low[:n]) | (value > high[:n])):
            raise InvalidInput(
                f"the {name} has state {i} at {value[i]:g}; it must be in its bounds, {low[i]:g} "
                f"to {high[i]:g}"
            )
        given = ~np.isnan(value)
        lows[where, :n][given] = highs[where, :n][given] = value[given]
    return lows, highs
