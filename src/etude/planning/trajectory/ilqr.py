"""Iterative LQR and differential dynamic programming.

An iteration takes the dynamics to first order and the cost to second order around the path it has,
solves that by LQR, and follows the policy forward through the true dynamics, as far as lowers the
cost:

    uₜ = ûₜ + α kₜ + Kₜ (xₜ - x̂ₜ),    α = 1, ½, ¼, ...

`ilqr` is Gauss-Newton; with the curvature of the dynamics it is DDP, whose steps become those of
Newton's method near the solution. `newton_step` is Newton's itself, dense. `optimal_controls` is
the solution as a differentiable function.
"""

import enum
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from etude.errors import InvalidInput
from etude.planning.protocol import Problem
from etude.planning.trajectory.ddp import (
    AffinePolicy,
    ControlBounds,
    backward_pass,
    control_bounds,
    expand_problem,
    projected_gradient,
)
from etude.planning.trajectory.small_linalg import matmul
from etude.struct import struct
from etude.types import Array

ARMIJO = 1e-4  # share of the promised improvement that is asked for (Armijo, 1966)
MIN_ALPHA = 2.0**-11  # α
GROWTH = 2.0  # δ₀: how the growth of the regularization grows (Tassa et al., 2012)
MIN_REGULARIZATION, MAX_REGULARIZATION = 1e-6, 1e10  # regularization


class StopReason(enum.IntEnum):
    """Why a search ended."""

    GOING = 0  # it has not
    GRADIENT = 1  # is below the tolerance: converged
    PRECISION = 2  # what a step would gain is lost in rounding: converged
    ITERATIONS = 3  # ran out
    STUCK = 4  # no step lowers the cost, not the shortest and most regularized
    NOT_FINITE = 5  # the cost of the path it was to start from


@struct
class Trajectory:
    """States and controls, which obey the dynamics up to gaps: dynamics(xₜ, uₜ) = xₜ₊₁ + gapₜ."""

    states: Array  # [T + 1, n]
    controls: Array  # [T, m]
    gaps: Array  # [T, n]
    cost: Array  # []


@struct
class ILQRResult:
    """What a search found; `cost` [], `gradient_norm` [] and `gap` [] are of the path that it
    holds."""

    states: Array  # [T + 1, n]
    controls: Array  # [T, m]
    # [T, m, n]: feedback u = ûₜ + Kₜ (x - x̂ₜ), of the last model that had a minimum, or 0
    K: Array
    cost: Array
    # [iterations + 1]: before the first iteration and after each; when it ended, the last
    costs: Array
    gradient_norm: Array  # of the cost by the controls, where the box lets them go
    gap: Array  # the greatest by which the states miss the dynamics
    iterations: Array  # int32: how many were made
    reason: Array  # int32: a Reason

    @property
    def converged(self) -> Array:
        return (self.reason == StopReason.GRADIENT) | (self.reason == StopReason.PRECISION)


@struct
class ILQRState:
    """Where a search stands."""

    trajectory: Trajectory
    K: Array
    costs: Array
    gradient_norm: Array
    regularization: Array  # μ
    growth: Array  # δ: what μ was last multiplied by
    penalty: Array  # ν: what a unit of gap is taken to cost
    iterations: Array
    reason: Array


def ilqr(
    problem: Problem,
    state: Array,
    controls: Array,
    *,
    iterations: int = 100,
    tolerance: float | Array = 1e-4,
    second_order: bool = False,
) -> ILQRResult:
    """The path of least cost, locally, from `state` [n] and the first guess `controls` [T, m].

    `problem` is a pytree, as of `etude.struct`. It has converged when the norm of the gradient is
    at most `tolerance`. The cost never rises. `second_order` makes it DDP. Controls stay in the
    problem's box (Tassa, Mansard & Todorov, 2014).

    Raises InvalidInput for shapes that do not fit together, a box without inside, and a first guess
    whose cost is not finite; inside `jit` and `vmap`, where the last cannot be known, `reason` is
    NOT_FINITE and the plan is the guess.
    """
    state, controls = jnp.asarray(state), jnp.asarray(controls)
    check_shapes(problem, state, controls)
    plan = _ilqr(problem, state, controls, tolerance, iterations, second_order)
    require_finite(problem, plan)
    return plan


@partial(jax.jit, static_argnames=("iterations", "second_order"))
def _ilqr(problem, state, controls, tolerance, iterations, second_order):
    if box := control_bounds(problem, controls):
        controls = jnp.clip(controls, *box)
    states, costs = simulate_controls(problem, state, controls)
    path = Trajectory(states, controls, jnp.zeros_like(states[1:]), costs.sum())
    return optimize(problem, path, tolerance, iterations, second_order)


def simulate_controls(problem: Problem, state: Array, controls: Array) -> tuple[Array, Array]:
    """States [T + 1, n] and costs [T + 1], the final one last, of `controls` [T, m] from `state`
    [n]."""

    def step(x, at):
        u, time = at
        return problem.dynamics(x, u), (x, problem.cost(x, u, time))

    last, (states, costs) = jax.lax.scan(step, state, (controls, jnp.arange(len(controls))))
    return jnp.vstack([states, last]), jnp.append(costs, problem.final_cost(last))


