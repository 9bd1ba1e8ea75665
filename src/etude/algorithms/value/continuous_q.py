"""Q(s, a) for actions in a bounded Box, whose best action a sampling planner searches for."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from etude.algorithms.assumptions import Assumptions
from etude.algorithms.value.boltzmann import Boltzmann
from etude.algorithms.value.heads import Head
from etude.nn.custom_torso import CustomTorso, TorsoMaker
from etude.nn.history import RecurrentEncoder
from etude.nn.networks import MLP, Activation, Encoder, make_mlp, make_network_encoder
from etude.nn.recurrent import GRU, LSTM
from etude.planning.planners import SamplingPlanner
from etude.spaces import Box, Composite, Space
from etude.struct import replace, static, struct
from etude.types import Array


@struct
class ContinuousQ:
    """Values of actions in a bounded Box; a sampling planner searches for the best action."""

    # of observations, or Histories of them; a custom torso alone reads the action too
    encoder: Encoder | CustomTorso | RecurrentEncoder
    mlp: MLP  # features and action, concatenated -> [..., atom]; of a custom torso, its features
    head: Head = static()
    shape: tuple[int, ...] = static()  # of an action
    samples: int = static()
    iterations: int = static()
    # the planner, while it is used: in a state it would be trained with the weights
    maximizer: SamplingPlanner | None = None

    def outputs_for(self, observation: Any, action: Array) -> Array:
        """The network's outputs for `action` [..., *shape], [..., atom]."""
        return self.q_from_features(self.encode(observation), action)

    def encode(self, observation: Any) -> Any:
        """What all actions share: features [..., n]; with a custom torso, the observation."""
        return observation if isinstance(self.encoder, CustomTorso) else self.encoder(observation)

    def q_from_features(self, features: Any, action: Array) -> Array:
        """The outputs [..., atom] for what `encode` returns and actions [..., *shape]."""
        if isinstance(self.encoder, CustomTorso):
            return self.mlp(self.encoder((features, action)))
        flat_action = action.reshape(*action.shape[: action.ndim - len(self.shape)], -1)
        return self.mlp(jnp.concatenate([features, flat_action], -1))

    def greedy_action(self, observation: Any, key: Array) -> Array:
        """The best action that the planner finds for each observation, [..., *shape]."""
        features = self.encode(observation)
        first = jax.tree.leaves(features)[0]
        num_axes = self.encoder.num_axes if isinstance(self.encoder, CustomTorso) else 1
        batch_shape = first.shape[: first.ndim - num_axes]

        def search(features, key):
            def score(plans):  # of one action, [candidate, 1, *shape] -> [candidate]
                repeated = jax.tree.map(
                    lambda x: jnp.broadcast_to(x, (len(plans), *x.shape)), features
                )
                return self.head.mean(self.q_from_features(repeated, plans[:, 0]))

            result = self.maximizer.plan(
                score,
                self.maximizer.init(jnp.zeros((1, *self.shape))),
                key,
                samples=self.samples,
                iterations=self.iterations,
            )
            return result.plan[0]

        num_rows = math.prod(batch_shape)
        rows = jax.tree.map(lambda x: x.reshape(num_rows, *x.shape[len(batch_shape) :]), features)
        actions = jax.vmap(search)(rows, jax.random.split(key, num_rows))
        return actions.reshape(*batch_shape, *self.shape)

    def random_action(self, observation: Any, key: Array, shape: tuple[int, ...]) -> Array:
        """Uniformly random actions in [-1, 1], [*shape, *shape of an action]."""
        return jax.random.uniform(key, (*shape, *self.shape), minval=-1.0)


def make_continuous_q(
    key: Array,
    observation: Space,
    action: Box,
    *,
    hidden: tuple[int, ...],
    activation: Activation,
    head: Head,
    recurrent: GRU | LSTM | None,
    samples: int,
    iterations: int,
    torso: TorsoMaker | None = None,
) -> ContinuousQ:
    """A network of observation (with `recurrent` a History) and action in [-1, 1].

    With `torso`, the network that it makes reads both, for Q is not linear in the action. With
    `recurrent` too, that network reads the observation, and the hidden layers follow the cell.
    """
    key_encoder, key_mlp = jax.random.split(key)
    reads_action = torso is not None and recurrent is None
    both = Composite((observation, replace(action, dtype="float32")))
    inputs = both if reads_action else observation
    encoder, num_features = make_network_encoder(key_encoder, inputs, torso, recurrent)
    sizes = (num_features,) if reads_action else (num_features + math.prod(action.shape), *hidden)
    mlp = make_mlp(key_mlp, (*sizes, head.num_atoms), activation)
    return ContinuousQ(encoder, mlp, head, action.shape, samples, iterations)


def with_maximizer(q: Any, maximizer: SamplingPlanner) -> Any:
    """`q` with the planner that looks for its best action; as it is for discrete actions."""
    return replace(q, maximizer=maximizer) if isinstance(q, ContinuousQ) else q


def is_deterministic(algorithm: Any, action_space: Space) -> bool:
    """Whether evaluations draw nothing at random: over a Box the maximizer draws samples."""
    return not isinstance(action_space, Box)


def action_assumptions(dueling: bool, exploration: Any) -> Assumptions:
    """What DQN assumes: with dueling, or Boltzmann exploration, that there are actions to count."""
    if dueling or isinstance(exploration, Boltzmann):
        setting = "dueling" if dueling else "Boltzmann exploration"
        return Assumptions(("Discrete",), because_of=setting, action_masks=True)
    return Assumptions(("Discrete", "bounded Box"), action_masks=True)
