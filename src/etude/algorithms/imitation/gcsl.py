"""Goal-conditioned supervised learning, GCSL (Ghosh et al., "Learning to Reach Goals via Iterated
Supervised Learning", 2021).

    L(θ) = -E[log π_θ(aₜ|sₜ, g)],   g = what the same episode achieved at step t + k,
                                    k ~ U{1, ..., T - t}

It is goal-conditioned behavior cloning of its own episodes, again and again: the policy plays for a
goal, and whatever it achieves instead is a demonstration of how to achieve that. No reward is read.
Here t is drawn from all steps, and then k; the paper draws from all pairs of steps, so that early
steps come more often.

A recurrent policy learns from sequences of rows, each of which begins with the carry that the
policy had there as it played. That is one of older weights, so the actions of the first rows of a
sequence, its burn-in, are not learned from.

In a noisy environment the goals that were achieved by luck are imitated as well: the policy learns
p(a|s, g was achieved), which may favor a risky action that was lucky over the best one.
"""

from typing import Any

import jax
import jax.numpy as jnp

from etude.algorithms.common.exploration import mix_actions
from etude.algorithms.common.replay_agents import check_sequence_lengths
from etude.algorithms.control.random_policy import Random, RandomState
from etude.algorithms.imitation import cloning, goal_cloning
from etude.algorithms.imitation.cloning import Cloner, Demonstrations
from etude.algorithms.imitation.cloning_fields import GoalFields
from etude.algorithms.imitation.goal_cloning import GoalInput, GoalMemory
from etude.algorithms.protocol import algorithm
from etude.counters import count_up
from etude.data.replay import ring_buffer, sequence
from etude.data.replay.hindsight import episode_offsets
from etude.data.replay.ring_buffer import Indices, RingBuffer
from etude.data.replay.uniform import sample_indices
from etude.data.transition import Transition, zeros_like_spec
from etude.nn.recurrent import Carry
from etude.spaces import EnvironmentSpec, executed_action
from etude.struct import replace, static, struct, traced
from etude.types import Array, Metrics


@struct
class StoredMemory:
    """What a row of the buffer keeps of the memory that the policy had."""

    step: Array  # int32: of the episode, from 1
    carry: Carry = ()  # before the row's observation; () without a recurrent cell


@struct
class GCSLState:
    learner: Cloner
    buffer: RingBuffer  # of Transitions with a StoredMemory
    # int32 [row * env]: the number of possible goals in the buffer up to each step; () where
    # observations show a goal
    goal_counts: Any
    steps: Array  # int32: environment steps taken, summed over all environment copies
    goal_input: GoalInput


