"""Deep Q-learning (Mnih et al., 2015); its extensions are values of its settings.

The loop has three parts with speeds of their own: new experience, gradient steps that move q to its
target, and updates of the target network. Their ratio tells online Q-learning, deep Q-learning and
fitted Q iteration apart.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from etude import spaces
from etude.algorithms.assumptions import Assumptions
from etude.algorithms.common import replay_agents
from etude.algorithms.common.off_policy import update_if_ready
from etude.algorithms.protocol import NOTHING, Outside, Relabel, algorithm
from etude.algorithms.value import continuous_q
from etude.algorithms.value.boltzmann import Boltzmann
from etude.algorithms.value.distributional_heads import CategoricalHead, QuantileHead
from etude.algorithms.value.epsilon_greedy import EpsilonGreedy
from etude.algorithms.value.heads import ScalarHead
from etude.algorithms.value.q_functions import QFunction, make_discrete_q
from etude.counters import count_back, count_up, is_multiple
from etude.data.replay import ring_buffer
from etude.data.replay.hindsight import Hindsight
from etude.data.replay.prioritized import Prioritized
from etude.data.replay.ring_buffer import RingBuffer, buffer_of
from etude.data.replay.uniform import Uniform
from etude.data.transition import ReplayBatch, Transition
from etude.errors import InvalidInput
from etude.estimators import losses
from etude.nn.custom_torso import TorsoMaker
from etude.nn.networks import Activation
from etude.nn.noisy import NoisyLayers, add_noise_layers, sample_noise
from etude.nn.recurrent import GRU, LSTM
from etude.optim.schedules import linear_decay
from etude.planning.planners import SamplingPlanner
from etude.planning.sampling.cem import CEM
from etude.spaces import EnvironmentSpec, GoalRewardFunction
from etude.struct import code, nested, replace, static, struct, traced
from etude.types import Array


@struct
class DQNState:
    q: QFunction
    target_q: QFunction  # target network, which follows q; the bootstrap value comes from it
    opt_state: optax.OptState
    replay: Any  # a RingBuffer; () during gradient steps, and where the algorithm does not play
    priorities: Any  # of the rows of the buffer, () for uniform replay
    steps: Array  # int32: environment steps taken, summed over all environment copies
    gradient_steps_taken: Array  # int32
    goal_reward: GoalRewardFunction | None = static(None)  # of hindsight, None without


@algorithm
class DQN:
    """Deep Q-learning for discrete actions, or for a bounded Box with a sampling optimizer."""

    learning_rate: float = traced(1e-3, above=0)
    """Step size of Adam."""
    learning_rate_decay: float = traced(math.inf, above=0)
    """Environment steps, summed over all environment copies, over which the learning rate falls
    linearly to zero; inf: constant."""
    adam_epsilon: float = traced(1e-8, above=0)
    """Term that Adam adds to the root of the second moment; Rainbow has 1.5e-4."""
    discount: float = traced(0.99, at_least=0, at_most=1)
    """Discount factor γ per environment step."""
    target_rate: float = traced(1.0, above=0, at_most=1)
    """Fraction by which a target update moves the target network toward q; 1 copies q, smaller
    values are Polyak averaging."""
    exploration_steps: float = traced(10_000.0, above=0, infinite=True)
    """Environment steps, summed over all environment copies, over which ε or the temperature falls
    linearly."""
    max_gradient_norm: float = traced(10.0, above=0, infinite=True)
    """Largest global norm of the gradient; larger gradients are scaled down to it; inf: no clip."""
    head: ScalarHead | CategoricalHead | QuantileHead = nested(ScalarHead())
    """Statistic of the return that is learned; C51 is categorical, QR-DQN quantile."""
    replay: Uniform | Prioritized = nested(Uniform())
    """How transitions are sampled from the buffer."""
    hindsight: Hindsight | None = nested(None)
    """Whether goals that were achieved later take the desired goals' place in replay, where
    observations have both (HER; Andrychowicz et al., 2017)."""
    recurrent: GRU | LSTM | None = nested(None)
    """Recurrent cell before the hidden layers, a memory for partially observed environments."""
    exploration: EpsilonGreedy | Boltzmann = nested(EpsilonGreedy())
    """How actions explore: ε-greedy, or in proportion to exp(Q / temperature)."""
    noisy: NoisyLayers | None = nested(None)
    """Whether weights have learned noise, which explores too (Fortunato et al., 2018): with it ε is
    usually 0."""
    # this std puts a third of the first elements on a bound, where that of the best action often is
    maximizer: SamplingPlanner = nested(CEM(elites=6, std=1.0, smoothing=0.0))
    """Planner that maximizes Q over a Box of actions; no effect with Discrete actions."""
    plays: bool = static(True)
    """Whether it collects its own transitions; without, it learns from a dataset alone (offline),
    and wherever steps are counted they are gradient steps."""
    hidden: tuple[int, ...] = static((64, 64), at_least=1)
    """Units of each hidden layer."""
    activation: Activation = static("relu")
    """Activation function of the hidden layers."""
    torso: TorsoMaker | None = code()
    """Function that makes a network of one's own, in place of the hidden layers: hidden and
    activation have no effect with it; see `etude.TorsoMaker`."""
    double: bool = static(True)
    """Whether q chooses the next action that the target network evaluates (double Q-learning; van
    Hasselt et al., 2016)."""
    dueling: bool = static(False)
    """Whether value and advantages have separate streams (Wang et al., 2016)."""
    n_step: int = static(1, at_least=1)
    """Rewards that a target sums before it bootstraps (Sutton, 1988)."""
    samples: int = static(32, at_least=1)
    """Actions that the maximizer evaluates per iteration; no effect with Discrete actions."""
    iterations: int = static(3, at_least=1)
    """Iterations of the maximizer per action; no effect with Discrete actions."""
    sequence_length: int = static(16, at_least=1)
    """Steps of the sequences that recurrent networks learn from, burn-in included; batch_size must
    be a multiple; no effect with recurrent "none"."""
    burn_in: int = static(4, at_least=0)
    """Steps at the start of a sequence that only bring the recurrent state up to date (Kapturowski
    et al., 2019); no effect with recurrent "none"."""
    batch_size: int = static(64, at_least=1)
    """Transitions sampled from replay per gradient step."""
    capacity: int = static(100_000, at_least=1)
    """Transitions in the replay buffer, summed over all environment copies."""
    warmup_steps: int = static(1_000, at_least=0)
    """Environment steps, summed over all environment copies, before the first gradient step."""
    rollout_length: int = static(4, at_least=1)
    """Environment steps of each environment copy per update."""
    gradient_steps: int = static(4, at_least=1)
    """Gradient steps per update; more of them reuse each transition more often."""
    target_interval: int = static(500, at_least=1)
    """Gradient steps between updates of the target network."""

    def validate_fields(self) -> None:
        replay_agents.check_replay(self)
        self.maximizer.check_samples(self.samples)
        if self.dueling and not (self.hidden or self.torso):
            raise InvalidInput(
                "hidden is empty; the two streams of dueling need at least one hidden layer"
            )

    @property
    def assumes(self) -> Assumptions:
        return replay_agents.replay_assumptions(
            self, continuous_q.action_assumptions(self.dueling, self.exploration)
        )

    @property
    def needs(self) -> tuple[str, ...]:
        return () if self.plays else ("dataset",)

    first_update, remarks = replay_agents.first_update, replay_agents.remarks
    is_deterministic = continuous_q.is_deterministic

    def steps_per_update(self, num_envs: int) -> int:
        return self.rollout_length * num_envs if self.plays else self.gradient_steps

    def optimizer(self, steps: Array) -> optax.GradientTransformation:
        """Return Adam on the clipped gradient, with its step size after `steps` steps."""
        learning_rate = self.learning_rate * linear_decay(steps, self.learning_rate_decay)
        return optax.chain(
            optax.clip_by_global_norm(self.max_gradient_norm),
            optax.adam(learning_rate, eps=self.adam_epsilon),
        )

    def init(self, key: Array, spec: EnvironmentSpec, outside: Outside = NOTHING) -> DQNState:
        """Return random networks, optimizer state and an empty replay buffer.

        Where it does not play, the dataset is the buffer, and the state has none.
        """
        q, zero = self.make_q(key, spec), jnp.int32(0)
        buffer = replay_agents.init_replay(self, q, spec, outside.dataset)
        return DQNState(
            q,
            q,
            self.optimizer(zero).init(q),
            buffer if self.plays else (),
            self.replay.init_priorities(buffer),
            zero,
            zero,
            replay_agents.hindsight_reward(self, spec),
        )

    def make_q(self, key: Array, spec: EnvironmentSpec) -> QFunction:
        """The Q network for the actions of `spec`."""
        network: dict[str, Any] = {
            "hidden": self.hidden,
            "activation": self.activation,
            "torso": self.torso,
            "head": self.head,
            "recurrent": self.recurrent,
        }
        match spec.action:
            case spaces.Discrete(n=num_actions):
                q: QFunction = make_discrete_q(
                    key, spec.observation, num_actions, **network, dueling=self.dueling
                )
            case spaces.Box():
                q = continuous_q.make_continuous_q(
                    key,
                    spec.observation,
                    spec.action,
                    **network,
                    samples=self.samples,
                    iterations=self.iterations,
                )
        return add_noise_layers(q, self.noisy.sigma) if self.noisy else q

    def initial_memory(self, state: DQNState, spec: EnvironmentSpec, key: Array) -> Any:
        """What an episode begins with; () unless recurrent or with hindsight."""
        return replay_agents.initial_agent_memory(self, state.q, spec)

    def act(
        self, state: DQNState, observation: Any, memory: Any, key: Array, explore: bool
    ) -> tuple[Array, Any]:
        """Return the greedy action; with `explore` that of `exploration`."""
        key_greedy, key_noise, key_mix, key_random = jax.random.split(key, 4)
        observation, memory = replay_agents.remember(self, state.q, observation, memory)
        q = continuous_q.with_maximizer(state.q, self.maximizer)
        if not explore:
            return q.greedy_action(observation, key_greedy), memory
        q = sample_noise(q, key_noise)
        action = self.exploration.act(
            q,
            observation,
            linear_decay(state.steps, self.exploration_steps),
            key_greedy=key_greedy,
            key_mix=key_mix,
            key_random=key_random,
        )
        return action, memory

    def update(
        self,
        state: DQNState,
        experience: Any,
        key: Array,
        outside: Outside = NOTHING,
        *,
        relabel: Relabel | None = None,
    ) -> tuple[DQNState, dict[str, Array]]:
        """Take `gradient_steps` gradient steps, on batches of the experience so far [time, env].

        Where it does not play, they are batches of the dataset. `relabel` may change each batch
        before.
        """
        if self.plays:
            state = self.store(state, experience)
            buffer, is_ready = state.replay, state.steps >= self.warmup_steps
        else:
            state = replace(state, steps=count_up(state.steps, self.gradient_steps))
            buffer, is_ready = buffer_of(outside.dataset.transitions), jnp.bool_(True)
        fitted, metrics = update_if_ready(
            is_ready,
            partial(self.replay_step, buffer, relabel),
            replace(state, replay=()),
            key,
            self.gradient_steps,
        )
        return replace(fitted, replay=state.replay), metrics

    def store(self, state: DQNState, experience: Transition) -> DQNState:
        """Insert experience [time, env] into the replay buffer."""
        buffer = ring_buffer.insert(state.replay, experience)
        priorities = self.replay.insert(
            state.priorities, state.replay, buffer, len(experience.reward)
        )
        return replace(
            state,
            replay=buffer,
            priorities=priorities,
            steps=count_up(state.steps, experience.reward.size),
        )

    def replay_step(
        self, buffer: RingBuffer, relabel: Relabel | None, state: DQNState, key: Array
    ) -> tuple[DQNState, dict[str, Array]]:
        """Take one gradient step on a batch of `buffer`, and update the priorities of its rows."""
        key_sample, key_fit = jax.random.split(key)
        indices, weight = self.replay.sample_indices(
            state.priorities, buffer, key_sample, replay_agents.num_indices(self), state.steps
        )
        batch = replay_agents.make_batch(
            self, state, buffer, indices, weight, key, relabel, self.n_step
        )
        state, td_error, metrics = self.fit_q(state, batch, key_fit)
        priorities = self.replay.update_priorities(
            state.priorities, buffer, indices, replay_agents.priority_error(self, td_error, batch)
        )
        return replace(state, priorities=priorities), metrics

    def gradient_step(
        self, state: DQNState, batch: ReplayBatch, key: Array
    ) -> tuple[DQNState, dict[str, Array]]:
        """Take one gradient step on a batch from elsewhere; no priority changes."""
        state, _, metrics = self.fit_q(state, batch, key)
        return state, metrics

    def fit_q(
        self, state: DQNState, batch: ReplayBatch, key: Array
    ) -> tuple[DQNState, Array, dict[str, Array]]:
        """Take one gradient step on the loss of the TD errors of `batch`.

        Every `target_interval` steps also update the target network. Returns the absolute TD errors
        [batch] and metrics too.
        """
        key_target, key_noise = jax.random.split(key)
        target = self.estimate_target(state.q, state.target_q, batch, key_target)

        def loss_fn(q):
            outputs = sample_noise(q, key_noise).outputs_for(
                batch.transition.observation, batch.transition.action
            )
            losses.check_target("estimate_target", target, outputs)
            loss, td_error = q.head.loss(outputs, target)
            return (batch.weight * loss).mean(), (td_error, q.head.mean(outputs).mean())

        (loss, (td_error, q_mean)), gradient = jax.value_and_grad(loss_fn, has_aux=True)(state.q)
        updates, opt_state = self.optimizer(state.steps).update(gradient, state.opt_state)
        q, gradient_steps_taken = (
            optax.apply_updates(state.q, updates),
            count_back(state.gradient_steps_taken, self.target_interval) + 1,
        )
        rate = jnp.where(
            is_multiple(gradient_steps_taken, self.target_interval), self.target_rate, 0
        )
        target_q = optax.incremental_update(q, state.target_q, rate)
        state = replace(
            state,
            q=q,
            target_q=target_q,
            opt_state=opt_state,
            gradient_steps_taken=gradient_steps_taken,
        )
        return (
            state,
            td_error,
            {"q_loss": loss, "q_value": q_mean} | q.head.target_metrics(target),
        )

    def estimate_target(
        self, q: QFunction, target_q: QFunction, batch: ReplayBatch, key: Array
    ) -> Array:
        """The TD targets of n steps, r + γⁿ (1 - terminated) Q_target(s', a'), [batch, atom].

        The head makes of them a number, probabilities or quantiles. The n actions are those that
        were taken, without correction (Hessel et al., 2018). a' is the greedy action of q with
        `double`, else the greedy action of the target network.
        """
        outputs = self.target_outputs(q, target_q, batch.transition.next_observation, key)
        return q.head.target(outputs, batch.transition.reward, batch.discount)

    def target_outputs(
        self, q: QFunction, target_q: QFunction, observation: Any, key: Array
    ) -> Array:
        """The outputs of the target network for the greedy action, [..., atom]."""
        key_greedy, key_q, key_target = jax.random.split(key, 3)
        target_q = sample_noise(target_q, key_target)
        selector = sample_noise(q, key_q) if self.double else target_q
        selector = continuous_q.with_maximizer(selector, self.maximizer)
        return target_q.outputs_for(observation, selector.greedy_action(observation, key_greedy))

    def value(self, state: DQNState, observation: Any, memory: Any, key: Array) -> Array:
        """V(s) = Q_target(s, a) of the greedy action a, [env]."""
        observation, _ = replay_agents.remember(self, state.q, observation, memory)
        return state.q.head.mean(self.target_outputs(state.q, state.target_q, observation, key))


# Online Q-learning: one gradient step on each transition, without replay or target network.
OnlineQ = partial(
    DQN,
    double=False,
    batch_size=1,
    capacity=1,
    warmup_steps=0,
    rollout_length=1,
    gradient_steps=1,
    target_interval=1,
)

# Name on the command line: (constructor, description).
ALGORITHMS = {
    "dqn": (DQN, "deep Q-learning: discrete actions, or a bounded Box with a sampling optimizer"),
    "online-q": (OnlineQ, "DQN without replay: one gradient step on each environment step"),
}
