"""What reaches a run from outside: the dataset that its algorithm learns from."""

import dataclasses
import os
from pathlib import Path
from typing import Any, NamedTuple

from etude.algorithms import ALGORITHMS, algorithm_factory
from etude.algorithms.protocol import reads_outside
from etude.data.dataset import Dataset, check_dataset_spaces
from etude.errors import InvalidInput
from etude.runs.settings import DatasetRecord
from etude.spaces import EnvironmentSpec
from etude.storage.datasets.formats import FORMATS, read_recorded
from etude.storage.datasets.minari_root import locate_dataset
from etude.storage.datasets.recorded_episodes import dataset_of, errors_name
from etude.struct import replace
from etude.trees import content_hash

DatasetLike = str | Path | Dataset


def use_dataset(algorithm: Any, name: str, dataset: DatasetLike | None) -> Any:
    """The algorithm called `name`, which does not play where a dataset makes that possible.

    Raises InvalidInput for a dataset that it does not read, and without one that it needs.
    """
    if dataset is None:
        if "dataset" in algorithm.needs:
            raise InvalidInput(
                f"{name} needs a dataset here; give one with --dataset PATH (in Python "
                "dataset=...), which `etude record` writes"
                + (", or let it play with --plays" if can_learn_offline(algorithm) else "")
            )
        return algorithm
    if not reads_outside(algorithm, "dataset") and can_learn_offline(algorithm):
        algorithm = replace(algorithm, plays=False)
    if not reads_outside(algorithm, "dataset"):
        readers = [other for other in ALGORITHMS if reads_datasets(algorithm_factory(other)())]
        raise InvalidInput(
            f"dataset is {describe(dataset)}, and {name} reads none; leave it out, or take one "
            f"that does: {', '.join(readers)}"
        )
    return algorithm


def reads_datasets(algorithm: Any) -> bool:
    """Whether the algorithm learns from a dataset, always or where it is given or does not play."""
    return reads_outside(algorithm, "dataset") or can_learn_offline(algorithm)


def can_learn_offline(algorithm: Any) -> bool:
    """Whether the algorithm has a field `plays`, which lets it learn from a dataset instead."""
    return any(field.name == "plays" for field in dataclasses.fields(algorithm))


class OpenedDataset(NamedTuple):
    """A dataset with what is known of where it came from."""

    dataset: Dataset
    record: DatasetRecord  # for config.json
    notes: tuple[str, ...]  # what was lost or assumed as it was read, such as pictures in JPEG


def open_dataset(dataset: DatasetLike, spec: EnvironmentSpec) -> OpenedDataset:
    """A dataset in a file or at hand, for the spaces of `spec`.

    Raises InvalidInput for a file that holds none, and for a dataset of other spaces.
    """
    notes: tuple[str, ...] = ()
    if isinstance(dataset, Dataset):
        path, opened = "", dataset
    elif not isinstance(dataset, str | Path):
        raise InvalidInput(f"dataset is {dataset!r}; give {FORMATS}, or an etude.Dataset")
    else:
        path = os.path.abspath(locate_dataset(dataset))
        with errors_name(Path(path)):
            recorded = read_recorded(path, spec)
            opened, notes = dataset_of(recorded, spec), recorded.notes
    check_dataset_spaces(opened, spec)
    record = DatasetRecord(
        path=path,
        sha256=content_hash(opened),
        steps=opened.num_steps,
        episodes=opened.num_episodes,
        environment=opened.spec.id,
    )
    return OpenedDataset(opened, record, notes)


def check_next_observations(algorithm: Any, name: str, dataset: Dataset) -> None:
    """Raise InvalidInput for a dataset without last observations where the algorithm called `name`
    reads what each step led to."""
    if not dataset.has_last_observations and algorithm.reads_next_observations:
        raise InvalidInput(
            f"{name} learns from what each step led to, and the observations after the last steps "
            "of the episodes are not in this dataset; record it with them, or take an algorithm "
            "that does not read them, such as bc"
        )


def reopen_dataset(
    record: DatasetRecord, dataset: DatasetLike | None, spec: EnvironmentSpec
) -> Dataset:
    """The dataset of a run that is resumed: the one that is given, else the file it began with.

    Raises InvalidInput where there is none any more, or another one.
    """
    if dataset is None and not record.path:
        raise InvalidInput(
            "this run learns from a dataset that was given as an object; go on in Python, with "
            "etude.resume(path, dataset=...)"
        )
    if dataset is None and not Path(record.path).exists():
        raise InvalidInput(
            f"this run learns from {record.path}, which is not there; say with --dataset where it "
            "is now"
        )
    opened, found, _ = open_dataset(record.path if dataset is None else dataset, spec)
    if found.sha256 != record.sha256:
        raise InvalidInput(
            f"this run learns from {record.path or 'a dataset'} with the hash "
            f"{record.sha256[:12]} ({record.steps:,} steps), and {found.path or 'this dataset'} "
            f"has {found.sha256[:12]} ({found.steps:,} steps); give the one that it began with"
        )
    return opened


def describe(dataset: DatasetLike) -> str:
    """A dataset in a message."""
    return "an object" if isinstance(dataset, Dataset) else str(dataset)
