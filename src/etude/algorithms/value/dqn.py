"""Deep Q-learning (Mnih et al., 2015) and what grew out of it, up to Rainbow (Hessel et al., 2018); notes, lectures 7 and 8.

One loop of three processes at three speeds: experience comes in, q follows a target, the target follows q. How many steps of
each make a round is what sets online Q-learning, deep Q-learning and fitted Q iteration apart (the names at the end).
"""
import math
from functools import partial
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import optax

from etude import spaces
from etude.algorithms.off_policy import check_batch, learn
from etude.algorithms.value import heads
from etude.algorithms.value.action_values import Choices, Continuum
from etude.algorithms.value.heads import Loss
from etude.errors import InvalidInput
from etude.experience import Transition, example
from etude.exploration import wander
from etude.networks import Activation, dueling, encoder, mlp, network
from etude.noisy import made_noisy, perturbed
from etude.planning.maximise import Method
from etude.replay import prioritised, uniform
from etude.replay.ring import Ring, Rows, n_step
from etude.schedules import falling, remaining
from etude.spaces import Spec
from etude.struct import replace, static, struct, traced

Array = jax.Array
ActionValues = Choices | Continuum


@struct
class DQNState:
    q: ActionValues
    target_q: ActionValues     # where the bootstrap comes from; it follows q slowly
    optimizer: optax.OptState
    replay: Any                # uniform.Replay or prioritised.Replay; gradient steps change nothing of it but priorities
    steps: Array               # int32: environment steps taken
    updates: Array             # int32: gradient steps taken


@struct
class Batch:
    """What a gradient step is fitted to, [batch]."""
    transition: Transition     # folded to where n-step returns bootstrap
    discount: Array            # of that bootstrap; 0 where the episode terminated
    weight: Array              # of each error in the loss


