"""Read and write datasets in files; the format is found from the content, not from the name.

    a zip of arrays                       NumPy's .npz, of etude's keys or those of imitation
    HDF5 with data/demo_0, …              robomimic
    HDF5 with observations, actions       D4RL
    a directory with data/metadata.json, or its folder data      Minari
    a directory with meta/info.json                              LeRobot
    a directory with state.json and dataset_info.json            imitation, as HuggingFace's
    a directory with part_000000.npz, …                          a recording of etude's that was
                                                                 stopped

Each format is described at the head of its own module.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from etude.data.dataset import Dataset, check_last_observations, to_recorded_arrays
from etude.errors import InvalidInput
from etude.spaces import EnvironmentSpec
from etude.storage import files
from etude.storage.datasets import npz, npz_parts
from etude.storage.datasets.d4rl import is_d4rl, read_d4rl
from etude.storage.datasets.hdf5 import import_h5py, open_hdf5
from etude.storage.datasets.imitation import (
    is_imitation,
    is_imitation_folder,
    read_imitation,
    read_imitation_folder,
)
from etude.storage.datasets.lerobot import is_lerobot, read_lerobot
from etude.storage.datasets.minari import MAIN, is_minari, read_minari
from etude.storage.datasets.minari_root import locate_dataset
from etude.storage.datasets.minari_spaces import encode_space
from etude.storage.datasets.minari_writer import write_minari
from etude.storage.datasets.recorded_episodes import (
    RecordedEpisodes,
    check_is_new,
    check_seeds,
    dataset_of,
    errors_name,
)
from etude.storage.datasets.robomimic import is_robomimic, read_robomimic

FORMATS = (
    "an .npz of NumPy or of imitation, an HDF5 file of robomimic or D4RL, the directory of a "
    "dataset of Minari, LeRobot or imitation, or the id of one in Minari's local root"
)
_ZIP, _HDF5 = b"PK", b"\x89HDF\r\n\x1a\n"


def read_dataset(
    path: str | Path, spec: EnvironmentSpec | None = None, *, truncate_unfinished: bool = False
) -> Dataset:
    """Read a dataset in any format that etude reads; see the head of this module.

    Its `spec.id` is the environment's id in the file, "" where there is none. Nothing that a file
    names is made, imported or run, and sizes are checked before memory is taken for them.

    Args:
        path: the file or the directory; or, where there is no path of that name, the id of a
            dataset in Minari's local root, as "D4RL/pen/human-v2".
        spec: the spaces of the environment that it was recorded in (`etude.make(...).spec`). Not
            needed for Minari, whose files give them. Of other files, without it, real numbers are
            unbounded and uint8 observations are pictures; other whole numbers, as the actions of a
            Discrete space are, and flags are refused, and so are Dict observations of an .npz.
        truncate_unfinished: as in `make_dataset`.

    Returns:
        The dataset, one episode after another.

    Raises:
        InvalidInput: naming the path, for what is not a dataset, is damaged or made to do harm, has
            other spaces than `spec`, or whose episodes `make_dataset` refuses.
    """
    path = locate_dataset(path)
    with errors_name(path):
        return dataset_of(read_recorded(path, spec), spec, truncate_unfinished)


def read_recorded(path: str | Path, spec: EnvironmentSpec | None = None) -> RecordedEpisodes:
    """What `read_dataset` makes a dataset of: the episodes as the file has them.

    Their values are not checked against the spaces. Arguments and other errors are those of
    `read_dataset`.
    """
    path = locate_dataset(path)
    with errors_name(path):
        if os.path.isdir(path):
            return _read_directory(path, spec)
        with files.open_plain(path) as file:
            start = file.read(len(_HDF5))
        if start.startswith(_HDF5):
            return _read_hdf5(path, spec)
        if not start.startswith(_ZIP) and path.suffix != ".npz":
            raise InvalidInput(f"it is in no format that etude reads; a dataset is {FORMATS}")
        if is_imitation(path):
            return read_imitation(path)
        return npz.read_recorded_npz(path, spec)


def environment_of(path: str | Path) -> str:
    """The id of the environment that an .npz or a folder of them names; no arrays are read.

    "" for all other formats, whose spaces are in the files, or which name no environment.
    """
    path = locate_dataset(path)
    if os.path.isdir(path):
        return npz_parts.environment_id_of_parts(path) if npz_parts.is_parts(path) else ""
    with files.open_plain(path) as file:
        is_zip = file.read(len(_ZIP)) == _ZIP
    return npz.environment_id_of(path) if is_zip else ""


def write_dataset(
    path: str | Path, dataset: Dataset, *, seeds: Sequence[int | None] | None = None
) -> None:
    """Write a dataset: to an .npz, or in Minari's layout to a directory.

    It appears as a whole or not at all.

    Args:
        path: a new file with the suffix .npz, or a new directory without a suffix.
        dataset: what to write, in the environment's own units.
        seeds: [episode], of the reset with which each began, 0 to 2**63 - 1, None where that is not
            known.

    Raises:
        InvalidInput: for a path that exists, and for a dataset that the format does not hold.
        OSError: when the disk refuses.
    """
    check_new_path(Path(path))
    write_recorded(path, dataset.spec, recorded_of(dataset, seeds))


def write_recorded(
    path: str | Path,
    spec: EnvironmentSpec,
    episodes: RecordedEpisodes,
    options: Mapping[str, Any] | None = None,
) -> None:
    """Write checked episodes, bit for bit in the dtypes of the spaces of `spec`.

    `options` are the keyword arguments of `gymnasium.make` with which the environment was made;
    Minari's layout keeps them. Raises as `write_dataset` does.
    """
    path = Path(path)
    check_last_observations(episodes.has_last_observations)
    check_new_path(path)
    episodes = episodes.by_episode()
    if path.suffix == ".npz":
        npz.write_recorded_npz(path, spec, episodes.end_to_end(spec))
    else:
        write_minari(path, spec, episodes, options)


def recorded_of(dataset: Dataset, seeds: Sequence[int | None] | None = None) -> RecordedEpisodes:
    """The episodes of a dataset in the environment's own units, with the seeds that are known."""
    known = (None,) * dataset.num_episodes if seeds is None else tuple(seeds)
    if len(known) != dataset.num_episodes:
        raise InvalidInput(
            f"there are {len(known)} seeds and {dataset.num_episodes} episodes; give one for each"
        )
    check_seeds(known)
    spec, recorded = dataset.spec, to_recorded_arrays(dataset)
    return RecordedEpisodes("etude", spec.id, spec, recorded, known)