def optimize(
    problem: Problem,
    path: Trajectory,
    tolerance: float | Array,
    iterations: int,
    second_order: bool,
) -> ILQRResult:
    """Improve the path until there is a reason to end."""
    box = control_bounds(problem, path.controls)
    finite = jnp.isfinite(path.cost) & jnp.isfinite(path.gaps).all()
    zero = jnp.zeros_like(path.cost)
    start = ILQRState(
        trajectory=path,
        K=jnp.zeros((*path.controls.shape, path.states.shape[1]), path.cost.dtype),
        costs=jnp.full(iterations + 1, path.cost),
        gradient_norm=jnp.full_like(path.cost, jnp.nan),
        regularization=zero,
        growth=zero + 1,
        penalty=zero,
        iterations=jnp.int32(0),
        reason=jnp.where(finite, StopReason.GOING, StopReason.NOT_FINITE).astype(jnp.int32),
    )

    def going(search):
        return search.reason == StopReason.GOING

    def step(search):
        return iterate(problem, search, box, tolerance, second_order)

    end = jax.lax.while_loop(going, step, start)
    costs = jnp.where(jnp.arange(iterations + 1) <= end.iterations, end.costs, end.trajectory.cost)
    return ILQRResult(
        end.trajectory.states,
        end.trajectory.controls,
        end.K,
        end.trajectory.cost,
        costs,
        end.gradient_norm,
        jnp.abs(end.trajectory.gaps).max(),
        end.iterations,
        end.reason,
    )


def iterate(
    problem: Problem,
    search: ILQRState,
    box: ControlBounds,
    tolerance: float | Array,
    second_order: bool,
) -> ILQRState:
    """Judge the path; unless that ends the search, step from it, or regularize more when that
    fails."""
    path, controls = search.trajectory, search.trajectory.controls
    model = expand_problem(problem, path.states, controls, second_order)
    policy = backward_pass(
        model, path.gaps, search.regularization, box and (box[0] - controls, box[1] - controls)
    )
    gradient_norm = jnp.linalg.norm(projected_gradient(policy.gradient, controls, box))
    gap = jnp.abs(path.gaps).sum()
    penalty = jnp.where(
        policy.is_positive_definite & (gap > 0),
        jnp.maximum(search.penalty, 2 * policy.cost_change / gap),
        search.penalty,
    )

    rounding = jnp.finfo(path.cost.dtype).eps * jnp.abs(path.cost)
    reason = jnp.select(
        [
            (gap == 0) & (gradient_norm <= tolerance),
            (gap == 0) & (search.regularization == 0) & (-policy.cost_change <= rounding),
            search.iterations == len(search.costs) - 1,
            search.regularization > MAX_REGULARIZATION,
        ],
        [StopReason.GRADIENT, StopReason.PRECISION, StopReason.ITERATIONS, StopReason.STUCK],
        StopReason.GOING,
    )
    going = reason == StopReason.GOING

    tried, lower = line_search(
        problem, path, policy, penalty, box, going & policy.is_positive_definite
    )
    path = jax.tree.map(lambda new, old: jnp.where(lower, new, old), tried, path)
    growth = jnp.where(
        lower, jnp.minimum(1, search.growth) / GROWTH, jnp.maximum(1, search.growth) * GROWTH
    )
    regularization = search.regularization * growth
    regularization = jnp.where(
        lower,
        jnp.where(regularization < MIN_REGULARIZATION, 0, regularization),
        jnp.maximum(MIN_REGULARIZATION, regularization),
    )
    made = search.iterations + going
    return ILQRState(
        path,
        jnp.where(policy.is_positive_definite, policy.K, search.K),
        search.costs.at[made].set(path.cost),
        gradient_norm,
        regularization,
        growth,
        penalty,
        made,
        reason.astype(jnp.int32),
    )


def line_search(
    problem: Problem,
    path: Trajectory,
    policy: AffinePolicy,
    penalty: Array,
    box: ControlBounds,
    go: Array,
) -> tuple[Trajectory, Array]:
    """The path of the longest α = 1, ½, ¼, ... that lowers cost + penalty |gaps|₁, and whether any
    does.

    Lowers it, that is, by a share of what the model promises (Armijo, 1966). Without `go` none is
    tried.
    """

    def merit(path):
        return path.cost + penalty * jnp.abs(path.gaps).sum()

    before = merit(path)
    promised = policy.cost_change - penalty * jnp.abs(path.gaps).sum()

    def halve(carry):
        alpha, _, _ = carry
        alpha = alpha / 2
        tried = forward_pass(problem, path, policy, alpha, box)
        return (
            alpha,
            tried,
            jnp.isfinite(tried.cost) & (merit(tried) <= before + ARMIJO * alpha * promised),
        )

    start = (jnp.full_like(path.cost, 2), path, ~go)
    _, tried, lower = jax.lax.while_loop(
        lambda carry: ~carry[2] & (carry[0] > MIN_ALPHA), halve, start
    )
    return tried, lower & go