@algorithm
class GCSL(GoalFields):
    """Goal-conditioned supervised learning (GCSL) for every kind of action space.

    In a goal environment, such as etude/PointRoom-v0, the policy acts for the goal that is desired.
    In any other, a goal is a whole observation, or parts of it that are named, and an episode is
    played for what a random one of the episodes in the buffer achieved at its end; before one has
    ended, for what any step there achieved, or zeros where there is none. Evaluations report the
    distance to the goal at the end of an episode, beside the return.

    By default Box actions are those of a normal distribution. The authors' code cuts each element
    of a Box into three bins, and so can hold several ways to a goal, of which a normal is the mean;
    here other heads do so.
    """

    learning_rate: float = traced(5e-4, above=0)
    hidden: tuple[int, ...] = static((400, 300), at_least=1)
    gradient_steps: int = static(50, at_least=1)
    random_steps: int = static(10_000, at_least=0)
    """Environment steps of all copies with random actions, before the policy plays; it learns from
    them, too."""
    sample_actions: bool = static(True)
    """Whether training plays samples of the policy; else it plays the policy's mode."""
    epsilon: float = traced(0.0, at_least=0, at_most=1)
    """Probability of a random action in place of the policy's, in training."""
    rollout_length: int = static(50, at_least=1)
    """Environment steps of each environment copy per update."""
    capacity: int = static(100_000, at_least=1)
    """Steps that are kept; beyond it, the oldest are dropped."""
    burn_in: int = static(4, at_least=0)
    """Steps at the start of a sequence whose actions are not learned from, since what the cell
    remembers before them is of older weights; no effect with recurrent "none"."""

    def validate_fields(self) -> None:
        if self.recurrent:
            check_sequence_lengths(self)

    def remarks(self, num_envs: int, steps: int) -> tuple[str, ...]:
        """What to know of a buffer that does not hold all steps, and of random actions alone."""
        rollout = self.rollout_length * num_envs
        held = self.capacity // rollout * rollout
        of_buffer = (
            f"of {steps:,} steps the latest {held:,} are kept (capacity {self.capacity:,}, whole "
            "rollouts)"
        )
        of_play = (
            f"all {steps:,} steps are random actions (random_steps {self.random_steps:,}), so the "
            "policy never plays for its goals"
        )
        drops_steps, plays_at_random = held < steps, self.random_steps >= steps
        return tuple(
            remark
            for remark, applies in ((of_buffer, drops_steps), (of_play, plays_at_random))
            if applies
        )

    def init(self, key: Array, spec: EnvironmentSpec) -> GCSLState:
        """Return the initial policy and optimizer state, and an empty buffer."""
        learner, goal_input = goal_cloning.init_goal_cloner(self, key, spec)
        carry = jax.tree.map(lambda x: x[0], cloning.start_carry(learner, 1))
        example = zeros_like_spec(spec, StoredMemory(jnp.int32(0), carry))
        buffer = ring_buffer.init(example, self.capacity, spec.num_envs, self.rollout_length)
        if self.recurrent:
            sequence.check_length(buffer, self.sequence_length)
        goal_counts = () if goal_input.is_shown else count_goals(buffer)
        return GCSLState(learner, buffer, goal_counts, jnp.int32(0), goal_input)

    def initial_memory(self, state: GCSLState, spec: EnvironmentSpec, key: Array) -> GoalMemory:
        """Return the goals with which an episode begins, where observations show none."""
        if state.goal_input.is_shown:
            return goal_cloning.first_memory(state.learner, (), spec.num_envs)
        last = draw_last_observations(key, state.buffer, state.goal_counts, spec.num_envs)
        goal = state.goal_input.achieved_goal(last)
        return goal_cloning.first_memory(state.learner, goal, spec.num_envs)

    def act(
        self, state: GCSLState, observation: Any, memory: GoalMemory, key: Array, explore: bool
    ) -> tuple[Any, GoalMemory]:
        """Return (action, next memory): with `explore` that of the behavior policy, else the
        policy's mode."""
        if not explore:
            return goal_cloning.act_for_goal(self, state, observation, memory, key, False)
        key_policy, key_random, key_mix = jax.random.split(key, 3)
        action, memory = goal_cloning.act_for_goal(
            self, state, observation, memory, key_policy, self.sample_actions
        )
        spaces = RandomState(state.goal_input.observation_space, state.learner.weights.action_space)
        random_action, _ = Random().act(spaces, observation, (), key_random, explore)
        probability = jnp.where(state.steps < self.random_steps, 1.0, self.epsilon)
        return mix_actions(key_mix, random_action, action, probability), memory

    def final_measures(
        self, state: GCSLState, memory: GoalMemory, observation: Any
    ) -> dict[str, Array]:
        """Return the distance to the goal at the end of an episode, [env]."""
        return goal_cloning.distance_to_goal(state, memory, observation)

    def update(
        self, state: GCSLState, experience: Transition, key: Array
    ) -> tuple[GCSLState, Metrics]:
        """Add a rollout [time, env] to the buffer, and take `gradient_steps` on all of it."""
        key_statistics, key_steps = jax.random.split(key)
        buffer = ring_buffer.insert(
            state.buffer, to_stored(experience, state.learner.weights.action_space)
        )
        newest = relabel_rows(
            state.goal_input, key_statistics, buffer, newest_rows(buffer, self.rollout_length)
        )
        learner = cloning.add_observations(self, state.learner, newest.observation)

        def draw(key):
            key_rows, key_goals = jax.random.split(key)
            if not self.recurrent:
                indices = sample_indices(buffer, key_rows, self.batch_size)
                return relabel_rows(state.goal_input, key_goals, buffer, indices)
            indices, is_first = self.sample_sequences(buffer, key_rows)
            return self.relabel_sequences(state.goal_input, key_goals, buffer, indices, is_first)

        learner, metrics = cloning.fit_policy(self, learner, draw, key_steps)
        steps = count_up(state.steps, experience.reward.size)
        goal_counts = count_goals(buffer) if len(state.goal_counts) else ()
        return GCSLState(learner, buffer, goal_counts, steps, state.goal_input), metrics

    def sample_sequences(self, buffer: RingBuffer, key: Array) -> tuple[Indices, Array]:
        """Return (indices [time, sequence], is_first bool [time, sequence]).

        A sequence begins at any row, and one that comes to the newest row goes on with the oldest
        one, as with a new episode: so each row is as likely as any other.
        """
        length, count = self.sequence_length, self.batch_size // self.sequence_length
        rows = ring_buffer.num_valid(buffer)
        key_time, key_env = jax.random.split(key)
        first_age = jax.random.randint(key_time, (count,), 0, rows)
        age = first_age + jnp.arange(length)[:, None]  # since the oldest row
        time = (ring_buffer.oldest(buffer) + age % rows) % ring_buffer.length(buffer)
        env = jax.random.randint(key_env, (count,), 0, ring_buffer.num_envs(buffer))
        indices = Indices(time, jnp.broadcast_to(env, time.shape))
        is_first = ring_buffer.take(buffer.storage.memory.step, indices) == 1
        return indices, is_first | (age % rows == 0) & (age > first_age)

    def relabel_sequences(
        self,
        goal_input: GoalInput,
        key: Array,
        buffer: RingBuffer,
        indices: Indices,
        is_first: Array,
    ) -> Demonstrations:
        """Return the sequences at `indices` [time, sequence], each step with a goal of its own."""
        flat = jax.tree.map(jnp.ravel, indices)
        before = jax.tree.map(lambda x: x[0], indices)
        carry = jax.tree.map(lambda x: ring_buffer.take(x, before), buffer.storage.memory.carry)
        batch = goal_cloning.in_sequences(
            relabel_rows(goal_input, key, buffer, flat), carry, is_first
        )
        return replace(batch, is_valid=batch.is_valid.at[: self.burn_in].set(False))


