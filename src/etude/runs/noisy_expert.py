"""An expert whose actions are disturbed as they are executed, so that it shows how to recover.

What is recorded is what the expert would do; what the environment gets differs from it now and
then. So the demonstrations contain states after mistakes, with the way back (Laskey et al., 2017).
"""

from typing import Any

import jax
import jax.numpy as jnp

from etude.algorithms.control.random_policy import Random, RandomState
from etude.algorithms.protocol import Expert, Policy
from etude.data.transition import zeros_like_spec
from etude.spaces import Box, EnvironmentSpec, executed_action
from etude.struct import static, struct
from etude.types import Array


@struct
class NoisyMemory:
    """What an episode remembers, [env, ...]."""

    expert: Any  # the expert's own memory
    label: Array  # what it would do at the latest observation


@struct
class NoisyPolicy:
    """The policy of an expert, with noise in the action that is executed.

    Elements of a Box get normal noise with a standard deviation of `noise`, in the policy's units,
    in which bounded elements are in [-1, 1]. Each choice is replaced by a random legal one with
    probability `noise`.
    """

    policy: Policy = static()
    spec: EnvironmentSpec = static()
    noise: float = static()
    needs: tuple[str, ...] = static(())

    def initial_memory(self, state: Any, spec: EnvironmentSpec, key: Array) -> NoisyMemory:
        """The expert's memory, and a blank label."""
        action = zeros_like_spec(spec).action
        label = jnp.zeros((spec.num_envs, *action.shape), action.dtype)
        return NoisyMemory(self.policy.initial_memory(state, spec, key), label)

    def act(
        self, state: Any, observation: Any, memory: NoisyMemory, key: Array, explore: bool
    ) -> tuple[Array, NoisyMemory]:
        """The disturbed action, and the next memory with the expert's own one."""
        key_expert, key_random, key_noise = jax.random.split(key, 3)
        space = self.spec.action
        label, expert_memory = self.policy.act(
            state, observation, memory.expert, key_expert, explore
        )
        label = executed_action(space, label).astype(memory.label.dtype)
        if isinstance(space, Box):
            noise = self.noise * jax.random.normal(key_noise, label.shape)
            action = executed_action(space, label + noise)
        else:
            spaces = RandomState(self.spec.observation, space)
            random, _ = Random().act(spaces, observation, (), key_random, explore)
            is_random = jax.random.bernoulli(key_noise, self.noise, label.shape)
            action = jnp.where(is_random, random.astype(label.dtype), label)
        return action, NoisyMemory(expert_memory, label)


def with_noise(expert: Expert, spec: EnvironmentSpec, noise: float) -> Expert:
    """The expert, with noise in its actions as they are executed; itself without noise."""
    if not noise:
        return expert
    policy: Any = NoisyPolicy(expert.policy, spec, noise)
    return Expert(expert.state, policy)
