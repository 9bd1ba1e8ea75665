"""Steps measured by how far they move a policy, not its parameters.

    maximize gᵀ x   such that   ½ xᵀ F x ≤ ε,   where F is the Fisher matrix and ½ xᵀ F x the KL
                    divergence to second order

Parameters, gradients and steps are trees of one structure with real leaves. F is never written
down: conjugate gradients ask for its products with vectors only (Schulman et al., 2015, appendix
C).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from etude.trees import tree_axpy, tree_vdot
from etude.types import Array

PyTree = Any
LinearOperator = Callable[[PyTree], PyTree]  # a symmetric matrix, by what it makes of a vector


def fisher_product(
    kl: Callable[[PyTree], Array], params: PyTree, damping: float | Array = 0.0
) -> LinearOperator:
    """The function v ↦ (F + damping) v of the Fisher matrix at `params`.

    `kl` gives the mean divergence, in nats, of the policy with some parameters from the fixed one
    with `params`, either way round: at `params` its Hessian is F = E[∇log π ∇log πᵀ], the
    expectation over actions being exact. Products are forward over reverse, one linearization being
    shared by all of them.
    """
    _, hessian = jax.linearize(jax.grad(kl), params)
    return lambda vector: tree_axpy(hessian(vector), damping, vector)


def conjugate_gradient(
    product: LinearOperator, b: PyTree, iterations: int, tolerance: float | Array = 1e-5
) -> PyTree:
    """x of A x = b for a positive definite A (Hestenes & Stiefel, 1952), begun at zero.

    It stops when |b - A x| ≤ `tolerance` |b|, or after so many iterations, one product each.
    """
    size = tree_vdot(b, b)

    def unsolved(state):
        i, _, _, _, left = state
        return (i < iterations) & (left > tolerance**2 * size)

    def improve(state):
        i, x, residual, direction, left = state
        image = product(direction)
        curvature = tree_vdot(direction, image)
        length = jnp.where(curvature > 0, left / curvature, 0)  # rounding may leave none
        x, residual = tree_axpy(x, length, direction), tree_axpy(residual, -length, image)
        now = tree_vdot(residual, residual)
        return i + 1, x, residual, tree_axpy(residual, now / left, direction), now

    start = 0, jax.tree.map(jnp.zeros_like, b), b, b, size
    return jax.lax.while_loop(unsolved, improve, start)[1]


def natural_gradient_step(
    gradient: PyTree,
    product: LinearOperator,
    max_kl: float | Array,
    iterations: int = 10,
    tolerance: float | Array = 1e-5,
) -> tuple[PyTree, Array]:
    """The natural gradient's direction F⁻¹ g, and the size α at which the step α F⁻¹ g moves the
    policy by `max_kl` nats.

        α = √(2 ε / gᵀ F⁻¹ g)

    `gradient` g is that of what is to grow; F is what `product` multiplies by. To second order the
    divergence is ε, less with damping, whether or not the conjugate gradients came to an end: all
    their iterates x have xᵀ F x = gᵀ x. The size is zero where the gradient is.
    """
    direction = conjugate_gradient(product, gradient, iterations, tolerance)
    slope = tree_vdot(gradient, direction)
    rises = slope > 0
    return direction, jnp.where(rises, jnp.sqrt(2 * max_kl / jnp.where(rises, slope, 1)), 0)


def backtracking_line_search(
    accept: Callable[[PyTree], Array],
    params: PyTree,
    step: PyTree,
    shrink: float | Array = 0.5,
    attempts: int = 10,
) -> tuple[PyTree, Array, Array]:
    """The line search of TRPO: params + shrinkᵏ step for the first k = 0, 1, ... that `accept` says
    yes to, else the old ones.

    Returns the parameters, how many were tried (int32) and whether one was accepted (bool).
    """

    def search(state):
        tries, _ = state
        return tries + 1, accept(tree_axpy(params, shrink**tries, step))

    def unsettled(state):
        tries, accepted = state
        return (tries < attempts) & ~accepted

    tries, accepted = jax.lax.while_loop(unsettled, search, (jnp.int32(0), jnp.bool_(False)))
    found = tree_axpy(params, shrink ** (tries - 1), step)
    return (
        jax.tree.map(lambda new, old: jnp.where(accepted, new, old), found, params),
        tries,
        accepted,
    )
