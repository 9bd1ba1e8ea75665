"""Datasets in NumPy's `.npz` format, which a few lines of NumPy write.

    key               array
    observations      [step + 1, ...] of each episode: what the reset returned, then what each step
                      returned
    actions           [step, ...] of each episode, as `env.step` took them
    rewards           [step] of each episode
    terminations      [step] of each episode: bool, or 0 and 1
    truncations       [step] of each episode: bool, or 0 and 1
    episode_lengths   [episode]: the number of steps of each episode
    environment_id    optional: the id of the environment, a string
    seeds             optional: [episode], that of the reset with which an episode began, or -1
    side_views        optional: [episode], 1 for what a side camera saw of another episode, else 0

All episodes lie end to end, so for lengths of 3 and 2 steps there are 7 observations and 5 actions.
Values are in the environment's own units, and the rules for them are those of `make_dataset`. Of
observations of a Dict or Tuple, each array has a key of its own: `observations/position`,
`observations/0`, `observations/camera/left`.

    fields = "observations", "actions", "rewards", "terminations", "truncations"
    numpy.savez(
        "demonstrations.npz",
        **{field: numpy.concatenate([episode[field] for episode in episodes]) for field in fields},
        episode_lengths=[len(episode["actions"]) for episode in episodes],
        environment_id="Pendulum-v1",
    )

`numpy.savez_compressed` does as well. Nothing in a file can name code: arrays of Python objects,
which are pickled, are refused.
"""

import contextlib
import difflib
import io
import itertools
import math
import zipfile
from pathlib import Path

import jax
import numpy as np

from etude.data.dataset import Dataset, to_recorded_arrays
from etude.data.recorded_arrays import recorded_spaces
from etude.errors import InvalidInput
from etude.spaces import EnvironmentSpec, leaves_with_path
from etude.storage import files
from etude.storage.datasets.budget import ReadBudget
from etude.storage.datasets.recorded_episodes import (
    FIELDS,
    LENGTHS,
    RecordedEpisodes,
    check_is_new,
    checked_id,
    dataset_of,
    errors_name,
    known_seed,
    which_environment,
)
from etude.storage.files import CorruptFile

FORMAT = ".npz"  # as messages call it
ENVIRONMENT_ID, SEEDS, SIDE_VIEWS = "environment_id", "seeds", "side_views"
_SUFFIX = ".npy"
_READ_HEADER = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the time of every member, so that equal datasets give equal files


def write_npz(path: Path, dataset: Dataset) -> None:
    """Write a dataset in the environment's own units, uncompressed.

    The file appears as a whole or not at all, and its arrays are in memory twice meanwhile. What
    `read_npz` reads from it is the same dataset bit for bit, but for Box actions whose bounds make
    their scaling inexact: they agree to the rounding of float32 numbers as large as the bounds.

    Raises:
        InvalidInput: for a path that exists, and for a dataset that `to_recorded_arrays` refuses.
        OSError: when the disk refuses.
    """
    check_is_new(Path(path))
    spec, recorded = dataset.spec, to_recorded_arrays(dataset)
    unknown = (None,) * dataset.num_episodes
    episodes = RecordedEpisodes(FORMAT, spec.id, spec, recorded, unknown)
    write_recorded_npz(path, spec, episodes.by_episode().end_to_end(spec))


