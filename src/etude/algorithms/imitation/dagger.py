"""DAgger, dataset aggregation (Ross, Gordon & Bagnell, 2011): cloning on the learner's own states.

    π_i = β_i π* + (1 - β_i) π̂_i,   D ← D ∪ {(s, π*(s)) : s visited by π_i},   π̂_{i+1} ← clone of D

In round i = 0, 1, ... the expert π* acts with probability β_i = β^i at each step, and the learner
π̂_i otherwise. Whoever acts, the expert labels the state with what it would do, and the learner is
cloned from all that was labelled so far: it takes more gradient steps from where it is. So it
learns what to do after its own mistakes, which demonstrations never show. D begins empty, or with a
dataset of demonstrations as round zero. The paper trains each π̂ anew and returns the one that is
best in validation; here `--evaluate-every` finds the best of those that are evaluated.

A person is asked in another way, as in HG-DAgger (Kelly et al., 2019): the learner plays, and the
person takes over and gives back. Labels are what the person does while in control, and no others.
"""

from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from etude.algorithms.assumptions import Assumptions
from etude.algorithms.common import on_policy
from etude.algorithms.imitation import cloning
from etude.algorithms.imitation.cloning import Cloner, Demonstrations
from etude.algorithms.imitation.cloning_fields import RecurrentFields
from etude.algorithms.protocol import NOTHING, Component, Outside, algorithm
from etude.counters import count_up
from etude.data.dataset import Dataset
from etude.data.replay import ring_buffer
from etude.data.replay.ring_buffer import Indices, RingBuffer
from etude.data.transition import Transition, flatten_time, zeros_like_spec
from etude.errors import InvalidInput
from etude.nn.recurrent import Carry, unroll_cell
from etude.spaces import EnvironmentSpec, executed_action
from etude.struct import replace, static, struct, traced
from etude.types import Array, Metrics

KEY_OF_ROUND_ZERO = 2**31  # folded into the key of `init`; `split(key, n)` folds in numbers below n


@struct
class LabelledSteps:
    """Visited states with what the expert does there, [time, env, ...]."""

    observation: Any
    action: Any  # the expert's, as the environment would execute it
    done: Array
    is_labelled: Array | None = None  # bool; None where the expert labels every state


@struct
class DAggerMemory:
    """What an episode remembers, [env, ...]: the learner's carry, the expert's memory and label.

    Where no expert is queried, as in evaluation, its parts are ().
    """

    carry: Carry  # after the latest observation
    expert: tuple[Array, ...]  # the arrays of the expert's own memory
    label: Any  # the expert's action for the latest observation
    is_labelled: Array | None = None  # bool: whether it gave one; None where it always does
    expert_treedef: Any = static(None)  # the structure of the expert's own memory


@struct
class DAggerState:
    learner: Cloner
    buffer: RingBuffer  # of LabelledSteps
    # int32: how many time steps of all copies are in it, the newest ones; a dataset that was put in
    # need not fill whole rounds
    rows: Array
    rounds: Array  # int32: rounds so far, with the dataset as one


