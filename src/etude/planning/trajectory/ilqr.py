"""Iterative LQR and differential dynamic programming.

An iteration expands the dynamics to first order and the cost to second order around the current
trajectory, solves the expansion by LQR (`backward_pass`), and simulates the policy on the true
dynamics (`forward_pass`) with the longest step α that lowers the cost (`line_search`):

    uₜ = ûₜ + α kₜ + Kₜ (xₜ - x̂ₜ),    α = 1, ½, ¼, ...

`ilqr` is a Gauss-Newton method. With the second derivatives of the dynamics it is DDP, whose steps
approach Newton's near the solution. `newton_step` is the dense Newton step. `optimal_controls` is
the solution as a differentiable function.
"""

import enum
from functools import partial
from typing import Any, NamedTuple

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

ARMIJO = 1e-4  # fraction of the expected improvement that a step must reach (Armijo, 1966)
MIN_ALPHA = 2.0**-11  # shortest step length α
GROWTH = 2.0  # δ₀: factor by which the growth of the regularization grows (Tassa et al., 2012)
MIN_REGULARIZATION, MAX_REGULARIZATION = 1e-6, 1e10  # bounds of μ where it is not 0


class StopReason(enum.IntEnum):
    """Why the optimization stopped."""

    RUNNING = 0  # it has not stopped
    GRADIENT = 1  # converged: the gradient norm is at most the tolerance
    PRECISION = 2  # converged: the expected improvement is below rounding
    ITERATIONS = 3  # the maximum number of iterations is reached
    STUCK = 4  # no step lowers the cost, even at the maximum regularization
    NOT_FINITE = 5  # the cost of the initial trajectory is not finite


@struct
class Trajectory:
    """States and controls that obey the dynamics up to gaps: dynamics(xₜ, uₜ) = xₜ₊₁ + gapₜ."""

    states: Array  # [T + 1, n]
    controls: Array  # [T, m]
    gaps: Array  # [T, n]
    cost: Array  # []


@struct
class ILQRResult:
    """The optimized trajectory, its feedback gains and how the optimization went."""

    states: Array  # [T + 1, n]
    controls: Array  # [T, m]
    # [T, m, n]: feedback u = ûₜ + Kₜ (x - x̂ₜ) of the last positive definite backward pass, or 0
    K: Array
    cost: Array  # []
    # [iterations + 1]: before the first iteration and after each; constant after the last one
    costs: Array
    controls_history: Array  # [iterations + 1, T, m]: those of `costs`
    gradient_norm: Array  # []: of the projected gradient of the cost by the controls
    gap: Array  # []: the largest gap between the states and the dynamics
    iterations: Array  # int32, []: number of iterations
    reason: Array  # int32, []: a StopReason

    @property
    def converged(self) -> Array:
        """Whether the trajectory is a local minimum to within the tolerance or rounding."""
        return (self.reason == StopReason.GRADIENT) | (self.reason == StopReason.PRECISION)


@struct
class ILQRState:
    """State of the optimization; fields without a comment are those of `ILQRResult`."""

    trajectory: Trajectory
    K: Array
    costs: Array
    controls_history: Array
    gradient_norm: Array
    regularization: Array  # μ
    growth: Array  # δ: the last factor of μ
    penalty: Array  # ν: weight of the gaps in the merit function
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
    """Minimize the cost locally from `state` [n] and the initial guess `controls` [T, m].

    `problem` is a pytree, such as an `etude.struct`. The optimization converges when the norm of
    the projected gradient is at most `tolerance`. The cost never rises. `second_order` selects DDP.
    Controls stay in the problem's bounds (Tassa, Mansard & Todorov, 2014).

    Raises InvalidInput for shapes that do not fit together, for a lower bound above the upper one,
    and for an initial guess whose cost is not finite. Inside `jit` and `vmap`, which cannot raise
    for the cost, `reason` is then NOT_FINITE and the trajectory is the initial guess.
    """
    state, controls = jnp.asarray(state), jnp.asarray(controls)
    check_shapes(problem, state, controls)
    result = _ilqr(problem, state, controls, tolerance, iterations, second_order)
    require_finite(problem, result)
    return result


