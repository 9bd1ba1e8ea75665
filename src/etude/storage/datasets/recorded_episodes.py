"""What a file of recorded episodes holds, before its values are held against spaces."""

import contextlib
import math
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from etude.data.dataset import Dataset, check_dataset_spaces, make_dataset
from etude.data.recorded_arrays import check_lengths, recorded_spaces
from etude.errors import InvalidInput
from etude.spaces import Box, Composite, EnvironmentSpec, Space, leaves_with_path, recorded_dtype
from etude.struct import replace

FIELDS = "observations", "actions", "rewards", "terminations", "truncations"
LENGTHS = "episode_lengths"
ID_LIMIT = 1000  # characters
_ID = re.compile(r"[\w./-]{1,80}", re.ASCII)


class RecordedEpisodes(NamedTuple):
    """The episodes of a file, in the environment's own units, as `make_dataset` takes them."""

    format: str  # as messages call it, such as "Minari"
    environment_id: str  # "" where the file does not say
    spec: EnvironmentSpec | None  # of the spaces that the file gives; None where it gives none
    # of FIELDS, with one entry for each episode; or all episodes end to end, with LENGTHS
    fields: dict[str, Any]
    seeds: tuple[int | None, ...]  # [episode]: of the reset; None where it was not recorded
    notes: tuple[str, ...] = ()  # what a reader should know, each a sentence without its full stop
    # [episode]: whether it is what a side camera saw of another episode; () where none is
    is_side_view: tuple[bool, ...] = ()
    # False: the observation after the last step of each episode was not recorded, and the last of
    # its observations is the one before that step once more
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
        """Lay the episodes end to end, with LENGTHS, in the dtypes of the spaces of `spec`.

        This one must have one entry for each episode, as `by_episode` returns it.
        """
        fields: dict[str, Any] = {}
        for field, space in recorded_spaces(spec).items():
            leaves = leaves_with_path(space)
            parts = [jax.tree.leaves(value) for value in self.fields[field]]
            arrays = [
                np.concatenate([part[i] for part in parts]).astype(stored_dtype(field, leaf))
                for i, (_, leaf) in enumerate(leaves)
            ]
            structure = jax.tree.structure(self.fields[field][0])
            fields[field] = jax.tree.unflatten(structure, arrays)
        lengths = np.array([len(rewards) for rewards in self.fields["rewards"]], np.int32)
        return self._replace(fields=fields | {LENGTHS: lengths})


def dataset_of(
    episodes: RecordedEpisodes, spec: EnvironmentSpec | None, truncate_unfinished: bool = False
) -> Dataset:
    """The dataset of recorded episodes, for the spaces of `spec`, by default those of the file.

    Raises InvalidInput where `make_dataset` does, where the spaces of the file are not those of
    `spec`, and where neither gives any.
    """
    own = episodes.spec or spec or derived_spec(episodes)
    dataset = make_dataset(
        replace(own, id=episodes.environment_id),
        **episodes.fields,
        truncate_unfinished=truncate_unfinished,
    )
    dataset = replace(dataset, has_last_observations=episodes.has_last_observations)
    if spec is None:
        return dataset
    check_dataset_spaces(dataset, spec)
    return replace(dataset, spec=replace(spec, id=episodes.environment_id, num_envs=1))


