"""An algorithm in a field of another: the agent acts and learns, its owner changes what from.

    class Owner(AgentInField):
        agent: PPO | SAC = nested(PPO())          # its hyperparameters are flags --agent.NAME

The owner changes rewards, as GAIL, or adds steps to batches of replay, as SQIL. The agent's state
is the field `agent` of the owner's state.
"""

from typing import Any

import jax
import jax.numpy as jnp

from etude.algorithms.assumptions import Assumptions
from etude.algorithms.protocol import Component
from etude.data.transition import ReplayBatch, Transition
from etude.nn.history import join_histories
from etude.spaces import EnvironmentSpec, Space
from etude.struct import replace
from etude.types import Array


class AgentInField:
    """What an algorithm with another in its field `agent` passes on to that one.

    The agent plays, and needs nothing from outside; `*outside` is what the owner needs. Components
    are the agent's: a run can start with its policy, and its agent with that of another run.
    """

    agent: Any

    @property
    def rollout_length(self) -> int:
        return self.agent.rollout_length

    @property
    def default_num_envs(self) -> int:
        return self.agent.default_num_envs

    @property
    def components(self) -> dict[str, Component]:
        return {name: of_owner(part) for name, part in self.agent.components.items()}

    @property
    def assumes(self) -> Assumptions:
        return self.agent.assumes

    def is_deterministic(self, action_space: Space) -> bool:
        return self.agent.is_deterministic(action_space)

    def first_update(self, num_envs: int) -> tuple[int, str]:
        return self.agent.first_update(num_envs)

    def remarks(self, num_envs: int, steps: int) -> tuple[str, ...]:
        return self.agent.remarks(num_envs, steps)

    def initial_memory(self, state: Any, spec: EnvironmentSpec, key: Array, *outside: Any) -> Any:
        """Return the agent's memory at the start of an episode."""
        return self.agent.initial_memory(state.agent, spec, key)

    def act(
        self, state: Any, observation: Any, memory: Any, key: Array, explore: bool, *outside: Any
    ) -> tuple[Any, Any]:
        """Act as the agent does."""
        return self.agent.act(state.agent, observation, memory, key, explore)

    def add_steps(self, batch: ReplayBatch, steps: Transition) -> ReplayBatch:
        """Return a batch of the agent's replay with steps [n] from elsewhere after its own rows.

        Own rows may sum several steps (DQN's n_step), the others are single steps. The agent is one
        without memory.
        """
        weight = batch.weight
        # prioritized replay did not draw these steps; 1 is the greatest of its weights
        if jnp.ndim(weight):
            weight = jnp.concatenate([weight, jnp.ones_like(steps.reward)])
        return ReplayBatch(
            jax.tree.map(lambda *x: jnp.concatenate(x), batch.transition, steps),
            jnp.concatenate([batch.discount, self.agent.discount * ~steps.terminated]),
            weight,
        )

    def add_sequences(self, batch: ReplayBatch, others: ReplayBatch) -> ReplayBatch:
        """Return a batch of the agent's replay with as many sequences from elsewhere beside them.

        Both are [time, sequence], with Histories as observations. The agent is recurrent, and has
        no memory of what came before the others.
        """

        def join(x: Array, y: Array) -> Array:
            return jnp.concatenate([x, y], 1)

        own, other = batch.transition, others.transition
        unread = {"observation": (), "next_observation": ()}
        transition = replace(
            jax.tree.map(join, replace(own, **unread), replace(other, **unread)),
            observation=join_histories(own.observation, other.observation),
            next_observation=join_histories(own.next_observation, other.next_observation),
        )
        # prioritized replay did not draw the others; 1 is the greatest of its weights
        weights = join(batch.weight, others.weight)
        return ReplayBatch(transition, join(batch.discount, others.discount), weights)

    def truncate_episodes(self, state: Any, is_cut: Array) -> Any:
        """Return the state after the agent's running episodes were cut off.

        Buffers of the owner stay as they are.
        """
        return replace(state, agent=self.agent.truncate_episodes(state.agent, is_cut))


def of_owner(component: Component) -> Component:
    """A component of an agent as one of its owner."""

    def get(state: Any) -> Any:
        return component.get(state.agent)

    def put(state: Any, part: Any) -> Any:
        assert component.put is not None
        return replace(state, agent=component.put(state.agent, part))

    def prepare(owner: Any, num_envs: int) -> Any:
        return replace(owner, agent=component.prepare(owner.agent, num_envs))

    return Component(
        get,
        put if component.put else None,
        tuple(f"agent.{field}" for field in component.settings),
        prepare,
        component.kind,
        of_agent=component,
    )
