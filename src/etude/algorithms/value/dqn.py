"""Deep Q-learning (Mnih et al., 2015) and its extensions up to Rainbow (Hessel et al., 2018).

The loop has three parts with speeds of their own: new experience, gradient steps that move q to its
target, and updates of the target network. Their ratio tells online Q-learning, deep Q-learning and
fitted Q iteration apart; see the variants at the end of the file.
"""

import math
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from etude import spaces
from etude.algorithms.common.exploration import mix_actions
from etude.algorithms.common.off_policy import check_batch_size, update_if_ready
from etude.algorithms.protocol import algorithm
from etude.algorithms.value import heads
from etude.algorithms.value.heads import Loss
from etude.algorithms.value.q_functions import ContinuousQ, DiscreteQ
from etude.data.replay import prioritized, uniform
from etude.data.replay.ring_buffer import Indices, RingBuffer, n_step_transitions
from etude.data.transition import Transition, zeros_like_spec
from etude.errors import InvalidInput
from etude.nn.networks import Activation, make_dueling_network, make_encoder, make_mlp, make_network
from etude.nn.noisy import add_noise_layers, sample_noise
from etude.optim.schedules import linear_decay, linear_schedule
from etude.planning.sampling.maximize import Maximizer
from etude.spaces import EnvironmentSpec
from etude.struct import replace, static, struct, traced
from etude.types import Array

QFunction = DiscreteQ | ContinuousQ


@struct
class DQNState:
    q: QFunction
    target_q: QFunction  # target network, which follows q; the bootstrap value comes from it
    opt_state: optax.OptState
    # uniform.ReplayBuffer or prioritized.ReplayBuffer; gradient steps change only its priorities
    replay: Any
    steps: Array  # int32: environment steps taken, summed over all environment copies
    gradient_steps_taken: Array  # int32


