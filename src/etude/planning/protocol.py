"""What a planner plans on: a model, known or learned, and what is to be gained or spent.

    step(state, action, key) -> Step                       any model: what searches and samples need
    dynamics(x, u) -> x, cost(x, u, t), final_cost(x)      a problem of optimal control: what
    derivatives are taken of

Both are of one state; planners `vmap` them. A problem is a model too: `step_of` makes the one of
the other.
"""

import math
from collections.abc import Callable
from typing import Any, Protocol

import jax.numpy as jnp

from etude.struct import static, struct
from etude.types import Array


@struct
class ModelStep:
    """Where an action leads."""

    state: Any
    reward: Array  # float32, []
    terminated: Array  # bool, []: nothing is gained from here on


class Model(Protocol):
    """Where actions lead, by chance or for certain; `key` decides the chance, and a certain model
    ignores it."""

    def step(self, state: Any, action: Any, key: Array) -> ModelStep: ...


class Problem(Protocol):
    """min over u of Σₜ cost(xₜ, uₜ, t) + final_cost(x_T), where xₜ₊₁ = dynamics(xₜ, uₜ).

    States are [n], controls [m], times whole numbers, costs []. `low` and `high` bound each
    control, ±inf where nothing does.
    """

    low: Any
    high: Any

    def dynamics(self, state: Array, control: Array) -> Array: ...

    def cost(self, state: Array, control: Array, time: Array) -> Array: ...

    def final_cost(self, state: Array) -> Array: ...


@struct
class ControlProblem:
    """A problem made of functions."""

    dynamics: Callable[[Array, Array], Array] = static()
    cost: Callable[[Array, Array, Array], Array] = static()
    final_cost: Callable[[Array], Array] = static()
    low: float | tuple[float, ...] = static(-math.inf)
    high: float | tuple[float, ...] = static(math.inf)


def model_step_of(problem: Problem, state: Array, control: Array) -> ModelStep:
    """A step of the problem as a model has it, costs negative rewards; the time, which a model does
    not know, is 0."""
    return ModelStep(
        problem.dynamics(state, control),
        -problem.cost(state, control, jnp.int32(0)),
        jnp.bool_(False),
    )
