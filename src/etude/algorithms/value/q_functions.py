"""Q(s, a) as a network, and the action that is best by it: the one place where choices and numbers
differ.

    at(observation, action)    the outputs for an action, [..., atom]
    best(observation, key)     argmaxₐ Q(s, a): all are looked at, or a planner looks for it
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
    """Values of discrete actions, all of them from one pass."""

    network: Network  # observation [..., *shape] -> [..., action * atom]
    head: Head = static()
    n: int = static()  # actions

    def __call__(self, observation: Any) -> Array:
        """Q(s, ·), [..., action]."""
        return self.head.mean(self.outputs(observation))

    def outputs(self, observation: Any) -> Array:
        """[..., action, atom]"""
        outputs = self.network(observation)
        return outputs.reshape(*outputs.shape[:-1], self.n, self.head.num_atoms)

    def outputs_for(self, observation: Any, action: Array) -> Array:
        return jnp.take_along_axis(self.outputs(observation), action[..., None, None], -2)[
            ..., 0, :
        ]

    def greedy_action(self, observation: Any, key: Array) -> Array:
        return self(observation).argmax(-1)

    def random_action(self, key: Array, shape: tuple[int, ...]) -> Array:
        """Actions without preference, of this leading shape."""
        return jax.random.randint(key, shape, 0, self.n)


@struct
class ContinuousQ:
    """Values of actions in a bounded Box, whose best is looked for among a planner's candidates."""

    encoder: Encoder
    mlp: MLP  # features and action, side by side -> [..., atom]
    head: Head = static()
    shape: tuple[int, ...] = static()  # of an action
    maximizer: Maximizer = static("cem")
    samples: int = static(64)
    iterations: int = static(4)
    elites: int = static(6)

    def outputs_for(self, observation: Any, action: Array) -> Array:
        return self.q_from_features(self.encoder(observation), action)

    def q_from_features(self, features: Array, action: Array) -> Array:
        """[..., n] and [..., *shape] to [..., atom]"""
        flat = action.reshape(*action.shape[: action.ndim - len(self.shape)], -1)
        return self.mlp(jnp.concatenate([features, flat], -1))

    def greedy_action(self, observation: Any, key: Array) -> Array:
        features = self.encoder(observation)
        leading = features.shape[:-1]

        def search(features, key):
            def score(candidates):  # [candidate, *shape] -> [candidate]
                repeated = jnp.broadcast_to(features, (len(candidates), *features.shape))
                return self.head.mean(self.q_from_features(repeated, candidates))

            return maximize(
                self.maximizer, score, key, self.shape, self.samples, self.iterations, self.elites
            )[0]

        rows = features.reshape(-1, features.shape[-1])
        return jax.vmap(search)(rows, jax.random.split(key, len(rows))).reshape(
            *leading, *self.shape
        )

    def random_action(self, key: Array, shape: tuple[int, ...]) -> Array:
        return jax.random.uniform(key, (*shape, *self.shape), minval=-1.0)