@struct
class DQN:
    """Deep Q-learning for discrete actions, and for a bounded Box, where a planner looks for the best action."""
    learning_rate: float = traced(1e-3, above=0)          # Adam's step size
    learning_rate_decay: float = traced(math.inf, above=0)  # environment steps over which it falls linearly to zero; inf: never
    adam_epsilon: float = traced(1e-8, above=0)           # Adam's, beside the root of the second moment; Rainbow has 1.5e-4
    discount: float = traced(0.99, at_least=0, at_most=1)  # γ, per environment step
    target_rate: float = traced(1.0, above=0, at_most=1)  # the target's share of the way to q: 1 copies it, less is Polyak's
    initial_epsilon: float = traced(1.0, at_least=0, at_most=1)    # of a random action, at the start (Mnih et al., 2015)
    final_epsilon: float = traced(0.05, at_least=0, at_most=1)    # and from exploration_steps on
    initial_temperature: float = traced(1.0, above=0)     # of Boltzmann exploration at the start, in units of the return
    final_temperature: float = traced(0.1, above=0)       # and from exploration_steps on
    exploration_steps: float = traced(10_000.0, above=0)  # environment steps over which epsilon or temperature falls linearly
    max_gradient_norm: float = traced(10.0, above=0)      # the gradient's global norm is clipped here; inf: never
    priority_exponent: float = traced(0.5, at_least=0)    # α: 0 draws uniformly, 1 by the error (Schaul et al., 2016)
    importance_exponent: float = traced(0.4, at_least=0, at_most=1)    # β at the start; it grows linearly to 1, all bias undone
    importance_steps: float = traced(100_000.0, above=0)  # environment steps over which it does
    noise: float = traced(0.5, above=0)                   # σ₀ of noisy layers (Fortunato et al., 2018)
    lowest_return: float = static(-10.0)                  # the categorical head's first atom
    highest_return: float = static(10.0)                  # and its last
    atoms: int = static(51, at_least=1)                   # of a categorical or quantile head
    head: Literal["mean", "categorical", "quantile"] = static("mean")  # what is learned of the return (C51: 2017; QR-DQN: 2018)
    hidden: tuple[int, ...] = static((64, 64), at_least=1)  # units of each hidden layer
    activation: Activation = static("relu")               # between layers
    double: bool = static(True)                           # q chooses the next action, the target judges it (van Hasselt, 2016)
    dueling: bool = static(False)                         # value and advantages in streams of their own (Wang et al., 2016)
    noisy: bool = static(False)                           # weights with learned noise, which explores by itself (Fortunato, 2018)
    prioritised: bool = static(False)                     # large errors are replayed more often (Schaul et al., 2016)
    n_step: int = static(1, at_least=1)                   # rewards before the bootstrap (Sutton, 1988)
    exploration: Literal["epsilon", "boltzmann"] = static("epsilon")  # random at times, or each action by exp(Q / temperature)
    loss: Loss = static("huber")                          # of a mean's error; Huber's slope is at most 1 (Mnih et al., 2015)
    maximiser: Method = static("cem")                     # of Q over a Box of actions
    samples: int = static(32, at_least=1)                 # candidates that it tries at a time
    iterations: int = static(3, at_least=1)               # times that it does
    elites: int = static(6, at_least=1)                   # candidates that cross entropy keeps each time
    batch_size: int = static(64, at_least=1)              # transitions a gradient step
    capacity: int = static(100_000, at_least=1)           # transitions the replay buffer holds
    warmup_steps: int = static(1_000, at_least=0)         # environment steps before the first gradient step
    rollout_length: int = static(4, at_least=1)           # environment steps of each copy between updates
    gradient_steps: int = static(4, at_least=1)           # in each update
    target_interval: int = static(500, at_least=1)        # gradient steps between moves of the target

    default_num_envs: ClassVar[int] = 1

    def check(self) -> None:
        check_batch(self)
        if self.elites > self.samples:
            raise InvalidInput(f"elites {self.elites} is more than samples {self.samples}; keep fewer or try more")
        if self.dueling and not self.hidden:
            raise InvalidInput("hidden is empty; the two streams of dueling need at least one hidden layer")
        self.make_head()

    def make_head(self) -> heads.Head:
        return heads.head(self.head, self.loss, self.atoms, self.lowest_return, self.highest_return)

    def optimizer(self, steps: Array) -> optax.GradientTransformation:
        rate = self.learning_rate * remaining(steps, self.learning_rate_decay)
        return optax.chain(optax.clip_by_global_norm(self.max_gradient_norm), optax.adam(rate, eps=self.adam_epsilon))

    def init(self, key: Array, spec: Spec) -> DQNState:
        q = self.action_values(key, spec)
        memory = (prioritised if self.prioritised else uniform).init(example(spec), self.capacity, spec.num_envs,
                                                                     self.rollout_length)
        steps = jnp.int32(0)
        return DQNState(q, q, self.optimizer(steps).init(q), memory, steps, steps)

    def action_values(self, key: Array, spec: Spec) -> ActionValues:
        """The network for the actions of `spec`."""
        head = self.make_head()
        match spec.action:
            case spaces.Discrete(n=n):
                q: ActionValues = Choices(
                    dueling(key, spec.observation, self.hidden, n, head.atoms, self.activation) if self.dueling else
                    network(key, spec.observation, self.hidden, n * head.atoms, self.activation), head, n)
            case spaces.Box() if spec.action.bounded.all():
                for name, wanted in (("dueling", False), ("exploration", "epsilon")):
                    if getattr(self, name) != wanted:
                        raise InvalidInput(f"{name} is {getattr(self, name)!r}, which is for discrete actions; "
                                           f"for {spec.action} leave it {wanted!r}")
                key_encoder, key_mlp = jax.random.split(key)
                see = encoder(key_encoder, spec.observation)
                inputs = jax.eval_shape(see, spec.observation.zeros()).size + math.prod(spec.action.shape)
                judge = mlp(key_mlp, (inputs, *self.hidden, head.atoms), self.activation)
                q = Continuum(see, judge, head, spec.action.shape, self.maximiser, self.samples, self.iterations, self.elites)
            case _:
                raise InvalidInput(f"dqn looks for the best of discrete actions or of a bounded Box, and this environment's are "
                                   f"{spec.action}; ppo takes every kind of action")
        return made_noisy(q, self.noise) if self.noisy else q

    def act(self, state: DQNState, observation: Any, memory: Any, key: Array, explore: bool) -> tuple[Array, Any]:
        """The best action by q; when exploring, one at random with probability ε, or each by its value."""
        key_best, key_noise, key_coin, key_action = jax.random.split(key, 4)
        if not explore:
            return state.q.best(observation, key_best), memory
        q = perturbed(state.q, key_noise)
        if self.exploration == "boltzmann":
            temperature = falling(state.steps, self.initial_temperature, self.final_temperature, self.exploration_steps)
            return jax.random.categorical(key_action, q(observation) / temperature), memory
        greedy = q.best(observation, key_best)                                   # [env, ...]
        epsilon = falling(state.steps, self.initial_epsilon, self.final_epsilon, self.exploration_steps)
        return wander(key_coin, q.random(key_action, greedy.shape[:1]), greedy, epsilon), memory

    def update(self, state: DQNState, experience: Transition, key: Array) -> tuple[DQNState, dict[str, Array]]:
        state = self.remember(state, experience)
        ring, priorities = apart(state.replay)
        warm = state.steps >= self.warmup_steps
        state, metrics = learn(warm, partial(self.gradient_step, ring), replace(state, replay=priorities), key,
                               self.gradient_steps)
        return replace(state, replay=together(ring, state.replay)), metrics

    def remember(self, state: DQNState, experience: Transition) -> DQNState:
        """Experience [time, env] into the replay buffer."""
        memory = (prioritised if self.prioritised else uniform).insert(state.replay, experience)
        return replace(state, replay=memory, steps=state.steps + experience.reward.size)

    def gradient_step(self, ring: Ring, state: DQNState, key: Array) -> tuple[DQNState, dict[str, Array]]:
        """One, on a draw from `ring`, which `state` is without."""
        key_draw, key_fit = jax.random.split(key)
        rows, batch = self.draw(state, ring, key_draw)
        state, surprise, metrics = self.fit_q(state, batch, key_fit)
        if self.prioritised:
            memory = prioritised.update(together(ring, state.replay), rows, surprise, self.priority_exponent)
            state = replace(state, replay=apart(memory)[1])
        return state, metrics

    def draw(self, state: DQNState, ring: Ring, key: Array) -> tuple[Rows, Batch]:
        """What to learn from next, and where in the ring it lies."""
        if self.prioritised:
            exponent = falling(state.steps, self.importance_exponent, 1.0, self.importance_steps)
            rows, weight = prioritised.draw(together(ring, state.replay), key, self.batch_size, exponent)
        else:
            rows, weight = uniform.draw(ring, key, self.batch_size), jnp.float32(1)
        transition, discount = n_step(ring, rows, self.n_step, self.discount)
        return rows, Batch(transition, discount * ~transition.terminated, weight)

    def fit_q(self, state: DQNState, batch: Batch, key: Array) -> tuple[DQNState, Array, dict[str, Array]]:
        """One gradient step on the Bellman error of `batch`, and how large the errors were, [batch].

        The greedy policy improves as q does.
        """
        key_target, key_noise = jax.random.split(key)
        target = self.estimate_target(state.q, state.target_q, batch, key_target)

        def loss(q):
            outputs = perturbed(q, key_noise).at(batch.transition.observation, batch.transition.action)
            each, surprise = q.head.loss(outputs, target)
            return (batch.weight * each).mean(), (surprise, q.head.mean(outputs).mean())
        (value, (surprise, mean)), gradient = jax.value_and_grad(loss, has_aux=True)(state.q)
        step, optimizer = self.optimizer(state.steps).update(gradient, state.optimizer)
        q, updates = optax.apply_updates(state.q, step), state.updates + 1
        rate = jnp.where(updates % self.target_interval == 0, self.target_rate, 0)
        target_q = optax.incremental_update(q, state.target_q, rate)
        state = replace(state, q=q, target_q=target_q, optimizer=optimizer, updates=updates)
        return state, surprise, {"q_loss": value, "q_value": mean}

    def estimate_target(self, q: ActionValues, target_q: ActionValues, batch: Batch, key: Array) -> Array:
        """r + γ (1 - terminated) Q_target(s', a'), [batch, atom], with a' the choice of q when double, of the target when not."""
        key_best, key_q, key_target = jax.random.split(key, 3)
        target_q = perturbed(target_q, key_target)
        chooser = perturbed(q, key_q) if self.double else target_q
        after = batch.transition.next_observation
        outputs = target_q.at(after, chooser.best(after, key_best))
        return q.head.target(outputs, batch.transition.reward, batch.discount)


def apart(memory: Any) -> tuple[Ring, Any]:
    """The ring of a replay buffer, which gradient steps do not change, and its priorities, which they do."""
    return (memory.ring, replace(memory, ring=())) if isinstance(memory, prioritised.Replay) else (memory, ())


def together(ring: Ring, priorities: Any) -> Any:
    return replace(priorities, ring=ring) if priorities else ring


# Q-learning as each step is lived (notes, lecture 7): the regression takes one step on one transition, from its own values.
OnlineQ = partial(DQN, double=False, batch_size=1, capacity=1, warmup_steps=0, rollout_length=1, gradient_steps=1,
                  target_interval=1)

# Fitted Q iteration (Ernst et al., 2005; notes, lecture 7): a regression to convergence, then new targets for all of it.
FittedQ = partial(DQN, double=False, rollout_length=500, gradient_steps=500, target_interval=500)

# All that was found to help, in one agent (Hessel et al., 2018).
Rainbow = partial(DQN, double=True, dueling=True, noisy=True, prioritised=True, n_step=3, head="categorical", initial_epsilon=0.0,
                  final_epsilon=0.0)

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
