"""DAgger, dataset aggregation (Ross, Gordon & Bagnell, 2011): cloning on the learner's own states.

    π_i = β_i π* + (1 - β_i) π̂_i,   D ← D ∪ {(s, π*(s)) : s visited by π_i},   π̂_{i+1} ← clone of D

In round i the expert π* acts with probability β_i = β^i at each step, and the learner π̂_i
otherwise. Whoever acts, the expert labels the state with what it would do, and the learner is
cloned from all that was labelled so far. So it learns what to do after its own mistakes, which the
expert by itself never shows.
"""

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from etude.algorithms.assumptions import Assumptions
from etude.algorithms.common import on_policy
from etude.algorithms.imitation import cloning
from etude.algorithms.imitation.cloning import LOSS, AnyHead, Cloner, Demonstrations
from etude.algorithms.imitation.heads.direct import Direct
from etude.algorithms.protocol import NOTHING, Component, Outside, algorithm
from etude.counters import count_up
from etude.data.replay import ring_buffer
from etude.data.replay.ring_buffer import Indices, RingBuffer
from etude.data.transition import Transition, flatten_time, zeros_like_spec
from etude.errors import InvalidInput
from etude.estimators.running_statistics import Normalization
from etude.nn.custom_torso import TorsoMaker
from etude.nn.networks import Activation
from etude.nn.recurrent import GRU, LSTM, Carry, unroll_cell
from etude.spaces import EnvironmentSpec, executed_action
from etude.struct import code, nested, replace, static, struct, traced
from etude.types import Array, Metrics


@struct
class LabelledSteps:
    """Visited states with what the expert does there, [time, env, ...]."""

    observation: Any
    action: Any  # the expert's, as the environment would execute it
    done: Array


@struct
class DAggerMemory:
    """What an episode remembers, [env, ...]: the learner's carry, the expert's memory and label.

    Where no expert is queried, as in evaluation, its parts are ().
    """

    carry: Carry  # after the latest observation
    expert: tuple[Array, ...]  # the arrays of the expert's own memory
    label: Any  # the expert's action for the latest observation
    expert_treedef: Any = static(None)  # the structure of the expert's own memory


@struct
class DAggerState:
    learner: Cloner
    buffer: RingBuffer  # of LabelledSteps
    rounds: Array  # int32: rounds so far