@partial(jax.jit, static_argnames=("iterations", "second_order"))
def _ilqr(problem, state, controls, tolerance, iterations, second_order):
    if bounds := control_bounds(problem, controls):
        controls = jnp.clip(controls, *bounds)
    states, costs = simulate_controls(problem, state, controls)
    trajectory = Trajectory(states, controls, jnp.zeros_like(states[1:]), costs.sum())
    return optimize(problem, trajectory, tolerance, iterations, second_order)


def simulate_controls(problem: Problem, state: Array, controls: Array) -> tuple[Array, Array]:
    """Simulate `controls` [T, m] from `state` [n]: states [T + 1, n] and costs [T + 1].

    The last cost is the final cost.
    """

    def step(x, control_and_time):
        u, time = control_and_time
        return problem.dynamics(x, u), (x, problem.cost(x, u, time))

    final_state, (states, costs) = jax.lax.scan(step, state, (controls, jnp.arange(len(controls))))
    return jnp.vstack([states, final_state]), jnp.append(costs, problem.final_cost(final_state))


def optimize(
    problem: Problem,
    trajectory: Trajectory,
    tolerance: float | Array,
    iterations: int,
    second_order: bool,
) -> ILQRResult:
    """Iterate from `trajectory` until there is a reason to stop."""
    bounds = control_bounds(problem, trajectory.controls)
    is_finite = jnp.isfinite(trajectory.cost) & jnp.isfinite(trajectory.gaps).all()
    zero = jnp.zeros_like(trajectory.cost)
    initial_state = ILQRState(
        trajectory=trajectory,
        K=jnp.zeros(
            (*trajectory.controls.shape, trajectory.states.shape[1]), trajectory.cost.dtype
        ),
        costs=jnp.full(iterations + 1, trajectory.cost),
        controls_history=jnp.tile(trajectory.controls, (iterations + 1, 1, 1)),
        gradient_norm=jnp.full_like(trajectory.cost, jnp.nan),
        regularization=zero,
        growth=zero + 1,
        penalty=zero,
        iterations=jnp.int32(0),
        reason=jnp.where(is_finite, StopReason.RUNNING, StopReason.NOT_FINITE).astype(jnp.int32),
    )

    def is_running(state):
        return state.reason == StopReason.RUNNING

    def step(state):
        return iterate(problem, state, bounds, tolerance, second_order)

    final = jax.lax.while_loop(is_running, step, initial_state)
    is_run = jnp.arange(iterations + 1) <= final.iterations
    costs = jnp.where(is_run, final.costs, final.trajectory.cost)
    controls_history = jnp.where(
        is_run[:, None, None], final.controls_history, final.trajectory.controls
    )
    return ILQRResult(
        final.trajectory.states,
        final.trajectory.controls,
        final.K,
        final.trajectory.cost,
        costs,
        controls_history,
        final.gradient_norm,
        jnp.abs(final.trajectory.gaps).max(),
        final.iterations,
        final.reason,
    )


