"""Acting in chunks: several actions are predicted at once, and executed before the next are.

    step      0    1    2    3    4    5    6    7          chunk 4, execute 2
    predicts  a…d       c…f       e…h       g…j
    executes  a    b    c    d    e    f    g    h

Each environment copy predicts anew where none of its actions are left, and at the first step of an
episode, which begins with none. A recurrent cell reads every observation all the same.
"""

from typing import Any

import jax
import jax.numpy as jnp

from etude.algorithms.imitation import cloning
from etude.algorithms.imitation.cloning import Cloner
from etude.data.transition import zeros_like_spec
from etude.nn.recurrent import Carry
from etude.spaces import EnvironmentSpec
from etude.struct import struct
from etude.trees import where_done
from etude.types import Array


@struct
class ChunkMemory:
    """What an episode remembers, [env, ...]: the recurrent carry, and a chunk with what is left."""

    carry: Carry
    actions: Array  # [env, execute, *action]: of the latest chunk, those that are to be executed
    num_left: Array  # int32 [env]: how many of them, the last ones, are left


def empty_chunks(algorithm: Any, carry: Carry, spec: EnvironmentSpec) -> ChunkMemory:
    """A carry, and no actions."""
    action = zeros_like_spec(spec).action
    actions = jnp.zeros((spec.num_envs, algorithm.execute, *action.shape), action.dtype)
    return ChunkMemory(carry, actions, jnp.zeros(spec.num_envs, jnp.int32))


def act_in_chunks(
    algorithm: Any, cloner: Cloner, observation: Any, memory: ChunkMemory, key: Array, explore: bool
) -> tuple[Array, ChunkMemory]:
    """Return (action, next memory): the next action of each copy's chunk."""
    context, carry = cloning.observe_context(algorithm, cloner, observation, memory.carry)
    has_none = memory.num_left == 0

    def predict(actions):
        predicted = algorithm.head.act(cloner.acting.head, context, key, explore)
        return where_done(has_none, predicted[:, : algorithm.execute], actions)

    actions = jax.lax.cond(has_none.any(), predict, lambda actions: actions, memory.actions)
    num_left = jnp.where(has_none, algorithm.execute, memory.num_left)
    action = actions[jnp.arange(len(actions)), algorithm.execute - num_left]
    return action, ChunkMemory(carry, actions, num_left - 1)