def forward_pass(
    problem: Problem, path: Trajectory, policy: AffinePolicy, alpha: Array, box: ControlBounds
) -> Trajectory:
    """Where the policy leads from the first state when its k are scaled by α; that share of every
    gap closes.

        xₜ₊₁ = dynamics(xₜ, uₜ) - (1 - α) gapₜ       (Giftthaler et al., 2018; Mastalli et al.,
        2020)
    """
    gaps = (1 - alpha) * path.gaps

    def step(x, at):
        planned, u, K, k, gap, time = at
        u = u + alpha * k + matmul(K, x - planned)
        u = jnp.clip(u, *box) if box else u
        return problem.dynamics(x, u) - gap, (x, u, problem.cost(x, u, time))

    steps = (
        path.states[:-1],
        path.controls,
        policy.K,
        policy.k,
        gaps,
        jnp.arange(len(path.controls)),
    )
    last, (states, controls, costs) = jax.lax.scan(step, path.states[0], steps)
    return Trajectory(
        jnp.vstack([states, last]), controls, gaps, costs.sum() + problem.final_cost(last)
    )


def newton_step(problem: Problem, state: Array, controls: Array) -> Array:
    """The step [T, m] of Newton's method from `controls`, box aside: -H⁻¹ g of the cost as a
    function of all controls.

    Dense in T m, and a descent only where H is positive definite.
    """

    def cost(flat):
        return simulate_controls(problem, state, flat.reshape(controls.shape))[1].sum()

    flat = controls.ravel()
    return -jnp.linalg.solve(jax.hessian(cost)(flat), jax.grad(cost)(flat)).reshape(controls.shape)


def optimal_controls(problem: Problem, state: Array, controls: Array, **settings: Any) -> Array:
    """The controls [T, m] of `ilqr`, differentiable in the problem and the state by the implicit
    function theorem.

        g(u*, θ) = 0   so   du*/dθ = -(∂g/∂u)⁻¹ ∂g/∂θ,    g the projected gradient of the cost

    A control that is held at a bound moves with it. A derivative, forward or backward, costs a
    dense solve in T m, whatever the number of iterations, and is right as far as the search
    converged. Settings and errors are those of `ilqr`.
    """

    def stationary(u):
        gradient = jax.grad(lambda u: simulate_controls(problem, state, u)[1].sum())(u)
        return projected_gradient(gradient, u, control_bounds(problem, u))

    def dense(linear, y):
        jacobian = jax.jacobian(linear)(y).reshape(y.size, y.size)
        return jnp.linalg.solve(jacobian, y.ravel()).reshape(y.shape)

    return jax.lax.custom_root(
        stationary, controls, lambda _, u: ilqr(problem, state, u, **settings).controls, dense
    )


def check_shapes(problem: Problem, state: Array, controls: Array) -> None:
    """Hold the problem's functions to the shapes and types of `state` and `controls`; raises
    InvalidInput."""
    if state.ndim != 1 or controls.ndim != 2 or not controls.size:
        raise InvalidInput(
            f"the state is {list(state.shape)} and the controls are {list(controls.shape)}; "
            f"they must be [n] and [T, m]"
        )
    time = jax.ShapeDtypeStruct((), jnp.int32)
    u = jax.ShapeDtypeStruct(controls.shape[1:], controls.dtype)
    for name, given, wanted in (
        ("dynamics", jax.eval_shape(problem.dynamics, state, u), state),
        ("cost", jax.eval_shape(problem.cost, state, u, time), state[0]),
        ("final_cost", jax.eval_shape(problem.final_cost, state), state[0]),
    ):
        if (given.shape, given.dtype) != (wanted.shape, wanted.dtype):
            raise InvalidInput(
                f"{name} gives {given.dtype} {list(given.shape)} for a state {state.dtype} "
                f"{list(state.shape)} "
                f"and a control {u.dtype} {list(u.shape)}; it must give {wanted.dtype} "
                f"{list(wanted.shape)}"
            )
    box = control_bounds(problem, controls)
    if box and not isinstance(box[0], jax.core.Tracer) and not (box[0] <= box[1]).all():
        raise InvalidInput(f"the lowest control {problem.low} is above the highest {problem.high}")


def require_finite(problem: Problem, plan: ILQRResult) -> None:
    """Raises InvalidInput when the search could not start, and says where its path left the finite
    numbers."""
    if isinstance(plan.reason, jax.core.Tracer) or plan.reason != StopReason.NOT_FINITE:
        return
    before, last = plan.states[:-1], plan.states[-1]
    costs = jnp.append(
        jax.vmap(problem.cost)(before, plan.controls, jnp.arange(len(before))),
        problem.final_cost(last),
    )
    after = jnp.vstack([jax.vmap(problem.dynamics)(before, plan.controls), last])
    step = int(jnp.argmin(jnp.isfinite(costs) & jnp.isfinite(after).all(1)))
    raise InvalidInput(
        f"the first guess is not finite at step {step}: its cost is {costs[step]} and the state "
        "after it "
        f"{after[step]}; guess controls under which the states stay finite, or guess the states "
        "too and "
        f"use multiple shooting"
    )
