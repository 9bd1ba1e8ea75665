"""Natural gradient: Fisher-vector products, conjugate gradients, the KL-limited step, line search.

    maximize gᵀ x   such that   ½ xᵀ F x ≤ ε,   where F is the Fisher matrix and ½ xᵀ F x the KL
                    divergence to second order

Parameters, gradients and steps are trees with the same structure and real leaves. F is never
computed: conjugate gradients need only its products with vectors (Schulman et al., 2015, appendix
C).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from etude.trees import tree_axpy, tree_vdot
from etude.types import Array

PyTree = Any
LinearOperator = Callable[[PyTree], PyTree]  # v ↦ A v of a symmetric matrix A


def fisher_product(
    kl: Callable[[PyTree], Array], params: PyTree, damping: float | Array = 0.0
) -> LinearOperator:
    """The function v ↦ (F + damping) v of the Fisher matrix F at `params`.

    `kl` maps parameters to the mean divergence, in nats and in either direction, between their
    policy and the policy of `params`. Its Hessian at `params` is F = E[∇log π ∇log πᵀ], with an
    exact expectation over actions. Products are forward over reverse and share one linearization.
    """
    _, hessian = jax.linearize(jax.grad(kl), params)
    return lambda vector: tree_axpy(hessian(vector), damping, vector)


def conjugate_gradient(
    product: LinearOperator, b: PyTree, iterations: int, tolerance: float | Array = 1e-5
) -> PyTree:
    """Solve A x = b for positive definite A by conjugate gradients (Hestenes & Stiefel, 1952).

    `product` is v ↦ A v. x starts at zero. The iteration stops when |b - A x| ≤ `tolerance` |b|, or
    after `iterations` products.
    """
    initial_norm2 = tree_vdot(b, b)

    def not_converged(state):
        i, _, _, _, residual_norm2 = state
        return (i < iterations) & (residual_norm2 > tolerance**2 * initial_norm2)

    def iterate(state):
        i, x, residual, direction, residual_norm2 = state
        a_direction = product(direction)
        curvature = tree_vdot(direction, a_direction)
        # with rounding the curvature may be zero
        step_size = jnp.where(curvature > 0, residual_norm2 / curvature, 0)
        x, residual = (
            tree_axpy(x, step_size, direction),
            tree_axpy(residual, -step_size, a_direction),
        )
        next_norm2 = tree_vdot(residual, residual)
        direction = tree_axpy(residual, next_norm2 / residual_norm2, direction)
        return i + 1, x, residual, direction, next_norm2

    initial_state = 0, jax.tree.map(jnp.zeros_like, b), b, b, initial_norm2
    return jax.lax.while_loop(not_converged, iterate, initial_state)[1]


def natural_gradient_step(
    gradient: PyTree,
    product: LinearOperator,
    max_kl: float | Array,
    iterations: int = 10,
    tolerance: float | Array = 1e-5,
) -> tuple[PyTree, Array]:
    """(F⁻¹ g, α): the natural gradient, and the step size that changes the policy by `max_kl` nats.

        α = √(2 ε / gᵀ F⁻¹ g)

    `gradient` g is that of the objective to maximize, and `product` is v ↦ F v. To second order the
    divergence of the step is ε, less with damping, also when conjugate gradients stop early: all
    their iterates x have xᵀ F x = gᵀ x. α is zero for a zero gradient.
    """
    direction = conjugate_gradient(product, gradient, iterations, tolerance)
    slope = tree_vdot(gradient, direction)
    is_ascent = slope > 0
    return direction, jnp.where(is_ascent, jnp.sqrt(2 * max_kl / jnp.where(is_ascent, slope, 1)), 0)


def backtracking_line_search(
    accept: Callable[[PyTree], Array],
    params: PyTree,
    step: PyTree,
    shrink: float | Array = 0.5,
    attempts: int = 10,
) -> tuple[PyTree, Array, Array]:
    """The line search of TRPO: params + shrinkᵏ step for the first k = 0, 1, ... that is accepted.

    Returns the parameters, the number of tries (int32) and whether one was accepted (bool). After
    `attempts` tries without acceptance the parameters are unchanged.
    """

    def try_next(state):
        tries, _ = state
        return tries + 1, accept(tree_axpy(params, shrink**tries, step))

    def not_finished(state):
        tries, accepted = state
        return (tries < attempts) & ~accepted

    tries, accepted = jax.lax.while_loop(not_finished, try_next, (jnp.int32(0), jnp.bool_(False)))
    candidate = tree_axpy(params, shrink ** (tries - 1), step)
    return (
        jax.tree.map(lambda new, old: jnp.where(accepted, new, old), candidate, params),
        tries,
        accepted,
    )
