"""Acting in chunks: several actions are predicted at once, and executed before the next are.

    step      0    1    2    3    4    5    6    7          chunk 4, execute 2
    predicts  a…d       c…f       e…h       g…j
    executes  a    b    c    d    e    f    g    h

The c and d of the first chunk are dropped, and predicted anew at step 2 from what is seen there: a
receding horizon (Chi et al., 2023). Each environment copy predicts where none of its actions are
left, as at the start of an episode: whoever plays puts `empty_chunks` in place of the memory of an
episode that ended. A recurrent cell reads every observation all the same.
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
    """What acting remembers between steps, [env, ...]: the recurrent carry and the latest chunk."""

    carry: Carry
    actions: Array  # [env, execute, *action]: those of the chunk that are executed
    num_left: Array  # int32 [env]: the last `num_left` of `actions` are still to be executed


def empty_chunks(algorithm: Any, carry: Carry, spec: EnvironmentSpec) -> ChunkMemory:
    """The memory at the start of an episode: this carry and no actions. Reads `execute`."""
    action = zeros_like_spec(spec).action
    actions = jnp.zeros((spec.num_envs, algorithm.execute, *action.shape), action.dtype)
    return ChunkMemory(carry, actions, jnp.zeros(spec.num_envs, jnp.int32))


def act_in_chunks(
    algorithm: Any, cloner: Cloner, observation: Any, memory: ChunkMemory, key: Array, explore: bool
) -> tuple[Array, ChunkMemory]:
    """Return (action, next memory): the next action of each copy's chunk.

    Reads the `head` and `execute` of the algorithm, and what `cloning.observe_context` reads.
    """
    context, carry = cloning.observe_context(algorithm, cloner, observation, memory.carry)
    has_none = memory.num_left == 0

    def predict(actions):
        predicted = algorithm.head.act(cloner.acting.head, context, key, explore)
        return where_done(has_none, predicted[:, : algorithm.execute], actions)

    # copies whose episodes begin together predict in the same steps, and none in those between
    actions = jax.lax.cond(has_none.any(), predict, lambda actions: actions, memory.actions)
    num_left = jnp.where(has_none, algorithm.execute, memory.num_left)
    action = actions[jnp.arange(len(actions)), algorithm.execute - num_left]
    return action, ChunkMemory(carry, actions, num_left - 1)
