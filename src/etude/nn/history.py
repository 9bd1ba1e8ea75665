"""Recurrent networks of value methods: what they read in place of an observation, a History.

    History --RecurrentEncoder--> features [..., units] --layers as of any network--> outputs

So a network is recurrent where its encoder is, and all that is computed from its outputs stays as
it is.
"""

from collections.abc import Callable
from typing import Any

import jax

from etude.nn.recurrent import Carry, RecurrentCell, initial_carry, step_cell, unroll_cell
from etude.struct import static, struct
from etude.types import Array


@struct
class History:
    """An observation [n, ...] or a stretch of them [time, n, ...], with what was remembered before.

    Each recurrent network has a carry of its own, at the index `slot` of its encoder.
    """

    observation: Any
    carries: tuple[Carry, ...]  # before the (first) observation, [n, size]; () for zeros
    is_first: Array | None = None  # bool [time, n]: an episode begins, which resets the carries
    # [time, n, ...]: what a network reads after each observation in place of that itself
    next_observation: Any = None
    next_row: Any = None  # int32 [time, n]: the row whose next observation is read; None: its own
    burn_in: int = static(0)  # rows at the start that only warm up the carries


@struct
class RecurrentEncoder:
    """A History to features [..., units], by an encoder of observations and a recurrent cell."""

    encoder: Callable[[Any], Array]
    cell: RecurrentCell
    slot: int = static(0)  # where its carry is among those of a History

    def __call__(self, history: History) -> Array:
        """The features of every row after the burn-in, through which no gradient passes."""
        if history.is_first is None:
            return self.next_carry(history)[0]
        split = history.burn_in
        first, rest = (
            jax.tree.map(lambda x, rows=rows: x[rows], (history.observation, history.is_first))
            for rows in (slice(split), slice(split, None))
        )
        carry = self.carry_of(history, history.is_first.shape[1:])
        if split:
            carries = unroll_cell(self.cell, self.encoder(first[0]), carry, first[1])
            carry = jax.lax.stop_gradient(jax.tree.map(lambda x: x[-1], carries))
        carries = unroll_cell(self.cell, self.encoder(rest[0]), carry, rest[1])
        if history.next_observation is None:
            return carries[0]
        following = jax.tree.map(lambda x: x[split:], history.next_observation)
        features = step_cell(self.cell, self.encoder(following), carries)[0]
        if history.next_row is None:
            return features
        return jax.numpy.take_along_axis(features, history.next_row[..., None], 0)

    def next_carry(self, history: History) -> Carry:
        """The carry after a single observation."""
        x = self.encoder(history.observation)
        return step_cell(self.cell, x, self.carry_of(history, x.shape[:-1]))

    def carry_of(self, history: History, batch_shape: tuple[int, ...]) -> Carry:
        """The carry of this network before the history."""
        return (
            history.carries[self.slot] if history.carries else initial_carry(self.cell, batch_shape)
        )


def recurrent_encoders(networks: Any) -> list[RecurrentEncoder]:
    """The recurrent encoders in a tree of networks, by their slots."""
    is_recurrent = lambda x: isinstance(x, RecurrentEncoder)
    encoders = filter(is_recurrent, jax.tree.leaves(networks, is_leaf=is_recurrent))
    return sorted(encoders, key=lambda encoder: encoder.slot)


def initial_carries(networks: Any, batch_shape: tuple[int, ...]) -> tuple[Carry, ...]:
    """The carries of the networks at the start of an episode; () where none is recurrent."""
    return tuple(
        initial_carry(encoder.cell, batch_shape) for encoder in recurrent_encoders(networks)
    )


def read_history(
    networks: Any, observation: Any, carries: tuple[Carry, ...]
) -> tuple[Any, tuple[Carry, ...]]:
    """(what the networks read at this observation [n, ...], their carries after it).

    Both are returned as they are where no network is recurrent; carries of networks beyond these
    stay what they were.
    """
    encoders = recurrent_encoders(networks)
    if not encoders:
        return observation, carries
    history = History(observation, carries)
    next_carries = tuple(encoder.next_carry(history) for encoder in encoders)
    return history, next_carries + carries[len(encoders) :]
