"""Gradient shooting: gradient descent on the controls by backpropagation through the dynamics.

    min over u of Σₜ cost(xₜ, uₜ, t) + final_cost(x_T),    xₜ₊₁ = f(xₜ, uₜ)

The gradient comes from the costates λ, from λ_T = ∂final_cost/∂x backward:

    dJ/duₜ = ∂cost/∂uₜ + (∂f/∂uₜ)ᵀ λₜ₊₁,    λₜ = ∂cost/∂xₜ + (∂f/∂xₜ)ᵀ λₜ₊₁

The gradient contains a product of up to T Jacobians, so early and late controls can have gradients
of very different size; second-order methods such as iLQR correct for that.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from etude.planning.protocol import Problem, Solution
from etude.planning.trajectory.ilqr import check_shapes, simulate_controls
from etude.types import Array


def gradient_shooting(
    problem: Problem,
    state: Array,
    controls: Array,
    optimizer: optax.GradientTransformation,
    *,
    iterations: int,
) -> Solution:
    """Minimize the cost from `state` [n] and the initial guess `controls` [T, m] with optax.

    After each update the controls are clipped to the problem's bounds. Optimizers with a line
    search, such as L-BFGS, receive the cost function. A NaN cost is never the best; if no cost is
    finite, the result is the initial guess. The history is that of the descent, not of the best.

    Raises InvalidInput for shapes that do not fit together.
    """
    state, controls = jnp.asarray(state), jnp.asarray(controls)
    check_shapes(problem, state, controls)
    return _gradient_shooting(problem, state, controls, optimizer, iterations)


class _Best(NamedTuple):
    """The best controls so far and their cost."""

    controls: Array
    cost: Array


@partial(jax.jit, static_argnames=("optimizer", "iterations"))
def _gradient_shooting(problem, state, controls, optimizer, iterations):
    low, high = jnp.asarray(problem.low), jnp.asarray(problem.high)
    optimizer = optax.with_extra_args_support(optimizer)

    def cost(controls):
        return simulate_controls(problem, state, controls)[1].sum()

    def update_best_controls(best, controls, value):
        improved = value < best.cost
        return _Best(
            jnp.where(improved, controls, best.controls), jnp.where(improved, value, best.cost)
        )

    def descend(carry, _):
        controls, optimizer_state, best = carry
        value, gradient = jax.value_and_grad(cost)(controls)
        updates, optimizer_state = optimizer.update(
            gradient, optimizer_state, controls, value=value, grad=gradient, value_fn=cost
        )
        new_controls = jnp.clip(optax.apply_updates(controls, updates), low, high)
        best = update_best_controls(best, controls, value)
        return (new_controls, optimizer_state, best), (value, controls)

    controls = jnp.clip(controls, low, high)
    carry = (
        controls,
        optimizer.init(controls),
        _Best(controls, jnp.full((), jnp.inf, controls.dtype)),
    )
    (final_controls, _, best), (costs, history) = jax.lax.scan(descend, carry, length=iterations)
    value = cost(final_controls)
    controls, _ = update_best_controls(best, final_controls, value)
    states, step_costs = simulate_controls(problem, state, controls)
    return Solution(
        states,
        controls,
        step_costs.sum(),
        jnp.int32(iterations),
        jnp.append(costs, value),
        jnp.concatenate([history, final_controls[None]]),
    )
