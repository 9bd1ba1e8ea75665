"""The uniformly random policy, on every kind of action: a baseline that learns nothing."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from etude.algorithms.assumptions import Assumptions
from etude.algorithms.protocol import algorithm
from etude.data.transition import Transition
from etude.nn import distributions
from etude.nn.action_masks import action_mask
from etude.spaces import Box, EnvironmentSpec, Space
from etude.struct import static, struct
from etude.types import Array


@struct
class RandomState:
    """What Random knows; it learns nothing."""

    observation_space: Space = static()
    action_space: Space = static()


@algorithm
class Random:
    """Uniformly random actions of every kind, legal ones where a mask is observed; no learning."""

    rollout_length: int = static(1, at_least=1)
    """Environment steps of each copy between updates, which do nothing."""
    learns: ClassVar[bool] = False
    assumes: ClassVar[Assumptions] = Assumptions(full_observation=False, action_masks=True)

    def is_deterministic(self, action_space: Space) -> bool:
        """Return False: every action is drawn."""
        return False

    def init(self, key: Array, spec: EnvironmentSpec) -> RandomState:
        """The spaces to draw from; the key is not used."""
        return RandomState(spec.observation, spec.action)

    def act(
        self, state: RandomState, observation: Any, memory: Any, key: Array, explore: bool
    ) -> tuple[Array, Any]:
        """A random action of each copy, [env, *action], exploring or not.

        Raises InvalidInput for an action mask of another size than the actions.
        """
        num_envs = len(jax.tree.leaves(observation)[0])
        if isinstance(state.action_space, Box):
            return sample_box(key, state.action_space, num_envs), memory
        logits = jnp.zeros((num_envs, distributions.num_parameters(state.action_space)))
        pi = distributions.distribution_for(state.action_space, logits)
        mask = action_mask(state.observation_space, state.action_space, observation)
        pi = pi if mask is None else distributions.masked_distribution(pi, mask)
        return pi.sample(key), memory

    def update(
        self, state: RandomState, experience: Transition, key: Array
    ) -> tuple[RandomState, dict[str, Any]]:
        """The unchanged state: Random does not learn."""
        return state, {"updates": 0}


def sample_box(key: Array, space: Box, num_envs: int) -> Array:
    """Random actions of a Box in the policy's units, float32 [env, *shape].

    The distribution of each element depends on its bounds, as in Gymnasium's `Box.sample`:

        two bounds   uniform in [-1, 1], so that each integer of an integer Box is equally likely
        only low     low + x,    x exponential with mean 1
        only high    high - x,   x exponential with mean 1
        none         standard normal

    `to_environment_action` scales the elements with two bounds and no others.
    """
    key_uniform, key_exponential, key_normal = jax.random.split(key, 3)
    shape = (num_envs, *space.shape)
    low, high = space.bounds
    uniform = jax.random.uniform(key_uniform, shape, minval=-1, maxval=1)
    if np.issubdtype(space.dtype, np.integer):
        # Actions are rounded, which leaves the first and the last integer half an interval within
        # the bounds; the other half lies outside and is clipped to the bound.
        uniform = jnp.clip(uniform * (1 + 1 / np.maximum(high - low, 1)), -1, 1)
    exponential = jax.random.exponential(key_exponential, shape)
    return jnp.select(
        [space.is_bounded, np.isfinite(low), np.isfinite(high)],
        [uniform, low + exponential, high - exponential],
        jax.random.normal(key_normal, shape),
    )


# Name on the command line: (constructor, description).
ALGORITHMS = {"random": (Random, "uniformly random actions of every kind; learns nothing")}