@struct
class ReplayBatch:
    """The batch of one gradient step, [batch]."""

    transition: Transition  # n steps folded into one: n-step reward, and the state n steps later
    discount: Array  # of the bootstrap value; 0 where the episode terminated
    weight: Array  # importance-sampling weight in the loss


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
    initial_epsilon: float = traced(1.0, at_least=0, at_most=1)
    """Initial probability ε of a random action (Mnih et al., 2015); no effect with exploration
    "boltzmann"."""
    final_epsilon: float = traced(0.05, at_least=0, at_most=1)
    """Probability ε of a random action after exploration_steps; no effect with exploration
    "boltzmann"."""
    initial_temperature: float = traced(1.0, above=0)
    """Initial temperature of Boltzmann exploration, in units of the return; no effect unless
    exploration is "boltzmann"."""
    final_temperature: float = traced(0.1, above=0)
    """Temperature of Boltzmann exploration after exploration_steps; no effect unless exploration is
    "boltzmann"."""
    exploration_steps: float = traced(10_000.0, above=0)
    """Environment steps, summed over all environment copies, over which ε or the temperature falls
    linearly."""
    max_gradient_norm: float = traced(10.0, above=0)
    """Largest global norm of the gradient; larger gradients are scaled down to it; inf: no clip."""
    priority_exponent: float = traced(0.5, at_least=0)
    """Exponent α of prioritized replay: 0 samples uniformly, 1 in proportion to the error (Schaul
    et al., 2016); no effect without prioritized."""
    importance_exponent: float = traced(0.4, at_least=0, at_most=1)
    """Initial exponent β of the importance weights; at 1 they correct the whole bias; no effect
    without prioritized."""
    importance_steps: float = traced(100_000.0, above=0)
    """Environment steps, summed over all environment copies, over which β grows linearly to 1; no
    effect without prioritized."""
    noisy_sigma: float = traced(0.5, above=0)
    """Initial noise scale σ₀ of noisy layers (Fortunato et al., 2018); no effect without noisy."""
    v_min: float = static(-10.0)
    """Lowest return of the categorical support; no effect unless head is "categorical"."""
    v_max: float = static(10.0)
    """Highest return of the categorical support; no effect unless head is "categorical"."""
    num_atoms: int = static(51, at_least=1)
    """Atoms of the categorical head, or quantiles of the quantile head; no effect with head
    "mean"."""
    head: Literal["mean", "categorical", "quantile"] = static("mean")
    """Statistic of the return that is learned; C51 is categorical, QR-DQN quantile."""
    hidden: tuple[int, ...] = static((64, 64), at_least=1)
    """Units of each hidden layer."""
    activation: Activation = static("relu")
    """Activation function of the hidden layers."""
    double: bool = static(True)
    """Whether q chooses the next action that the target network evaluates (double Q-learning; van
    Hasselt et al., 2016)."""
    dueling: bool = static(False)
    """Whether value and advantages have separate streams (Wang et al., 2016)."""
    noisy: bool = static(False)
    """Whether weights have learned noise, which explores without ε (Fortunato et al., 2018)."""
    prioritized: bool = static(False)
    """Whether transitions with large errors are sampled more often (Schaul et al., 2016)."""
    n_step: int = static(1, at_least=1)
    """Rewards that a target sums before it bootstraps (Sutton, 1988)."""
    exploration: Literal["epsilon", "boltzmann"] = static("epsilon")
    """ε-greedy actions, or actions drawn in proportion to exp(Q / temperature)."""
    loss: Loss = static("huber")
    """Loss of the TD error; the slope of "huber" is at most 1 (Mnih et al., 2015); no effect unless
    head is "mean"."""
    maximizer: Maximizer = static("cem")
    """Planner that maximizes Q over a Box of actions; no effect with Discrete actions."""
    samples: int = static(32, at_least=1)
    """Actions that the maximizer evaluates per iteration; no effect with Discrete actions."""
    iterations: int = static(3, at_least=1)
    """Iterations of the maximizer per action; no effect with Discrete actions."""
    elites: int = static(6, at_least=1)
    """Best samples to which the maximizer refits per iteration; no effect with Discrete actions."""
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
        check_batch_size(self)
        if self.elites > self.samples:
            raise InvalidInput(
                f"elites {self.elites} is more than samples {self.samples}; keep fewer or try more"
            )
        if self.dueling and not self.hidden:
            raise InvalidInput(
                "hidden is empty; the two streams of dueling need at least one hidden layer"
            )
        self.make_head()

    def make_head(self) -> heads.Head:
        """The head called `head`; raises InvalidInput for a bad support or number of atoms."""
        return heads.make_head(self.head, self.loss, self.num_atoms, self.v_min, self.v_max)

    def optimizer(self, steps: Array) -> optax.GradientTransformation:
        """Return Adam on the clipped gradient, with its step size after `steps` steps."""
        learning_rate = self.learning_rate * linear_decay(steps, self.learning_rate_decay)
        return optax.chain(
            optax.clip_by_global_norm(self.max_gradient_norm),
            optax.adam(learning_rate, eps=self.adam_epsilon),
        )

    def init(self, key: Array, spec: EnvironmentSpec) -> DQNState:
        """Return random networks, optimizer state and an empty replay buffer.

        Raises InvalidInput for actions that are neither Discrete nor a bounded Box.
        """
        q = self.make_q(key, spec)
        replay = (prioritized if self.prioritized else uniform).init(
            zeros_like_spec(spec), self.capacity, spec.num_envs, self.rollout_length
        )
        zero = jnp.int32(0)
        return DQNState(q, q, self.optimizer(zero).init(q), replay, zero, zero)

    def make_q(self, key: Array, spec: EnvironmentSpec) -> QFunction:
        """The Q network for the actions of `spec`.

        Raises InvalidInput for actions that are neither Discrete nor a bounded Box.
        """
        match spec.action:
            case spaces.Discrete(n=num_actions):
                q: QFunction = self.make_discrete_q(key, spec, num_actions)
            case spaces.Box() if spec.action.is_bounded.all():
                q = self.make_continuous_q(key, spec)
            case _:
                raise InvalidInput(
                    "dqn looks for the best of discrete actions or of a bounded Box, and this "
                    f"environment's are {spec.action}; ppo takes every kind of action"
                )
        return add_noise_layers(q, self.noisy_sigma) if self.noisy else q

    def make_discrete_q(self, key: Array, spec: EnvironmentSpec, num_actions: int) -> DiscreteQ:
        """A network with the values of all discrete actions."""
        head = self.make_head()
        if self.dueling:
            network = make_dueling_network(
                key, spec.observation, self.hidden, num_actions, head.num_atoms, self.activation
            )
        else:
            num_outputs = num_actions * head.num_atoms
            network = make_network(key, spec.observation, self.hidden, num_outputs, self.activation)
        return DiscreteQ(network, head, num_actions)

    def make_continuous_q(self, key: Array, spec: EnvironmentSpec) -> ContinuousQ:
        """A network of observation and action, with the planner that maximizes it.

        Raises InvalidInput for settings that are for discrete actions only.
        """
        for name, required in (("dueling", False), ("exploration", "epsilon")):
            if getattr(self, name) != required:
                raise InvalidInput(
                    f"{name} is {getattr(self, name)!r}, which is for discrete actions; "
                    f"for {spec.action} leave it {required!r}"
                )
        head = self.make_head()
        key_encoder, key_mlp = jax.random.split(key)
        encoder = make_encoder(key_encoder, spec.observation)
        num_features = jax.eval_shape(encoder, spec.observation.zeros()).size
        num_inputs = num_features + math.prod(spec.action.shape)
        mlp = make_mlp(key_mlp, (num_inputs, *self.hidden, head.num_atoms), self.activation)
        return ContinuousQ(
            encoder,
            mlp,
            head,
            spec.action.shape,
            self.maximizer,
            self.samples,
            self.iterations,
            self.elites,
        )

    def act(
        self, state: DQNState, observation: Any, memory: Any, key: Array, explore: bool
    ) -> tuple[Array, Any]:
        """Return the greedy action; with `explore` an ε-greedy or a Boltzmann action."""
        key_greedy, key_noise, key_mix, key_random = jax.random.split(key, 4)
        if not explore:
            return state.q.greedy_action(observation, key_greedy), memory
        q = sample_noise(state.q, key_noise)
        if self.exploration == "boltzmann":
            temperature = linear_schedule(
                state.steps,
                self.initial_temperature,
                self.final_temperature,
                self.exploration_steps,
            )
            return jax.random.categorical(key_random, q(observation) / temperature), memory
        greedy_action = q.greedy_action(observation, key_greedy)  # [env, ...]
        epsilon = linear_schedule(
            state.steps, self.initial_epsilon, self.final_epsilon, self.exploration_steps
        )
        random_action = q.random_action(key_random, greedy_action.shape[:1])
        return mix_actions(key_mix, random_action, greedy_action, epsilon), memory

    def update(
        self, state: DQNState, experience: Transition, key: Array
    ) -> tuple[DQNState, dict[str, Array]]:
        """Store the experience [time, env], then take `gradient_steps` gradient steps."""
        state = self.store(state, experience)
        buffer, priorities = split_replay(state.replay)
        state, metrics = update_if_ready(
            state.steps >= self.warmup_steps,
            partial(self.gradient_step, buffer),
            replace(state, replay=priorities),
            key,
            self.gradient_steps,
        )
        return replace(state, replay=merge_replay(buffer, state.replay)), metrics

    def store(self, state: DQNState, experience: Transition) -> DQNState:
        """Insert experience [time, env] into the replay buffer."""
        replay = (prioritized if self.prioritized else uniform).insert(state.replay, experience)
        return replace(state, replay=replay, steps=state.steps + experience.reward.size)

    def gradient_step(
        self, buffer: RingBuffer, state: DQNState, key: Array
    ) -> tuple[DQNState, dict[str, Array]]:
        """Take one gradient step on a batch of `buffer`; `state.replay` has only the priorities."""
        key_sample, key_fit = jax.random.split(key)
        indices, batch = self.sample_batch(state, buffer, key_sample)
        state, td_error, metrics = self.fit_q(state, batch, key_fit)
        if self.prioritized:
            replay = prioritized.update_priorities(
                merge_replay(buffer, state.replay), indices, td_error, self.priority_exponent
            )
            state = replace(state, replay=split_replay(replay)[1])
        return state, metrics

    def sample_batch(
        self, state: DQNState, buffer: RingBuffer, key: Array
    ) -> tuple[Indices, ReplayBatch]:
        """Return the indices in the buffer of a batch of n-step transitions, and the batch."""
        if self.prioritized:
            exponent = linear_schedule(
                state.steps, self.importance_exponent, 1.0, self.importance_steps
            )
            indices, weight = prioritized.sample_indices(
                merge_replay(buffer, state.replay), key, self.batch_size, exponent
            )
        else:
            indices = uniform.sample_indices(buffer, key, self.batch_size)
            weight = jnp.float32(1)
        transition, discount = n_step_transitions(buffer, indices, self.n_step, self.discount)
        return indices, ReplayBatch(transition, discount * ~transition.terminated, weight)

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
            loss, td_error = q.head.loss(outputs, target)
            return (batch.weight * loss).mean(), (td_error, q.head.mean(outputs).mean())

        grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, (td_error, q_mean)), gradient = grad_fn(state.q)
        updates, opt_state = self.optimizer(state.steps).update(gradient, state.opt_state)
        q, gradient_steps_taken = (
            optax.apply_updates(state.q, updates),
            state.gradient_steps_taken + 1,
        )
        rate = jnp.where(gradient_steps_taken % self.target_interval == 0, self.target_rate, 0)
        target_q = optax.incremental_update(q, state.target_q, rate)
        state = replace(
            state,
            q=q,
            target_q=target_q,
            opt_state=opt_state,
            gradient_steps_taken=gradient_steps_taken,
        )
        return state, td_error, {"q_loss": loss, "q_value": q_mean}

    def estimate_target(
        self, q: QFunction, target_q: QFunction, batch: ReplayBatch, key: Array
    ) -> Array:
        """Return the TD targets r + γ (1 - terminated) Q_target(s', a'), [batch, atom].

        a' is the greedy action of q with `double`, else the greedy action of the target network.
        """
        key_greedy, key_q, key_target = jax.random.split(key, 3)
        target_q = sample_noise(target_q, key_target)
        selector = sample_noise(q, key_q) if self.double else target_q
        next_observation = batch.transition.next_observation
        next_action = selector.greedy_action(next_observation, key_greedy)
        outputs = target_q.outputs_for(next_observation, next_action)
        return q.head.target(outputs, batch.transition.reward, batch.discount)