@algorithm
class DAgger:
    """DAgger for every kind of action space, with any expert.

    The expert is queried once for each environment step. It labels single states, so there are no
    chunks of actions as in behavior cloning.
    """

    learning_rate: float = traced(1e-3, above=0)
    """Step size of Adam."""
    learning_rate_decay: float = traced(math.inf, above=0)
    """Gradient steps over which the learning rate falls linearly to zero; inf: constant."""
    weight_decay: float = traced(0.0, at_least=0)
    """Share of each weight that a gradient step takes away, per unit of the learning rate
    (AdamW)."""
    max_gradient_norm: float = traced(math.inf, above=0, infinite=True)
    """Largest global norm of the gradient; larger gradients are scaled down to it; inf: no clip."""
    beta: float = traced(0.5, at_least=0, at_most=1)
    """β: in round i, counted from 0, the expert acts at a step with probability β^i. The first
    round is the expert's alone; with 0, all others are the learner's, as in the paper's
    experiments."""
    head: AnyHead = nested(Direct())
    """What is predicted from the features of a state, and by which loss."""
    hidden: tuple[int, ...] = static((256, 256), at_least=1)
    """Units of each hidden layer."""
    activation: Activation = static("relu")
    """Activation function of the hidden layers."""
    torso: TorsoMaker | None = code()
    """Function that makes a network of one's own, in place of the hidden layers: hidden and
    activation have no effect with it; see `etude.TorsoMaker`."""
    recurrent: GRU | LSTM | None = nested(None)
    """Recurrent cell before the hidden layers. Sequences begin with what it remembers of the
    episode before them, which is computed anew in each round."""
    sequence_length: int = static(16, at_least=1)
    """Steps of backpropagation through time, which is truncated there, a divisor of batch_size; no
    effect with recurrent "none"."""
    normalize_observation: Normalization | None = nested(Normalization())
    """Whether observations are normalized to mean 0 and std 1 by the statistics of all labelled
    states; images are not."""
    batch_size: int = static(256, at_least=1)
    """Labelled states in a gradient step."""
    gradient_steps: int = static(1_000, at_least=1)
    """Gradient steps per round."""
    rollout_length: int = static(1_000, at_least=1)
    """Environment steps of each environment copy per round, each of which the expert labels."""
    capacity: int = static(100_000, at_least=1)
    """Labelled states that are kept; beyond it, the oldest are dropped."""

    needs: ClassVar[tuple[str, ...]] = ("expert",)
    state_noise: ClassVar[bool] = False
    chunk: ClassVar[int] = 1
    ema: ClassVar[None] = None

    @property
    def components(self) -> dict[str, Component]:
        """The policy, which others can start from where they take its kind."""
        return {"policy": cloning.policy_component(self)}

    @property
    def assumes(self) -> Assumptions:
        """A memory stands in for what observations do not tell."""
        return on_policy.observation_assumptions(self)

    def validate_fields(self) -> None:
        cloning.check_sequences(self)
        if self.recurrent and self.sequence_length > self.rollout_length:
            raise InvalidInput(
                f"sequence_length {self.sequence_length} is longer than a round, rollout_length "
                f"{self.rollout_length}; give shorter sequences or longer rounds"
            )

    def remarks(self, num_envs: int, steps: int) -> tuple[str, ...]:
        """What to know of a buffer that does not hold all labelled states."""
        round_steps = self.rollout_length * num_envs
        held = self.capacity // round_steps * round_steps
        if held >= steps:
            return ()
        return (
            f"of {steps:,} labelled states the latest {held:,} are kept (capacity "
            f"{self.capacity:,}, whole rounds)",
        )

    def init(self, key: Array, spec: EnvironmentSpec, outside: Outside) -> DAggerState:
        """Return the initial policy and optimizer state, and an empty buffer."""
        learner = cloning.init_cloner(self, key, spec)
        step = zeros_like_spec(spec)
        example = LabelledSteps(step.observation, step.action, step.terminated)
        buffer = ring_buffer.init(example, self.capacity, spec.num_envs, self.rollout_length)
        return DAggerState(learner, buffer, jnp.int32(0))

    def initial_memory(
        self, state: DAggerState, spec: EnvironmentSpec, key: Array, outside: Outside = NOTHING
    ) -> DAggerMemory:
        """Return the memories with which an episode begins."""
        carry = cloning.start_carry(state.learner, spec.num_envs)
        if (expert := outside.expert) is None:
            return DAggerMemory(carry, (), ())
        memory, treedef = jax.tree.flatten(expert.policy.initial_memory(expert.state, spec, key))
        label = jax.tree.map(
            lambda x: jnp.zeros((spec.num_envs, *x.shape), x.dtype), zeros_like_spec(spec).action
        )
        return DAggerMemory(carry, tuple(memory), label, treedef)

    def act(
        self,
        state: DAggerState,
        observation: Any,
        memory: DAggerMemory,
        key: Array,
        explore: bool,
        outside: Outside = NOTHING,
    ) -> tuple[Any, DAggerMemory]:
        """Return (action, next memory): in training, of π_i; else the learner's mode.

        Without an expert at hand, `explore` gives a sample of the learner's policy.
        """
        key_learner, key_expert, key_mix = jax.random.split(key, 3)
        expert = outside.expert if explore else None
        is_sampled = explore and expert is None
        action, carry = cloning.act_as_cloned(
            self, state.learner, observation, memory.carry, key_learner, is_sampled
        )
        memory = replace(memory, carry=carry)
        if expert is None:
            return action, memory
        expert_memory = jax.tree.unflatten(memory.expert_treedef, memory.expert)
        label, expert_memory = expert.policy.act(
            expert.state, observation, expert_memory, key_expert, explore=False
        )
        label = executed_action(state.learner.weights.action_space, label)
        label = label.astype(memory.label.dtype)
        is_expert = jax.random.bernoulli(key_mix, self.expert_probability(state), label.shape[:1])
        is_expert = is_expert.reshape(-1, *[1] * (label.ndim - 1))
        action = jnp.where(is_expert, label, action)
        expert_memory = tuple(jax.tree.leaves(expert_memory))
        return action, replace(memory, expert=expert_memory, label=label)

    def expert_probability(self, state: DAggerState) -> Array:
        """β^i, the probability with which the expert acts at a step of the round to come."""
        return jnp.float32(self.beta) ** state.rounds

    def update(
        self, state: DAggerState, experience: Transition, key: Array, outside: Outside
    ) -> tuple[DAggerState, Metrics]:
        """Add a round [time, env] to the buffer, and take `gradient_steps` on all of it."""
        steps = LabelledSteps(experience.observation, experience.memory.label, experience.done)
        buffer = ring_buffer.insert(state.buffer, steps)
        learner = cloning.add_observations(
            self, state.learner, flatten_time(experience.observation)
        )
        carries = self.carries_before(learner, buffer)

        def step(learner, key):
            batch = self.sample(buffer, carries, key)
            key_loss = jax.random.fold_in(key, LOSS)
            learner, metrics, _ = cloning.gradient_step(self, learner, batch, key_loss)
            return learner, metrics

        learner, metrics = jax.lax.scan(step, learner, jax.random.split(key, self.gradient_steps))
        return DAggerState(learner, buffer, count_up(state.rounds, 1)), {
            **jax.tree.map(jnp.mean, metrics),
            "beta": self.expert_probability(state),
            "updates": jnp.int32(self.gradient_steps),
        }

    def carries_before(self, learner: Cloner, buffer: RingBuffer) -> Carry:
        """Return the learner's carries before all rows of the buffer, by its weights now.

        They are [time, env, size]; () without a recurrent cell. An episode whose first rows are
        overwritten begins with zeros at its oldest row.
        """
        torso = learner.weights.torso
        cell, encoder = torso.cell, torso.encoder
        if cell is None:
            return ()
        length, oldest = ring_buffer.length(buffer), ring_buffer.oldest(buffer)
        num_envs = ring_buffer.num_envs(buffer)

        def unroll(before, index):
            carry, ended = before
            row = (oldest + index * self.rollout_length) % length
            steps = jax.tree.map(
                lambda x: jax.lax.dynamic_slice_in_dim(x, row, self.rollout_length), buffer.storage
            )
            is_first = jnp.concatenate([ended[None], steps.done[:-1]])
            features = encoder(cloning.normalized(self, learner, steps.observation))
            after = unroll_cell(cell, features, carry, is_first)
            carries = jax.tree.map(
                lambda first, x: jnp.where(
                    is_first[..., None], 0, jnp.concatenate([first[None], x[:-1]])
                ),
                carry,
                after,
            )
            return (jax.tree.map(lambda x: x[-1], after), steps.done[-1]), carries

        start = cloning.start_carry(learner, num_envs), jnp.ones(num_envs, bool)
        _, carries = jax.lax.scan(unroll, start, jnp.arange(length // self.rollout_length))
        return jax.tree.map(
            lambda x: jnp.roll(x.reshape(length, *x.shape[2:]), oldest % length, 0), carries
        )

    def sample(self, buffer: RingBuffer, carries: Carry, key: Array) -> Demonstrations:
        """Return a batch of labelled states, or of sequences, each state as likely as any other.

        A sequence that comes to the newest row goes on with the oldest one, as with a new episode.
        """
        length = self.sequence_length if self.recurrent else 1
        shape = (self.batch_size // length,)
        key_time, key_env = jax.random.split(key)
        oldest, num_rows = ring_buffer.oldest(buffer), ring_buffer.num_valid(buffer)
        age = jax.random.randint(key_time, shape, 0, num_rows) + jnp.arange(length)[:, None]
        row = (oldest + age % num_rows) % ring_buffer.length(buffer)  # [time, sequence]
        env = jax.random.randint(key_env, shape, 0, ring_buffer.num_envs(buffer))
        indices = Indices(row, jnp.broadcast_to(env, row.shape))
        steps = ring_buffer.gather(buffer, indices)
        action = steps.action[:, :, None]  # a chunk of one
        batch = Demonstrations(steps.observation, action, jnp.ones((*row.shape, 1), bool))
        if not self.recurrent:
            return jax.tree.map(lambda x: x[0], batch)
        carry = jax.tree.map(lambda x: x[row[0], env], carries)
        follows = jnp.concatenate([jnp.zeros_like(steps.done[:1]), steps.done[:-1]])
        return replace(batch, carry=carry, is_first=follows | (age % num_rows == 0))

    def truncate_episodes(self, state: DAggerState, is_cut: Array) -> DAggerState:
        """End the running episodes of the environments in `is_cut` [env]."""
        storage = state.buffer.storage
        row = (state.buffer.inserted - 1) % ring_buffer.length(state.buffer)
        done = storage.done.at[row].set(storage.done[row] | is_cut)
        return replace(state, buffer=replace(state.buffer, storage=replace(storage, done=done)))


# Name on the command line: (constructor, description).
ALGORITHMS = {
    "dagger": (DAgger, "dataset aggregation: an expert labels what the learner gets into")
}
