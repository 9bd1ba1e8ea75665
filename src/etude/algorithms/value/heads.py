"""What a value network says of an action: the mean of its return, or the whole distribution.

Each head turns `outputs` [..., atom], the network's numbers for an action, into a mean, makes of
the next action's outputs a target for this one's, and says how far the two are apart. A variant of
Q-learning is another head handed to an unchanged rest.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from etude.errors import InvalidInput
from etude.estimators import losses
from etude.struct import static, struct
from etude.types import Array

Loss = Literal["huber", "squared"]
LOSSES = {"huber": losses.huber_loss, "squared": losses.l2_loss}


@struct
class ScalarHead:
    """One number: the action's value (Mnih et al., 2015)."""

    loss_type: Loss = static("huber")
    num_atoms = 1

    def mean(self, outputs: Array) -> Array:
        return outputs[..., 0]

    def target(self, outputs: Array, reward: Array, discount: Array) -> Array:
        """r + γ Q(s', a'), [..., 1]; `discount` is 0 where the episode terminated."""
        return (reward + discount * outputs[..., 0])[..., None]

    def loss(self, outputs: Array, target: Array) -> tuple[Array, Array]:
        """(loss, surprise), each [...]: the surprise is what prioritized replay goes by."""
        error = (target - outputs)[..., 0]
        return LOSSES[self.loss_type](error), jnp.abs(error)


@struct
class CategoricalHead:
    """Probabilities of evenly spaced returns (C51; Bellemare et al., 2017)."""

    num_atoms: int = static(51)
    v_min: float = static(-10.0)
    v_max: float = static(10.0)

    @property
    def support(self) -> Array:
        return jnp.linspace(self.v_min, self.v_max, self.num_atoms)

    def mean(self, outputs: Array) -> Array:
        return jax.nn.softmax(outputs) @ self.support

    def target(self, outputs: Array, reward: Array, discount: Array) -> Array:
        """The distribution of r + γ Z(s', a'), brought back to the support, [..., atom]."""
        moved = reward[..., None] + discount[..., None] * self.support
        return losses.categorical_projection(moved, jax.nn.softmax(outputs), self.support)

    def loss(self, outputs: Array, target: Array) -> tuple[Array, Array]:
        """Cross entropy; the surprise is what of it is not the target's own entropy, as in Rainbow
        (Hessel et al., 2018)."""
        loss = -(target * jax.nn.log_softmax(outputs)).sum(-1)
        return loss, loss + jax.scipy.special.xlogy(target, target).sum(-1)


@struct
class QuantileHead:
    """Evenly spaced quantiles of the return (QR-DQN; Dabney et al., 2018)."""

    num_atoms: int = static(51)

    def mean(self, outputs: Array) -> Array:
        return outputs.mean(-1)

    def target(self, outputs: Array, reward: Array, discount: Array) -> Array:
        """Samples of r + γ Z(s', a'), [..., atom]."""
        return reward[..., None] + discount[..., None] * outputs

    def loss(self, outputs: Array, target: Array) -> tuple[Array, Array]:
        loss = losses.quantile_huber_loss(outputs, target)
        return loss, jnp.abs((target - outputs).mean(-1))


Head = ScalarHead | CategoricalHead | QuantileHead


def make_head(
    name: Literal["mean", "categorical", "quantile"],
    loss: Loss,
    atoms: int,
    low: float,
    high: float,
) -> Head:
    """The head called `name`.

    Raises InvalidInput for a distribution on fewer than two atoms, or between bounds the wrong way
    round.
    """
    if name != "mean" and atoms < 2:
        raise InvalidInput(f"atoms is {atoms}; a {name} distribution needs at least 2")
    if name == "categorical" and not low < high:
        raise InvalidInput(
            f"v_min {low} is not below v_max {high}; they bound the returns to tell apart"
        )
    match name:
        case "categorical":
            return CategoricalHead(atoms, low, high)
        case "quantile":
            return QuantileHead(atoms)
    return ScalarHead(loss)