def iterate(
    problem: Problem,
    state: ILQRState,
    bounds: ControlBounds,
    tolerance: float | Array,
    second_order: bool,
) -> ILQRState:
    """Run one iteration: expand, solve backward, test for convergence, search along the step.

    The regularization rises where no step lowers the cost, and falls where one does.
    """
    trajectory, controls = state.trajectory, state.trajectory.controls
    expansion = expand_problem(problem, trajectory.states, controls, second_order)
    policy = backward_pass(
        expansion,
        trajectory.gaps,
        state.regularization,
        bounds and (bounds[0] - controls, bounds[1] - controls),
    )
    gradient_norm = jnp.linalg.norm(projected_gradient(policy.gradient, controls, bounds))
    gap = jnp.abs(trajectory.gaps).sum()
    penalty = jnp.where(
        policy.is_positive_definite & (gap > 0),
        jnp.maximum(state.penalty, 2 * policy.cost_change / gap),
        state.penalty,
    )

    rounding = jnp.finfo(trajectory.cost.dtype).eps * jnp.abs(trajectory.cost)
    reason = jnp.select(
        [
            (gap == 0) & (gradient_norm <= tolerance),
            (gap == 0) & (state.regularization == 0) & (-policy.cost_change <= rounding),
            state.iterations == len(state.costs) - 1,
            state.regularization > MAX_REGULARIZATION,
        ],
        [StopReason.GRADIENT, StopReason.PRECISION, StopReason.ITERATIONS, StopReason.STUCK],
        StopReason.RUNNING,
    )
    is_running = reason == StopReason.RUNNING

    candidate, accepted = line_search(
        problem, trajectory, policy, penalty, bounds, is_running & policy.is_positive_definite
    )
    trajectory = jax.tree.map(lambda new, old: jnp.where(accepted, new, old), candidate, trajectory)
    growth = jnp.where(
        accepted, jnp.minimum(1, state.growth) / GROWTH, jnp.maximum(1, state.growth) * GROWTH
    )
    regularization = state.regularization * growth
    regularization = jnp.where(
        accepted,
        jnp.where(regularization < MIN_REGULARIZATION, 0, regularization),
        jnp.maximum(MIN_REGULARIZATION, regularization),
    )
    iterations = state.iterations + is_running
    return ILQRState(
        trajectory,
        jnp.where(policy.is_positive_definite, policy.K, state.K),
        state.costs.at[iterations].set(trajectory.cost),
        state.controls_history.at[iterations].set(trajectory.controls),
        gradient_norm,
        regularization,
        growth,
        penalty,
        iterations,
        reason.astype(jnp.int32),
    )


class _LineSearchState(NamedTuple):
    """Carry of the line search."""

    alpha: Array  # []: step length
    candidate: Trajectory  # of the step
    accepted: Array  # bool, []: the search is over


def line_search(
    problem: Problem,
    trajectory: Trajectory,
    policy: AffinePolicy,
    penalty: Array,
    bounds: ControlBounds,
    enabled: Array,
) -> tuple[Trajectory, Array]:
    """Backtrack along α = 1, ½, ¼, ... until the merit cost + penalty |gaps|₁ falls enough.

    Enough is a fraction of the expected improvement (Armijo, 1966). Returns the trajectory and
    whether a step was accepted. Where `enabled` is False no step is evaluated.
    """

    def merit(trajectory):
        return trajectory.cost + penalty * jnp.abs(trajectory.gaps).sum()

    current_merit = merit(trajectory)
    expected_improvement = policy.cost_change - penalty * jnp.abs(trajectory.gaps).sum()

    def backtrack(state):
        alpha, _, _ = state
        alpha = alpha / 2
        candidate = forward_pass(problem, trajectory, policy, alpha, bounds)
        return _LineSearchState(
            alpha,
            candidate,
            jnp.isfinite(candidate.cost)
            & (merit(candidate) <= current_merit + ARMIJO * alpha * expected_improvement),
        )

    initial_state = _LineSearchState(jnp.full_like(trajectory.cost, 2), trajectory, ~enabled)
    _, candidate, accepted = jax.lax.while_loop(
        lambda state: ~state.accepted & (state.alpha > MIN_ALPHA), backtrack, initial_state
    )
    return candidate, accepted & enabled


def forward_pass(
    problem: Problem,
    trajectory: Trajectory,
    policy: AffinePolicy,
    alpha: Array,
    bounds: ControlBounds,
) -> Trajectory:
    """Simulate the policy with k scaled by α, which closes the fraction α of every gap.

        xₜ₊₁ = dynamics(xₜ, uₜ) - (1 - α) gapₜ

    (Giftthaler et al., 2018; Mastalli et al., 2020).
    """
    gaps = (1 - alpha) * trajectory.gaps

    def step(x, inputs):
        nominal_x, u, K, k, gap, time = inputs
        u = u + alpha * k + matmul(K, x - nominal_x)
        u = jnp.clip(u, *bounds) if bounds else u
        return problem.dynamics(x, u) - gap, (x, u, problem.cost(x, u, time))

    steps = (
        trajectory.states[:-1],
        trajectory.controls,
        policy.K,
        policy.k,
        gaps,
        jnp.arange(len(trajectory.controls)),
    )
    final_state, (states, controls, costs) = jax.lax.scan(step, trajectory.states[0], steps)
    return Trajectory(
        jnp.vstack([states, final_state]),
        controls,
        gaps,
        costs.sum() + problem.final_cost(final_state),
    )


