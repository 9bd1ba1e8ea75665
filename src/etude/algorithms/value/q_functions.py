"""Q(s, a) as a network, for discrete actions and for actions in a bounded Box.

Both kinds share three methods; they differ in how they find the best action:

    outputs_for(observation, action)    the outputs for an action, [..., atom]
    greedy_action(observation, key)     argmaxₐ Q(s, a), by enumeration or by a sampling planner
    random_action(key, shape)           uniformly random actions
"""

from typing import Any

import jax
import jax.numpy as jnp

from etude.algorithms.value.heads import Head
from etude.nn.networks import MLP, Encoder, Network
from etude.planning.sampling.maximize import Maximizer, maximize
from etude.struct import static, struct
from etude.types import Array


@struct
class DiscreteQ:
    """Values of all discrete actions from one forward pass."""

    network: Network  # observation [..., *shape] -> [..., action * atom]
    head: Head = static()
    num_actions: int = static()

    def __call__(self, observation: Any) -> Array:
        """Q(s, ·), [..., action]."""
        return self.head.mean(self.outputs(observation))

    def outputs(self, observation: Any) -> Array:
        """The network's outputs for every action, [..., action, atom]."""
        outputs = self.network(observation)
        return outputs.reshape(*outputs.shape[:-1], self.num_actions, self.head.num_atoms)

    def outputs_for(self, observation: Any, action: Array) -> Array:
        """The network's outputs for `action` [...], [..., atom]."""
        outputs = self.outputs(observation)
        return jnp.take_along_axis(outputs, action[..., None, None], -2)[..., 0, :]

    def greedy_action(self, observation: Any, key: Array) -> Array:
        """argmaxₐ Q(s, a), [...]; the key is not used."""
        return self(observation).argmax(-1)

    def random_action(self, key: Array, shape: tuple[int, ...]) -> Array:
        """Uniformly random actions, [*shape]."""
        return jax.random.randint(key, shape, 0, self.num_actions)


@struct
class ContinuousQ:
    """Values of actions in a bounded Box; a sampling planner searches for the best action."""

    encoder: Encoder
    mlp: MLP  # features and action, concatenated -> [..., atom]
    head: Head = static()
    shape: tuple[int, ...] = static()  # of an action
    maximizer: Maximizer = static("cem")
    samples: int = static(64)
    iterations: int = static(4)
    elites: int = static(6)

    def outputs_for(self, observation: Any, action: Array) -> Array:
        """The network's outputs for `action` [..., *shape], [..., atom]."""
        return self.q_from_features(self.encoder(observation), action)

    def q_from_features(self, features: Array, action: Array) -> Array:
        """The outputs [..., atom] for features [..., n] and actions [..., *shape]."""
        flat_action = action.reshape(*action.shape[: action.ndim - len(self.shape)], -1)
        return self.mlp(jnp.concatenate([features, flat_action], -1))

    def greedy_action(self, observation: Any, key: Array) -> Array:
        """The best action that the planner finds for each observation, [..., *shape]."""
        features = self.encoder(observation)
        batch_shape = features.shape[:-1]

        def search(features, key):
            def score(candidates):  # [candidate, *shape] -> [candidate]
                repeated = jnp.broadcast_to(features, (len(candidates), *features.shape))
                return self.head.mean(self.q_from_features(repeated, candidates))

            return maximize(
                self.maximizer, score, key, self.shape, self.samples, self.iterations, self.elites
            )[0]

        rows = features.reshape(-1, features.shape[-1])
        actions = jax.vmap(search)(rows, jax.random.split(key, len(rows)))
        return actions.reshape(*batch_shape, *self.shape)

    def random_action(self, key: Array, shape: tuple[int, ...]) -> Array:
        """Uniformly random actions in [-1, 1], [*shape, *shape of an action]."""
        return jax.random.uniform(key, (*shape, *self.shape), minval=-1.0)
