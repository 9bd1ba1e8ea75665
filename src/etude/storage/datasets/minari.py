"""Datasets in Minari's layout, read without Minari: metadata in JSON, and HDF5 or Arrow.

    data/metadata.json        the spaces, the id of the environment, numbers of episodes and steps
    data/main_data.hdf5       a group episode_N for each episode: observations [step + 1, ...],
                              actions, rewards, terminations and truncations [step, ...]; parts of a
                              Dict are groups, of a Tuple groups with the names _index_0, _index_1;
                              its attributes are id, total_steps, seed, if that is known, and
                              side_view where the episode is what a side camera saw of another one.
                              Infos and the attributes options are not read
    data/etude.json           where etude wrote it: the SHA-256 of these two files
    data/pending/             where etude still writes, or where it was killed: the newest episodes
    data/0/, data/1/, …       in place of the HDF5, where data_format is arrow or parquet: see
                              `etude.storage.datasets.minari_arrow`

What the metadata say of an environment is not made: only its id is read.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from etude.data.recorded_arrays import recorded_spaces
from etude.errors import InvalidInput
from etude.spaces import Composite, EnvironmentSpec
from etude.storage import files
from etude.storage.datasets.hdf5 import Group, open_hdf5
from etude.storage.datasets.minari_arrow import FORMATS as ARROW_FORMATS
from etude.storage.datasets.minari_arrow import read_arrow_episodes
from etude.storage.datasets.minari_spaces import decode_space
from etude.storage.datasets.pictures import JPEG_NOTE, decode_pictures, is_picture
from etude.storage.datasets.recorded_episodes import (
    FIELDS,
    RecordedEpisodes,
    checked_id,
    errors_name,
    known_seed,
)
from etude.storage.files import CorruptFile

DATA, METADATA, MAIN = "data", "metadata.json", "main_data.hdf5"
SUMS, PENDING = "etude.json", "pending"
SUMS_FORMAT = 1
SIDE_VIEW = "side_view"  # the attribute of an episode
HDF5 = "hdf5"  # the data_format that etude writes
PENDING_NAME = re.compile(r"episode_(\d{1,9})\.([0-9a-f]{64})\.hdf5")


def is_minari(path: Path) -> bool:
    """Whether a directory has Minari's layout, or is the folder `data` of one that has."""
    return (data_folder(path) / METADATA).is_file()


def data_folder(path: Path) -> Path:
    """The folder with the metadata of a dataset."""
    path = Path(path)
    return path if (path / METADATA).is_file() else path / DATA


def read_minari(path: Path) -> RecordedEpisodes:
    """The episodes of a dataset in Minari's layout.

    Raises:
        InvalidInput: naming the path, for what is none, is damaged, or has spaces that etude does
            not take, and where h5py, or pyarrow, is not installed.
    """
    folder = data_folder(path)
    with errors_name(path):
        metadata, spec = read_metadata(folder)
        is_jpeg = metadata.get("jpeg_encoding", True) is not False
        total, file_format = metadata["total_episodes"], metadata.get("data_format", HDF5)
        if file_format == HDF5:
            episodes, notes = _read_hdf5_episodes(folder, spec, total, is_jpeg)
        else:
            episodes, notes = read_arrow_episodes(folder, spec, total, file_format, is_jpeg)
    return RecordedEpisodes(
        "Minari",
        spec.id,
        spec,
        {field: [episode[field] for episode in episodes] for field in FIELDS},
        tuple(episode["seed"] for episode in episodes),
        tuple(dict.fromkeys(notes)),
        tuple(episode.get("side_view", False) for episode in episodes),
    )


def _read_hdf5_episodes(
    folder: Path, spec: EnvironmentSpec, total: int, is_jpeg: bool
) -> tuple[list[dict[str, Any]], list[str]]:
    """(the fields and the seed of each episode, what a reader should know)."""
    sums = check_sums(folder)
    reader = _EpisodeReader(spec, is_jpeg)
    with open_hdf5(folder / MAIN) as file:
        episodes = [reader.read(file, number) for number in range(total)]
        # A crash between the replacement of this file and that of the metadata leaves episodes that
        # the metadata do not count yet; by its SHA-256 the file is whole.
        while sums and f"episode_{len(episodes)}" in file:
            episodes.append(reader.read(file, len(episodes)))
        if f"episode_{len(episodes)}" in file:
            reader.notes.append(
                f"the file has episodes that its metadata do not count: only the first {total} "
                "are read"
            )
    pending_paths = pending_files(folder, len(episodes))
    if pending_paths and not sums:
        raise CorruptFile(
            f"its folder {PENDING} has episodes, and {SUMS}, which says that they belong to it, is "
            f"not there; restore {SUMS} from a copy, or move {PENDING} elsewhere"
        )
    for pending in pending_paths:
        check_pending(pending)
        with open_hdf5(pending) as file:
            episodes.append(reader.read(file, len(episodes)))
    return episodes, reader.notes


