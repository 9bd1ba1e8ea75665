"""Heads of a value network: the mean return, C51's categorical distribution, or QR-DQN's quantiles.

A head reads `outputs` [..., atom], the network's outputs for one action. It gives their mean, the
training target made from the outputs for the next action, and the loss between outputs and target.
A distributional variant of Q-learning is the same algorithm with another head.
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
    """The action's value as one number (Mnih et al., 2015)."""

    loss_type: Loss = static("huber")
    num_atoms = 1

    def mean(self, outputs: Array) -> Array:
        """Q(s, a), [...]."""
        return outputs[..., 0]

    def target(self, outputs: Array, reward: Array, discount: Array) -> Array:
        """r + γ Q(s', a'), [..., 1]; `discount` is 0 where the episode terminated."""
        return (reward + discount * outputs[..., 0])[..., None]

    def loss(self, outputs: Array, target: Array) -> tuple[Array, Array]:
        """The loss and the absolute TD error, by which prioritized replay draws, each [...]."""
        td_error = (target - outputs)[..., 0]
        return LOSSES[self.loss_type](td_error), jnp.abs(td_error)


@struct
class CategoricalHead:
    """Logits of evenly spaced returns, the atoms (C51; Bellemare et al., 2017)."""

    num_atoms: int = static(51)
    v_min: float = static(-10.0)
    v_max: float = static(10.0)

    @property
    def support(self) -> Array:
        """The returns of the atoms, [atom]."""
        return jnp.linspace(self.v_min, self.v_max, self.num_atoms)

    def mean(self, outputs: Array) -> Array:
        """E[Z(s, a)], [...]."""
        return jax.nn.softmax(outputs) @ self.support

    def target(self, outputs: Array, reward: Array, discount: Array) -> Array:
        """The distribution of r + γ Z(s', a') projected onto the support, [..., atom]."""
        atoms = reward[..., None] + discount[..., None] * self.support
        return losses.categorical_projection(atoms, jax.nn.softmax(outputs), self.support)

    def loss(self, outputs: Array, target: Array) -> tuple[Array, Array]:
        """Cross entropy, and the KL divergence from target to outputs as TD error, each [...].

        Rainbow draws by that divergence (Hessel et al., 2018).
        """
        cross_entropy = -(target * jax.nn.log_softmax(outputs)).sum(-1)
        return cross_entropy, cross_entropy + jax.scipy.special.xlogy(target, target).sum(-1)


@struct
class QuantileHead:
    """Evenly spaced quantiles of the return (QR-DQN; Dabney et al., 2018)."""

    num_atoms: int = static(51)

    def mean(self, outputs: Array) -> Array:
        """E[Z(s, a)], [...]."""
        return outputs.mean(-1)

    def target(self, outputs: Array, reward: Array, discount: Array) -> Array:
        """Samples of r + γ Z(s', a'), [..., atom]."""
        return reward[..., None] + discount[..., None] * outputs

    def loss(self, outputs: Array, target: Array) -> tuple[Array, Array]:
        """The quantile Huber loss, and the absolute error of the mean as TD error, each [...]."""
        quantile_loss = losses.quantile_huber_loss(outputs, target)
        return quantile_loss, jnp.abs((target - outputs).mean(-1))


Head = ScalarHead | CategoricalHead | QuantileHead


def make_head(
    name: Literal["mean", "categorical", "quantile"],
    loss_type: Loss,
    num_atoms: int,
    v_min: float,
    v_max: float,
) -> Head:
    """The head called `name`.

    Raises InvalidInput for a distribution with fewer than two atoms, or with v_min not below v_max.
    """
    if name != "mean" and num_atoms < 2:
        raise InvalidInput(f"num_atoms is {num_atoms}; a {name} distribution needs at least 2")
    if name == "categorical" and not v_min < v_max:
        raise InvalidInput(
            f"v_min {v_min} is not below v_max {v_max}; they bound the returns of the categorical "
            "head"
        )
    match name:
        case "categorical":
            return CategoricalHead(num_atoms, v_min, v_max)
        case "quantile":
            return QuantileHead(num_atoms)
    return ScalarHead(loss_type)
