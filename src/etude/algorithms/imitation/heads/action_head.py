"""What an action head is: settings, the network they make, its loss, and how it acts.

    observation --Torso--> features --head--> a chunk of actions [chunk, *action]

A chunk is the next `chunk` actions, by default one. In the same state an expert may act in several
ways, which are the modes of its actions. The heads differ in the distributions of actions that they
can represent:

    direct, deterministic      one mode
    mixture                    a few modes
    latent                     an action as a function of a random z
    autoregressive             an action element by element, each given those before it
    flow, diffusion            noise that is turned into an action in several steps
"""

from typing import Any, Protocol, cast

import jax.numpy as jnp

from etude.algorithms.assumptions import ActionKind, is_kind
from etude.errors import InvalidInput
from etude.kinds import tag_of
from etude.nn.networks import Activation
from etude.spaces import Box, Space, executed_action
from etude.struct import struct
from etude.types import Array, Metrics


@struct
class Context:
    """What a head knows of a state: features [..., feature], and the choices that are legal."""

    features: Array
    # bool [..., n], as `nn.action_masks` tells it; None without a mask, as in chunks of several
    # actions, where a mask says nothing of the later ones
    legal: Array | None = None


class ActionHead(Protocol):
    """A head: a struct of settings that makes a network, gives its loss and acts with it.

    `network` is what `make` returned. Actions are in the policy's units: in [-1, 1] for a bounded
    Box, choices from 0, and as they are for an unbounded Box, which is best scaled to about [-1, 1]
    by the environment.
    """

    is_deterministic: bool  # whether `act`, without `explore`, draws nothing at random

    def make(
        self, key: Array, space: Space, num_features: int, chunk: int, activation: Activation
    ) -> Any:
        """The network from `num_features` to chunks of `chunk` actions of `space`.

        `activation` is that of hidden layers of the head's own, where it has any. Raises
        InvalidInput for a space that the head does not take.
        """
        ...

    def loss(
        self, network: Any, context: Context, action: Array, is_valid: Array, key: Array
    ) -> tuple[Array, Metrics]:
        """(the loss [], metrics) of the expert's chunks, [..., chunk, *action].

        `is_valid` [..., chunk] is True for the first actions of a chunk, at least for one. Those
        after the end of an episode are copies of its last action: a network may read them, but the
        loss leaves them out. `key` is for what the loss draws.
        """
        ...

    def act(self, network: Any, context: Context, key: Array, explore: bool) -> Array:
        """Chunks of actions [..., chunk, *action].

        Without `explore` a mode is drawn all the same, for the mean of the modes may be what no
        expert does; what is left out is the noise about it:

            direct, deterministic      the most likely action, and the mean
            mixture, latent            a component or z is drawn; then its mean
            autoregressive             bins are drawn; then their centers. Choices are drawn
            flow, diffusion            as with `explore`: from noise
        """
        ...

    def constrain(self, network: Any) -> Any:
        """The network after a gradient step, with standard deviations of at least `min_std`."""
        ...


def keep_network(network: Any) -> Any:
    """The network unchanged: for heads without parameters that have bounds."""
    return network


def check_head_space(head: Any, space: Space, *kinds: ActionKind) -> None:
    """Raise InvalidInput unless the space is of one of these `kinds`, which the head takes."""
    if not is_kind(space, *kinds):
        raise InvalidInput(
            f"head {tag_of(type(head))} takes {' or '.join(kinds)} actions, and this environment's "
            f"are {space}; --head direct takes every kind (in Python head=Direct())"
        )


def require_box(head: Any, space: Space, kind: ActionKind = "Box") -> Box:
    """The space itself; raises InvalidInput unless it is a Box of the head's `kind`."""
    check_head_space(head, space, kind)
    return cast(Box, space)


def valid_weight(is_valid: Array) -> Array:
    """Weights [..., chunk] of mean 1, and of 0 for actions that are not valid."""
    return is_valid / is_valid.mean()


def per_action(total: Array, is_valid: Array) -> Array:
    """Totals [...] over the valid actions of chunks, divided by the number of these actions: []."""
    return total.sum() / is_valid.sum()


def squared_error(error: Array, is_valid: Array) -> Array:
    """The mean square [] of errors [..., chunk, n], over the elements of the valid actions."""
    return (valid_weight(is_valid)[..., None] * error**2).mean()


def action_error(space: Space, action: Array, expert_action: Array, weight: Array) -> Array:
    """How far actions [..., *action] are from the expert's, which are what was executed: [].

    For a Box it is the mean absolute difference of what is executed, in the policy's units; else
    the share of the choices that differ. `weight` [...] is `valid_weight(is_valid)`.
    """
    if isinstance(space, Box):
        error = jnp.abs(executed_action(space, action) - expert_action)
    else:
        error = action != expert_action
    return (weight[..., None] * error.reshape(*weight.shape, -1)).mean()


def to_vectors(action: Array, space: Box) -> Array:
    """Actions of a Box, [..., chunk, *action], as vectors [..., chunk, n]."""
    leading = action.shape[: action.ndim - len(space.shape)]
    return action.reshape(*leading, -1)


def from_vectors(vectors: Array, space: Box) -> Array:
    """Vectors [..., chunk, n] as actions of a Box, [..., chunk, *action]."""
    return vectors.reshape(*vectors.shape[:-1], *space.shape)
