"""Protocols of planning: the model, known or learned, and the optimal control problem.

    step(state, action, key) -> ModelStep               Model: for sampling and tree search
    dynamics(x, u), cost(x, u, t), final_cost(x)        Problem: differentiable, for trajectory
                                                        optimization

The functions take one state; planners `vmap` them. `model_step_of` turns a problem into a model.
"""

import math
from collections.abc import Callable
from typing import Any, Protocol

import jax.numpy as jnp

from etude.struct import static, struct
from etude.types import Array


@struct
class ModelStep:
    """One step of a model: the next state, the reward and whether the episode terminates."""

    state: Any  # the next state
    reward: Array  # float32, []
    terminated: Array  # bool, []: rewards after this step are zero


class Model(Protocol):
    """A transition model; a stochastic one draws from `key`, a deterministic one ignores it."""

    def step(self, state: Any, action: Any, key: Array) -> ModelStep: ...


class Problem(Protocol):
    """The problem min over u of Σₜ cost(xₜ, uₜ, t) + final_cost(x_T), xₜ₊₁ = dynamics(xₜ, uₜ).

    States are [n], controls [m], times integers, costs []. `low` and `high` bound each control;
    ±inf leaves it unbounded.
    """

    low: Any
    high: Any

    def dynamics(self, state: Array, control: Array) -> Array: ...

    def cost(self, state: Array, control: Array, time: Array) -> Array: ...

    def final_cost(self, state: Array) -> Array: ...


@struct
class ControlProblem:
    """An optimal control problem (`Problem`) made of plain functions."""

    dynamics: Callable[[Array, Array], Array] = static()
    cost: Callable[[Array, Array, Array], Array] = static()
    final_cost: Callable[[Array], Array] = static()
    low: float | tuple[float, ...] = static(-math.inf)
    high: float | tuple[float, ...] = static(math.inf)


def model_step_of(problem: Problem, state: Array, control: Array) -> ModelStep:
    """Step the problem as a model with reward = −cost, the cost taken at time 0."""
    return ModelStep(
        problem.dynamics(state, control),
        -problem.cost(state, control, jnp.int32(0)),
        jnp.bool_(False),
    )
