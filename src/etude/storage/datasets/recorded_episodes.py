"""What a file of recorded episodes holds, before its values are held against spaces."""

from typing import Any, NamedTuple

import jax
import numpy as np

from etude.data.dataset import Dataset, make_dataset
from etude.errors import InvalidInput
from etude.spaces import EnvironmentSpec
from etude.struct import replace

FIELDS = "observations", "actions", "rewards", "terminations", "truncations"
ID_LIMIT = 1000  # characters


class RecordedEpisodes(NamedTuple):
    """The episodes of a file, in the environment's own units, as `make_dataset` takes them."""

    format: str  # in words, such as "Minari"
    environment_id: str  # "" where the file does not say
    spec: EnvironmentSpec | None  # of the spaces that the file gives; None where it gives none
    fields: dict[str, Any]  # of FIELDS, with one entry for each episode
    seeds: tuple[int | None, ...]  # [episode]: of the reset; None where it was not recorded
    notes: tuple[str, ...] = ()  # what a reader should know, one sentence each

    @property
    def num_episodes(self) -> int:
        return len(self.fields["actions"])


def dataset_of(
    episodes: RecordedEpisodes, spec: EnvironmentSpec | None, truncate_unfinished: bool = False
) -> Dataset:
    """The dataset of recorded episodes, for the spaces of `spec`, by default those of the file.

    Raises InvalidInput where `make_dataset` does, and where neither gives spaces.
    """
    spec = episodes.spec if spec is None else spec
    if spec is None:
        raise InvalidInput(
            f"{episodes.format} files say nothing of their spaces; name the environment that it "
            "was recorded in"
        )
    return make_dataset(
        replace(spec, id=episodes.environment_id),
        **episodes.fields,
        truncate_unfinished=truncate_unfinished,
    )


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
