"""Soft Q imitation learning, SQIL (Reddy et al., 2020): an agent with rewards of 1 and 0.

    r = 1 for the steps of the expert,   r = 0 for those of the agent

To each batch of the agent's own steps as many of the expert's are added. A reward of 1 for what the
expert did draws the agent back to where the expert was when it has left there; cloning has no such
pull. The environment's own reward is never read. No reward is below 0, so what follows the end of
an episode, 0, is the worst there is: where the expert ends its episodes early, SQIL does not.

For a recurrent agent the expert's sequences begin with a blank memory, as where it learns from a
dataset alone: their burn-in brings it up to date.
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from etude.algorithms.actor_critic.sac import SAC
from etude.algorithms.common.agent_in_field import AgentInField
from etude.algorithms.protocol import Outside, algorithm
from etude.algorithms.value.dqn import DQN
from etude.data.dataset import Dataset
from etude.data.replay import ring_buffer, sequence, uniform
from etude.data.replay.ring_buffer import Indices, RingBuffer
from etude.data.transition import ReplayBatch, Transition
from etude.errors import InvalidInput
from etude.spaces import EnvironmentSpec
from etude.struct import nested, replace, struct
from etude.types import Array, Metrics


@struct
class SQILState:
    agent: Any  # the state of the agent


@algorithm
class SQIL(AgentInField):
    """Soft Q imitation learning (SQIL), with SAC or DQN as the agent."""

    agent: SAC | DQN = nested(SAC())
    """What learns from the rewards. SAC, for discrete actions too, is soft, as the method is meant;
    DQN has a hard maximum in its target."""

    needs: ClassVar[tuple[str, ...]] = ("dataset",)

    def validate_fields(self) -> None:
        if self.agent.hindsight:
            raise InvalidInput(
                "agent.hindsight is set; the step of each transition in its episode, which it "
                "needs, is not in a dataset: leave it out"
            )
        if not self.agent.plays:
            raise InvalidInput(
                "agent.plays is off, and half of what SQIL learns from are the agent's own steps; "
                "leave it on"
            )

    def init(self, key: Array, spec: EnvironmentSpec, outside: Outside) -> SQILState:
        """Return the agent's initial state."""
        return SQILState(self.agent.init(key, spec))

    def update(
        self, state: SQILState, experience: Transition, key: Array, outside: Outside
    ) -> tuple[SQILState, Metrics]:
        """Update the agent on batches to which as many rows of the expert are added."""
        dataset = outside.dataset
        assert dataset is not None  # as `needs` asks for

        def relabel(
            state: Any, buffer: RingBuffer, indices: Indices, batch: ReplayBatch, key: Array
        ) -> ReplayBatch:
            return self.add_expert(batch, dataset, key)

        agent, metrics = self.agent.update(state.agent, experience, key, relabel=relabel)
        return SQILState(agent), metrics

    def add_expert(self, batch: ReplayBatch, dataset: Dataset, key: Array) -> ReplayBatch:
        """Return the batch with rewards of 0, and as many steps of the expert with rewards of 1.

        Of a recurrent agent they are sequences, which begin at random steps of the dataset.
        """
        reward = batch.transition.reward
        own = replace(batch.transition, reward=jnp.zeros_like(reward))
        batch = replace(batch, transition=own)
        expert = replace(dataset.transitions, reward=jnp.ones_like(dataset.transitions.reward))
        if not self.agent.recurrent:
            rows = jax.random.randint(key, reward.shape, 0, dataset.num_steps)
            return self.add_steps(batch, jax.tree.map(lambda x: x[rows], expert))
        buffer = ring_buffer.buffer_of(expert)
        indices = uniform.sample_indices(buffer, key, reward.shape[1])
        sequences = sequence.sequence_batch(
            buffer,
            indices,
            jnp.float32(1),
            1,
            self.agent.discount,
            length=self.agent.sequence_length,
            burn_in=self.agent.burn_in,
        )
        return self.add_sequences(batch, sequences)


# Name on the command line: (constructor, description).
ALGORITHMS = {
    "sqil": (SQIL, "SAC or DQN with a reward of 1 for the expert's steps and 0 for its own")
}
