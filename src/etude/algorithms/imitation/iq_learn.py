"""Inverse soft Q-learning, IQ-Learn (Garg et al., 2021): one Q function is policy and reward.

    V(s) = τ log Σₐ exp(Q(s, a) / τ),   π(a|s) = exp((Q(s, a) - V(s)) / τ),
    r(s, a) = Q(s, a) - γ V(s')         the reward for which Q is optimal; V = 0 after the end

    L(Q) = -E_expert[r - r² / 4α] + E[V(s) - γ V(s')]

The first term gives the expert's steps a large reward, but no endless one; the second takes away
what the policy would get. Where L is least, r = 2α (1 - ρ_π / ρ_expert), with ρ how often a step
comes. There is no discriminator, and the environment's own reward is never read.

The second mean is over any states that one policy comes to. Offline they are the expert's, and
Q(s, a) - γ V(s') falls out of both terms, so L is behavior cloning with a condition on Q:

    L(Q) = -τ E_expert[log π(a|s)] + E_expert[r²] / 4α

With `online` half of them are those of the agent's own steps.

A recurrent Q learns from sequences that begin at random rows: of the dataset with a blank memory,
of its own steps with the one that it had there. Their burn-in brings it up to date.
"""

from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from etude.algorithms.assumptions import Assumptions
from etude.algorithms.common import replay_agents
from etude.algorithms.protocol import Outside, algorithm
from etude.algorithms.value.heads import ScalarHead
from etude.algorithms.value.q_functions import DiscreteQ, make_discrete_q
from etude.data.replay import ring_buffer, uniform
from etude.data.replay.ring_buffer import RingBuffer
from etude.data.transition import ReplayBatch
from etude.estimators import running_statistics
from etude.estimators.running_statistics import Normalization
from etude.nn.custom_torso import TorsoMaker
from etude.nn.history import History
from etude.nn.networks import Activation
from etude.nn.recurrent import GRU, LSTM
from etude.spaces import EnvironmentSpec
from etude.struct import code, nested, replace, static, struct, traced
from etude.types import Array, Metrics


@struct
class IQLearnState:
    q: DiscreteQ  # observation, or History -> Q(s, ·), [..., action]; -inf for illegal actions
    opt_state: optax.OptState
    observation_statistics: Any  # of the dataset: a RunningMeanStd or None for each leaf
    buffer: Any  # a RingBuffer of the agent's own steps; () unless online


