"""Whole episodes of an expert, played in chunks and cut out of them one by one."""

from collections.abc import Callable, Iterator, Sequence
from time import perf_counter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from etude.algorithms.protocol import Expert
from etude.data.dataset import Dataset
from etude.data.transition import Transition
from etude.environments.protocol import Environment
from etude.rollout import bind_policy, init_rollout_state, rollout
from etude.runs.display import StatusLine
from etude.runs.interrupt import Interrupted, InterruptHandler
from etude.runs.noisy_expert import NoisyMemory
from etude.spaces import EnvironmentSpec
from etude.storage.datasets.npz_parts import PartsWriter
from etude.storage.datasets.recorded_episodes import RecordedEpisodes
from etude.struct import replace
from etude.training import run_compiled
from etude.types import Array

CHUNK_SECONDS = 1.0
CHUNK_BYTES = 2**26  # of the transitions of a chunk
MAX_CHUNK = 1024  # steps


class Episode(NamedTuple):
    """A whole episode of one of the copies."""

    number: int  # in the dataset: those of the first copy come first
    transitions: Transition  # [step, ...], NumPy arrays


def collect_episodes(
    environment: Environment,
    chunks: Iterator[Transition],
    count: int,
    to_recorded: Callable[[Sequence[Episode]], RecordedEpisodes],
    parts: PartsWriter | None,
    progress: bool,
) -> list[Episode]:
    """The episodes of all chunks, `count` of them, in the order of their numbers.

    Those that end in a chunk are in `parts`, on the disk, before the next chunk is played. Raises
    Interrupted on a signal to stop.
    """
    num_envs, start_time, steps = environment.spec.num_envs, perf_counter(), 0
    cutter = EpisodeCutter(num_envs, count // num_envs)
    gathered: list[Episode] = []
    with InterruptHandler() as interrupt, StatusLine(progress) as status:
        interrupt.watch(environment, cancel_after=0)
        try:
            for chunk in chunks:
                ended = cutter.cut(chunk)
                if ended and parts is not None:
                    parts.append(to_recorded(ended))
                gathered += ended
                steps += chunk.reward.size
                rate = steps / (perf_counter() - start_time)
                status.show(f"{len(gathered):,}/{count:,} episodes · {rate:,.0f} steps/s")
                if interrupt.signal:
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            kept = "" if parts is not None and parts.num_episodes else "; nothing is written"
            raise Interrupted(
                f"stopped after {len(gathered):,} of {count:,} episodes{kept}", interrupt.signal
            ) from None
    return sorted(gathered, key=lambda episode: episode.number)


def play(
    environment: Environment, player: Expert, key: Array, episodes: int, explore: bool
) -> Iterator[Transition]:
    """Play until every copy has its share of `episodes`; yield the steps of all copies in chunks
    [time, env, ...] of about a second of work, as NumPy arrays.

    What is played does not depend on where chunks end: the keys are those of `etude.evaluate`.
    """
    share = episodes // environment.spec.num_envs
    key_reset, key_steps = jax.random.split(key)

    @jax.jit
    def start(player, key):
        policy = bind_policy(player.policy, player.state, environment, explore)
        return init_rollout_state(environment, policy, key)

    play_chunk = chunk_player(environment, share, explore)
    rollout_state = run_compiled(start, player, key_reset)
    counts, time, limit = np.zeros(environment.spec.num_envs, np.int32), 0, 1
    while (counts < share).any():
        start_time = perf_counter()
        rollout_state, counts, steps, length = run_compiled(
            play_chunk, player, key_steps, rollout_state, counts, time, limit
        )
        counts = np.asarray(counts)
        time += int(length)
        rate = int(length) / (perf_counter() - start_time)
        limit = max(1, min(int(CHUNK_SECONDS * rate), 4 * limit))
        yield first_rows(steps, int(length))


def chunk_player(environment: Environment, share: int, explore: bool):
    """The compiled function that plays at most `limit` steps, or until all have their share.

    It takes (player, key, rollout state, episodes of each copy [env], time, limit), where time
    counts the steps before, and returns the next rollout state and episodes, transitions
    [capacity, env, ...] and how many of these are played.
    """

    def step(player, rollout_state, key):
        policy = bind_policy(player.policy, player.state, environment, explore)
        rollout_state, transition, _ = rollout(environment, policy, rollout_state, key, length=1)
        if isinstance(transition.memory, NoisyMemory):
            transition = replace(transition, action=transition.memory.label)
        return rollout_state, replace(transition, memory=())

    @jax.jit
    def play_chunk(player, key, rollout_state, counts, time, limit):
        _, one_step = jax.eval_shape(step, player, rollout_state, key)
        step_bytes = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(one_step))
        capacity = max(1, min(MAX_CHUNK, CHUNK_BYTES // step_bytes))
        steps = jax.tree.map(lambda x: jnp.zeros((capacity, *x.shape[1:]), x.dtype), one_step)

        def is_unfinished(carry):
            _, counts, _, length = carry
            return (counts < share).any() & (length < limit) & (length < capacity)

        def add_step(carry):
            rollout_state, counts, steps, length = carry
            rollout_state, transition = step(
                player, rollout_state, jax.random.fold_in(key, time + length)
            )
            steps = jax.tree.map(
                lambda rows, row: jax.lax.dynamic_update_slice_in_dim(rows, row, length, 0),
                steps,
                transition,
            )
            return rollout_state, counts + transition.done[0], steps, length + 1

        return jax.lax.while_loop(
            is_unfinished, add_step, (rollout_state, counts, steps, jnp.int32(0))
        )

    return play_chunk


def first_rows(steps: Any, length: int) -> Any:
    """The first rows of each array, copied to NumPy."""
    return jax.tree.map(lambda x: np.asarray(x)[:length].copy(), steps)


class EpisodeCutter:
    """Cuts the steps of copies, which come in chunks, into the first `share` episodes of each."""

    def __init__(self, num_envs: int, share: int):
        self.share = share
        self.counts = [0] * num_envs
        self.begun: list[list[Transition]] = [[] for _ in range(num_envs)]  # of running episodes

    def cut(self, transitions: Transition) -> list[Episode]:
        """The episodes that end in the next chunk [time, env, ...], in the order of their ends."""
        done = np.asarray(transitions.done)
        begins, ended = [0] * len(self.counts), []
        for time, copy in np.argwhere(done).tolist():
            if self.counts[copy] < self.share:
                steps = self._take(transitions, copy, begins[copy], time + 1)
                number = copy * self.share + self.counts[copy]
                ended.append(Episode(number, join_steps([*self.begun[copy], steps])))
                self.counts[copy], self.begun[copy], begins[copy] = (
                    self.counts[copy] + 1,
                    [],
                    time + 1,
                )
        for copy, begin in enumerate(begins):
            if self.counts[copy] < self.share and begin < len(done):
                self.begun[copy].append(self._take(transitions, copy, begin, len(done)))
        return ended

    def _take(self, transitions, copy, begin, end):
        return jax.tree.map(lambda x: x[begin:end, copy], transitions)


def join_steps(parts: Sequence[Transition]) -> Transition:
    """The steps of all parts, one after another."""
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


def lay_end_to_end(episodes: Sequence[Episode], spec: EnvironmentSpec) -> Dataset:
    """The dataset of these episodes, as they were played."""
    lengths: Any = np.array([len(x.transitions.reward) for x in episodes], np.int32)
    transitions = join_steps([episode.transitions for episode in episodes])
    return Dataset(transitions, lengths, replace(spec, num_envs=1))