def check_new_path(path: Path, spec: EnvironmentSpec | None = None) -> None:
    """Raise InvalidInput for a path to which no dataset, of the spaces of `spec`, can be written.

    It is asked before the work of which the dataset is made.
    """
    # the end of a name as run-0.5 is not a suffix
    if path.suffix and path.suffix != ".npz" and not path.suffix[1:].isdigit():
        raise InvalidInput(
            f"{path} is neither an .npz file nor, for Minari's layout, a directory without a "
            f"suffix; give {path.with_suffix('.npz')} or {path.with_suffix('')}"
        )
    check_is_new(path)
    if path.suffix == ".npz":
        if spec is not None:
            npz.array_keys(spec)
        return
    import_h5py()
    if spec is not None:
        encode_space(spec.observation)  # an action space is no Dict, whose names alone are refused


def _read_directory(path, spec):
    if is_minari(path):
        return read_minari(path)
    if is_lerobot(path):
        return read_lerobot(path, spec)
    if is_imitation_folder(path):
        return read_imitation_folder(path)
    if npz_parts.is_parts(path):
        return npz_parts.read_parts(path, spec)
    if any((folder / MAIN).exists() for folder in (path, path / "data")):
        raise InvalidInput(
            "it has no metadata.json, so a Minari older than 0.5 wrote it; convert it with that"
        )
    if (path / "dataset_dict.json").exists():
        raise InvalidInput("it holds several datasets of HuggingFace's; give the folder of one")
    if (path / ".zgroup").exists() or (path / "zarr.json").exists():
        raise InvalidInput(
            "it is a zarr folder, which is not read; docs/imitation.md has lines that make an .npz "
            "of one"
        )
    raise InvalidInput(
        "it is a directory without data/metadata.json, meta/info.json or state.json; a dataset is "
        f"{FORMATS}"
    )


def _read_hdf5(path, spec):
    with open_hdf5(path) as file:
        has_demonstrations, has_steps, names = is_robomimic(file), is_d4rl(file), file.names()
    if has_demonstrations:
        return read_robomimic(path, spec)
    if has_steps:
        return read_d4rl(path)
    if "episode_0" in names:
        raise InvalidInput(
            "it is the main file of a Minari dataset; give the directory of the dataset"
        )
    there = ", ".join(repr(name[:40]) for name in names[:8])
    raise InvalidInput(
        f"it holds {there or 'nothing'}, and neither robomimic's data/demo_0 nor D4RL's "
        "observations and actions; convert it to one of these, or to an .npz"
    )
