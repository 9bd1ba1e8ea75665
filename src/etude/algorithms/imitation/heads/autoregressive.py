"""The elements of an action one after the other, each as a choice: an autoregressive model.

    log π(a|s) = Σ_i log π(a_i | s, a_1, ..., a_(i-1))

The elements, here called parts, are those of all actions of a chunk, in order. An element of a Box
is cut into bins: n elements take n · bins logits, and can have any distribution, where a table of
all combinations would take binsⁿ. A recurrent cell, which begins with the features of the state,
reads the parts so far.
"""

import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from etude import spaces
from etude.algorithms.imitation.heads.action_head import (
    Context,
    check_head_space,
    keep_network,
    per_action,
)
from etude.nn.distributions import MASKED_LOGIT
from etude.nn.linear import affine
from etude.nn.networks import Activation
from etude.nn.recurrent import GRU, GRUCell, step_cell, unroll_cell
from etude.spaces import Box, Space
from etude.struct import static, struct
from etude.trees import batched_index
from etude.types import Array, Metrics


@struct
class AutoregressiveNetwork:
    """From features and the parts so far to the logits of the next part."""

    initial: eqx.nn.Linear  # features to what the cell begins with
    cell: GRUCell
    output: eqx.nn.Linear
    space: Space = static()
    chunk: int = static()
    # the number of choices of each part of an action
    sizes: tuple[int, ...] = static()

    @property
    def num_parts(self) -> int:
        return self.chunk * len(self.sizes)

    def begin(self, features: Array) -> Array:
        """What the cell remembers before the first part, [..., unit]."""
        return jnp.tanh(affine(self.initial, features))

    def inputs(self, previous: Array, part: Array) -> Array:
        """The cell's input [..., n] for a part, with the choice before it, of which -1 is none."""
        part = jnp.broadcast_to(part, previous.shape)
        return jnp.concatenate(
            [jax.nn.one_hot(previous, max(self.sizes)), jax.nn.one_hot(part, self.num_parts)], -1
        )

    def logits(self, memory: Array, is_choice: Array) -> Array:
        """The logits of a part, after the cell has read the parts before it.

        `is_choice` [..., choice] is what may be chosen; the other logits are as good as -inf.
        """
        return jnp.where(is_choice, affine(self.output, memory), MASKED_LOGIT)

    def choices_of(self, context: Context) -> Array:
        """What may be chosen in each part, bool [part, ..., choice], in the order of the scan.

        Parts have as many logits as the largest of them. `legal` is that of Discrete actions, or of
        MultiDiscrete ones, one element after the other.
        """
        sizes, most = np.array(self.sizes), max(self.sizes)
        leading = [1] * (context.features.ndim - 1)
        of_part = np.tile(np.arange(most) < sizes[:, None], (self.chunk, 1))  # [part, choice]
        exists = jnp.asarray(of_part).reshape(self.num_parts, *leading, most)
        if context.legal is None:
            return exists
        first = (np.cumsum(sizes) - sizes)[:, None]
        index = np.minimum(first + np.arange(most), sum(self.sizes) - 1)
        return exists & jnp.moveaxis(context.legal[..., index], -2, 0)

    def log_prob(self, context: Context, choices: Array) -> Array:
        """log π of each part, [part, ...], of choices [part, ...]."""
        leading = choices.shape[1:]
        choices = choices.reshape(self.num_parts, -1)
        previous = jnp.concatenate([jnp.full_like(choices[:1], -1), choices[:-1]])
        inputs = self.inputs(previous, jnp.arange(self.num_parts)[:, None])
        begin = self.begin(context.features.reshape(-1, context.features.shape[-1]))
        (memory,) = unroll_cell(self.cell, inputs, (begin,), jnp.zeros(choices.shape, bool))
        memory = memory.reshape(self.num_parts, *leading, -1)
        log_p = jax.nn.log_softmax(self.logits(memory, self.choices_of(context)))
        return batched_index(log_p, choices.reshape(self.num_parts, *leading))

    def sample(self, context: Context, key: Array) -> Array:
        """Choices [part, ...], each part drawn with those before it."""

        def draw(before, inputs):
            memory, previous = before
            part, is_choice, key = inputs
            (memory,) = step_cell(self.cell, self.inputs(previous, part), (memory,))
            choice = jax.random.categorical(key, self.logits(memory, is_choice))
            return (memory, choice), choice

        begin = self.begin(context.features)
        start = begin, jnp.full(begin.shape[:-1], -1)
        keys = jax.random.split(key, self.num_parts)
        parts = jnp.arange(self.num_parts), self.choices_of(context), keys
        return jax.lax.scan(draw, start, parts)[1]


