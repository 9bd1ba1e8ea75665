"""Hindsight and recurrent networks of the agents that learn from replay: DQN, NAF, TD3 and SAC.

What an agent remembers from step to step, its memory, is the carries of its recurrent networks;
with hindsight it is the step of the episode, counted from 1; else (). A row of the buffer has the
memory after its observation was read.

The functions read these hyperparameters of `algorithm`:

    hindsight                                whether and how goals are relabeled
    recurrent, sequence_length, burn_in      recurrent cell, rows of a sequence and of its burn-in
    discount                                 γ
    capacity, batch_size, rollout_length     rows of the buffer, of a batch, of one environment's
                                             rollout
"""

from typing import Any

import jax
import jax.numpy as jnp

from etude.algorithms.assumptions import Assumptions
from etude.algorithms.protocol import Relabel
from etude.counters import count_back
from etude.data.dataset import Dataset
from etude.data.replay import ring_buffer, sequence
from etude.data.replay.ring_buffer import Indices, RingBuffer, buffer_of
from etude.data.replay.windows import n_step_batch
from etude.data.transition import ReplayBatch, zeros_like_spec
from etude.environments.goals import goal_reward_for
from etude.errors import InvalidInput
from etude.nn.history import initial_carries, read_history
from etude.spaces import EnvironmentSpec, GoalRewardFunction
from etude.types import Array

# folded into a key; `split(key, n)` folds in numbers below n
KEY_OF_GOALS, KEY_OF_RELABEL = 2**31, 2**31 + 1


def check_replay(algorithm: Any) -> None:
    """Raise InvalidInput for settings of replay that do not go together."""
    if algorithm.batch_size > algorithm.capacity:
        raise InvalidInput(
            f"batch_size {algorithm.batch_size} is larger than capacity {algorithm.capacity}; "
            "give a smaller batch or a larger buffer"
        )
    if algorithm.hindsight and not algorithm.plays:
        raise InvalidInput(
            "hindsight is on, and plays is off; a dataset does not hold the step of each "
            "transition in its episode: leave hindsight off"
        )
    if not algorithm.recurrent:
        return
    if algorithm.hindsight:
        raise InvalidInput(
            "hindsight is on, and so is recurrent; what a recurrent network remembers was read "
            "with the old goal: leave one of them off"
        )
    check_sequence_lengths(algorithm)


def check_sequence_lengths(algorithm: Any) -> None:
    """Raise InvalidInput where burn-in and batch do not go with the length of the sequences."""
    length = algorithm.sequence_length
    if algorithm.burn_in >= length:
        raise InvalidInput(
            f"burn_in {algorithm.burn_in} leaves nothing of a sequence_length of {length}, of "
            "which it is a part; give a shorter burn-in or longer sequences"
        )
    if algorithm.batch_size % length:
        raise InvalidInput(
            f"batch_size {algorithm.batch_size} is no whole number of sequences of "
            f"sequence_length {length}; give a multiple of it, or another length"
        )


