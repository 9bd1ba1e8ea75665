"""A fitted ensemble as a `Model`: what planners, tree search and imagination step.

A member is one way in which the world could be. Particles are divided evenly among the members:

    TS∞    a particle keeps its member for the whole plan: doubt adds up along the plan
    TS1    at each step the particles are divided anew: doubt averages out

(trajectory sampling, Chua et al., 2018). All plans of a particle meet its member and its noise.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from etude.errors import InvalidInput
from etude.models.episode_end import EpisodeEnd
from etude.models.gaussian_network import GaussianNetwork
from etude.models.known_functions import KnownFunctions
from etude.models.model_rows import action_vector, observation_of_vector, observation_vector
from etude.models.standardization import Standardization
from etude.planning.protocol import ModelStep
from etude.spaces import Discrete, EnvironmentSpec
from etude.struct import replace, static, struct
from etude.types import Array

Propagation = Literal["ts-infinity", "ts1", "mean"]
# standard deviations from the mean of the data beyond which a prediction counts as diverged
LARGEST_DEVIATION = 100.0
WEIGHT_OF_ORIGIN = 0.1  # of (s, a) beside s', for the classifier of ends


@struct
class LearnedModel:
    """A transition model that was fitted to data; its states are vectors [particle, plan, n].

    With the propagation "mean" a step is the mean of all members, without noise; a planner with
    derivatives follows it. A plan on which a prediction diverges has a reward of −∞.
    """

    members: GaussianNetwork  # leaves [member, ...]
    inputs: Standardization  # of (s, a)
    targets: Standardization  # of (s' − s, r)
    end: EpisodeEnd
    spec: EnvironmentSpec = static()
    known: KnownFunctions = static()
    propagation: Propagation = static("ts-infinity")
    ends: bool = static(True)
    diverged_reward: float | Array = -jnp.inf  # of a step whose prediction diverges

    def begin(self, observation: Any, memory: Any, key: Array) -> Array:
        return observation_vector(self.spec.observation, observation)

    def observe(self, state: Array) -> Any:
        return observation_of_vector(self.spec.observation, state)

    def legal(self, state: Array) -> Array:
        """Every action: what a mask forbids is not learned."""
        assert isinstance(self.spec.action, Discrete)
        return jnp.ones((*state.shape[:2], self.spec.action.n), bool)

    def step(self, state: Array, action: Array, key: Array) -> ModelStep:
        """Step states [particle, plan, n]; the particles are a multiple of the members."""
        key_noise, key_order = jax.random.split(key)
        vector = action_vector(self.spec.action, action)
        x = self.inputs.forward(jnp.concatenate([state, vector], -1))
        change = self.targets.backward(self.predict(x, key_noise, key_order))
        successor, reward = state + change[..., :-1], change[..., -1]
        has_diverged = self.has_diverged(successor)
        successor = jnp.where(has_diverged[..., None], state, successor)
        if self.known.reward is not None:
            reward = self.call(self.known.reward, state, action, successor)
        reward = jnp.where(has_diverged, self.diverged_reward, reward)
        return ModelStep(successor, reward, self.continues(state, action, vector, successor))

    def predict(self, x: Array, key_noise: Array, key_order: Array) -> Array:
        """Standardized changes and rewards [particle, plan, column], of x [particle, plan, in]."""
        count, particles = self.num_members, len(x)
        if self.propagation == "mean":
            return jax.vmap(lambda member: member(x).mean)(self.members).mean(0)
        check_particles(particles, count)
        order = jnp.arange(particles)
        if self.propagation == "ts1":
            order = jax.random.permutation(key_order, particles)
            x = x[order]
        rows = x.reshape(count, -1, x.shape[-1])  # [member, particle and plan, in]
        normal = jax.vmap(lambda member, rows: member(rows))(self.members, rows)
        mean, variance = (y.reshape(*x.shape[:2], -1) for y in (normal.mean, normal.variance))
        if self.propagation == "ts1":
            back = jnp.argsort(order)
            mean, variance = mean[back], variance[back]
        noise = jax.random.normal(key_noise, (particles, 1, mean.shape[-1]))
        return mean + jnp.sqrt(variance) * noise

    def continues(self, state: Array, action: Array, vector: Array, successor: Array) -> Array:
        """How likely the episode goes on after a step, [particle, plan]."""
        if not self.ends:
            return jnp.ones(state.shape[:2])
        if self.known.terminated is not None:
            return 1.0 - self.call(self.known.terminated, state, action, successor)
        step = step_vector(self.inputs, state, vector, successor)
        return 1.0 - self.end.probability(step)

    def call(self, function: Any, state: Array, action: Array, successor: Array) -> Array:
        """A known function of one step, called for each particle and plan."""
        return jax.vmap(jax.vmap(function))(self.observe(state), action, self.observe(successor))

    def has_diverged(self, successor: Array) -> Array:
        """Whether a predicted state is not finite, or far from all data; bool [particle, plan]."""
        size = successor.shape[-1]
        deviation = jnp.abs(successor - self.inputs.mean[:size]) / self.inputs.std[:size]
        return ~(deviation < LARGEST_DEVIATION).all(-1)

    def with_member(self, number: Array) -> "LearnedModel":
        """The model with one member alone, for a tree.

        A tree averages rewards, so a step that diverges costs not ∞ but LARGEST_DEVIATION standard
        deviations of the rewards, or units where they are less than one.
        """
        worst = self.targets.mean[-1] - LARGEST_DEVIATION * jnp.maximum(1, self.targets.std[-1])
        member = jax.tree.map(lambda x: x[number][None], self.members)
        return replace(self, members=member, diverged_reward=worst)

    @property
    def num_members(self) -> int:
        """Members that predict."""
        return len(self.members.bounds.high)


def check_particles(particles: int, members: int) -> None:
    """Raise InvalidInput for particles that cannot be divided evenly among the members."""
    if particles % members:
        raise InvalidInput(
            f"{particles} particles cannot be divided evenly among the {members} members of the "
            f"model; give a multiple of {members}"
        )


def step_vector(inputs: Standardization, state: Array, action: Array, successor: Array) -> Array:
    """Standardized (s, a, s'), from vectors [..., n], [..., m], [..., n]: what ends an episode.

    The successor is measured by the spread of states. The others count a tenth: an episode mostly
    ends by where a step leads, and few ends are seen, so what led there is soon mistaken for it.
    """
    size = state.shape[-1]
    of_successor = Standardization(inputs.mean[:size], inputs.std[:size])
    step = WEIGHT_OF_ORIGIN * inputs.forward(jnp.concatenate([state, action], -1))
    return jnp.concatenate([step, of_successor.forward(successor)], -1)
