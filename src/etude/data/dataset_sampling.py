"""Random rows of a dataset: steps by themselves, or sequences of an episode after another.

With each row may come a chunk, the actions from there on. Steps and sequences are drawn from
some of the episodes, so that others can be held out. Neighboring steps are alike, so held out are
whole episodes.
"""

import jax
import jax.numpy as jnp

from etude.data.dataset import Dataset, episode_starts
from etude.struct import struct
from etude.types import Array


@struct
class EpisodeReaders:
    """Places in a dataset, each of which reads one random episode after another to its end."""

    row: Array  # int32 [reader], the row that is read next
    begins: Array  # bool [reader], whether an episode begins there, for the one that reads


def hold_out(key: Array, num_episodes: int, share: float) -> Array:
    """A random `share` of the episodes, bool [episode].

    Of a share above 0 it is at least one episode, and not all of them.
    """
    count = min(max(round(share * num_episodes), 1), num_episodes - 1) if share else 0
    return jax.random.permutation(key, num_episodes) < count


def steps_of(dataset: Dataset, is_among: Array) -> Array:
    """Whether each step is one of the episodes in `is_among`, bool [step]."""
    ends = dataset.episode_lengths.cumsum()
    episode = jnp.searchsorted(ends, jnp.arange(dataset.num_steps), side="right")
    return is_among[episode]


def random_steps(key: Array, dataset: Dataset, is_among: Array, count: int) -> Array:
    """Rows drawn with replacement from all steps of the episodes in `is_among`, int32 [count]."""
    ends = (dataset.episode_lengths * is_among).cumsum()  # of the steps, where only these count
    step = jax.random.randint(key, (count,), 0, ends[-1])
    episode = jnp.searchsorted(ends, step, side="right")
    last_row = episode_starts(dataset)[episode] + dataset.episode_lengths[episode] - 1
    return last_row + 1 - (ends[episode] - step)


def steps_to_end(dataset: Dataset, rows: Array) -> Array:
    """The number of steps from those at `rows` to the last of their episodes, both included,
    int32 [n]."""
    ends = dataset.episode_lengths.cumsum()
    return ends[jnp.searchsorted(ends, rows, side="right")] - rows


def steps_from_start(dataset: Dataset, rows: Array) -> Array:
    """The number of steps of their episodes before those at `rows`, int32 [n]."""
    starts = episode_starts(dataset)
    return rows - starts[jnp.searchsorted(starts, rows, side="right") - 1]


def random_starts(key: Array, dataset: Dataset, is_among: Array, shape: tuple[int, ...]) -> Array:
    """First rows of episodes drawn with replacement from those in `is_among`, int32 [*shape]."""
    ends = is_among.astype(jnp.int32).cumsum()
    number = jax.random.randint(key, shape, 0, ends[-1])
    return episode_starts(dataset)[jnp.searchsorted(ends, number, side="right")]


def init_readers(key: Array, dataset: Dataset, is_among: Array, count: int) -> EpisodeReaders:
    """Readers at random steps of the episodes in `is_among`.

    Each begins in the middle of an episode, so that the readers are at all times of episodes, and
    takes the step where it begins for the first of one.
    """
    return EpisodeReaders(random_steps(key, dataset, is_among, count), jnp.ones(count, bool))


def read_steps(
    key: Array, dataset: Dataset, is_among: Array, readers: EpisodeReaders, length: int
) -> tuple[Array, Array, EpisodeReaders]:
    """(rows int32 [time, reader], whether an episode begins there [time, reader], next readers).

    Where a reader has come to the end of its episode it goes on with another, drawn from those in
    `is_among`.
    """
    starts = random_starts(key, dataset, is_among, (length, *readers.row.shape))
    done = dataset.transitions.done

    def read(readers, start):
        is_last = done[readers.row]
        after = EpisodeReaders(jnp.where(is_last, start, readers.row + 1), is_last)
        return after, (readers.row, readers.begins)

    readers, (row, is_first) = jax.lax.scan(read, readers, starts)
    return row, is_first, readers


def chunk_rows(dataset: Dataset, row: Array, length: int) -> tuple[Array, Array]:
    """(rows int32 [..., length], is_valid bool [..., length]) of the chunks from rows [...] on.

    A chunk does not go on into the next episode: from the end of its own on it repeats the last
    row, where `is_valid` is False.
    """
    rows = row[..., None] + jnp.arange(length)
    if length == 1:
        return rows, jnp.ones_like(rows, bool)
    ends = dataset.episode_lengths.cumsum()
    end = ends[jnp.searchsorted(ends, row, side="right")][..., None]
    return jnp.minimum(rows, end - 1), rows < end
