"""Differential dynamic programming: the backward pass of iLQR, DDP and multiple shooting.

Around a trajectory of states x̂ and controls û the problem is expanded in δx = x - x̂, δu = u - û:

    δxₜ₊₁ ≈ Fₜ [δxₜ; δuₜ] + gapₜ,    costₜ ≈ const + ½ [δxₜ; δuₜ]ᵀ Cₜ [δxₜ; δuₜ] + [δxₜ; δuₜ]ᵀ cₜ

and solved as a linear-quadratic regulator: δu = K δx + k. The gap, dynamics(x̂ₜ, ûₜ) - x̂ₜ₊₁, is
zero where the trajectory obeys the dynamics. DDP includes the second derivatives of the dynamics
(Mayne, 1966), iLQR leaves them out (Li & Todorov, 2004), as Newton's method and Gauss-Newton do.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from etude.planning.protocol import Problem
from etude.planning.trajectory.lqr import Quadratic, gains, quadratic_q, value_of_policy
from etude.planning.trajectory.small_linalg import matmul
from etude.struct import replace, struct
from etude.types import Array

ControlBounds = tuple[Array, Array] | None  # the lowest and highest controls; None: unbounded


@struct
class Expansion:
    """Derivatives of a problem by z = [x; u] along a trajectory of T steps."""

    F: Array  # [T, n, n + m]: Jacobians of the dynamics
    F_zz: Array | None  # [T, n, n + m, n + m]: Hessians of the dynamics; None in iLQR
    c: Array  # [T, n + m]: gradients of the cost
    C: Array  # [T, n + m, n + m]: Hessians of the cost
    v: Array  # [n]: gradient of the final cost
    V: Array  # [n, n]: Hessian of the final cost


@struct
class AffinePolicy:
    """The policy δu = K δx + k, its predicted cost change and the gradient of the current cost."""

    K: Array  # [T, m, n]: feedback gains
    k: Array  # [T, m]: feedforward terms
    # []: predicted change of the cost under the full step, which closes all gaps
    cost_change: Array
    # bool, []: Q_uu is at every step; else K, k and cost_change are NaN
    is_positive_definite: Array
    gradient: Array  # [T, m]: of the trajectory's cost by its controls


def expand_problem(
    problem: Problem, states: Array, controls: Array, second_order: bool
) -> Expansion:
    """Differentiate the problem along states [T + 1, n] and controls [T, m]."""
    n = states.shape[1]
    z, times = jnp.hstack([states[:-1], controls]), jnp.arange(len(controls))

    def dynamics(z):
        return problem.dynamics(z[:n], z[n:])

    def cost(z, time):
        return problem.cost(z[:n], z[n:], time)

    return Expansion(
        F=jax.vmap(jax.jacfwd(dynamics))(z),
        F_zz=jax.vmap(jax.jacfwd(jax.jacfwd(dynamics)))(z) if second_order else None,
        c=jax.vmap(jax.grad(cost))(z, times),
        C=jax.vmap(jax.hessian(cost))(z, times),
        v=jax.grad(problem.final_cost)(states[-1]),
        V=jax.hessian(problem.final_cost)(states[-1]),
    )


def backward_pass(
    expansion: Expansion, gaps: Array, regularization: Array, bounds: ControlBounds
) -> AffinePolicy:
    """Solve the expansion with `regularization` ½ |δu|² added to each cost (Tassa et al., 2012).

    `gaps` are [T, n]. `bounds` of δu, both [T, m], apply where δx = 0; the feedback K of a control
    at its bound is zero.
    """
    m = expansion.F.shape[2] - expansion.F.shape[1]

    def step(carry, derivatives):
        next_value, costate = carry
        F, F_zz, C, c, gap, bounds = derivatives
        q_function = quadratic_q(F, gap, C, c, next_value)
        if F_zz is not None:
            costate_at_gap = next_value.vector + matmul(next_value.matrix, gap)
            q_function = replace(
                q_function, matrix=q_function.matrix + matmul(costate_at_gap, F_zz)
            )
        K, k, is_positive_definite = regularized_gains(q_function, m, regularization, bounds)
        gradient = c + matmul(F.T, costate)
        return (value_of_policy(q_function, K, k), gradient[:-m]), (
            K,
            k,
            gradient[-m:],
            is_positive_definite,
        )

    final_value = Quadratic(expansion.V, expansion.v, jnp.zeros_like(expansion.v, shape=()))
    steps = (expansion.F, expansion.F_zz, expansion.C, expansion.c, gaps, bounds)
    (value, _), (K, k, gradient, is_positive_definite) = jax.lax.scan(
        step, (final_value, expansion.v), steps, reverse=True
    )
    return AffinePolicy(K, k, value.constant, is_positive_definite.all(), gradient)


def regularized_gains(
    q_function: Quadratic, m: int, regularization: Array, bounds: ControlBounds
) -> tuple[Array, Array, Array]:
    """Return the `gains` of Q_uu + regularization I, within `bounds`: K [m, n], k [m].

    The third result says whether the regularized Q_uu is positive definite.
    """
    n = len(q_function.vector) - m
    identity = jnp.eye(m, dtype=q_function.vector.dtype)
    q_function = replace(
        q_function, matrix=q_function.matrix.at[n:, n:].add(regularization * identity)
    )
    return gains(q_function, n) if bounds is None else box_gains(q_function, n, *bounds)


class _ProjectedNewtonState(NamedTuple):
    """Carry of projected Newton."""

    k: Array  # [m]
    is_improving: Array  # bool, []
    iteration: Any  # int, []


def box_gains(q_function: Quadratic, n: int, low: Array, high: Array) -> tuple[Array, Array, Array]:
    """Return the `gains` with k in the box, by projected Newton (Tassa, Mansard & Todorov, 2014).

    A control is clamped where it is at a bound and the cost falls beyond it; it has no Newton step
    and no feedback (Bertsekas, 1982).
    """
    Q_uu, q_u = q_function.matrix[n:, n:], q_function.vector[n:]
    step_lengths = 0.5 ** jnp.arange(16, dtype=q_u.dtype)
    is_positive_definite = gains(q_function, n)[2]

    def free_gains(k):
        gradient = q_u + Q_uu @ k
        is_clamped = ((k <= low) & (gradient > 0)) | ((k >= high) & (gradient < 0))
        is_free = jnp.concatenate([jnp.ones(n, bool), ~is_clamped])
        vector = q_function.vector + q_function.matrix[:, n:] @ k
        matrix = jnp.where(
            is_free[:, None] & is_free, q_function.matrix, jnp.eye(len(is_free), dtype=k.dtype)
        )
        return gains(Quadratic(matrix, jnp.where(is_free, vector, 0), q_function.constant), n)

    def newton_iteration(state):
        k, _, i = state
        # [step length, m]
        candidates = jnp.clip(k + step_lengths[:, None] * free_gains(k)[1], low, high)
        best_k = candidates[((candidates @ Q_uu / 2 + q_u) * candidates).sum(1).argmin()]
        tolerance = 8 * jnp.finfo(k.dtype).eps
        is_improving = jnp.abs(best_k - k).max() > tolerance * jnp.abs(best_k).max()
        return _ProjectedNewtonState(best_k, is_improving, i + 1)

    initial_state = _ProjectedNewtonState(
        jnp.clip(jnp.zeros_like(q_u), low, high), is_positive_definite, 0
    )
    k = jax.lax.while_loop(
        lambda state: state.is_improving & (state.iteration < 50), newton_iteration, initial_state
    ).k
    K = free_gains(k)[0]
    return (
        jnp.where(is_positive_definite, K, jnp.nan),
        jnp.where(is_positive_definite, k, jnp.nan),
        is_positive_definite,
    )


def control_bounds(problem: Problem, controls: Array) -> ControlBounds:
    """Return the bounds of the problem, both [m], or None where all are known to be infinite."""
    bounds = problem.low, problem.high
    if not any(isinstance(bound, jax.core.Tracer) for bound in jax.tree.leaves(bounds)) and (
        np.all(np.asarray(problem.low) == -np.inf) and np.all(np.asarray(problem.high) == np.inf)
    ):
        return None
    low, high = (
        jnp.broadcast_to(jnp.asarray(bound, controls.dtype), controls.shape[1:]) for bound in bounds
    )
    return low, high


def projected_gradient(gradient: Array, controls: Array, bounds: ControlBounds) -> Array:
    """Return û − clip(û − gradient, bounds), [T, m], zero at a stationary point in the box."""
    return jnp.clip(gradient, controls - bounds[1], controls - bounds[0]) if bounds else gradient
