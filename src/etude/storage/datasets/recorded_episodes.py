"""What a file of recorded episodes holds, before its values are held against spaces."""

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from etude.data.dataset import Dataset, check_dataset, make_dataset
from etude.data.recorded_arrays import check_lengths, recorded_spaces
from etude.errors import InvalidInput
from etude.spaces import Box, Composite, EnvironmentSpec, leaves_with_path, recorded_dtype
from etude.struct import replace

FIELDS = "observations", "actions", "rewards", "terminations", "truncations"
LENGTHS = "episode_lengths"
ID_LIMIT = 1000  # characters


class RecordedEpisodes(NamedTuple):
    """The episodes of a file, in the environment's own units, as `make_dataset` takes them."""

    format: str  # in words, such as "Minari"
    environment_id: str  # "" where the file does not say
    spec: EnvironmentSpec | None  # of the spaces that the file gives; None where it gives none
    # of FIELDS, with one entry for each episode; or all episodes end to end, with LENGTHS
    fields: dict[str, Any]
    seeds: tuple[int | None, ...]  # [episode]: of the reset; None where it was not recorded
    notes: tuple[str, ...] = ()  # what a reader should know, each a sentence without its full stop
    # [episode]: whether it is what a side camera saw of another episode; () where none is
    is_side_view: tuple[bool, ...] = ()
    # False: the last observation of each episode is the one before it, for the file lacks it
    has_last_observations: bool = True

    @property
    def num_episodes(self) -> int:
        return len(self.fields.get(LENGTHS, self.fields["actions"]))

    def by_episode(self) -> "RecordedEpisodes":
        """The same with one entry for each episode.

        Raises InvalidInput where the arrays do not fit the lengths of the episodes.
        """
        if LENGTHS not in self.fields:
            return self
        lengths = check_lengths(self.fields[LENGTHS]).astype(np.int64)
        fields = {}
        for field in FIELDS:
            counts = lengths + 1 if field == "observations" else lengths
            for array in jax.tree.leaves(self.fields[field]):
                if not array.ndim or len(array) != counts.sum():
                    raise InvalidInput(
                        f"{field} has the shape {array.shape}, and by the lengths of the episodes "
                        f"it should have {counts.sum()} rows; correct {LENGTHS} or the array"
                    )
            fields[field] = split_episodes(self.fields[field], counts)
        return self._replace(fields=fields)

    def end_to_end(self, spec: EnvironmentSpec) -> "RecordedEpisodes":
        """The same, which has one entry for each episode, laid end to end with LENGTHS.

        The arrays have the dtypes of the spaces of `spec`.
        """
        fields: dict[str, Any] = {}
        for field, space in recorded_spaces(spec).items():
            leaves = leaves_with_path(space)
            parts = [jax.tree.leaves(value) for value in self.fields[field]]
            arrays = [
                np.concatenate([part[i] for part in parts]).astype(
                    {"rewards": np.float64, "terminations": bool, "truncations": bool}.get(
                        field, recorded_dtype(leaf)
                    )
                )
                for i, (_, leaf) in enumerate(leaves)
            ]
            structure = jax.tree.structure(self.fields[field][0])
            fields[field] = jax.tree.unflatten(structure, arrays)
        lengths = np.array([len(rewards) for rewards in self.fields[FIELDS[2]]], np.int32)
        return self._replace(fields=fields | {LENGTHS: lengths})


def dataset_of(
    episodes: RecordedEpisodes, spec: EnvironmentSpec | None, truncate_unfinished: bool = False
) -> Dataset:
    """The dataset of recorded episodes, for the spaces of `spec`, by default those of the file.

    Raises InvalidInput where `make_dataset` does, where the spaces of the file are not those of
    `spec`, and where neither gives any.
    """
    own = derived_spec(episodes) if spec is None else episodes.spec or spec
    dataset = make_dataset(
        replace(own, id=episodes.environment_id),
        **episodes.fields,
        truncate_unfinished=truncate_unfinished,
    )
    dataset = replace(dataset, has_last_observations=episodes.has_last_observations)
    if spec is None:
        return dataset
    check_dataset(dataset, spec)
    return replace(dataset, spec=replace(spec, id=episodes.environment_id, num_envs=1))


def derived_spec(episodes: RecordedEpisodes) -> EnvironmentSpec:
    """The spaces that the file gives, or as much as can be told of them from its arrays.

    Real numbers are unbounded, and bytes are pictures. Raises InvalidInput where the actions are
    whole numbers, of which it is not known how many there are.
    """
    if episodes.spec is not None:
        return episodes.spec
    if not episodes.num_episodes:
        raise InvalidInput("the dataset has no episodes; record at least one")
    if LENGTHS in episodes.fields:
        values = [episodes.fields[field] for field in FIELDS[:2]]
    else:
        values = [episodes.fields[field][0] for field in FIELDS[:2]]
    for field, value in zip(FIELDS, values, strict=False):
        for array in jax.tree.leaves(value):
            if array.dtype.kind != "f" and (field == "actions" or array.dtype != np.uint8):
                raise InvalidInput(
                    f"{field} are whole numbers, and {episodes.format} files do not say of which "
                    "space; name the environment that it was recorded in"
                )
    observation, action = map(_space_of, values)
    return EnvironmentSpec(observation, action, id=episodes.environment_id)


def _space_of(value):
    if isinstance(value, dict):
        names = tuple(sorted(value))
        return Composite(tuple(_space_of(value[name]) for name in names), names)
    low, high = (0, 255) if value.dtype == np.uint8 else (-math.inf, math.inf)
    return Box(value.shape[1:], value.dtype.name, low, high)


def split_episodes(value: Any, counts: np.ndarray) -> list[Any]:
    """The rows of each episode, from arrays [row, ...] laid end to end and its number of rows."""
    ends = np.cumsum(counts).tolist()
    return [
        jax.tree.map(lambda x, begin=end - count, end=end: x[begin:end], value)
        for count, end in zip(np.asarray(counts).tolist(), ends, strict=True)
    ]


def checked_id(value: Any) -> str:
    """The id of an environment from a file, "" for None; raises InvalidInput for no line of text.

    Nothing is made or imported by it.
    """
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > ID_LIMIT or not value.isprintable():
        raise InvalidInput(
            "the environment's id in it is not one line of text; give one such as 'Pendulum-v1'"
        )
    return value


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Begin the message of an InvalidInput of the block with the path, where it does not."""
    try:
        yield
    except InvalidInput as error:
        if str(error).startswith(str(path)):
            raise
        raise type(error)(f"{path}: {error}") from error