def read_metadata(folder: Path) -> tuple[dict[str, Any], EnvironmentSpec]:
    """The metadata of a dataset, and the spaces and the id of the environment that they give.

    Raises InvalidInput for metadata that are damaged, or name another format or spaces that etude
    does not take.
    """
    metadata = files.read_json(folder / METADATA)
    if not isinstance(metadata, dict):
        raise CorruptFile(f"{METADATA} holds no JSON object; restore it from a copy")
    if metadata.get("data_format", HDF5) not in (HDF5, *ARROW_FORMATS):
        raise InvalidInput(
            f"its data_format is {str(metadata['data_format'])!r:.80}, and {HDF5}, "
            f"{' and '.join(ARROW_FORMATS)} are read; convert it with Minari"
        )
    total = metadata.get("total_episodes")
    if type(total) is not int or not 0 <= total < 2**31:
        raise CorruptFile(
            f"{METADATA} gives {str(total)!r:.80} as total_episodes, which should be a whole "
            "number; export it again"
        )
    return metadata, EnvironmentSpec(
        decode_space(metadata.get("observation_space"), "observation"),
        decode_space(metadata.get("action_space"), "action"),
        id=_environment_id(metadata),
    )


def pending_files(folder: Path, num_merged: int) -> list[Path]:
    """The files of the pending episodes, in order.

    Those with a number below `num_merged` are in the main file by now, and are left out. Raises
    CorruptFile where an episode is missing, or there twice.
    """
    if not (folder / PENDING).is_dir():
        return []
    found = []
    for name in files.names_in(folder / PENDING, PENDING_NAME.pattern):
        number = int(name.split(".")[0].removeprefix("episode_"))
        if number >= num_merged:
            found.append((number, folder / PENDING / name))
    for expected, (number, path) in enumerate(sorted(found), num_merged):
        if number > expected:
            raise CorruptFile(
                f"it has {PENDING}/{path.name}, and no episode {expected}; copy the whole directory"
            )
        if number < expected:
            raise CorruptFile(f"episode {number} is in {PENDING} twice; copy the whole directory")
    return [path for _, path in sorted(found)]


def check_sums(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file, which is one of those in etude.json; {} without etude.json.

    So what it returns is not empty where etude wrote the dataset. While etude merges, etude.json
    lists two sums for each file, the new one and the old one. Raises CorruptFile where a file has
    none of those listed.
    """
    path = folder / SUMS
    if not path.exists():
        return {}
    sums = files.read_sealed(path, SUMS_FORMAT).get("files")
    if not isinstance(sums, dict) or sums.keys() != {MAIN, METADATA}:
        raise CorruptFile(f"{SUMS} does not name {MAIN} and {METADATA}; remove it")
    found = {name: file_sum(folder / name) for name in sums}
    for name, allowed in sums.items():
        if found[name] not in allowed:
            raise CorruptFile(
                f"{name} was changed since etude wrote it, or is damaged: its content does not fit "
                f"the SHA-256 in {SUMS}; restore it from a copy, or remove {SUMS} if the change is "
                "yours"
            )
    return found


def file_sum(path: Path) -> str:
    """The SHA-256 of a plain file, in hex."""
    with files.open_plain(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def part_names(space: Composite) -> tuple[str, ...]:
    """The names that the parts of a Dict or a Tuple have in a file."""
    if space.names is not None:
        return space.names
    return tuple(f"_index_{i}" for i in range(len(space.parts)))


class _EpisodeReader:
    """Reads episodes with the spaces of `spec`, and notes what is worth telling."""

    def __init__(self, spec: EnvironmentSpec, is_jpeg: bool):
        self.spaces, self.is_jpeg = recorded_spaces(spec), is_jpeg
        self.notes: list[str] = []

    def read(self, file: Group, number: int) -> dict[str, Any]:
        """The fields of an episode, its seed, and whether it is a side view."""
        group = file.group(f"episode_{number}")
        if group.attribute("id") not in (number, None):
            raise InvalidInput(
                f"episode_{number} has the id {group.attribute('id')}; number the episodes from 0, "
                "each once, and in order"
            )
        if any(name.startswith("options") for name in group.attribute_names()):
            self.notes.append("options were given to its resets")
        episode = {field: self._value(group, field, space) for field, space in self.spaces.items()}
        steps = group.attribute("total_steps")
        if steps not in (len(episode["rewards"]), None):
            raise CorruptFile(
                f"episode_{number} has {len(episode['rewards'])} rewards, and its total_steps are "
                f"{steps}; export it again"
            )
        return episode | {
            "seed": known_seed(group.attribute("seed")),
            "side_view": bool(group.attribute(SIDE_VIEW)),
        }

    def _value(self, group, name, space):
        if isinstance(space, Composite):
            parts = group.group(name)
            values = zip(part_names(space), space.parts, strict=True)
            return space.assemble([self._value(parts, *value) for value in values])
        is_compressed = self.is_jpeg and is_picture(space)
        if is_compressed and group.num_axes(name) < 1 + len(space.shape):  # else [row, *shape]
            self.notes.append(JPEG_NOTE)
            return decode_pictures(group.rows_of_bytes(name), name, space, group.spend)
        return group.array(name)


def _environment_id(metadata: dict[str, Any]) -> str:
    """The id in the metadata; what else they say of the environment is not read."""
    text = metadata.get("env_spec")
    if text is None:
        return checked_id(metadata.get("environment_id"))
    try:
        return checked_id(json.loads(text).get("id"))
    except (AttributeError, TypeError, RecursionError, json.JSONDecodeError) as error:
        raise CorruptFile(
            f"the env_spec in {METADATA} is {text!r:.80}, not the JSON of one; export it again"
        ) from error


def check_pending(path: Path) -> None:
    """Raise CorruptFile for a pending episode that does not fit the SHA-256 in its name."""
    if file_sum(path) != path.name.split(".")[1]:
        raise CorruptFile(
            f"{PENDING}/{path.name} is damaged: its content does not fit the SHA-256 in its name; "
            "remove it and the pending episodes after it"
        )