def newton_step(problem: Problem, state: Array, controls: Array) -> Array:
    """Return the dense Newton step -H⁻¹ g [T, m] of the cost by all controls, without bounds.

    It is a descent direction only where H, [T m, T m], is positive definite.
    """

    def cost(flat):
        return simulate_controls(problem, state, flat.reshape(controls.shape))[1].sum()

    flat = controls.ravel()
    return -jnp.linalg.solve(jax.hessian(cost)(flat), jax.grad(cost)(flat)).reshape(controls.shape)


def optimal_controls(problem: Problem, state: Array, controls: Array, **settings: Any) -> Array:
    """Return the controls [T, m] of `ilqr`, differentiable by the implicit function theorem.

        g(u*, θ) = 0   so   du*/dθ = -(∂g/∂u)⁻¹ ∂g/∂θ,    g the projected gradient of the cost

    θ is the problem and the state. A control at a bound moves with the bound. A derivative, forward
    or reverse, costs a dense solve of size T m for any number of iterations, and is as accurate as
    the solution has converged. Settings and errors are those of `ilqr`.
    """

    def stationarity(u):
        gradient = jax.grad(lambda u: simulate_controls(problem, state, u)[1].sum())(u)
        return projected_gradient(gradient, u, control_bounds(problem, u))

    def dense_solve(linear, y):
        jacobian = jax.jacobian(linear)(y).reshape(y.size, y.size)
        return jnp.linalg.solve(jacobian, y.ravel()).reshape(y.shape)

    return jax.lax.custom_root(
        stationarity,
        controls,
        lambda _, u: ilqr(problem, state, u, **settings).controls,
        dense_solve,
    )


def check_shapes(problem: Problem, state: Array, controls: Array) -> None:
    """Raise InvalidInput unless the problem's functions fit the shapes of state and controls."""
    if state.ndim != 1 or controls.ndim != 2 or not controls.size:
        raise InvalidInput(
            f"the state is {list(state.shape)} and the controls are {list(controls.shape)}; "
            f"they must be [n] and [T, m]"
        )
    time = jax.ShapeDtypeStruct((), jnp.int32)
    u = jax.ShapeDtypeStruct(controls.shape[1:], controls.dtype)
    for name, output, expected in (
        ("dynamics", jax.eval_shape(problem.dynamics, state, u), state),
        ("cost", jax.eval_shape(problem.cost, state, u, time), state[0]),
        ("final_cost", jax.eval_shape(problem.final_cost, state), state[0]),
    ):
        if (output.shape, output.dtype) != (expected.shape, expected.dtype):
            raise InvalidInput(
                f"{name} gives {output.dtype} {list(output.shape)} for a state {state.dtype} "
                f"{list(state.shape)} and a control {u.dtype} {list(u.shape)}; it must give "
                f"{expected.dtype} {list(expected.shape)}"
            )
    bounds = control_bounds(problem, controls)
    if bounds and not isinstance(bounds[0], jax.core.Tracer) and not (bounds[0] <= bounds[1]).all():
        raise InvalidInput(f"the lowest control {problem.low} is above the highest {problem.high}")


def require_finite(problem: Problem, result: ILQRResult) -> None:
    """Raise InvalidInput, naming the first step that is not finite, if the guess was not finite."""
    if isinstance(result.reason, jax.core.Tracer) or result.reason != StopReason.NOT_FINITE:
        return
    states, final_state = result.states[:-1], result.states[-1]
    costs = jnp.append(
        jax.vmap(problem.cost)(states, result.controls, jnp.arange(len(states))),
        problem.final_cost(final_state),
    )
    next_states = jnp.vstack([jax.vmap(problem.dynamics)(states, result.controls), final_state])
    step = int(jnp.argmin(jnp.isfinite(costs) & jnp.isfinite(next_states).all(1)))
    raise InvalidInput(
        f"the first guess is not finite at step {step}: its cost is {costs[step]} and the state "
        f"after it {next_states[step]}; guess controls under which the states stay finite, or "
        "guess the states too and use multiple shooting"
    )