def split_replay(replay: Any) -> tuple[RingBuffer, Any]:
    """The ring buffer of a replay and its priorities, () when it has none.

    Gradient steps change only the priorities.
    """
    return (
        (replay.buffer, replace(replay, buffer=()))
        if isinstance(replay, prioritized.ReplayBuffer)
        else (replay, ())
    )


def merge_replay(buffer: RingBuffer, priorities: Any) -> Any:
    """The inverse of `split_replay`."""
    return replace(priorities, buffer=buffer) if priorities else buffer


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

# Fitted Q iteration (Ernst et al., 2005): a long regression on fixed targets, then new targets.
FittedQ = partial(DQN, double=False, rollout_length=500, gradient_steps=500, target_interval=500)

# Rainbow: all the extensions in one agent (Hessel et al., 2018).
Rainbow = partial(
    DQN,
    double=True,
    dueling=True,
    noisy=True,
    prioritized=True,
    n_step=3,
    head="categorical",
    initial_epsilon=0.0,
    final_epsilon=0.0,
)

# Name on the command line: (constructor, description).
ALGORITHMS = {
    "dqn": (DQN, "deep Q-learning: discrete actions, or a bounded Box with a sampling optimizer"),
    "online-q": (OnlineQ, "DQN without replay: one gradient step on each environment step"),
    "fitted-q": (
        FittedQ,
        "DQN as fitted Q iteration: hundreds of gradient steps for each target network",
    ),
    "rainbow": (
        Rainbow,
        "DQN with double, dueling, n-step, prioritized, noisy and categorical learning "
        "(Hessel et al., 2018)",
    ),
}
