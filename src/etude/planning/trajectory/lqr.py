"""The linear-quadratic regulator.

    xₜ₊₁ = Fₜ [xₜ; uₜ] + fₜ + noise,    costₜ = ½ [xₜ; uₜ]ᵀ Cₜ [xₜ; uₜ] + [xₜ; uₜ]ᵀ cₜ

States are [n], controls [m]. One backward recursion finds the value function and the best policy u
= K x + k, exactly:

    Q, q       what a state and a control are worth:   `action_value`
    K, k       the control that minimizes it:          `gains`
    V, v       what the state is worth then:           `value_under`

Noise of mean zero changes the value by a constant and the policy not at all.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from etude.errors import InvalidInput
from etude.planning.trajectory.small_linalg import matmul, solve_spd
from etude.struct import struct
from etude.types import Array


@struct
class Quadratic:
    """The function ½ zᵀ matrix z + zᵀ vector + constant."""

    matrix: Array  # [z, z], symmetric
    vector: Array  # [z]
    constant: Array  # []

    def __call__(self, z: Array) -> Array:
        return z @ self.matrix @ z / 2 + z @ self.vector + self.constant


@struct
class LinearQuadratic:
    """Linear dynamics and quadratic costs of T steps, as the notes write them; what is left out is
    zero."""

    F: Array  # [T, n, n + m]
    C: Array  # [T, n + m, n + m]; of each only the symmetric part costs anything
    f: Any = None  # [T, n]
    c: Any = None  # [T, n + m]
    V: Any = None  # [n, n]: the last state costs ½ xᵀ V x + xᵀ v
    v: Any = None  # [n]
    noise: Any = None  # [T, n, n]: the covariance of each step's noise


@struct
class Regulator:
    """The policy u = Kₜ x + kₜ, and what is still to be paid under it."""

    K: Array  # [T, m, n]
    k: Array  # [T, m]
    # with leading [T + 1]: the expected cost from each time on, as a function of the state
    value: Quadratic
    is_positive_definite: Array  # bool, [T]: the step has a minimum, and so has every later one


@struct
class StationaryRegulator:
    """The policy u = K x for ever, and the cost ½ xᵀ V x of all time."""

    K: Array  # [m, n]
    V: Array  # [n, n]
    converged: Array  # bool, []


def lqr(problem: LinearQuadratic) -> Regulator:
    """The policy of least expected cost, by the backward recursion.

    Raises InvalidInput for shapes that do not fit together, and for a step whose control Hessian
    Q_uu is not positive definite, so that no control is the best. Inside `jit` and `vmap`, where
    that cannot be known, `definite` is False from that step back, and the policy and the value
    there are NaN.
    """
    regulator = riccati_recursion(problem)
    if (
        not isinstance(regulator.is_positive_definite, jax.core.Tracer)
        and not regulator.is_positive_definite.all()
    ):
        step = int(jnp.flatnonzero(~regulator.is_positive_definite)[-1])
        raise InvalidInput(
            f"the control Hessian Q_uu of step {step} is not positive definite, or not finite, so "
            "no control "
            f"is the best; give that step's controls a cost (C_uu)"
        )
    return regulator


@jax.jit
def riccati_recursion(problem: LinearQuadratic) -> Regulator:
    """The recursion from the last step to the first."""
    problem = with_defaults(problem)

    def step(later, at):
        F, f, C, c, noise = at
        now = quadratic_q(F, f, C, c, later, noise)
        K, k, definite = gains(now, later.vector.size)
        value = value_of_gains(now, K, k)
        return value, (K, k, value, definite)

    end = Quadratic(problem.V, problem.v, jnp.zeros_like(problem.v, shape=()))
    steps = (problem.F, problem.f, problem.C, problem.c, problem.noise)
    K, k, value, definite = jax.lax.scan(step, end, steps, reverse=True)[1]
    return Regulator(
        K, k, jax.tree.map(lambda x, last: jnp.concatenate([x, last[None]]), value, end), definite
    )


def quadratic_q(
    F: Array, f: Array, C: Array, c: Array, later: Quadratic, noise: Array | None = None
) -> Quadratic:
    """What [x; u] costs now and `later`: Q = C + Fᵀ V F, q = c + Fᵀ (V f + v), and E[½ noiseᵀ V
    noise] = ½ tr(V Σ)."""
    V, v = later.matrix, later.vector
    constant = later.constant + matmul(f, matmul(V, f) / 2 + v)
    if noise is not None:
        constant = constant + (V * noise).sum() / 2
    return Quadratic(C + matmul(F.T, V, F), c + matmul(F.T, matmul(V, f) + v), constant)


def gains(now: Quadratic, n: int) -> tuple[Array, Array, Array]:
    """K = -Q_uu⁻¹ Q_ux [m, n] and k = -Q_uu⁻¹ q_u [m], and whether Q_uu is positive definite; NaN
    where it is not."""
    solution, definite = solve_spd(
        now.matrix[n:, n:], -jnp.column_stack([now.matrix[n:, :n], now.vector[n:]])
    )
    return solution[:, :n], solution[:, n], definite


def value_of_gains(now: Quadratic, K: Array, k: Array) -> Quadratic:
    """What x is worth when u = K x + k, be that the best or not."""
    n, Q, q = K.shape[1], now.matrix, now.vector
    Q_xx, Q_xu, Q_uu, q_x, q_u = Q[:n, :n], Q[:n, n:], Q[n:, n:], q[:n], q[n:]
    V = Q_xx + matmul(Q_xu, K) + matmul(K.T, Q_xu.T) + matmul(K.T, Q_uu, K)
    v = q_x + matmul(Q_xu, k) + matmul(K.T, q_u + matmul(Q_uu, k))
    return Quadratic((V + V.T) / 2, v, now.constant + matmul(k, q_u + matmul(Q_uu, k) / 2))


@jax.jit
def simulate_regulator(
    problem: LinearQuadratic, regulator: Regulator, state: Array
) -> tuple[Array, Array]:
    """States [T + 1, n] and controls [T, m] under the policy from `state` [n], noise aside;
    InvalidInput for another shape."""
    problem = with_defaults(problem)
    if state.shape != problem.v.shape:
        raise InvalidInput(
            f"the state is {list(state.shape)}; with F {list(problem.F.shape)} it must be "
            f"{list(problem.v.shape)}"
        )

    def step(x, at):
        F, f, K, k = at
        u = K @ x + k
        return F @ jnp.concatenate([x, u]) + f, (x, u)

    last, (states, controls) = jax.lax.scan(
        step, state, (problem.F, problem.f, regulator.K, regulator.k)
    )
    return jnp.concatenate([states, last[None]]), controls


def infinite_horizon(F: Array, C: Array, doublings: int = 50) -> StationaryRegulator:
    """The regulator of a problem that never changes and never ends, F [n, n + m] and C [n + m, n +
    m]: the Riccati equation.

        V = Q_xx - Q_xu Q_uu⁻¹ Q_ux,    Q = C + Fᵀ V F

    V is the limit of the values of finite horizons; each iteration doubles the horizon, to
    2^`doublings` steps at most (the structured doubling algorithm of Chu, Fan, Lin & Wang, 2004).
    `converged` says that the last of them changed V by no more than rounding does. With a discount
    γ, give √γ F.

    Raises InvalidInput for shapes that do not fit together, and where V does not settle: no control
    reaches an unstable mode, or C_uu is not positive definite. Inside `jit`, where that cannot be
    known, `converged` is False.
    """
    stationary = _doubled(F, C, doublings)
    if not isinstance(stationary.converged, jax.core.Tracer) and not stationary.converged:
        raise InvalidInput(
            f"the value has not settled after 2^{doublings} steps; it does where the controls "
            "reach every "
            f"unstable mode of F, C is positive semidefinite and C_uu positive definite"
        )
    return stationary


@partial(jax.jit, static_argnames="doublings")
def _doubled(F: Array, C: Array, doublings: int) -> StationaryRegulator:
    """With the cross terms moved into the dynamics: H is V of 2ⁱ steps, A what they do, G what
    their controls reach."""
    problem = with_defaults(LinearQuadratic(F[None], C[None]))
    F, C = problem.F[0], problem.C[0]
    n = F.shape[0]
    A, B, N = F[:, :n], F[:, n:], C[:n, n:]
    rounding = 100 * jnp.finfo(F.dtype).eps
    factor = jnp.linalg.cholesky(C[n:, n:])
    # C_uu⁻¹ [Nᵀ, Bᵀ]
    weighted = jax.scipy.linalg.cho_solve((factor, True), jnp.column_stack([N.T, B.T]))

    def double(carry):
        A, G, H, _, i = carry
        solved = jnp.linalg.solve(jnp.eye(n, dtype=F.dtype) + G @ H, jnp.column_stack([A, G @ A.T]))
        more = A.T @ H @ solved[:, :n]
        settled = jnp.abs(more).max() <= rounding * jnp.abs(H).max()
        return A @ solved[:, :n], G + A @ solved[:, n:], H + (more + more.T) / 2, settled, i + 1

    start = (
        A - B @ weighted[:, :n],
        B @ weighted[:, n:],
        C[:n, :n] - N @ weighted[:, :n],
        jnp.bool_(False),
        0,
    )
    _, _, V, converged, _ = jax.lax.while_loop(
        lambda carry: ~carry[3] & (carry[4] < doublings), double, start
    )
    K, _, definite = gains(
        Quadratic(C + F.T @ V @ F, jnp.zeros_like(C[0]), jnp.zeros_like(C[0, 0])), n
    )
    return StationaryRegulator(K, V, converged & definite)


def with_defaults(problem: LinearQuadratic) -> LinearQuadratic:
    """The same problem with zeros for what it left out and every C symmetric; InvalidInput where
    two shapes do not fit."""
    F = jnp.asarray(problem.F)
    if F.ndim != 3 or not 0 < F.shape[1] < F.shape[2]:
        raise InvalidInput(
            f"F is {list(F.shape)}; it must be [T, n, n + m], for states [n] and controls [m]"
        )
    horizon, n, width = F.shape
    shapes = {
        "C": (horizon, width, width),
        "f": (horizon, n),
        "c": (horizon, width),
        "V": (n, n),
        "v": (n,),
        "noise": (horizon, n, n),
    }
    parts = {
        name: jnp.zeros(shape, F.dtype)
        if getattr(problem, name) is None
        else jnp.asarray(getattr(problem, name))
        for name, shape in shapes.items()
    }
    for name, shape in shapes.items():
        if parts[name].shape != shape:
            raise InvalidInput(
                f"{name} is {list(parts[name].shape)}; with F {list(F.shape)} it must be "
                f"{list(shape)}"
            )
    C, V = parts.pop("C"), parts.pop("V")
    return LinearQuadratic(F=F, C=(C + C.mT) / 2, V=(V + V.mT) / 2, **parts)
