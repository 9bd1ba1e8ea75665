"""Differential dynamic programming: the backward pass of iLQR, DDP and multiple shooting.

Around a path of states x̂ and controls û the problem is nearly linear and quadratic, in δx = x - x̂
and δu = u - û:

    δxₜ₊₁ ≈ Fₜ [δxₜ; δuₜ] + gapₜ,    costₜ ≈ const + ½ [δxₜ; δuₜ]ᵀ Cₜ [δxₜ; δuₜ] + [δxₜ; δuₜ]ᵀ cₜ

so it is solved as a regulator is: δu = K δx + k. The gap, dynamics(x̂ₜ, ûₜ) - x̂ₜ₊₁, is zero where
the path obeys the dynamics. The curvature of the dynamics is what DDP has (Mayne, 1966) and iLQR
leaves out (Li & Todorov, 2004), as Newton's method and Gauss-Newton differ.
"""

import jax
import jax.numpy as jnp
import numpy as np

from etude.planning.protocol import Problem
from etude.planning.trajectory.lqr import Quadratic, gains, quadratic_q, value_of_gains
from etude.planning.trajectory.small_linalg import matmul
from etude.struct import replace, struct
from etude.types import Array

# the lowest and the highest controls; None where nothing bounds any
ControlBounds = tuple[Array, Array] | None


@struct
class Expansion:
    """Derivatives of a problem along a path of T steps, by z = [x; u]."""

    F: Array  # [T, n, n + m]: of the dynamics
    curvature: Array | None  # [T, n, n + m, n + m]: second, of the dynamics; None in iLQR
    c: Array  # [T, n + m]: of the cost
    C: Array  # [T, n + m, n + m]: second, of the cost
    v: Array  # [n]: of the final cost
    V: Array  # [n, n]: second, of the final cost


@struct
class AffinePolicy:
    """δu = K δx + k, what is to be had of it, and how good the path was that it would improve."""

    K: Array  # [T, m, n]
    k: Array  # [T, m]
    # []: of the cost, as the model has it, when the policy is followed and all gaps close
    cost_change: Array
    # bool, []: every step had a minimum; K, k and change are NaN where not
    is_positive_definite: Array
    gradient: Array  # [T, m]: of the path's cost by its controls


def expand_problem(
    problem: Problem, states: Array, controls: Array, second_order: bool
) -> Expansion:
    """The derivatives along states [T + 1, n] and controls [T, m]."""
    n = states.shape[1]
    z, times = jnp.hstack([states[:-1], controls]), jnp.arange(len(controls))

    def dynamics(z):
        return problem.dynamics(z[:n], z[n:])

    def cost(z, time):
        return problem.cost(z[:n], z[n:], time)

    return Expansion(
        F=jax.vmap(jax.jacfwd(dynamics))(z),
        curvature=jax.vmap(jax.jacfwd(jax.jacfwd(dynamics)))(z) if second_order else None,
        c=jax.vmap(jax.grad(cost))(z, times),
        C=jax.vmap(jax.hessian(cost))(z, times),
        v=jax.grad(problem.final_cost)(states[-1]),
        V=jax.hessian(problem.final_cost)(states[-1]),
    )


def backward_pass(
    model: Expansion, gaps: Array, regularization: Array, bounds: ControlBounds
) -> AffinePolicy:
    """The best steps of the model, if `regularization` ½ |δu|² were added to each cost (Tassa, Erez
    & Todorov, 2012).

    `gaps` are [T, n]. `bounds` of δu, both [T, m], hold δu where δx = 0; feedback K is zero for a
    control at its bound.
    """
    m = model.F.shape[2] - model.F.shape[1]

    def step(later, at):
        value, costate = later
        F, curvature, C, c, gap, bounds = at
        now = quadratic_q(F, gap, C, c, value)
        if curvature is not None:
            now = replace(
                now, matrix=now.matrix + matmul(value.vector + matmul(value.matrix, gap), curvature)
            )
        K, k, definite = regularized_gains(now, m, regularization, bounds)
        gradient = c + matmul(F.T, costate)
        return (value_of_gains(now, K, k), gradient[:-m]), (K, k, gradient[-m:], definite)

    end = Quadratic(model.V, model.v, jnp.zeros_like(model.v, shape=())), model.v
    steps = (model.F, model.curvature, model.C, model.c, gaps, bounds)
    (value, _), (K, k, gradient, definite) = jax.lax.scan(step, end, steps, reverse=True)
    return AffinePolicy(K, k, value.constant, definite.all(), gradient)