def to_stored(experience: Transition, action_space: Any) -> Transition:
    """A rollout as the buffer holds it: the actions as they were executed, and a StoredMemory.

    The last observation of an episode may become a goal, whatever ended it. The buffer keeps it for
    truncated episodes alone, so every end is stored as a truncation.
    """
    action = executed_action(action_space, experience.action).astype(experience.action.dtype)
    return replace(
        experience,
        action=action,
        terminated=jnp.zeros_like(experience.terminated),
        truncated=experience.done,
        memory=StoredMemory(experience.memory.step, experience.memory.carry),
    )


def newest_rows(buffer: RingBuffer, rows: int) -> Indices:
    """The indices [rows * env] of the newest rows of time in a buffer."""
    num_envs = ring_buffer.num_envs(buffer)
    time = (buffer.inserted - 1 - jnp.arange(rows)) % ring_buffer.length(buffer)
    return Indices(jnp.repeat(time, num_envs), jnp.tile(jnp.arange(num_envs), rows))


def relabel_rows(
    goal_input: GoalInput, key: Array, buffer: RingBuffer, indices: Indices
) -> Demonstrations:
    """The steps of a buffer at `indices` [n], each with a goal of its own episode.

    An episode that goes on has no observation yet beyond the newest.
    """
    with_steps = replace(buffer.storage, memory=buffer.storage.memory.step)
    _, last_offset = episode_offsets(replace(buffer, storage=with_steps), indices)
    return goal_cloning.relabel(
        goal_input,
        key,
        last_offset + 1,
        lambda offset: ring_buffer.gather(buffer, ring_buffer.advance(buffer, indices, offset)),
    )


def count_goals(buffer: RingBuffer) -> Array:
    """The number of possible goals up to each step of a buffer, int32 [row * env].

    They are the last observations of its episodes; before an episode has ended, all that followed a
    step.
    """
    num_rows = ring_buffer.length(buffer)
    age = (buffer.inserted - 1 - jnp.arange(num_rows)) % num_rows
    is_held = (age < ring_buffer.num_valid(buffer))[:, None]
    is_end = buffer.storage.truncated & is_held
    is_goal = jnp.where(is_end.any(), is_end, is_held)
    return jnp.cumsum(is_goal.ravel(), dtype=jnp.int32)


def draw_last_observations(
    key: Array, buffer: RingBuffer, goal_counts: Array, num_envs: int
) -> Any:
    """What random ones of the possible goals in a buffer are part of, [env, ...]; zeros where it is
    empty."""
    number = jax.random.randint(key, (num_envs,), 0, jnp.maximum(goal_counts[-1], 1))
    row = jnp.searchsorted(goal_counts, number, side="right")
    time, env = jnp.divmod(jnp.minimum(row, len(goal_counts) - 1), ring_buffer.num_envs(buffer))
    return ring_buffer.gather(buffer, Indices(time, env)).next_observation


# Name on the command line: (constructor, description).
ALGORITHMS = {
    "gcsl": (GCSL, "goal-conditioned supervised learning: its own play, cloned in hindsight")
}