def write_recorded_npz(path: Path, spec: EnvironmentSpec, episodes: RecordedEpisodes) -> None:
    """Write checked episodes laid end to end as `write_npz` does, with the seeds that are known.

    Raises as `write_npz` does.
    """
    path = Path(path)
    check_is_new(path)
    arrays = {
        key: array
        for field, keys in array_keys(spec).items()
        for key, array in zip(keys, jax.tree.leaves(episodes.fields[field]), strict=True)
    }
    arrays[LENGTHS] = episodes.fields[LENGTHS]
    if episodes.environment_id:
        arrays[ENVIRONMENT_ID] = np.array(episodes.environment_id)
    if any(seed is not None for seed in episodes.seeds):
        arrays[SEEDS] = np.array([-1 if seed is None else seed for seed in episodes.seeds])
    if any(episodes.is_side_view):
        arrays[SIDE_VIEWS] = np.array(episodes.is_side_view)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for key, array in arrays.items():
            member = zipfile.ZipInfo(key + _SUFFIX, _EPOCH)
            with archive.open(member, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
    files.write_bytes(path, buffer.getbuffer())


def read_npz(path: Path, spec: EnvironmentSpec, *, truncate_unfinished: bool = False) -> Dataset:
    """Read a dataset that was recorded in an environment with the spaces of `spec`.

    Its `spec.id` is the environment's id in the file, "" where there is none; it need not be that
    of `spec`. Sizes are checked before memory is taken for them.

    Args:
        path: a file as described at the head of this module.
        spec: the spaces of the environment it was recorded in.
        truncate_unfinished: as in `make_dataset`.

    Raises:
        InvalidInput: naming the file, for one that cannot be read, that has other keys, or whose
            arrays `make_dataset` refuses.
    """
    with errors_name(path):
        return dataset_of(read_recorded_npz(path, spec), spec, truncate_unfinished)


def read_recorded_npz(path: Path, spec: EnvironmentSpec | None) -> RecordedEpisodes:
    """The episodes of a file, laid end to end; their structure is that of the spaces of `spec`.

    Without a spec they are read where observations are one array. Raises InvalidInput as `read_npz`
    does, but for what their values are.
    """
    path = Path(path)
    with errors_name(path):
        keys = {field: [field] for field in FIELDS} if spec is None else array_keys(spec)
        if spec is None and any(key.startswith("observations/") for key in member_keys(path)):
            raise InvalidInput(
                "its observations are a Dict or a Tuple, and without an environment it is not "
                f"known of which parts; {which_environment(environment_id_of(path))}"
            )
        required = [*itertools.chain(*keys.values()), LENGTHS]
        arrays = read_arrays(path, required, optional=(ENVIRONMENT_ID, SEEDS, SIDE_VIEWS))
        recorded = {
            field: arrays[field]
            if spec is None
            else jax.tree.unflatten(
                jax.tree.structure(jax.eval_shape(recorded_spaces(spec)[field].zeros)),
                [arrays[key] for key in keys[field]],
            )
            for field in FIELDS
        }
        environment_id, lengths = _environment_id(arrays), arrays[LENGTHS]
        seeds, is_side_view = _seeds(arrays, lengths), _side_views(arrays, lengths)
    recorded[LENGTHS] = lengths
    return RecordedEpisodes(FORMAT, environment_id, None, recorded, seeds, (), is_side_view)


def environment_id_of(path: Path) -> str:
    """The id of the environment in a file, "" where it has none; nothing else is read."""
    with errors_name(path), _opened(path) as archive:
        if ENVIRONMENT_ID + _SUFFIX not in archive.namelist():
            return ""
        members = {ENVIRONMENT_ID: archive.getinfo(ENVIRONMENT_ID + _SUFFIX)}
        _check_sizes(archive, members, ReadBudget(path, files.plain_size(path)))
        return _environment_id(_load(archive, members))


def member_keys(path: Path) -> set[str]:
    """The keys of an .npz file; raises CorruptFile for a file that is not one."""
    with errors_name(path), _opened(path) as archive:
        return {member.filename.removesuffix(_SUFFIX) for member in archive.infolist()}


def read_arrays(
    path: Path, required: list[str], optional: tuple[str, ...], ignored: tuple[str, ...] = ()
) -> dict[str, np.ndarray]:
    """The array of each key in a file, of numbers but for the environment's id.

    `ignored` keys may be there and are not read. Raises InvalidInput for a file that cannot be read
    or has other keys.
    """
    budget = ReadBudget(path, files.plain_size(path))
    with _opened(path) as archive:
        members = _members(archive, required, optional, ignored)
        _check_sizes(archive, members, budget)
        return _load(archive, members)


def array_keys(spec: EnvironmentSpec) -> dict[str, list[str]]:
    """The keys of each field's arrays in a file, in the order of the leaves of its space.

    Raises InvalidInput where two arrays would have one key.
    """
    keys = {
        field: ["/".join(map(str, (field, *path))) for path, _ in leaves_with_path(space)]
        for field, space in recorded_spaces(spec).items()
    }
    names = keys["observations"]
    for name in names:
        if names.count(name) > 1:
            raise InvalidInput(
                f"two arrays of the observation space have the key {name!r}; rename one of them, "
                "without a slash"
            )
    return keys


@contextlib.contextmanager
def _opened(path):
    """The archive, with its errors in words."""
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            yield archive
    except (InvalidInput, MemoryError):
        raise
    except OSError as error:
        raise CorruptFile(f"it cannot be read ({error.strerror or error})") from error
    except Exception as error:  # zipfile, zlib and NumPy raise many kinds for a damaged file
        reason = str(error).partition("\n")[0]  # more lines of NumPy's advise to trust the file
        raise CorruptFile(
            f"it is damaged or not an .npz ({reason}); export or copy it again"
        ) from error


def _load(archive, members):
    arrays = {}
    for key, member in members.items():
        with archive.open(member) as data:
            arrays[key] = np.lib.format.read_array(data, allow_pickle=False)
    return arrays


def _members(archive, required, optional, ignored):
    """Return the member of each key that is read, after a check of all keys."""
    members = {}
    for member in archive.infolist():
        key = member.filename.removesuffix(_SUFFIX)
        if key in members:
            raise CorruptFile(f"it has the key {key!r} twice; export it again")
        members[key] = member
    missing = [key for key in required if key not in members]
    for key in members:
        if key not in (*required, *optional, *ignored):
            nearest = difflib.get_close_matches(key, missing, 1, cutoff=0.5)
            raise InvalidInput(
                f"it has the unknown key {key[:80]!r}"
                + (f": did you mean {nearest[0]!r}?" if nearest else "; leave it out.")
                + f" The keys are {', '.join(required)} and, if known, {', '.join(optional)}"
            )
    if missing:
        raise InvalidInput(
            f"it has no key {missing[0]!r}; for these spaces the keys are {', '.join(required)}"
        )
    return {key: member for key, member in members.items() if key not in ignored}


def _check_sizes(archive, members, budget):
    """Check what the headers of the zip and of each array say, before anything is read."""
    for key, member in members.items():
        budget.spend(member.file_size, key)
        with archive.open(member) as file:
            version = np.lib.format.read_magic(file)
            if version not in _READ_HEADER:
                raise CorruptFile(f"{key!r} is of version {version}; save it with numpy.savez")
            shape, _, dtype = _READ_HEADER[version](file)
            kinds = "U" if key == ENVIRONMENT_ID else "biuf"
            if dtype.kind not in kinds:
                raise CorruptFile(
                    f"{key!r} has the dtype {dtype}; only {'text' if kinds == 'U' else 'numbers'} "
                    "can be read there, and Python objects nowhere, for reading them runs code"
                )
            if file.tell() + math.prod(shape) * dtype.itemsize != member.file_size:
                raise CorruptFile(
                    f"{key!r} has {member.file_size:,} bytes and an array of the shape {shape}, "
                    "which do not agree; export it again"
                )


def _environment_id(arrays):
    if ENVIRONMENT_ID not in arrays:
        return ""
    array = arrays[ENVIRONMENT_ID]
    return checked_id(array.item() if array.size == 1 else array)


def _seeds(arrays, lengths):
    """Return the seed of each episode, None where it is not known."""
    seeds = arrays.get(SEEDS, np.full(np.size(lengths), -1))
    if seeds.shape != np.shape(lengths) or seeds.dtype.kind not in "iu":
        raise InvalidInput(
            f"{SEEDS!r} has the dtype {seeds.dtype} and the shape {seeds.shape}; give a whole "
            "number for each episode, and -1 for one without a seed"
        )
    return tuple(map(known_seed, np.ravel(seeds).tolist()))


def _side_views(arrays, lengths):
    """Return whether each episode is what a side camera saw; () where the file does not say."""
    if SIDE_VIEWS not in arrays:
        return ()
    flags = arrays[SIDE_VIEWS]
    if flags.shape != np.shape(lengths) or not np.isin(flags, (0, 1)).all():
        raise InvalidInput(
            f"{SIDE_VIEWS!r} has the dtype {flags.dtype} and the shape {flags.shape}; give 0 or 1 "
            "for each episode"
        )
    return tuple(flags.astype(bool).tolist())
