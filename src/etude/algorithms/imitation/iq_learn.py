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
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from etude.algorithms.assumptions import Assumptions
from etude.algorithms.protocol import Outside, algorithm
from etude.algorithms.value.heads import ScalarHead
from etude.algorithms.value.q_functions import DiscreteQ, make_discrete_q
from etude.data.dataset import Dataset
from etude.data.replay import ring_buffer, uniform
from etude.data.replay.ring_buffer import RingBuffer
from etude.data.transition import Transition, zeros_like_spec
from etude.estimators import running_statistics
from etude.estimators.running_statistics import Normalization
from etude.nn.custom_torso import TorsoMaker
from etude.nn.networks import Activation
from etude.spaces import EnvironmentSpec
from etude.struct import code, nested, replace, static, struct, traced
from etude.types import Array, Metrics


@struct
class IQLearnState:
    q: DiscreteQ  # observation -> Q(s, ·), [..., action]; -inf for illegal actions
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
    assumes: ClassVar[Assumptions] = Assumptions(("Discrete",), action_masks=True)

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
            recurrent=None,
            torso=self.torso,
        )
        statistics = running_statistics.update_observation_statistics(
            self.normalize_observation,
            running_statistics.init_observation_statistics(spec.observation),
            dataset.transitions.observation,
        )
        buffer = (
            ring_buffer.init(
                zeros_like_spec(spec), self.capacity, spec.num_envs, self.rollout_length
            )
            if self.online
            else ()
        )
        return IQLearnState(q, optax.adam(self.learning_rate).init(q), statistics, buffer)

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
        q = state.q(self.normalized(state, observation))
        action = jax.random.categorical(key, q / self.temperature) if explore else q.argmax(-1)
        return action, memory

    def update(
        self, state: IQLearnState, experience: Any, key: Array, outside: Outside
    ) -> tuple[IQLearnState, Metrics]:
        """Take `gradient_steps` on random steps of the dataset, and of the agent where online."""
        dataset = outside.dataset
        assert dataset is not None  # as `needs` asks for
        buffer = ring_buffer.insert(state.buffer, experience) if self.online else ()

        def step(learner, key):
            q, opt_state = learner
            expert, own = self.draw(state, dataset, buffer, key)
            gradient, metrics = jax.grad(self.loss, has_aux=True)(q, expert, own)
            updates, opt_state = optax.adam(self.learning_rate).update(gradient, opt_state)
            return (optax.apply_updates(q, updates), opt_state), metrics

        keys = jax.random.split(key, self.gradient_steps)
        (q, opt_state), metrics = jax.lax.scan(step, (state.q, state.opt_state), keys)
        return replace(state, q=q, opt_state=opt_state, buffer=buffer), {
            **jax.tree.map(jnp.mean, metrics),
            "updates": jnp.int32(self.gradient_steps),
        }

    def draw(
        self, state: IQLearnState, dataset: Dataset, buffer: RingBuffer | tuple[()], key: Array
    ) -> tuple[Transition, Transition | None]:
        """Draw `batch_size` steps of the expert, and as many of the agent where online.

        Their observations are normalized, if the algorithm does so.
        """
        key_expert, key_own = jax.random.split(key)
        rows = jax.random.randint(key_expert, (self.batch_size,), 0, dataset.num_steps)
        expert = jax.tree.map(lambda x: x[rows], dataset.transitions)
        if not buffer:
            return self.normalized_steps(state, expert), None
        own = ring_buffer.gather(buffer, uniform.sample_indices(buffer, key_own, self.batch_size))
        return self.normalized_steps(state, expert), self.normalized_steps(state, own)

    def normalized(self, state: IQLearnState, observation: Any) -> Any:
        """Return the observation, normalized if the algorithm does so."""
        return running_statistics.normalize_leaves(
            self.normalize_observation, state.observation_statistics, observation
        )

    def normalized_steps(self, state: IQLearnState, steps: Transition) -> Transition:
        """Return the steps with both of their observations normalized."""
        return replace(
            steps,
            observation=self.normalized(state, steps.observation),
            next_observation=self.normalized(state, steps.next_observation),
        )

    def loss(
        self, q: DiscreteQ, expert: Transition, own: Transition | None = None
    ) -> tuple[Array, Metrics]:
        """Return L(Q) of steps [n] of the expert, and of the agent if there are any."""
        next_value = self.next_value(q, expert)
        values = q(expert.observation)  # [n, action]
        reward = jnp.take_along_axis(values, expert.action[:, None], -1)[:, 0] - next_value
        difference = self.value(values) - next_value
        if own is not None:
            own_difference = self.value(q(own.observation)) - self.next_value(q, own)
            difference = jnp.concatenate([difference, own_difference])
        loss = difference.mean() - (reward - reward**2 / (4 * self.regularization)).mean()
        errs = values.argmax(-1) != expert.action
        return loss, {"loss": loss, "learned_reward": reward.mean(), "action_error": errs.mean()}

    def value(self, q: Array) -> Array:
        """Return V(s) = τ log Σₐ exp(Q(s, a) / τ), [...], of Q(s, ·) [..., action]."""
        return self.temperature * jax.nn.logsumexp(q / self.temperature, -1)

    def next_value(self, q: DiscreteQ, steps: Transition) -> Array:
        """Return γ V(s'), [n], which is 0 after a step that terminates."""
        return self.discount * ~steps.terminated * self.value(q(steps.next_observation))


# Name on the command line: (constructor, description).
ALGORITHMS = {"iq-learn": (IQLearn, "inverse soft Q-learning: one Q is policy and reward")}
