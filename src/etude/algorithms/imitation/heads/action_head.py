"""What an action head is: settings, the network they make, its loss, and how it acts.

    observation --Torso--> features --head--> a chunk of actions [chunk, *action]

A chunk is the actions from a step on, and most often one. The same expert may do one thing or
another in the same state; the heads differ in how they hold what its actions have in common:

    direct, deterministic      one action, and what is left is noise
    mixture                    one of several
    latent                     a function of noise that is drawn first
    autoregressive             the parts of an action in turn, each with those before it
    flow, diffusion            noise that is turned into an action step by step
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
    # of the first action, bool [..., n] in the order of its logits; None where all are
    legal: Array | None = None


class ActionHead(Protocol):
    """What a cloned policy asks of its head, which is a struct of settings.

    `network` is what `make` returned, a tree of arrays. Actions are in the policy's units.
    """

    is_deterministic: bool  # whether `act`, without `explore`, draws nothing at random

    def make(
        self, key: Array, space: Space, num_features: int, chunk: int, activation: Activation
    ) -> Any:
        """The network from `num_features` to chunks of `chunk` actions of `space`.

        Raises InvalidInput for a space that the head does not take.
        """
        ...

    def loss(
        self, network: Any, context: Context, action: Array, is_valid: Array, key: Array
    ) -> tuple[Array, Metrics]:
        """(the loss [], metrics) of the expert's chunks, [..., chunk, *action].

        Actions count where `is_valid` [..., chunk] is True, and the first of a chunk always does.
        """
        ...

    def act(self, network: Any, context: Context, key: Array, explore: bool) -> Array:
        """Chunks of actions [..., chunk, *action].

        Without `explore` no noise is added to them; but where a head has several modes, one of
        them is drawn all the same, for the mean of them may be what no expert does.
        """
        ...

    def constrain(self, network: Any) -> Any:
        """The network after a gradient step, brought back to the bounds of its numbers."""
        ...


def keep_network(network: Any) -> Any:
    """The network as it is: its numbers have no bounds."""
    return network


def check_head_space(head: Any, space: Space, *kinds: ActionKind) -> None:
    """Raise InvalidInput for a space of none of the `kinds` that the head takes."""
    if not is_kind(space, *kinds):
        raise InvalidInput(
            f"head {tag_of(type(head))} takes {' or '.join(kinds)} actions, and this environment's "
            f"are {space}; --head direct takes every kind (in Python head=Direct())"
        )


def box_for(head: Any, space: Space, kind: ActionKind = "Box") -> Box:
    """The space itself, a Box of the `kind` that the head takes.

    Raises InvalidInput for another space.
    """
    check_head_space(head, space, kind)
    return cast(Box, space)


def valid_weight(is_valid: Array) -> Array:
    """Weights [..., chunk] of mean 1, and of 0 where an action does not count."""
    return is_valid / is_valid.mean()


def per_action(total: Array, is_valid: Array) -> Array:
    """The mean [] per action that counts, of sums [...] over the actions of chunks that do."""
    return total.mean() / is_valid.sum(-1).mean()


def squared_error(error: Array, is_valid: Array) -> Array:
    """The mean square [] of the errors [..., chunk, n] of the actions that count."""
    return (valid_weight(is_valid)[..., None] * error**2).mean()


def action_error(space: Space, action: Array, expert_action: Array, weight: Array) -> Array:
    """How far actions are from the expert's, []: a number that is easier to read than a likelihood.

    Actions are [..., *action], and their weights [...] in the mean are those of `valid_weight`.

    For a Box it is the mean absolute difference of what is executed, in the policy's units, in
    which bounded actions are in [-1, 1]; else the share of the choices that differ.
    """
    if isinstance(space, Box):
        error = jnp.abs(executed_action(space, action) - expert_action)
    else:
        error = action != expert_action
    return (weight[..., None] * error.reshape(*weight.shape, -1)).mean()


def to_vectors(action: Array, is_valid: Array) -> Array:
    """Actions of a Box, [..., chunk, *action], as [..., chunk, n]."""
    return action.reshape(*is_valid.shape, -1)