def first_update(algorithm: Any, num_envs: int) -> tuple[int, str]:
    """(steps before the first gradient step, the setting that says so), after the warm-up."""
    steps = algorithm.steps_per_update(num_envs)
    warmup_steps = algorithm.warmup_steps if algorithm.plays else 0
    return max(steps, -(-warmup_steps // steps) * steps), f"warmup_steps {warmup_steps:,}"


def remarks(algorithm: Any, num_envs: int, steps: int) -> tuple[str, ...]:
    """What to know of a replay buffer that holds less than its capacity, or than a batch.

    Where it never fills in `steps` environment steps, that is nothing.
    """
    if not algorithm.plays:
        return ()
    rollout = algorithm.rollout_length * num_envs
    held = algorithm.capacity // rollout * rollout
    holds = (
        f"the replay buffer holds {held:,} transitions, the whole rollouts of {rollout:,} "
        f"(rollout_length {algorithm.rollout_length} × num_envs {num_envs}) that fit into "
        f"capacity {algorithm.capacity:,}"
    )
    if algorithm.batch_size > held:
        return (f"{holds}: a batch of {algorithm.batch_size:,} is drawn with repeats",)
    return (holds,) if held < min(algorithm.capacity, steps) else ()


def replay_assumptions(algorithm: Any, assumptions: Assumptions) -> Assumptions:
    """`assumptions`, with goals for hindsight, and without full observation where recurrent."""
    assumptions = assumptions._replace(full_observation=algorithm.recurrent is None)
    if not algorithm.hindsight:
        return assumptions
    return assumptions._replace(goals=True, because_of=assumptions.because_of or "hindsight")


def hindsight_reward(algorithm: Any, spec: EnvironmentSpec) -> GoalRewardFunction | None:
    """The function that computes the rewards of other goals; None without hindsight.

    Raises InvalidInput where that is not known.
    """
    return goal_reward_for(spec) if algorithm.hindsight else None


def initial_agent_memory(algorithm: Any, networks: Any, spec: EnvironmentSpec) -> Any:
    """The memory [env, ...] at the start of an episode: zeros, or () if nothing is remembered."""
    if algorithm.hindsight:
        return jnp.zeros(spec.num_envs, jnp.int32)
    return initial_carries(networks, (spec.num_envs,))


def remember(algorithm: Any, networks: Any, observation: Any, memory: Any) -> tuple[Any, Any]:
    """(what the networks read at this observation, the next memory)."""
    if algorithm.hindsight:
        return observation, count_back(memory, 1) + 1
    return read_history(networks, observation, memory)


def init_replay(
    algorithm: Any, networks: Any, spec: EnvironmentSpec, dataset: Dataset | None = None
) -> RingBuffer:
    """An empty replay buffer for transitions and memories of the agent; the dataset, if given.

    Raises InvalidInput for a capacity or a dataset that is too small.
    """
    if dataset:
        buffer = buffer_of(dataset.transitions)
    else:
        memory = jax.tree.map(lambda x: x[0], initial_agent_memory(algorithm, networks, spec))
        example = zeros_like_spec(spec, memory)
        buffer = ring_buffer.init(
            example, algorithm.capacity, spec.num_envs, algorithm.rollout_length
        )
    if algorithm.recurrent:
        sequence.check_length(buffer, algorithm.sequence_length)
    return buffer


def num_indices(algorithm: Any) -> int:
    """How many indices a batch is made of: those of transitions, or of sequences."""
    return algorithm.batch_size // (algorithm.sequence_length if algorithm.recurrent else 1)


def make_batch(
    algorithm: Any,
    state: Any,
    buffer: RingBuffer,
    indices: Indices,
    weight: Array,
    key: Array,
    relabel: Relabel | None,
    n_step: int = 1,
) -> ReplayBatch:
    """The batch at `indices`: transitions [batch], or the sequences after them [time, batch].

    Hindsight gives a share of the transitions other goals. Then `relabel` may change the batch.
    `key` may have been split before, since other numbers are folded into it.
    """
    if algorithm.recurrent:
        batch = sequence.sequence_batch(
            buffer,
            indices,
            weight,
            n_step,
            algorithm.discount,
            length=algorithm.sequence_length,
            burn_in=algorithm.burn_in,
        )
    else:
        batch = n_step_batch(buffer, indices, weight, n_step, algorithm.discount)
    if algorithm.hindsight:
        key_goal = jax.random.fold_in(key, KEY_OF_GOALS)
        batch = algorithm.hindsight.relabel(
            state.goal_reward, buffer, indices, batch, key_goal, n_step, algorithm.discount
        )
    if relabel:
        batch = relabel(state, buffer, indices, batch, jax.random.fold_in(key, KEY_OF_RELABEL))
    return batch


def priority_error(algorithm: Any, abs_td_error: Array, batch: ReplayBatch) -> Array:
    """The errors by which prioritized replay draws, one for each index of the batch.

    They are those of sequences, or of transitions; of rows that `relabel` has appended there is
    none.
    """
    error = (
        sequence.sequence_error(abs_td_error, batch.weight) if algorithm.recurrent else abs_td_error
    )
    return error[: num_indices(algorithm)]
