"""Heads of a value network: what its outputs mean. Here the mean return, the head of plain DQN.

A head reads `outputs` [..., atom], the network's outputs for one action. It gives their mean, the
training target made from the outputs for the next action, and the loss between outputs and target.
A distributional variant of Q-learning is the same algorithm with another head.
"""

from typing import Literal, Protocol

import jax.numpy as jnp

from etude.estimators import losses
from etude.struct import static, struct
from etude.types import Array, Metrics

Loss = Literal["huber", "squared"]
LOSSES = {"huber": losses.huber_loss, "squared": losses.l2_loss}


class Head(Protocol):
    """What a Q function asks of its head."""

    @property
    def num_atoms(self) -> int:
        """Outputs of the network for each action."""
        ...

    def mean(self, outputs: Array) -> Array:
        """Q(s, a), [...], from the outputs [..., atom]."""
        ...

    def target(self, outputs: Array, reward: Array, discount: Array) -> Array:
        """What the outputs for (s, a) are trained toward, [..., atom].

        `outputs` [..., atom] are those for the next action, and reward and discount are [...].
        """
        ...

    def loss(self, outputs: Array, target: Array) -> tuple[Array, Array]:
        """The loss, and the error by which prioritized replay draws, [...] each."""
        ...

    def target_metrics(self, target: Array) -> Metrics:
        """What is to be known of targets [..., atom], numbers [] by their names."""
        return {}


@struct
class ScalarHead:
    """The action's value as one number (Mnih et al., 2015)."""

    loss_type: Loss = static("huber")
    """Loss of the TD error; the slope of "huber" is at most 1 (Mnih et al., 2015)."""
    tag = "scalar"
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

    def target_metrics(self, target: Array) -> Metrics:
        """Nothing."""
        return {}
