"""The linear-quadratic regulator (LQR): Riccati recursion, finite and infinite horizon.

    xₜ₊₁ = Fₜ [xₜ; uₜ] + fₜ + wₜ,   wₜ of mean 0 and covariance Σₜ
    cost = Σₜ (½ [xₜ; uₜ]ᵀ Cₜ [xₜ; uₜ] + [xₜ; uₜ]ᵀ cₜ) + ½ x_Tᵀ V x_T + x_Tᵀ v

States x are [n], controls u are [m]. Where other texts have xₜ₊₁ = A x + B u and costs
½ (xᵀ Q x + 2 xᵀ N u + uᵀ R u), here F = [A B] and C = [[Q, N], [Nᵀ, R]]. The policy is u = K x + k:
the minus sign of u = -K x is inside K. One backward recursion computes the exact cost-to-go and the
optimal policy; below, Q and V are quadratic terms of the cost-to-go, q and v its linear terms:

    Q, q       cost-to-go of a state and a control       `quadratic_q`
    K, k       feedback gain and feedforward term        `gains`
    V, v       cost-to-go of a state under the policy    `value_of_policy`

Noise that is independent of states and controls adds a constant to the cost-to-go and does not
change the policy.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from etude.errors import InvalidInput
from etude.planning.trajectory.small_linalg import matmul, solve_spd
from etude.struct import struct
from etude.types import Array


@struct
class Quadratic:
    """The function ½ zᵀ matrix z + zᵀ vector + constant."""

    matrix: Array  # [d, d], symmetric
    vector: Array  # [d]
    constant: Array  # []

    def __call__(self, z: Array) -> Array:
        return z @ self.matrix @ z / 2 + z @ self.vector + self.constant


@struct
class LinearQuadratic:
    """Linear dynamics and quadratic costs of T steps; None stands for zeros."""

    F: Array  # [T, n, n + m]: linear term of the dynamics
    C: Array  # [T, n + m, n + m]: quadratic term of the cost; only its symmetric part matters
    f: Any = None  # [T, n]: constant term of the dynamics
    c: Any = None  # [T, n + m]: linear term of the cost
    V: Any = None  # [n, n]: quadratic term of the final cost ½ xᵀ V x + xᵀ v
    v: Any = None  # [n]: linear term of the final cost
    noise_covariance: Any = None  # [T, n, n]: Σ of each step


@struct
class Regulator:
    """The policy u = Kₜ x + kₜ and its cost-to-go."""

    K: Array  # [T, m, n]: feedback gains
    k: Array  # [T, m]: feedforward terms
    value: Quadratic  # expected cost-to-go of the state; its fields have a leading axis [T + 1]
    is_positive_definite: Array  # bool, [T]: Q_uu is, at this step and at all later steps


@struct
class StationaryRegulator:
    """The optimal policy u = K x over an infinite horizon and its cost-to-go ½ xᵀ V x."""

    K: Array  # [m, n]
    V: Array  # [n, n]
    converged: Array  # bool, []: V converged and Q_uu is positive definite


def lqr(problem: LinearQuadratic) -> Regulator:
    """Return the policy of minimal expected cost, by the Riccati recursion.

    Raises InvalidInput for shapes that do not fit together, and for a step whose control Hessian
    Q_uu is not positive definite, so that no unique optimal control exists. Under `jit` or `vmap`
    the values are not known and the check cannot raise; instead `is_positive_definite` is False at
    that step and all earlier ones, and the policy and the value there are NaN.
    """
    regulator = riccati_recursion(problem)
    if (
        not isinstance(regulator.is_positive_definite, jax.core.Tracer)
        and not regulator.is_positive_definite.all()
    ):
        failing_step = int(jnp.flatnonzero(~regulator.is_positive_definite)[-1])
        raise InvalidInput(
            f"the control Hessian Q_uu of step {failing_step} is not positive definite, or not "
            "finite, so no unique optimal control exists; make C_uu of that step positive definite"
        )
    return regulator


@jax.jit
def riccati_recursion(problem: LinearQuadratic) -> Regulator:
    """Run the Riccati recursion from the last step to the first."""
    problem = normalize_problem(problem)

    def backward_step(next_value, terms):
        F, f, C, c, noise_covariance = terms
        q_function = quadratic_q(F, f, C, c, next_value, noise_covariance)
        K, k, is_positive_definite = gains(q_function, next_value.vector.size)
        value = value_of_policy(q_function, K, k)
        return value, (K, k, value, is_positive_definite)

    final_value = Quadratic(problem.V, problem.v, jnp.zeros_like(problem.v, shape=()))
    terms = (problem.F, problem.f, problem.C, problem.c, problem.noise_covariance)
    K, k, value, is_positive_definite = jax.lax.scan(
        backward_step, final_value, terms, reverse=True
    )[1]
    return Regulator(
        K,
        k,
        jax.tree.map(lambda x, last: jnp.concatenate([x, last[None]]), value, final_value),
        is_positive_definite,
    )


def quadratic_q(
    F: Array,
    f: Array,
    C: Array,
    c: Array,
    next_value: Quadratic,
    noise_covariance: Array | None = None,
) -> Quadratic:
    """Return the cost-to-go of taking u in x and following the policy from the next step on.

        Q = C + Fᵀ V F
        q = c + Fᵀ (V f + v)
        constant = next constant + fᵀ (½ V f + v) + ½ tr(V Σ)

    V, v and the next constant are those of `next_value`; ½ tr(V Σ) is E[½ wᵀ V w] of the noise.
    """
    V, v = next_value.matrix, next_value.vector
    constant = next_value.constant + matmul(f, matmul(V, f) / 2 + v)
    if noise_covariance is not None:
        constant = constant + (V * noise_covariance).sum() / 2
    return Quadratic(C + matmul(F.T, V, F), c + matmul(F.T, matmul(V, f) + v), constant)


def gains(q_function: Quadratic, n: int) -> tuple[Array, Array, Array]:
    """Return K = -Q_uu⁻¹ Q_ux [m, n], k = -Q_uu⁻¹ q_u [m] and whether Q_uu is positive definite.

    `q_function` is a function of [x; u], with x [n]. K and k are NaN if Q_uu is not positive
    definite.
    """
    solution, is_positive_definite = solve_spd(
        q_function.matrix[n:, n:],
        -jnp.column_stack([q_function.matrix[n:, :n], q_function.vector[n:]]),
    )
    return solution[:, :n], solution[:, n], is_positive_definite


def value_of_policy(q_function: Quadratic, K: Array, k: Array) -> Quadratic:
    """Return the cost-to-go of x under u = K x + k, which need not be the optimal policy."""
    n, Q, q = K.shape[1], q_function.matrix, q_function.vector
    Q_xx, Q_xu, Q_uu, q_x, q_u = Q[:n, :n], Q[:n, n:], Q[n:, n:], q[:n], q[n:]
    V = Q_xx + matmul(Q_xu, K) + matmul(K.T, Q_xu.T) + matmul(K.T, Q_uu, K)
    v = q_x + matmul(Q_xu, k) + matmul(K.T, q_u + matmul(Q_uu, k))
    return Quadratic((V + V.T) / 2, v, q_function.constant + matmul(k, q_u + matmul(Q_uu, k) / 2))


@jax.jit
def simulate_regulator(
    problem: LinearQuadratic, regulator: Regulator, initial_state: Array
) -> tuple[Array, Array]:
    """Return the states [T + 1, n] and controls [T, m] from `initial_state` [n], without noise.

    Raises InvalidInput if the shape of `initial_state` is not [n].
    """
    problem = normalize_problem(problem)
    if initial_state.shape != problem.v.shape:
        raise InvalidInput(
            f"the initial state is {list(initial_state.shape)}; with F {list(problem.F.shape)} it "
            f"must be {list(problem.v.shape)}"
        )

    def forward_step(x, terms):
        F, f, K, k = terms
        u = K @ x + k
        return F @ jnp.concatenate([x, u]) + f, (x, u)

    final_state, (states, controls) = jax.lax.scan(
        forward_step, initial_state, (problem.F, problem.f, regulator.K, regulator.k)
    )
    return jnp.concatenate([states, final_state[None]]), controls


def infinite_horizon_lqr(F: Array, C: Array, max_doublings: int = 50) -> StationaryRegulator:
    """Return the optimal policy over an infinite horizon, for constant F [n, n + m] and C.

    C is [n + m, n + m], and f, c and the noise are zero. V solves the discrete algebraic Riccati
    equation

        V = Q_xx - Q_xu Q_uu⁻¹ Q_ux,    Q = C + Fᵀ V F

    It is the limit of the finite-horizon V without final cost, the smallest positive semidefinite
    solution. K stabilizes the system if the cost detects every unstable mode. Each iteration
    doubles the horizon, up to 2^`max_doublings` steps (the structured doubling algorithm of Chu,
    Fan, Lin & Wang, 2004), until V changes by at most 100 eps relative to V. To discount costs by γ
    per step, pass √γ F instead of F.

    Raises InvalidInput for shapes that do not fit together, and if V does not converge, for example
    because an unstable mode is uncontrollable or C_uu is not positive definite. Under `jit` or
    `vmap` the values are not known and the check cannot raise; instead `converged` is False.
    """
    stationary = _structured_doubling(F, C, max_doublings)
    if not isinstance(stationary.converged, jax.core.Tracer) and not stationary.converged:
        raise InvalidInput(
            f"the value has not converged after 2^{max_doublings} steps; it does if the controls "
            "reach every unstable mode of F, C is positive semidefinite and C_uu positive definite"
        )
    return stationary


class _DoublingState(NamedTuple):
    """Loop state after i doublings; it describes 2ⁱ steps."""

    A: Array  # [n, n]: dynamics of these steps
    G: Array  # [n, n]: reach of their controls, weighted by inverse costs; one step: B C_uu⁻¹ Bᵀ
    H: Array  # [n, n]: their cost-to-go V
    converged: Array  # bool, []
    num_doublings: Any  # int, []: i


@partial(jax.jit, static_argnames="max_doublings")
def _structured_doubling(F: Array, C: Array, max_doublings: int) -> StationaryRegulator:
    """Run the doubling, with the cross term N of C moved into the dynamics and the state cost."""
    problem = normalize_problem(LinearQuadratic(F[None], C[None]))
    F, C = problem.F[0], problem.C[0]
    n = F.shape[0]
    A, B, N = F[:, :n], F[:, n:], C[:n, n:]
    tolerance = 100 * jnp.finfo(F.dtype).eps
    cholesky_factor = jnp.linalg.cholesky(C[n:, n:])
    # C_uu⁻¹ [Nᵀ, Bᵀ]
    weighted = jax.scipy.linalg.cho_solve((cholesky_factor, True), jnp.column_stack([N.T, B.T]))

    def double_horizon(state):
        A, G, H, _, i = state
        solution = jnp.linalg.solve(
            jnp.eye(n, dtype=F.dtype) + G @ H, jnp.column_stack([A, G @ A.T])
        )
        H_change = A.T @ H @ solution[:, :n]
        converged = jnp.abs(H_change).max() <= tolerance * jnp.abs(H).max()
        return _DoublingState(
            A @ solution[:, :n],
            G + A @ solution[:, n:],
            H + (H_change + H_change.T) / 2,
            converged,
            i + 1,
        )

    initial_state = _DoublingState(
        A - B @ weighted[:, :n],
        B @ weighted[:, n:],
        C[:n, :n] - N @ weighted[:, :n],
        jnp.bool_(False),
        0,
    )
    _, _, V, converged, _ = jax.lax.while_loop(
        lambda state: ~state.converged & (state.num_doublings < max_doublings),
        double_horizon,
        initial_state,
    )
    K, _, is_positive_definite = gains(
        Quadratic(C + F.T @ V @ F, jnp.zeros_like(C[0]), jnp.zeros_like(C[0, 0])), n
    )
    return StationaryRegulator(K, V, converged & is_positive_definite)


def normalize_problem(problem: LinearQuadratic) -> LinearQuadratic:
    """Check shapes, replace fields that are None by zeros and make C and V symmetric.

    Raises InvalidInput for shapes that do not fit together.
    """
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
        "noise_covariance": (horizon, n, n),
    }
    fields = {
        name: jnp.zeros(shape, F.dtype)
        if getattr(problem, name) is None
        else jnp.asarray(getattr(problem, name))
        for name, shape in shapes.items()
    }
    for name, shape in shapes.items():
        if fields[name].shape != shape:
            raise InvalidInput(
                f"{name} is {list(fields[name].shape)}; with F {list(F.shape)} it must be "
                f"{list(shape)}"
            )
    C, V = fields.pop("C"), fields.pop("V")
    return LinearQuadratic(F=F, C=(C + C.mT) / 2, V=(V + V.mT) / 2, **fields)
