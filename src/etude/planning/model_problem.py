"""A model as an optimal control problem, so that trajectory optimizers can plan on it."""

from typing import Any

import jax
import jax.numpy as jnp

from etude.errors import InvalidInput
from etude.planning.protocol import Model
from etude.struct import static, struct
from etude.types import Array


@struct
class ModelProblem:
    """The problem of the largest return of a model, min Σₜ −γᵗ r(xₜ, uₜ), controls in [-1, 1].

    States are [n]. The chances of a stochastic model are drawn once, by `key`, and are the same in
    every step.
    """

    model: Any
    key: Array
    discount: Any
    action_shape: tuple[int, ...] = static()

    @property
    def low(self) -> Array:
        return jnp.full(jnp.zeros(self.action_shape).size, -1.0)

    @property
    def high(self) -> Array:
        return -self.low

    def dynamics(self, state: Array, control: Array) -> Array:
        return self.step(state, control).state[0, 0]

    def cost(self, state: Array, control: Array, time: Array) -> Array:
        return -(self.discount**time) * self.step(state, control).reward[0, 0]

    def final_cost(self, state: Array) -> Array:
        return jnp.zeros((), state.dtype)

    def step(self, state: Array, control: Array) -> Any:
        action = control.reshape(1, 1, *self.action_shape)
        return self.model.step(state[None, None], action, self.key)


def check_differentiable(model: Model, state: Any, planner: str) -> None:
    """Check that trajectory optimizers can plan on a model; `planner` is the name of one.

    `state` is an example, [1, 1, ...], or its shapes. Raises InvalidInput for a state that is not
    one vector of floats, and where an episode can end, for the cost has no derivative there.
    """
    way_out = "take one that samples plans, such as --planner icem"
    leaves = jax.tree.leaves(state)
    is_vector = len(leaves) == 1 and leaves[0].ndim == 3
    if not is_vector or not jnp.issubdtype(leaves[0].dtype, jnp.floating):
        shapes = ", ".join(f"{leaf.dtype}{list(leaf.shape[2:])}" for leaf in leaves)
        raise InvalidInput(
            f"{planner} needs derivatives by a state that is one vector of floats, and the model's "
            f"is {shapes}; {way_out}"
        )
    if model.ends:
        raise InvalidInput(
            f"{planner} needs derivatives, and an episode of this environment can end, where there "
            f"are none; {way_out} (or register a model with ends=False)"
        )
