"""The rows that a dynamics model learns from: steps as vectors, each in its place for good.

A row is held out from training, or counted more than once by a member of an ensemble, by a hash of
its number. So this stays as it is when the model is fitted again with more rows.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from etude.data.dataset import Dataset
from etude.data.replay import ring_buffer
from etude.data.replay.ring_buffer import RingBuffer
from etude.data.transition import Transition
from etude.nn.networks import encode_leaf
from etude.spaces import Box, Discrete, EnvironmentSpec, Space
from etude.struct import struct
from etude.types import Array

SALT_OF_HOLDOUT = 2**31  # folded into the key of the hash; members fold in their own number
# P(X ≤ n) of a Poisson variable with mean 1, n = 0, 1, ..., 8
POISSON = tuple(math.exp(-1) * sum(1 / math.factorial(i) for i in range(n + 1)) for n in range(9))


@struct
class ModelRows:
    """Steps [row] as vectors, in no order that matters."""

    observation: Array  # [row, observation]
    action: Array  # [row, action], in the policy's units; one-hot for Discrete actions
    reward: Array  # [row]
    next_observation: Array  # [row, observation]
    terminated: Array  # bool [row]
    number: Array  # int32 [row]: how many rows were there before it
    is_valid: Array  # bool [row]: False for places in a buffer that are empty


def rows_of_transitions(
    spec: EnvironmentSpec, transitions: Transition, number: Array, is_valid: Array
) -> ModelRows:
    """The rows of transitions [row, ...]."""
    return ModelRows(
        observation_vector(spec.observation, transitions.observation),
        action_vector(spec.action, transitions.action),
        transitions.reward,
        observation_vector(spec.observation, transitions.next_observation),
        transitions.terminated,
        number,
        is_valid,
    )


def rows_of_dataset(dataset: Dataset) -> ModelRows:
    """All steps of a dataset, numbered from its first on."""
    number = jnp.arange(dataset.num_steps, dtype=jnp.int32)
    is_valid = jnp.ones(dataset.num_steps, bool)
    return rows_of_transitions(dataset.spec, dataset.transitions, number, is_valid)


def rows_of_buffer(spec: EnvironmentSpec, buffer: RingBuffer) -> ModelRows:
    """All places of a buffer, those that are empty too."""
    length, num_envs = ring_buffer.length(buffer), ring_buffer.num_envs(buffer)
    place = jnp.arange(length, dtype=jnp.int32)
    # the row of time that was written last at each place; negative where there was none
    time = buffer.inserted - 1 - (buffer.inserted - 1 - place) % length
    number = (time[:, None] * num_envs + jnp.arange(num_envs)).ravel()
    transitions = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), buffer.storage)
    return rows_of_transitions(spec, transitions, number, number >= 0)


def observation_vector(space: Space, observation: Any) -> Array:
    """An observation of one Box [..., *shape] as a vector [..., n]."""
    return encode_leaf(space, observation)


def observation_of_vector(space: Space, vector: Array) -> Array:
    """The inverse of `observation_vector`."""
    assert isinstance(space, Box)  # as models assume
    return vector.reshape(*vector.shape[:-1], *space.shape)


def action_vector(space: Space, action: Array) -> Array:
    """An action [..., *shape] as a vector [..., n]; a Discrete one is one-hot."""
    if isinstance(space, Discrete):
        return jax.nn.one_hot(action, space.n)
    return encode_leaf(space, action)


def vector_sizes(spec: EnvironmentSpec) -> tuple[int, int]:
    """(elements of an observation, elements of an action), as vectors."""
    assert isinstance(spec.observation, Box)  # as models assume
    action = jax.eval_shape(lambda: action_vector(spec.action, spec.action.zeros()))
    return math.prod(spec.observation.shape), action.shape[0]


def uniform_hash(key: Array, number: Array) -> Array:
    """A number in [0, 1) for each row number, int32 [row], the same at each call with the key."""
    return jax.vmap(lambda n: jax.random.uniform(jax.random.fold_in(key, n)))(number)


def is_held_out(key: Array, rows: ModelRows, share: float | Array, at_most: int) -> Array:
    """Which rows are never trained on, bool [row]: a `share` of them, about `at_most` at once.

    A row that is held out stays so as long as it is there.
    """
    drawn = uniform_hash(jax.random.fold_in(key, SALT_OF_HOLDOUT), rows.number) < share
    # of the first at_most / share places at_most are drawn; a buffer fills them again and again
    place = rows.number % len(rows.number)
    return drawn & (place * share < at_most) & rows.is_valid


def bootstrap_weights(key: Array, rows: ModelRows, members: int) -> Array:
    """How often each member of an ensemble counts each row, Poisson(1), float32 [member, row].

    That is a bootstrap sample, in which the number of draws is random too. A row has weight 0 with
    probability 1/e = .368 for a member.
    """
    keys = jax.vmap(lambda member: jax.random.fold_in(key, member))(jnp.arange(members))
    uniform = jax.vmap(uniform_hash, (0, None))(keys, rows.number)
    return (uniform[..., None] >= jnp.asarray(POISSON)).sum(-1).astype(jnp.float32)


def draw_rows(key: Array, weights: Array, shape: tuple[int, ...]) -> Array:
    """Rows drawn with replacement, in proportion to `weights` [row]: int32 [*shape]."""
    ends = weights.cumsum()
    drawn = jax.random.uniform(key, shape) * ends[-1]
    return jnp.minimum(jnp.searchsorted(ends, drawn, side="right"), len(weights) - 1)