def regularized_gains(
    now: Quadratic, m: int, regularization: Array, bounds: ControlBounds
) -> tuple[Array, Array, Array]:
    """The `gains` of Q_uu + regularization I, in the box when there is one: K [m, n], k [m], and
    whether there is a minimum."""
    n = len(now.vector) - m
    now = replace(
        now, matrix=now.matrix.at[n:, n:].add(regularization * jnp.eye(m, dtype=now.vector.dtype))
    )
    return gains(now, n) if bounds is None else box_gains(now, n, *bounds)


def box_gains(now: Quadratic, n: int, low: Array, high: Array) -> tuple[Array, Array, Array]:
    """The `gains` with k in the box, by projected Newton (Bertsekas, 1982; Tassa, Mansard &
    Todorov, 2014).

    A control that is held, at a bound with the cost falling beyond it, is left out of the Newton
    step and has no feedback.
    """
    Q_uu, q_u = now.matrix[n:, n:], now.vector[n:]
    halves = 0.5 ** jnp.arange(16, dtype=q_u.dtype)
    definite = gains(now, n)[2]

    def of_the_free(k):
        slope = q_u + Q_uu @ k
        held = ((k <= low) & (slope > 0)) | ((k >= high) & (slope < 0))
        kept = jnp.concatenate([jnp.ones(n, bool), ~held])
        vector = now.vector + now.matrix[:, n:] @ k
        matrix = jnp.where(kept[:, None] & kept, now.matrix, jnp.eye(len(kept), dtype=k.dtype))
        return gains(Quadratic(matrix, jnp.where(kept, vector, 0), now.constant), n)

    def improve(carry):
        k, _, i = carry
        tried = jnp.clip(k + halves[:, None] * of_the_free(k)[1], low, high)  # [try, m]
        best = tried[((tried @ Q_uu / 2 + q_u) * tried).sum(1).argmin()]
        moved = jnp.abs(best - k).max() > 8 * jnp.finfo(k.dtype).eps * jnp.abs(best).max()
        return best, moved, i + 1

    start = (jnp.clip(jnp.zeros_like(q_u), low, high), definite, 0)
    k = jax.lax.while_loop(lambda carry: carry[1] & (carry[2] < 50), improve, start)[0]
    K = of_the_free(k)[0]
    return jnp.where(definite, K, jnp.nan), jnp.where(definite, k, jnp.nan), definite


def control_bounds(problem: Problem, controls: Array) -> ControlBounds:
    """The bounds of the problem, both [m], unless they are known to be infinite."""
    bounds = problem.low, problem.high
    if not any(isinstance(bound, jax.core.Tracer) for bound in jax.tree.leaves(bounds)) and (
        np.all(np.asarray(problem.low) == -np.inf) and np.all(np.asarray(problem.high) == np.inf)
    ):
        return None
    low, high = (
        jnp.broadcast_to(jnp.asarray(bound, controls.dtype), controls.shape[1:]) for bound in bounds
    )
    return low, high


def projected_gradient(gradient: Array, controls: Array, box: ControlBounds) -> Array:
    """û less û - gradient clipped to the box, [T, m]: zero just where the controls are stationary
    in it."""
    return jnp.clip(gradient, controls - box[1], controls - box[0]) if box else gradient