@struct
class Autoregressive:
    """The elements of an action one after the other, each given those before it: for discrete
    actions, and for Box actions with bounds."""

    bins: int = static(21, at_least=2)
    """Bins of each element of a Box: their centers are evenly spaced, the first at -1 and the last
    at 1, so an action is off by at most 1 / (bins - 1); no effect with other action spaces."""
    units: int = static(128, at_least=1)
    """Units of the recurrent cell that reads the parts."""

    is_deterministic: ClassVar[bool] = False

    def make(
        self, key: Array, space: Space, num_features: int, chunk: int, activation: Activation
    ) -> AutoregressiveNetwork:
        """The layers and the cell."""
        check_head_space(self, space, "Discrete", "bounded Box", "MultiDiscrete", "MultiBinary")
        key_initial, key_cell, key_output = jax.random.split(key, 3)
        sizes = part_sizes(space, self.bins)
        num_inputs = max(sizes) + chunk * len(sizes)
        return AutoregressiveNetwork(
            eqx.nn.Linear(num_features, self.units, key=key_initial),
            GRU(self.units).make(key_cell, num_inputs),
            eqx.nn.Linear(self.units, max(sizes), key=key_output),
            space,
            chunk,
            sizes,
        )

    def loss(
        self,
        network: AutoregressiveNetwork,
        context: Context,
        action: Array,
        is_valid: Array,
        key: Array,
    ) -> tuple[Array, Metrics]:
        """-E[log π(a|s)], in nats per action; of a Box it is the probability of the bins."""
        choices = to_choices(network.space, action, self.bins)
        by_part = choices.reshape(*is_valid.shape[:-1], network.num_parts)
        log_prob = network.log_prob(context, jnp.moveaxis(by_part, -1, 0))
        of_action = log_prob.reshape(network.chunk, -1, *log_prob.shape[1:]).sum(1)
        total = -(jnp.moveaxis(of_action, 0, -1) * is_valid).sum(-1)
        nll = per_action(total, is_valid)
        return nll, {"nll": nll}

    def act(
        self, network: AutoregressiveNetwork, context: Context, key: Array, explore: bool
    ) -> Array:
        """Choices are drawn; of a Box their bins' centers, or with `explore` a place in the bin,
        within [-1, 1]."""
        key_choice, key_place = jax.random.split(key)
        choices = jnp.moveaxis(network.sample(context, key_choice), 0, -1)
        choices = choices.reshape(*choices.shape[:-1], network.chunk, *network.space.zeros().shape)
        if not isinstance(network.space, Box):
            return choices.astype(network.space.zeros().dtype)
        place = jax.random.uniform(key_place, choices.shape, minval=-0.5, maxval=0.5)
        return jnp.clip(bin_center(choices + place * explore, self.bins), -1, 1)

    constrain = staticmethod(keep_network)


def part_sizes(space: Space, bins: int) -> tuple[int, ...]:
    """The number of choices of each part of an action."""
    match space:
        case spaces.Discrete(n=n):
            return (n,)
        case spaces.MultiDiscrete(sizes=sizes):
            return sizes
        case spaces.MultiBinary(shape=shape):
            return (2,) * math.prod(shape)
    return (bins,) * math.prod(space.shape)


def to_choices(space: Space, action: Array, bins: int) -> Array:
    """The bins of Box actions, and all others as they are: int32, of the same shape."""
    if isinstance(space, Box):
        return jnp.round((jnp.clip(action, -1, 1) + 1) / 2 * (bins - 1)).astype(jnp.int32)
    return action.astype(jnp.int32)


def bin_center(choice: Array, bins: int) -> Array:
    """The center in [-1, 1] of one of `bins` bins, which count from 0."""
    return 2 * choice / (bins - 1) - 1