@algorithm
class IQLearn:
    """Inverse soft Q-learning (IQ-Learn) for discrete actions, from a dataset."""

    learning_rate: float = traced(1e-4, above=0)
    """Step size of Adam."""
    discount: float = traced(0.99, at_least=0, at_most=1)
    """Discount factor γ per environment step."""
    temperature: float = traced(0.01, above=0)
    """Temperature τ of the softmax over Q, in units of the learned reward; larger values make the
    policy more random."""
    regularization: float = traced(0.5, above=0)
    """α of the χ² regularizer r² / 4α, which bounds the learned reward; smaller values bound it
    more."""
    hidden: tuple[int, ...] = static((64, 64), at_least=1)
    """Units of each hidden layer."""
    activation: Activation = static("elu")
    """Activation function of the hidden layers."""
    torso: TorsoMaker | None = code()
    """Function that makes a network of one's own, in place of the hidden layers: hidden and
    activation have no effect with it; see `etude.TorsoMaker`."""
    recurrent: GRU | LSTM | None = nested(None)
    """Recurrent cell before the hidden layers, a memory for partially observed environments."""
    sequence_length: int = static(16, at_least=1)
    """Steps of the sequences that recurrent networks learn from, burn-in included; batch_size must
    be a multiple; no effect with recurrent "none"."""
    burn_in: int = static(4, at_least=0)
    """Steps at the start of a sequence that only bring the recurrent state up to date (Kapturowski
    et al., 2019); no effect with recurrent "none"."""
    normalize_observation: Normalization | None = nested(None)
    """Whether observations are normalized to mean 0 and std 1 by the statistics of the dataset. The
    states of one good episode hardly differ, and what differs is then made much of."""
    batch_size: int = static(32, at_least=1)
    """Steps of the dataset in a gradient step, and as many of the agent's own where online."""
    gradient_steps: int = static(100, at_least=1)
    """Gradient steps per update."""
    online: bool = static(False)
    """Whether the agent plays too, and learns from where it comes to."""
    rollout_length: int = static(128, at_least=1)
    """Environment steps of each environment copy per update; no effect unless online."""
    capacity: int = static(100_000, at_least=1)
    """Own steps that are kept, the latest; no effect unless online."""

    needs: ClassVar[tuple[str, ...]] = ("dataset",)
    hindsight: ClassVar[None] = None  # what `replay_agents` reads and is no choice here

    @property
    def assumes(self) -> Assumptions:
        """Actions are choices; a recurrent Q does without observations that tell the state."""
        return replay_agents.replay_assumptions(self, Assumptions(("Discrete",), action_masks=True))

    def validate_fields(self) -> None:
        if self.recurrent:
            replay_agents.check_sequence_lengths(self)

    @property
    def plays(self) -> bool:
        return self.online

    def steps_per_update(self, num_envs: int) -> int:
        """Environment steps of a rollout, or gradient steps where it does not play."""
        return self.rollout_length * num_envs if self.online else self.gradient_steps

    def init(self, key: Array, spec: EnvironmentSpec, outside: Outside) -> IQLearnState:
        """Return a random Q function, the statistics of the dataset, and no steps of its own."""
        dataset = outside.dataset
        assert dataset is not None  # as `needs` asks for
        q = make_discrete_q(
            key,
            spec.observation,
            spec.action.n,
            hidden=self.hidden,
            activation=self.activation,
            head=ScalarHead(),
            recurrent=self.recurrent,
            torso=self.torso,
        )
        statistics = running_statistics.update_observation_statistics(
            self.normalize_observation,
            running_statistics.init_observation_statistics(spec.observation),
            dataset.transitions.observation,
        )
        buffer = replay_agents.init_replay(self, q, spec) if self.online else ()
        return IQLearnState(q, optax.adam(self.learning_rate).init(q), statistics, buffer)

    def initial_memory(
        self, state: IQLearnState, spec: EnvironmentSpec, key: Array, *outside: Outside
    ) -> Any:
        """Return what an episode begins with: a blank carry, or ()."""
        return replay_agents.initial_agent_memory(self, state.q, spec)

    def act(
        self,
        state: IQLearnState,
        observation: Any,
        memory: Any,
        key: Array,
        explore: bool,
        *outside: Outside,
    ) -> tuple[Array, Any]:
        """Return the best action; with `explore` a sample of π."""
        observation, memory = replay_agents.remember(
            self, state.q, self.normalized(state, observation), memory
        )
        q = state.q(observation)
        action = jax.random.categorical(key, q / self.temperature) if explore else q.argmax(-1)
        return action, memory

    def update(
        self, state: IQLearnState, experience: Any, key: Array, outside: Outside
    ) -> tuple[IQLearnState, Metrics]:
        """Take `gradient_steps` on random steps of the dataset, and of the agent where online."""
        dataset = outside.dataset
        assert dataset is not None  # as `needs` asks for
        buffer = ring_buffer.insert(state.buffer, experience) if self.online else ()
        of_expert = ring_buffer.buffer_of(dataset.transitions)

        def step(learner, key):
            q, opt_state = learner
            key_expert, key_own = jax.random.split(key)
            expert = self.draw(state, of_expert, key_expert)
            own = self.draw(state, buffer, key_own) if buffer else None
            gradient, metrics = jax.grad(self.loss, has_aux=True)(q, expert, own)
            updates, opt_state = optax.adam(self.learning_rate).update(gradient, opt_state)
            return (optax.apply_updates(q, updates), opt_state), metrics

        keys = jax.random.split(key, self.gradient_steps)
        (q, opt_state), metrics = jax.lax.scan(step, (state.q, state.opt_state), keys)
        return replace(state, q=q, opt_state=opt_state, buffer=buffer), {
            **jax.tree.map(jnp.mean, metrics),
            "updates": jnp.int32(self.gradient_steps),
        }

    def draw(self, state: IQLearnState, buffer: RingBuffer, key: Array) -> ReplayBatch:
        """Draw `batch_size` steps of a buffer, or sequences of as many.

        Their observations are normalized, if the algorithm does so.
        """
        indices = uniform.sample_indices(buffer, key, replay_agents.num_indices(self))
        weight = jnp.ones(indices.time.shape)
        batch = replay_agents.make_batch(self, state, buffer, indices, weight, key, None)
        steps, normalized = batch.transition, partial(self.normalized, state)
        observation, next_observation = (
            x.map(normalized) if isinstance(x, History) else normalized(x)
            for x in (steps.observation, steps.next_observation)
        )
        steps = replace(steps, observation=observation, next_observation=next_observation)
        return replace(batch, transition=steps)

    def normalized(self, state: IQLearnState, observation: Any) -> Any:
        """Return the observation, normalized if the algorithm does so."""
        return running_statistics.normalize_leaves(
            self.normalize_observation, state.observation_statistics, observation
        )

    def loss(
        self, q: DiscreteQ, expert: ReplayBatch, own: ReplayBatch | None = None
    ) -> tuple[Array, Metrics]:
        """Return L(Q) of rows [n] or [time, n] of the expert, and of the agent if there are any."""

        def mean(x: Array, weight: Array) -> Array:
            return (weight * x).sum() / jnp.maximum(weight.sum(), 1)

        next_value = self.next_value(q, expert)
        values, action = q(expert.transition.observation), expert.transition.action
        reward = jnp.take_along_axis(values, action[..., None], -1)[..., 0] - next_value
        difference, weight = self.value(values) - next_value, expert.weight
        if own is not None:
            own_difference = self.value(q(own.transition.observation)) - self.next_value(q, own)
            difference = jnp.concatenate([difference, own_difference])
            weight = jnp.concatenate([weight, own.weight])
        regularized = mean(reward - reward**2 / (4 * self.regularization), expert.weight)
        loss = mean(difference, weight) - regularized
        errs = values.argmax(-1) != action
        metrics = {"learned_reward": reward, "action_error": errs}
        return loss, {"loss": loss, **{k: mean(x, expert.weight) for k, x in metrics.items()}}

    def value(self, q: Array) -> Array:
        """Return V(s) = τ log Σₐ exp(Q(s, a) / τ), [...], of Q(s, ·) [..., action]."""
        return self.temperature * jax.nn.logsumexp(q / self.temperature, -1)

    def next_value(self, q: DiscreteQ, batch: ReplayBatch) -> Array:
        """Return γ V(s') of each row, which is 0 after a step that terminates."""
        return batch.discount * self.value(q(batch.transition.next_observation))


# Name on the command line: (constructor, description).
ALGORITHMS = {"iq-learn": (IQLearn, "inverse soft Q-learning: one Q is policy and reward")}