@algorithm
class DAgger(RecurrentFields):
    """DAgger for every kind of action space, with any expert.

    The expert is queried once for each environment step; a person takes over in a window. It labels
    single states, so there are no chunks of actions as in behavior cloning. With a dataset the
    learner is cloned from that first, as by `bc`, for as many gradient steps as a round has.
    """

    beta: float = traced(0.5, at_least=0, at_most=1)
    """β: in round i, counted from 0, the expert acts at a step with probability β^i. The first
    round is the expert's alone, or the dataset; with 0, all others are the learner's. A person
    takes over instead."""
    gradient_steps: int = static(1_000, at_least=1)
    """Gradient steps per round."""
    rollout_length: int = static(1_000, at_least=1)
    """Environment steps of each environment copy per round."""
    capacity: int = static(100_000, at_least=1)
    """Visited states that are kept, in whole rounds; beyond it, the oldest are dropped, with their
    labels. A person labels some of them, any other expert all."""

    needs: ClassVar[tuple[str, ...]] = ("expert",)
    takes: ClassVar[tuple[str, ...]] = ("dataset",)
    reads_next_observations: ClassVar[bool] = False
    takes_interventions: ClassVar[bool] = True
    chunk: ClassVar[int] = 1
    ema: ClassVar[None] = None

    @property
    def components(self) -> dict[str, Component]:
        """The policy, which others can start from where they take its kind."""
        return {"policy": cloning.policy_component(self)}

    @property
    def assumes(self) -> Assumptions:
        """A recurrent policy does without observations that tell the whole state."""
        return on_policy.observation_assumptions(self)

    def validate_fields(self) -> None:
        cloning.check_sequences(self)
        if self.recurrent and self.sequence_length > self.rollout_length:
            raise InvalidInput(
                f"sequence_length {self.sequence_length} is longer than a round, rollout_length "
                f"{self.rollout_length}; give shorter sequences or longer rounds"
            )

    def remarks(self, num_envs: int, steps: int) -> tuple[str, ...]:
        """What to know of a buffer that does not hold all visited states."""
        round_steps = self.rollout_length * num_envs
        held = self.capacity // round_steps * round_steps
        if held >= steps:
            return ()
        return (
            f"of {steps:,} visited states the latest {held:,} are kept (capacity "
            f"{self.capacity:,}, whole rounds)",
        )

    def init(self, key: Array, spec: EnvironmentSpec, outside: Outside) -> DAggerState:
        """Return the initial policy and optimizer state, and an empty buffer; or after round zero.

        Round zero is cloning from the dataset, if there is one.
        """
        is_labelled = None if outside.expert.has_control is None else jnp.bool_(False)
        if is_labelled is not None and self.recurrent:
            raise InvalidInput(
                "recurrent is set, and a person labels single stretches of an episode, of which no "
                "sequence is whole; leave it out, and stack observations with --frame-stack"
            )
        learner = cloning.init_cloner(self, key, spec)
        step = zeros_like_spec(spec)
        example = LabelledSteps(step.observation, step.action, step.terminated, is_labelled)
        buffer = ring_buffer.init(example, self.capacity, spec.num_envs, self.rollout_length)
        if (dataset := outside.dataset) is None:
            return DAggerState(learner, buffer, rows=jnp.int32(0), rounds=jnp.int32(0))
        buffer, rows = self.insert_dataset(buffer, dataset)
        learner = cloning.add_observations(self, learner, dataset.transitions.observation)
        key_fit = jax.random.fold_in(key, KEY_OF_ROUND_ZERO)
        learner, _ = self.fit(learner, buffer, rows, key_fit)
        return DAggerState(learner, buffer, rows, rounds=jnp.int32(1))

    def insert_dataset(self, buffer: RingBuffer, dataset: Dataset) -> tuple[RingBuffer, Array]:
        """Return the buffer with the dataset's latest steps, and how many rows of time they take.

        The steps are cut into `num_envs` stretches of one length, one for each copy, wherever that
        is in an episode; fewer than `num_envs` of the oldest steps are left over and dropped. The
        stretches end at the row before a rollout begins.
        """
        num_envs = ring_buffer.num_envs(buffer)
        rows = min(dataset.num_steps // num_envs, ring_buffer.length(buffer))
        if not rows:
            raise InvalidInput(
                f"the dataset has {dataset.num_steps} steps, fewer than the {num_envs} copies of "
                "the environment; give a smaller num_envs, or record more"
            )
        end = -(-rows // self.rollout_length) * self.rollout_length
        steps = dataset.transitions
        is_labelled = None
        if buffer.storage.is_labelled is not None:
            is_labelled = jnp.ones_like(steps.done)
        labelled = LabelledSteps(steps.observation, steps.action, steps.done, is_labelled)
        storage = jax.tree.map(
            lambda kept, x: kept.at[end - rows : end].set(
                x[-rows * num_envs :].reshape(num_envs, rows, *x.shape[1:]).swapaxes(0, 1)
            ),
            buffer.storage,
            labelled,
        )
        # the rows before and the first rollout are of other episodes than the dataset
        done = storage.done.at[: end - rows].set(True).at[end - 1].set(True)
        return replace(
            buffer, storage=replace(storage, done=done), inserted=jnp.int32(end)
        ), jnp.int32(rows)

    def initial_memory(
        self, state: DAggerState, spec: EnvironmentSpec, key: Array, outside: Outside = NOTHING
    ) -> DAggerMemory:
        """Return the memories with which an episode begins."""
        carry = cloning.start_carry(state.learner, spec.num_envs)
        if (expert := outside.expert) is None:
            return DAggerMemory(carry, (), ())
        memory, treedef = jax.tree.flatten(expert.policy.initial_memory(expert.state, spec, key))
        action = zeros_like_spec(spec).action
        label = jnp.zeros((spec.num_envs, *action.shape), action.dtype)
        is_labelled = None if expert.has_control is None else jnp.zeros(spec.num_envs, bool)
        return DAggerMemory(carry, tuple(memory), label, is_labelled, treedef)

    def act(
        self,
        state: DAggerState,
        observation: Any,
        memory: DAggerMemory,
        key: Array,
        explore: bool,
        outside: Outside = NOTHING,
    ) -> tuple[Any, DAggerMemory]:
        """Return (action, next memory).

        With `explore` the action is that of π_i where there is an expert, whose learner plays its
        mode, and else a sample of the learner's policy. Without, it is the learner's mode.
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
        is_expert = expert.has_control
        if is_expert is None:
            probability = self.expert_probability(state)
            is_expert = jax.random.bernoulli(key_mix, probability, label.shape[:1])
        action = jnp.where(is_expert.reshape(-1, *[1] * (label.ndim - 1)), label, action)
        expert_memory = tuple(jax.tree.leaves(expert_memory))
        memory = replace(memory, expert=expert_memory, label=label, is_labelled=expert.has_control)
        return action, memory

    def expert_probability(self, state: DAggerState) -> Array:
        """β^i, the probability with which the expert acts at a step of the round to come."""
        return jnp.float32(self.beta) ** state.rounds

    def update(
        self, state: DAggerState, experience: Transition, key: Array, outside: Outside
    ) -> tuple[DAggerState, Metrics]:
        """Add a round [time, env] to the buffer, and take `gradient_steps` on all of it.

        Where nothing was labelled yet there are none.
        """
        is_labelled = experience.memory.is_labelled
        steps = LabelledSteps(
            experience.observation, experience.memory.label, experience.done, is_labelled
        )
        buffer = ring_buffer.insert(state.buffer, steps)
        rows = jnp.minimum(state.rows + self.rollout_length, ring_buffer.length(buffer))
        learner = cloning.add_observations(
            self,
            state.learner,
            flatten_time(experience.observation),
            None if is_labelled is None else is_labelled.ravel(),
        )
        learner, metrics = self.fit(learner, buffer, rows, key)
        if is_labelled is None:
            metrics["beta"] = self.expert_probability(state)
            metrics["labelled_states"] = rows * ring_buffer.num_envs(buffer)
        else:
            metrics["expert_share"] = is_labelled.mean()
            metrics["labelled_states"] = count_labels(buffer)[-1]
        return DAggerState(learner, buffer, rows, count_up(state.rounds, 1)), metrics

    def fit(
        self, learner: Cloner, buffer: RingBuffer, rows: Array, key: Array
    ) -> tuple[Cloner, Metrics]:
        """Take `gradient_steps` on the newest `rows` of the buffer; return their metrics too.

        Where a person has labelled nothing of them yet, the learner stays as it is.
        """
        labels = None if buffer.storage.is_labelled is None else count_labels(buffer)
        sample = (
            partial(self.sample, buffer, rows, self.carries_before(learner, buffer))
            if labels is None
            else partial(self.sample_labelled, buffer, labels)
        )

        fitted, metrics = cloning.fit_policy(self, learner, sample, key)
        if labels is None:
            return fitted, metrics
        has_labels = labels[-1] > 0
        metrics["updates"] = jnp.where(has_labels, metrics["updates"], 0)
        return jax.tree.map(partial(jnp.where, has_labels), fitted, learner), metrics

    def carries_before(self, learner: Cloner, buffer: RingBuffer) -> Carry:
        """Return the carry before each row of the buffer, by the learner's weights now.

        Carries are [time, env, size]; () without a recurrent cell. An episode whose first rows are
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

    def sample(self, buffer: RingBuffer, rows: Array, carries: Carry, key: Array) -> Demonstrations:
        """Return a batch of the newest `rows` of labelled states, each as likely as any other.

        With a recurrent cell they are sequences, and one that comes to the newest row goes on with
        the oldest one, as with a new episode.
        """
        length = self.sequence_length if self.recurrent else 1
        shape = (self.batch_size // length,)
        key_time, key_env = jax.random.split(key)
        oldest = buffer.inserted - rows
        age = jax.random.randint(key_time, shape, 0, rows) + jnp.arange(length)[:, None]
        row = (oldest + age % rows) % ring_buffer.length(buffer)  # [time, sequence]
        env = jax.random.randint(key_env, shape, 0, ring_buffer.num_envs(buffer))
        indices = Indices(row, jnp.broadcast_to(env, row.shape))
        steps = ring_buffer.gather(buffer, indices)
        action = steps.action[:, :, None]  # a chunk of one
        batch = Demonstrations(steps.observation, action, jnp.ones((*row.shape, 1), bool))
        if not self.recurrent:
            return jax.tree.map(lambda x: x[0], batch)
        carry = jax.tree.map(lambda x: x[row[0], env], carries)
        follows = jnp.concatenate([jnp.zeros_like(steps.done[:1]), steps.done[:-1]])
        return replace(batch, carry=carry, is_first=follows | (age % rows == 0))

    def sample_labelled(self, buffer: RingBuffer, labels: Array, key: Array) -> Demonstrations:
        """Return a batch of labelled states, each as likely as any other; see `count_labels`."""
        number = jax.random.randint(key, (self.batch_size,), 0, jnp.maximum(labels[-1], 1))
        place = jnp.searchsorted(labels, number, side="right")
        row, env = jnp.divmod(place, ring_buffer.num_envs(buffer))
        steps = ring_buffer.gather(buffer, Indices(row, env))
        return cloning.single_actions(steps.observation, steps.action)

    def truncate_episodes(self, state: DAggerState, is_cut: Array) -> DAggerState:
        """End the running episodes of the environments in `is_cut` [env]."""
        storage = state.buffer.storage
        row = (state.buffer.inserted - 1) % ring_buffer.length(state.buffer)
        done = storage.done.at[row].set(storage.done[row] | is_cut)
        return replace(state, buffer=replace(state.buffer, storage=replace(storage, done=done)))


def count_labels(buffer: RingBuffer) -> Array:
    """int32 [time × env]: how many states are labelled up to each place of the buffer."""
    # behind the barrier XLA does not take seconds to add up what it knows of an empty buffer
    is_labelled = jax.lax.optimization_barrier(buffer.storage.is_labelled)
    return jnp.cumsum(is_labelled.ravel(), dtype=jnp.int32)


# Name on the command line: (constructor, description).
ALGORITHMS = {
    "dagger": (DAgger, "dataset aggregation: an expert labels the states that the learner visits")
}