def derived_spec(episodes: RecordedEpisodes) -> EnvironmentSpec:
    """As much of the spaces as can be told from the arrays of a file that gives none.

    Real numbers are unbounded, and observations of bytes are pictures. Raises InvalidInput for
    actions and other observations that are whole numbers or flags, whose range is not known.
    """
    if not episodes.num_episodes:
        raise InvalidInput("the dataset has no episodes; record at least one")
    if LENGTHS in episodes.fields:
        values = {field: episodes.fields[field] for field in ("observations", "actions")}
    else:
        values = {field: episodes.fields[field][0] for field in ("observations", "actions")}
    for field, value in values.items():
        for array in jax.tree.leaves(value):
            if array.dtype.kind != "f" and (field == "actions" or array.dtype != np.uint8):
                raise InvalidInput(
                    f"{field} are {'flags' if array.dtype == bool else 'whole numbers'}, and "
                    f"{episodes.format} files do not say of which space; "
                    + which_environment(episodes.environment_id)
                )
    observation, action = map(_space_of, values.values())
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
    """The id of an environment from a file, "" for None; nothing is made or imported by it.

    Raises InvalidInput for anything but one line of printable text.
    """
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > ID_LIMIT or not value.isprintable():
        raise InvalidInput(
            "the environment's id in it is not one line of text; give one such as 'Pendulum-v1'"
        )
    return value


def observation_keys(spec: EnvironmentSpec | None) -> tuple[str, ...] | None:
    """The keys of a Dict of observations, None for observations of one array and without a spec.

    Raises InvalidInput for a Tuple, whose parts have no names by which a file could have them.
    """
    space = None if spec is None else spec.observation
    if not isinstance(space, Composite):
        return None
    if space.names is None:
        raise InvalidInput(
            "it has its observations by name, and those of the environment are a Tuple; make a "
            "Dict of them by a wrapper, or convert the dataset to an .npz"
        )
    return space.names


def is_jump(observations: np.ndarray, next_observations: np.ndarray) -> np.ndarray:
    """Whether the observation after each step but the last is not that of the next step.

    Both are [step, ...], of one shape; the result is bool [step - 1].
    """
    differs = observations[1:] != next_observations[:-1]
    return differs.any(axis=tuple(range(1, differs.ndim)))


def stored_dtype(field: str, space: Space) -> np.dtype:
    """The dtype of an array of a field in the files that etude writes."""
    named = {"rewards": np.float64, "terminations": bool, "truncations": bool}
    return np.dtype(named.get(field) or recorded_dtype(space))


def which_environment(environment_id: str) -> str:
    """The way out, in a message, for a file whose spaces have to be given."""
    # what a file names is advised only where it is an id, which makes nothing but an environment
    example = environment_id if _ID.fullmatch(environment_id) else "CartPole-v1"
    return (
        "give the environment that it was recorded in, with --environment, in Python "
        f'spec=etude.make("{example}").spec'
    )


def check_is_new(path: Path) -> None:
    """Raise InvalidInput for a path that exists, or whose directory does not."""
    if os.path.lexists(path):
        raise InvalidInput(f"{path} exists already; choose another name, or move it away")
    if not os.path.isdir(path.parent):
        raise InvalidInput(f"there is no directory {path.parent} for {path.name}; make it first")


def known_seed(value: Any) -> int | None:
    """A seed from a file; None where it is not one that a file can hold (see `check_seeds`)."""
    return value if type(value) is int and 0 <= value < 2**63 else None


def check_seeds(seeds: Iterable[int | None]) -> None:
    """Raise InvalidInput for seeds that a file cannot hold: they are None, or 0 to 2**63 - 1."""
    for episode, seed in enumerate(seeds):
        if seed is not None and not (isinstance(seed, int | np.integer) and 0 <= seed < 2**63):
            raise InvalidInput(
                f"the seed of episode {episode} is {seed!r}; give a whole number from 0 to "
                "2**63 - 1, or None for an episode without one"
            )


@contextlib.contextmanager
def errors_name(path: Path) -> Iterator[None]:
    """Begin the message of an InvalidInput of the block with the path, where it does not.

    It does where `etude.storage.files` could not read the path, or a file in it.
    """
    ends = ": ", os.sep, " is not a plain file", " cannot be read"  # for a path may be called "it"
    try:
        yield
    except InvalidInput as error:
        if str(error).startswith(tuple(f"{path}{end}" for end in ends)):
            raise
        raise type(error)(f"{path}: {error}") from error
