"""Random rows of a dataset: single steps, or sequences that read whole episodes one after another.

A row may come with a chunk: the rows of the next `length` actions. `chosen`, bool [episode] with at
least one True, says from which episodes rows are drawn; the others are held out. Neighboring steps
are alike, so whole episodes are held out, not steps.
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
    # bool [reader]: True where a policy must take this step as the first of an episode, which are
    # the first step of one, and the step in the middle of one at which a reader begins
    is_first: Array


def hold_out(key: Array, num_episodes: int, share: float) -> Array:
    """A random `share` of the episodes, at least 0 and less than 1; bool [episode].

    Of a share above 0 it is at least one episode, and never all: none where there is only one.
    """
    count = min(max(round(share * num_episodes), 1), num_episodes - 1) if share else 0
    return jax.random.permutation(key, num_episodes) < count


def is_step_of(dataset: Dataset, chosen: Array) -> Array:
    """Whether each step is one of the chosen episodes, bool [step]."""
    return chosen[_episode_of(dataset, jnp.arange(dataset.num_steps))]


def random_steps(key: Array, dataset: Dataset, chosen: Array, count: int) -> Array:
    """Rows drawn with replacement from all steps of the chosen episodes, int32 [count]."""
    ends = (dataset.episode_lengths * chosen).cumsum()  # where only the steps of these count
    step = jax.random.randint(key, (count,), 0, ends[-1])
    episode = jnp.searchsorted(ends, step, side="right")
    last_row = episode_starts(dataset)[episode] + dataset.episode_lengths[episode] - 1
    return last_row + 1 - (ends[episode] - step)


def steps_to_end(dataset: Dataset, rows: Array) -> Array:
    """The number of steps from those at `rows` to the last of their episodes, both included,
    int32 [n]."""
    return dataset.episode_lengths.cumsum()[_episode_of(dataset, rows)] - rows


def steps_from_start(dataset: Dataset, rows: Array) -> Array:
    """The number of steps of their episodes before those at `rows`, int32 [n]."""
    return rows - episode_starts(dataset)[_episode_of(dataset, rows)]


def random_starts(key: Array, dataset: Dataset, chosen: Array, shape: tuple[int, ...]) -> Array:
    """First rows of episodes drawn with replacement from the chosen ones, int32 [*shape]."""
    ends = chosen.astype(jnp.int32).cumsum()
    number = jax.random.randint(key, shape, 0, ends[-1])
    return episode_starts(dataset)[jnp.searchsorted(ends, number, side="right")]


def init_readers(key: Array, dataset: Dataset, chosen: Array, count: int) -> EpisodeReaders:
    """Readers at random steps of the chosen episodes.

    Most begin in the middle of an episode, so that together they read all times of episodes alike.
    The step at which a reader begins counts as the first of an episode.
    """
    return EpisodeReaders(random_steps(key, dataset, chosen, count), jnp.ones(count, bool))


def read_steps(
    key: Array, dataset: Dataset, chosen: Array, readers: EpisodeReaders, length: int
) -> tuple[Array, Array, EpisodeReaders]:
    """(rows int32 [time, reader], is_first bool [time, reader], next readers).

    Where a reader has come to the end of its episode it goes on with another of the chosen ones.
    """
    starts = random_starts(key, dataset, chosen, (length, *readers.row.shape))
    done = dataset.transitions.done

    def read(readers, start):
        is_last = done[readers.row]
        after = EpisodeReaders(jnp.where(is_last, start, readers.row + 1), is_last)
        return after, (readers.row, readers.is_first)

    readers, (row, is_first) = jax.lax.scan(read, readers, starts)
    return row, is_first, readers


def chunk_rows(dataset: Dataset, rows: Array, length: int) -> tuple[Array, Array]:
    """(rows int32 [..., length], is_valid bool [..., length]) of the chunks from `rows` [...] on.

    A chunk does not go on into the next episode: from the end of its own on it repeats the last
    row, where `is_valid` is False.
    """
    following = rows[..., None] + jnp.arange(length)
    if length == 1:  # spares the search
        return following, jnp.ones_like(following, bool)
    end = dataset.episode_lengths.cumsum()[_episode_of(dataset, rows)][..., None]
    return jnp.minimum(following, end - 1), following < end


def _episode_of(dataset: Dataset, rows: Array) -> Array:
    """The number of the episode that each row is in, int32 [...]."""
    return jnp.searchsorted(dataset.episode_lengths.cumsum(), rows, side="right")
