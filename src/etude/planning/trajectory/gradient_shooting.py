"""Gradient shooting: descend what the controls cost, through the dynamics.

    min over u of Σₜ cost(xₜ, uₜ, t) + final_cost(x_T),    xₜ₊₁ = f(xₜ, uₜ)

The gradient comes by backpropagation through time, from λ_T = ∂final_cost/∂x:

    dJ/duₜ = ∂cost/∂uₜ + (∂f/∂uₜ)ᵀ λₜ₊₁,    λₜ = ∂cost/∂xₜ + (∂f/∂xₜ)ᵀ λₜ₊₁

A product of as many Jacobians as there are steps is in it, so early controls matter by far more or
less than late ones; that is what methods of second order correct.
"""

from functools import partial

import jax
import jax.numpy as jnp
import optax

from etude.planning.protocol import Problem
from etude.planning.trajectory.ilqr import check_shapes, simulate_controls
from etude.struct import struct
from etude.types import Array


@struct
class GradientShootingResult:
    """The best path seen on the way down."""

    states: Array  # [T + 1, n]
    controls: Array  # [T, m]
    cost: Array  # []
    costs: Array  # of the controls before each iteration and after the last, [iterations + 1]


def gradient_shooting(
    problem: Problem,
    state: Array,
    controls: Array,
    optimizer: optax.GradientTransformation,
    *,
    iterations: int,
) -> GradientShootingResult:
    """Descend from the first guess `controls` [T, m], played from `state` [n], by any optimizer of
    optax.

    After each step the controls are clipped to the problem's box. An optimizer that searches along
    a line, such as L-BFGS, has the cost to search with. Costs that are not numbers are never the
    best, save a first guess that costs none.

    Raises InvalidInput for shapes that do not fit together.
    """
    state, controls = jnp.asarray(state), jnp.asarray(controls)
    check_shapes(problem, state, controls)
    return _gradient_shooting(problem, state, controls, optimizer, iterations)


@partial(jax.jit, static_argnames=("optimizer", "iterations"))
def _gradient_shooting(problem, state, controls, optimizer, iterations):
    low, high = jnp.asarray(problem.low), jnp.asarray(problem.high)
    optimizer = optax.with_extra_args_support(optimizer)

    def cost(controls):
        return simulate_controls(problem, state, controls)[1].sum()

    def better(best, controls, value):
        lower = value < best[1]
        return jnp.where(lower, controls, best[0]), jnp.where(lower, value, best[1])

    def descend(carry, _):
        controls, memory, best = carry
        value, gradient = jax.value_and_grad(cost)(controls)
        move, memory = optimizer.update(
            gradient, memory, controls, value=value, grad=gradient, value_fn=cost
        )
        after = jnp.clip(optax.apply_updates(controls, move), low, high)
        return (after, memory, better(best, controls, value)), value

    controls = jnp.clip(controls, low, high)
    start = controls, optimizer.init(controls), (controls, jnp.full((), jnp.inf, controls.dtype))
    (last, _, best), costs = jax.lax.scan(descend, start, length=iterations)
    value = cost(last)
    controls, _ = better(best, last, value)
    states, spent = simulate_controls(problem, state, controls)
    return GradientShootingResult(states, controls, spent.sum(), jnp.append(costs, value))
