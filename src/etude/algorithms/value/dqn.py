"""Deep Q-learning (Mnih et al., 2015) and what grew out of it, up to Rainbow (Hessel et al., 2018).

One loop of three processes at three speeds: experience comes in, q follows a target, the target
follows q. How many steps of each make a round is what sets online Q-learning, deep Q-learning and
fitted Q iteration apart (the names at the end).
"""

import math
from functools import partial
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import optax

from etude import spaces
from etude.algorithms.common.exploration import mix_actions
from etude.algorithms.common.off_policy import check_batch_size, update_if_ready
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
    target_q: QFunction  # where the bootstrap comes from; it follows q slowly
    optimizer: optax.OptState
    # uniform.Replay or prioritized.Replay; gradient steps change nothing of it but priorities
    replay: Any
    steps: Array  # int32: environment steps taken
    updates: Array  # int32: gradient steps taken


@struct
class ReplayBatch:
    """What a gradient step is fitted to, [batch]."""

    transition: Transition  # folded to where n-step returns bootstrap
    discount: Array  # of that bootstrap; 0 where the episode terminated
    weight: Array  # of each error in the loss


@struct
class DQN:
    """Deep Q-learning for discrete actions, and for a bounded Box, where a planner looks for the
    best action."""

    learning_rate: float = traced(1e-3, above=0)
    """Adam's step size."""
    learning_rate_decay: float = traced(math.inf, above=0)
    """Environment steps over which it falls linearly to zero; inf: never."""
    adam_epsilon: float = traced(1e-8, above=0)
    """Adam's, beside the root of the second moment; Rainbow has 1.5e-4."""
    discount: float = traced(0.99, at_least=0, at_most=1)
    """γ, per environment step."""
    target_rate: float = traced(1.0, above=0, at_most=1)
    """The target's share of the way to q: 1 copies it, less is Polyak's."""
    initial_epsilon: float = traced(1.0, at_least=0, at_most=1)
    """Of a random action, at the start (Mnih et al., 2015)."""
    final_epsilon: float = traced(0.05, at_least=0, at_most=1)
    """And from exploration_steps on."""
    initial_temperature: float = traced(1.0, above=0)
    """Of Boltzmann exploration at the start, in units of the return."""
    final_temperature: float = traced(0.1, above=0)
    """And from exploration_steps on."""
    exploration_steps: float = traced(10_000.0, above=0)
    """Environment steps over which epsilon or temperature falls linearly."""
    max_gradient_norm: float = traced(10.0, above=0)
    """The gradient's global norm is clipped here; inf: never."""
    priority_exponent: float = traced(0.5, at_least=0)
    """α: 0 draws uniformly, 1 by the error (Schaul et al., 2016)."""
    importance_exponent: float = traced(0.4, at_least=0, at_most=1)
    """β at the start; it grows linearly to 1, all bias undone."""
    importance_steps: float = traced(100_000.0, above=0)
    """Environment steps over which it does."""
    noisy_sigma: float = traced(0.5, above=0)
    """σ₀ of noisy layers (Fortunato et al., 2018)."""
    v_min: float = static(-10.0)
    """The categorical head's first atom."""
    v_max: float = static(10.0)
    """And its last."""
    num_atoms: int = static(51, at_least=1)
    """Of a categorical or quantile head."""
    head: Literal["mean", "categorical", "quantile"] = static("mean")
    """What is learned of the return (C51: 2017; QR-DQN: 2018)."""
    hidden: tuple[int, ...] = static((64, 64), at_least=1)
    """Units of each hidden layer."""
    activation: Activation = static("relu")
    """Between layers."""
    double: bool = static(True)
    """q chooses the next action, the target judges it (van Hasselt, 2016)."""
    dueling: bool = static(False)
    """Value and advantages in streams of their own (Wang et al., 2016)."""
    noisy: bool = static(False)
    """Weights with learned noise, which explores by itself (Fortunato, 2018)."""
    prioritized: bool = static(False)
    """Large errors are replayed more often (Schaul et al., 2016)."""
    n_step: int = static(1, at_least=1)
    """Rewards before the bootstrap (Sutton, 1988)."""
    exploration: Literal["epsilon", "boltzmann"] = static("epsilon")
    """Random at times, or each action by exp(Q / temperature)."""
    loss: Loss = static("huber")
    """Of a mean's error; Huber's slope is at most 1 (Mnih et al., 2015)."""
    maximizer: Maximizer = static("cem")
    """Of Q over a Box of actions."""
    samples: int = static(32, at_least=1)
    """Candidates that it tries at a time."""
    iterations: int = static(3, at_least=1)
    """Times that it does."""
    elites: int = static(6, at_least=1)
    """Candidates that cross entropy keeps each time."""
    batch_size: int = static(64, at_least=1)
    """Transitions a gradient step."""
    capacity: int = static(100_000, at_least=1)
    """Transitions the replay buffer holds."""
    warmup_steps: int = static(1_000, at_least=0)
    """Environment steps before the first gradient step."""
    rollout_length: int = static(4, at_least=1)
    """Environment steps of each copy between updates."""
    gradient_steps: int = static(4, at_least=1)
    """In each update."""
    target_interval: int = static(500, at_least=1)
    """Gradient steps between moves of the target."""

    default_num_envs: ClassVar[int] = 1

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
        return heads.make_head(self.head, self.loss, self.num_atoms, self.v_min, self.v_max)

    def optimizer(self, steps: Array) -> optax.GradientTransformation:
        rate = self.learning_rate * linear_decay(steps, self.learning_rate_decay)
        return optax.chain(
            optax.clip_by_global_norm(self.max_gradient_norm),
            optax.adam(rate, eps=self.adam_epsilon),
        )

    def init(self, key: Array, spec: EnvironmentSpec) -> DQNState:
        q = self.make_q(key, spec)
        memory = (prioritized if self.prioritized else uniform).init(
            zeros_like_spec(spec), self.capacity, spec.num_envs, self.rollout_length
        )
        steps = jnp.int32(0)
        return DQNState(q, q, self.optimizer(steps).init(q), memory, steps, steps)

    def make_q(self, key: Array, spec: EnvironmentSpec) -> QFunction:
        """The network for the actions of `spec`."""
        head = self.make_head()
        match spec.action:
            case spaces.Discrete(n=n):
                q: QFunction = DiscreteQ(
                    make_dueling_network(
                        key, spec.observation, self.hidden, n, head.num_atoms, self.activation
                    )
                    if self.dueling
                    else make_network(
                        key, spec.observation, self.hidden, n * head.num_atoms, self.activation
                    ),
                    head,
                    n,
                )
            case spaces.Box() if spec.action.is_bounded.all():
                for name, wanted in (("dueling", False), ("exploration", "epsilon")):
                    if getattr(self, name) != wanted:
                        raise InvalidInput(
                            f"{name} is {getattr(self, name)!r}, which is for discrete actions; "
                            f"for {spec.action} leave it {wanted!r}"
                        )
                key_encoder, key_mlp = jax.random.split(key)
                see = make_encoder(key_encoder, spec.observation)
                inputs = jax.eval_shape(see, spec.observation.zeros()).size + math.prod(
                    spec.action.shape
                )
                judge = make_mlp(key_mlp, (inputs, *self.hidden, head.num_atoms), self.activation)
                q = ContinuousQ(
                    see,
                    judge,
                    head,
                    spec.action.shape,
                    self.maximizer,
                    self.samples,
                    self.iterations,
                    self.elites,
                )
            case _:
                raise InvalidInput(
                    "dqn looks for the best of discrete actions or of a bounded Box, and this "
                    "environment's are "
                    f"{spec.action}; ppo takes every kind of action"
                )
        return add_noise_layers(q, self.noisy_sigma) if self.noisy else q

    def act(
        self, state: DQNState, observation: Any, memory: Any, key: Array, explore: bool
    ) -> tuple[Array, Any]:
        """The best action by q; when exploring, one at random with probability ε, or each by its
        value."""
        key_best, key_noise, key_coin, key_action = jax.random.split(key, 4)
        if not explore:
            return state.q.greedy_action(observation, key_best), memory
        q = sample_noise(state.q, key_noise)
        if self.exploration == "boltzmann":
            temperature = linear_schedule(
                state.steps,
                self.initial_temperature,
                self.final_temperature,
                self.exploration_steps,
            )
            return jax.random.categorical(key_action, q(observation) / temperature), memory
        greedy = q.greedy_action(observation, key_best)  # [env, ...]
        epsilon = linear_schedule(
            state.steps, self.initial_epsilon, self.final_epsilon, self.exploration_steps
        )
        return mix_actions(
            key_coin, q.random_action(key_action, greedy.shape[:1]), greedy, epsilon
        ), memory

    def update(
        self, state: DQNState, experience: Transition, key: Array
    ) -> tuple[DQNState, dict[str, Array]]:
        state = self.store(state, experience)
        ring, priorities = split_replay(state.replay)
        warm = state.steps >= self.warmup_steps
        state, metrics = update_if_ready(
            warm,
            partial(self.gradient_step, ring),
            replace(state, replay=priorities),
            key,
            self.gradient_steps,
        )
        return replace(state, replay=merge_replay(ring, state.replay)), metrics

    def store(self, state: DQNState, experience: Transition) -> DQNState:
        """Experience [time, env] into the replay buffer."""
        memory = (prioritized if self.prioritized else uniform).insert(state.replay, experience)
        return replace(state, replay=memory, steps=state.steps + experience.reward.size)

    def gradient_step(
        self, ring: RingBuffer, state: DQNState, key: Array
    ) -> tuple[DQNState, dict[str, Array]]:
        """One, on a draw from `ring`, which `state` is without."""
        key_draw, key_fit = jax.random.split(key)
        rows, batch = self.sample_batch(state, ring, key_draw)
        state, surprise, metrics = self.fit_q(state, batch, key_fit)
        if self.prioritized:
            memory = prioritized.update_priorities(
                merge_replay(ring, state.replay), rows, surprise, self.priority_exponent
            )
            state = replace(state, replay=split_replay(memory)[1])
        return state, metrics

    def sample_batch(
        self, state: DQNState, ring: RingBuffer, key: Array
    ) -> tuple[Indices, ReplayBatch]:
        """What to learn from next, and where in the ring it lies."""
        if self.prioritized:
            exponent = linear_schedule(
                state.steps, self.importance_exponent, 1.0, self.importance_steps
            )
            rows, weight = prioritized.sample_indices(
                merge_replay(ring, state.replay), key, self.batch_size, exponent
            )
        else:
            rows, weight = uniform.sample_indices(ring, key, self.batch_size), jnp.float32(1)
        transition, discount = n_step_transitions(ring, rows, self.n_step, self.discount)
        return rows, ReplayBatch(transition, discount * ~transition.terminated, weight)

    def fit_q(
        self, state: DQNState, batch: ReplayBatch, key: Array
    ) -> tuple[DQNState, Array, dict[str, Array]]:
        """One gradient step on the Bellman error of `batch`, and how large the errors were,
        [batch].

        The greedy policy improves as q does.
        """
        key_target, key_noise = jax.random.split(key)
        target = self.estimate_target(state.q, state.target_q, batch, key_target)

        def loss(q):
            outputs = sample_noise(q, key_noise).outputs_for(
                batch.transition.observation, batch.transition.action
            )
            each, surprise = q.head.loss(outputs, target)
            return (batch.weight * each).mean(), (surprise, q.head.mean(outputs).mean())

        (value, (surprise, mean)), gradient = jax.value_and_grad(loss, has_aux=True)(state.q)
        step, optimizer = self.optimizer(state.steps).update(gradient, state.optimizer)
        q, updates = optax.apply_updates(state.q, step), state.updates + 1
        rate = jnp.where(updates % self.target_interval == 0, self.target_rate, 0)
        target_q = optax.incremental_update(q, state.target_q, rate)
        state = replace(state, q=q, target_q=target_q, optimizer=optimizer, updates=updates)
        return state, surprise, {"q_loss": value, "q_value": mean}

    def estimate_target(
        self, q: QFunction, target_q: QFunction, batch: ReplayBatch, key: Array
    ) -> Array:
        """r + γ (1 - terminated) Q_target(s', a'), [batch, atom], with a' the choice of q when
        double, of the target when not."""
        key_best, key_q, key_target = jax.random.split(key, 3)
        target_q = sample_noise(target_q, key_target)
        chooser = sample_noise(q, key_q) if self.double else target_q
        after = batch.transition.next_observation
        outputs = target_q.outputs_for(after, chooser.greedy_action(after, key_best))
        return q.head.target(outputs, batch.transition.reward, batch.discount)


def split_replay(memory: Any) -> tuple[RingBuffer, Any]:
    """The ring of a replay buffer, which gradient steps do not change, and its priorities, which
    they do."""
    return (
        (memory.buffer, replace(memory, buffer=()))
        if isinstance(memory, prioritized.ReplayBuffer)
        else (memory, ())
    )


def merge_replay(ring: RingBuffer, priorities: Any) -> Any:
    return replace(priorities, buffer=ring) if priorities else ring


# Q-learning as each step is lived: the regression takes one step on one transition, from its own
# values.
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

# Fitted Q iteration (Ernst et al., 2005): a regression to convergence, then new targets for all of
# it.
FittedQ = partial(DQN, double=False, rollout_length=500, gradient_steps=500, target_interval=500)

# All that was found to help, in one agent (Hessel et al., 2018).
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
