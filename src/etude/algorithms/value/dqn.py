"""Deep Q-learning (Mnih et al., 2015) with double targets (van Hasselt et al., 2016)."""
import math
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import optax

from etude import spaces
from etude.distributions import pick
from etude.errors import InvalidInput
from etude.estimators import errors
from etude.experience import Transition, example
from etude.networks import Activation, Network, network
from etude.replay import uniform as replay
from etude.schedules import remaining
from etude.spaces import Spec
from etude.struct import replace, static, struct, traced

Array = jax.Array
Learned = tuple[Network, Network, optax.OptState, Array]            # q, target_q, optimizer, updates


@struct
class DQNState:
    q: Network                 # observation [..., *shape] -> action values [..., action]
    target_q: Network          # where the bootstrap comes from; it follows q slowly
    optimizer: optax.OptState
    replay: replay.Replay
    steps: Array               # int32: environment steps taken
    updates: Array             # int32: gradient steps taken


@struct
class DQN:
    """Deep Q-learning for discrete actions: ε-greedy play, a replay buffer, a target network."""
    learning_rate: float = traced(1e-3, above=0)          # Adam's step size
    learning_rate_decay: float = traced(math.inf, above=0)  # environment steps over which it falls linearly to zero; inf: never
    discount: float = traced(0.99, at_least=0, at_most=1)  # γ, per environment step
    target_rate: float = traced(1.0, above=0, at_most=1)  # the target's share of the way to q: 1 copies it, less is Polyak's
    initial_epsilon: float = traced(1.0, at_least=0, at_most=1)    # of a random action, at the start (Mnih et al., 2015)
    final_epsilon: float = traced(0.05, at_least=0, at_most=1)    # and from exploration_steps on
    exploration_steps: float = traced(10_000.0, above=0)  # environment steps over which epsilon falls linearly
    max_gradient_norm: float = traced(10.0, above=0)      # the gradient's global norm is clipped here; inf: never
    hidden: tuple[int, ...] = static((64, 64), at_least=1)  # units of each hidden layer
    activation: Activation = static("relu")               # between layers
    double: bool = static(True)                           # q chooses the next action, the target judges it (van Hasselt, 2016)
    loss: Literal["huber", "squared"] = static("huber")   # of the Bellman error; Huber's slope is at most 1 (Mnih et al., 2015)
    batch_size: int = static(64, at_least=1)              # transitions a gradient step
    capacity: int = static(100_000, at_least=1)           # transitions the replay buffer holds
    warmup_steps: int = static(1_000, at_least=0)         # environment steps before the first gradient step
    rollout_length: int = static(4, at_least=1)           # environment steps of each copy between updates
    gradient_steps: int = static(4, at_least=1)           # in each update
    target_interval: int = static(500, at_least=1)        # gradient steps between moves of the target

    default_num_envs: ClassVar[int] = 1

    def check(self) -> None:
        if self.batch_size > self.capacity:
            raise InvalidInput(f"batch_size {self.batch_size} is larger than capacity {self.capacity}; "
                               "give a smaller batch or a larger buffer")

    def optimizer(self, steps: Array) -> optax.GradientTransformation:
        rate = self.learning_rate * remaining(steps, self.learning_rate_decay)
        return optax.chain(optax.clip_by_global_norm(self.max_gradient_norm), optax.adam(rate))

    def init(self, key: Array, spec: Spec) -> DQNState:
        if not isinstance(spec.action, spaces.Discrete):
            raise InvalidInput(f"dqn chooses among discrete actions, and this environment's are {spec.action}; "
                               "ppo takes every kind of action")
        if self.capacity < self.rollout_length * spec.num_envs:
            raise InvalidInput(f"capacity {self.capacity} cannot hold one rollout of {self.rollout_length * spec.num_envs} "
                               f"(rollout_length {self.rollout_length} × num_envs {spec.num_envs}); give a larger buffer")
        q = network(key, spec.observation, self.hidden, spec.action.n, self.activation)
        ring = replay.init(example(spec), self.capacity, spec.num_envs, self.rollout_length)
        steps = jnp.int32(0)
        return DQNState(q, q, self.optimizer(steps).init(q), ring, steps, steps)

    def act(self, state: DQNState, observation: Any, memory: Any, key: Array, explore: bool) -> tuple[Array, Any]:
        """The best action by q; when exploring, with probability ε one at random."""
        values = state.q(observation)                                           # [env, action]
        greedy = values.argmax(-1)
        if not explore:
            return greedy, memory
        key_coin, key_action = jax.random.split(key)
        random = jax.random.randint(key_action, greedy.shape, 0, values.shape[-1])
        wander = jax.random.uniform(key_coin, greedy.shape) < self.epsilon(state.steps)
        return jnp.where(wander, random, greedy), memory

    def epsilon(self, steps: Array) -> Array:
        return self.final_epsilon + remaining(steps, self.exploration_steps) * (self.initial_epsilon - self.final_epsilon)

    def update(self, state: DQNState, experience: Transition, key: Array) -> tuple[DQNState, dict[str, Array]]:
        ring = replay.insert(state.replay, experience)
        state = replace(state, replay=ring, steps=state.steps + experience.reward.size)

        def fit(learned):
            keys = jax.random.split(key, self.gradient_steps)
            return jax.lax.scan(lambda learned, key: self.fit_q(learned, replay.sample(ring, key, self.batch_size), state.steps),
                                learned, keys, unroll=self.gradient_steps == 1)

        def wait(learned):
            return learned, {"q_loss": jnp.zeros(self.gradient_steps), "q_value": jnp.zeros(self.gradient_steps)}
        learned = state.q, state.target_q, state.optimizer, state.updates
        warm = state.steps >= self.warmup_steps
        (q, target_q, optimizer, updates), metrics = jax.lax.cond(warm, fit, wait, learned)
        state = replace(state, q=q, target_q=target_q, optimizer=optimizer, updates=updates)
        return state, {**jax.tree.map(jnp.mean, metrics), "updates": warm * self.gradient_steps}

    def fit_q(self, learned: Learned, batch: Transition, steps: Array) -> tuple[Learned, dict[str, Array]]:
        """One gradient step on the Bellman error of `batch`; the greedy policy improves as q does."""
        q, target_q, optimizer, updates = learned
        target = self.estimate_target(q, target_q, batch)

        def loss(q):
            values = pick(q(batch.observation), batch.action)
            return getattr(errors, self.loss)(target - values).mean(), values.mean()
        (value, mean), gradient = jax.value_and_grad(loss, has_aux=True)(q)
        step, optimizer = self.optimizer(steps).update(gradient, optimizer)
        q = optax.apply_updates(q, step)
        rate = jnp.where((updates + 1) % self.target_interval == 0, self.target_rate, 0)
        target_q = optax.incremental_update(q, target_q, rate)
        return (q, target_q, optimizer, updates + 1), {"q_loss": value, "q_value": mean}

    def estimate_target(self, q: Network, target_q: Network, batch: Transition) -> Array:
        """r + γ (1 - terminated) Q_target(s', a'), with a' the choice of q when double, of the target when not."""
        values = target_q(batch.next_observation)
        future = errors.double_value(values, q(batch.next_observation)) if self.double else errors.greedy_value(values)
        return errors.one_step_target(batch.reward, future, batch.terminated, self.discount)
