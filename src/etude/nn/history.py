"""Recurrent networks of off-policy agents, which read a History where others read an observation.

    History --RecurrentEncoder--> features [..., units] --layers as of any network--> outputs

Only the encoder differs: heads and losses need no change.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from etude.nn.recurrent import Carry, RecurrentCell, initial_carry, step_cell, unroll_cell
from etude.struct import replace, static, struct
from etude.types import Array


@struct
class History:
    """Observations with the carries before them, in one of three forms.

    A step, with which a policy acts: one observation [n, ...], without `is_first`. A sequence:
    observations [time, n, ...]. The successors of a sequence: its `next_observation`, each read
    with the carry after the observation of its row. They are not the observations of the next
    rows, for at the end of an episode the next row begins another.
    """

    observation: Any
    # before the (first) observation, one carry for each recurrent network, whose arrays are
    # [n, size]; () for zeros
    carries: tuple[Carry, ...]
    is_first: Array | None = None  # bool [time, n]: an episode begins, which resets the carries
    next_observation: Any = None  # [time, n, ...], of the successors of a sequence
    # int32 [time - burn_in, n]: the row, counted from the end of the burn-in, whose successor is
    # read in place of a row's own; None: its own
    bootstrap_row: Any = None
    burn_in: int = static(0)  # rows at the start that only bring the carries up to date

    def map(self, function: Callable[[Any], Any]) -> "History":
        """The same of other observations, which `function` makes of these."""
        following = self.next_observation
        return replace(
            self,
            observation=function(self.observation),
            next_observation=None if following is None else function(following),
        )

    @property
    def rows(self) -> Any:
        """The observations of which a recurrent network gives features, without the carries.

        They are [n, ...] of a step, else [time - burn_in, n, ...]: the successors, if there are
        any.
        """
        if self.is_first is None:
            return self.observation
        read = self.observation if self.next_observation is None else self.next_observation
        read = jax.tree.map(lambda x: x[self.burn_in :], read)
        if self.bootstrap_row is None:
            return read
        return jax.tree.map(lambda x: x[self.bootstrap_row, jnp.arange(x.shape[1])], read)


@struct
class RecurrentEncoder:
    """A History to features [..., units], by an encoder of observations and a recurrent cell."""

    encoder: Callable[[Any], Array]
    cell: RecurrentCell
    carry_index: int = static(0)  # of its carry in a History; those of an agent count from 0

    def __call__(self, history: History) -> Array:
        """Features of a step [n, units], or of the rows after the burn-in [time - burn_in, ...].

        No gradient passes into the burn-in.
        """
        if history.is_first is None:
            return self.next_carry(history)[0]
        burn_in, is_first = history.burn_in, history.is_first
        observation, burn_in_observation = (
            jax.tree.map(lambda x, part=part: x[part], history.observation)
            for part in (slice(burn_in, None), slice(burn_in))
        )
        carry = self.carry_before(history, is_first.shape[1:])
        if burn_in:
            unrolled = unroll_cell(
                self.cell, self.encoder(burn_in_observation), carry, is_first[:burn_in]
            )
            carry = jax.lax.stop_gradient(jax.tree.map(lambda x: x[-1], unrolled))
        # the carry after each row
        unrolled = unroll_cell(self.cell, self.encoder(observation), carry, is_first[burn_in:])
        if history.next_observation is None:
            return unrolled[0]
        successor = jax.tree.map(lambda x: x[burn_in:], history.next_observation)
        features = step_cell(self.cell, self.encoder(successor), unrolled)[0]
        if history.bootstrap_row is None:
            return features
        return jnp.take_along_axis(features, history.bootstrap_row[..., None], 0)

    def next_carry(self, history: History) -> Carry:
        """The carry after the observation of a step; its first array is the cell's output."""
        x = self.encoder(history.observation)
        return step_cell(self.cell, x, self.carry_before(history, x.shape[:-1]))

    def carry_before(self, history: History, batch_shape: tuple[int, ...]) -> Carry:
        """The carry of this network before the (first) observation."""
        if not history.carries:
            return initial_carry(self.cell, batch_shape)
        return history.carries[self.carry_index]


def observed_rows(observation: Any) -> Any:
    """The rows of a History, one for each row of its features; any other observation as it is."""
    return observation.rows if isinstance(observation, History) else observation


def join_histories(first: History, second: History) -> History:
    """A History of the sequences of both, side by side, of which those of the second begin blank.

    They are as many and as long as those of the first, and each row of them has its own successor.
    """

    def join(x: Any, y: Any) -> Array:
        return jnp.concatenate([x, y], 1)

    bootstrap_row = first.bootstrap_row
    if bootstrap_row is not None:
        own_rows = jnp.broadcast_to(jnp.arange(len(bootstrap_row))[:, None], bootstrap_row.shape)
        bootstrap_row = join(bootstrap_row, own_rows)
    return replace(
        first,
        observation=jax.tree.map(join, first.observation, second.observation),
        carries=jax.tree.map(lambda x: jnp.concatenate([x, jnp.zeros_like(x)]), first.carries),
        is_first=join(first.is_first, second.is_first),
        next_observation=jax.tree.map(join, first.next_observation, second.next_observation),
        bootstrap_row=bootstrap_row,
    )


def recurrent_encoders(networks: Any) -> list[RecurrentEncoder]:
    """The recurrent encoders in a tree of networks, by the indices of their carries."""
    is_recurrent = lambda x: isinstance(x, RecurrentEncoder)
    encoders = filter(is_recurrent, jax.tree.leaves(networks, is_leaf=is_recurrent))
    return sorted(encoders, key=lambda encoder: encoder.carry_index)


def initial_carries(networks: Any, batch_shape: tuple[int, ...]) -> tuple[Carry, ...]:
    """The carries of the networks at the start of an episode; () where none is recurrent."""
    return tuple(
        initial_carry(encoder.cell, batch_shape) for encoder in recurrent_encoders(networks)
    )


def read_history(
    networks: Any, observation: Any, carries: tuple[Carry, ...]
) -> tuple[Any, tuple[Carry, ...]]:
    """(what the networks read at this observation [n, ...], the carries after it).

    Both are returned as they are where no network is recurrent. `networks` are the first of an
    agent's, by the indices of their carries; the carries of those after them are not stepped.
    """
    encoders = recurrent_encoders(networks)
    if not encoders:
        return observation, carries
    history = History(observation, carries)
    next_carries = tuple(encoder.next_carry(history) for encoder in encoders)
    return history, next_carries + carries[len(encoders) :]
