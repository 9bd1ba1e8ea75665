"""Datasets written in Minari's layout (see `etude.storage.datasets.minari`), durably.

`MinariWriter` appends one episode at a time. An HDF5 file that grows in place is unreadable where
its process is killed in between, and a copy for each episode takes time that grows with the square
of their number; so an episode is first a file of its own, complete before it has its name, and the
main file is replaced by a copy with all pending episodes once these are as large as it is. Then
everything is written at most three times, and a small dataset is copied for every episode.
"""

import contextlib
import copy
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from etude.data.dataset import make_dataset
from etude.data.recorded_arrays import recorded_spaces
from etude.errors import InvalidInput
from etude.spaces import Composite, EnvironmentSpec, same_space
from etude.storage import files
from etude.storage.datasets import minari
from etude.storage.datasets.hdf5 import import_h5py
from etude.storage.datasets.minari import (
    DATA,
    MAIN,
    METADATA,
    PENDING,
    PENDING_NAME,
    SIDE_VIEW,
    SUMS,
    SUMS_FORMAT,
)
from etude.storage.datasets.minari_spaces import encode_space
from etude.storage.datasets.recorded_episodes import (
    FIELDS,
    RecordedEpisodes,
    check_is_new,
    check_seeds,
    errors_name,
    stored_dtype,
)
from etude.storage.writer_lock import sole_writer
from etude.struct import replace

SMALL_FILE = 2**22  # bytes of a main file that is copied for every episode
_MINARI_VERSION = "0.5.3"  # whose layout it is
_COMPRESSION = {"compression": "gzip", "compression_opts": 4, "shuffle": True, "fletcher32": True}
_SMALL_ARRAY = 512  # bytes; smaller ones are not compressed
_DATASET_ID = re.compile(r"[-\w]*\w-v\d+", re.ASCII)
_TEMPORARY = ".tmp"


class MinariWriter:
    """Appends episodes to a dataset in Minari's layout; what was appended survives any crash.

    After each `append` the dataset on the disk can be read, by etude with every episode and by
    Minari with those of the main file: all of a small dataset, at least half of a large one, and
    all after `close`. Use it in a `with` block, which closes it.

        with MinariWriter("balance", spec) as writer:
            writer.append(observations=..., actions=..., rewards=..., terminations=...,
                          truncations=..., seed=3)

    Args:
        path: the directory of the dataset, a new one.
        spec: the spaces of the environment that the episodes are recorded in, and its id.
        resume: append to a dataset that etude wrote, in place of refusing one that exists. What a
            crash left is repaired first.
        options: the keyword arguments of `gymnasium.make` with which the environment was made; with
            `resume` those of the dataset are kept.

    Attributes:
        num_episodes, num_steps: of all that is on the disk.

    Raises:
        InvalidInput: for a path that exists; with `resume` for a dataset that another program
            wrote, that is damaged, or that is of another environment; for spaces that the layout
            does not hold, where another process writes, and where h5py is not installed.
    """

    def __init__(
        self,
        path: str | Path,
        spec: EnvironmentSpec,
        *,
        resume: bool = False,
        options: Mapping[str, Any] | None = None,
    ):
        self.path, self.spec = Path(path).absolute(), replace(spec, num_envs=1)
        self.folder = self.path / DATA
        import_h5py()
        if not (resume and os.path.lexists(self.path)):
            check_is_new(self.path)
            _write_whole(self.path, self.spec, (), options or {})
        self._is_open = True
        with contextlib.ExitStack() as stack:
            stack.enter_context(sole_writer(self.path))
            if resume:
                self._check_resumable()
            self._repair()
            self._lock = stack.pop_all()

    def append(
        self,
        *,
        observations: Any,
        actions: Any,
        rewards: Any,
        terminations: Any,
        truncations: Any,
        seed: int | None = None,
    ) -> None:
        """Add an episode of T steps, which is on the disk when this returns.

        Args:
            observations: [T + 1, ...], in the environment's own units as all that follows.
            actions: [T, ...].
            rewards, terminations, truncations: [T].
            seed: that of the reset with which the episode began; None where there was none.

        Raises:
            InvalidInput: for arrays that `make_dataset` refuses, for a seed that Gymnasium does not
                take, and after `close`; nothing is written.
        """
        if not self._is_open:
            raise InvalidInput(
                f"the writer of {self.path} is closed; make another one, with resume=True"
            )
        check_seeds([seed])
        values = (observations, actions, rewards, terminations, truncations)
        episode = dict(zip(FIELDS, values, strict=True))
        single: Any = {field: [value] for field, value in episode.items()}
        make_dataset(self.spec, **single)
        number = self.num_episodes
        pending = self.folder / PENDING
        pending.mkdir(exist_ok=True)
        temporary = pending / f"{_TEMPORARY}_{number}.hdf5"
        with import_h5py().File(temporary, "w") as file:
            steps = write_episode(file, self.spec, number, episode, seed)
        files.sync(temporary)
        final = pending / f"episode_{number}.{minari.file_sum(temporary)}.hdf5"
        os.replace(temporary, final)
        files.sync(pending)
        files.sync(self.folder)
        self._pending.append(final)
        self.num_steps += steps
        self._pending_bytes += final.stat().st_size
        main_bytes = (self.folder / MAIN).stat().st_size
        if main_bytes < SMALL_FILE or self._pending_bytes >= main_bytes:
            # the episode is safe; `close` tries again, and says what is wrong
            with contextlib.suppress(OSError, files.CorruptFile):
                self._merge()

    def close(self) -> None:
        """Put all episodes into the main file, and let other processes write."""
        self._is_open = False
        with self._lock:
            if self._pending:
                self._merge()

    @property
    def num_episodes(self) -> int:
        return self._num_merged + len(self._pending)

    def __enter__(self) -> "MinariWriter":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _check_resumable(self):
        """Check that etude wrote what is there, undamaged, for this environment and its spaces."""
        with errors_name(self.path):
            if not minari.check_sums(self.folder):
                raise InvalidInput(
                    "it is not a dataset that etude wrote, and episodes are appended only to such "
                    "a one; choose another name"
                )
            _, found = minari.read_metadata(self.folder)
        if found.id != self.spec.id:
            raise InvalidInput(
                f"{self.path} is of the environment {found.id!r}, and the episodes to add are of "
                f"{self.spec.id!r}; choose another name"
            )
        for role in ("observation", "action"):
            there, given = getattr(found, role), getattr(self.spec, role)
            if not same_space(there, given):
                raise InvalidInput(
                    f"{self.path} has the {role} space {there}, and the episodes to add have "
                    f"{given}; choose another name"
                )
        self.spec = replace(self.spec, observation=found.observation, action=found.action)

    def _repair(self):
        """Count what is there, and finish or remove what a crash left unfinished."""
        for path in (*self.folder.iterdir(), *_entries(self.folder / PENDING)):
            if path.name.startswith(_TEMPORARY):
                path.unlink()
        with import_h5py().File(self.folder / MAIN, "r") as file:
            self._num_merged = len(file)
            self.num_steps = sum(int(file[name].attrs["total_steps"]) for name in file)
        with errors_name(self.path):
            self._pending = minari.pending_files(self.folder, self._num_merged)
        for path in set(_entries(self.folder / PENDING)) - set(self._pending):
            if PENDING_NAME.fullmatch(path.name):
                path.unlink()  # in the main file by now
        self._pending_bytes = sum(path.stat().st_size for path in self._pending)
        for path in self._pending:
            with import_h5py().File(path, "r") as file:
                self.num_steps += sum(int(file[name].attrs["total_steps"]) for name in file)
        metadata = files.read_json(self.folder / METADATA)
        if self._pending or metadata["total_episodes"] != self._num_merged:
            self._merge()

    def _merge(self):
        """Replace the main file by one with the pending episodes too, then the metadata."""
        main, temporary = self.folder / MAIN, self.folder / f"{_TEMPORARY}_{MAIN}"
        with errors_name(self.path):
            old = minari.check_sums(self.folder)
            for path in self._pending:
                minari.check_pending(path)
        shutil.copyfile(main, temporary)
        h5py = import_h5py()
        with h5py.File(temporary, "r+") as target:
            for path in self._pending:
                with h5py.File(path, "r") as source:
                    for name in source:
                        if name not in target:  # not from a merge that failed in its last part
                            source.copy(name, target)
            count = len(target)
        files.sync(temporary)
        size = temporary.stat().st_size
        metadata = files.read_json(self.folder / METADATA) | _counts(count, self.num_steps, size)
        new_metadata = self.folder / f"{_TEMPORARY}_{METADATA}"
        files.write_json(new_metadata, metadata)
        new = {MAIN: minari.file_sum(temporary), METADATA: minari.file_sum(new_metadata)}
        sums = {name: [new[name], old[name]] for name in new}
        files.write_sealed(self.folder / SUMS, {"format": SUMS_FORMAT, "files": sums})
        os.replace(temporary, main)
        os.replace(new_metadata, self.folder / METADATA)
        files.sync(self.folder)
        for path in reversed(self._pending):  # for who reads meanwhile, those left have no gap
            path.unlink()
        self._num_merged, self._pending, self._pending_bytes = count, [], 0
        with contextlib.suppress(OSError):
            (self.folder / PENDING).rmdir()


def write_minari(
    path: Path, spec: EnvironmentSpec, episodes: RecordedEpisodes, options: Mapping | None = None
) -> None:
    """Write checked episodes as a new dataset, which appears as a whole or not at all.

    Args:
        path: the directory of the dataset, a new one.
        spec: the spaces of the episodes.
        episodes: what to write, with the environment's id and the seeds.
        options: keyword arguments of `gymnasium.make` with which the environment was made.

    Raises:
        InvalidInput: for a path that exists, for spaces that the layout does not hold, and where
            h5py is not installed.
        OSError: when the disk refuses.
    """
    path = Path(path).absolute()
    import_h5py()
    check_is_new(path)
    is_side_view = episodes.is_side_view or (False,) * len(episodes.seeds)
    rows = (
        ({field: episodes.fields[field][i] for field in FIELDS}, seed, is_side_view[i])
        for i, seed in enumerate(episodes.seeds)
    )
    _write_whole(path, replace(spec, num_envs=1, id=episodes.environment_id), rows, options or {})


def write_episode(
    file: Any,
    spec: EnvironmentSpec,
    number: int,
    episode: Mapping[str, Any],
    seed: int | None,
    is_side_view: bool = False,
) -> int:
    """Write an episode as a group of an open HDF5 file; the number of its steps.

    Its values are kept bit for bit where they are in the dtypes of the spaces.
    """
    group = file.create_group(f"episode_{number}")
    for field, space in recorded_spaces(spec).items():
        _write_value(group, field, field, space, episode[field])
    steps = len(group["rewards"])
    group.attrs["id"], group.attrs["total_steps"] = number, steps
    if seed is not None:
        group.attrs["seed"] = seed
    if is_side_view:
        group.attrs[SIDE_VIEW] = True
    return steps


def _write_value(group, name, field, space, value):
    if isinstance(space, Composite):
        parts = group.create_group(name)
        values = zip(minari.part_names(space), space.parts, space.split(value), strict=True)
        for part_name, part, part_value in values:
            _write_value(parts, part_name, field, part, part_value)
        return
    array = np.asarray(value).astype(stored_dtype(field, space), copy=False)
    is_large = array.nbytes > _SMALL_ARRAY
    group.create_dataset(name, data=array, **(_COMPRESSION if is_large else {}))


def _write_whole(path, spec, rows, options):
    """Write a new dataset of (episode, seed, whether it is a side view)."""
    encode_space(spec.observation)  # before a directory is made
    # not that of another process, in the same place
    temporary = path.with_name(f".{path.name}.{os.getpid()}{_TEMPORARY}")
    try:
        folder = temporary / DATA
        folder.mkdir(parents=True)
        count = steps = 0
        with import_h5py().File(folder / MAIN, "w") as file:
            for episode, seed, is_side_view in rows:
                steps += write_episode(file, spec, count, episode, seed, is_side_view)
                count += 1
        files.sync(folder / MAIN)
        size = (folder / MAIN).stat().st_size
        metadata = _metadata(path, spec, options) | _counts(count, steps, size)
        files.write_json(folder / METADATA, metadata)
        sums = {name: [minari.file_sum(folder / name)] for name in (MAIN, METADATA)}
        files.write_sealed(folder / SUMS, {"format": SUMS_FORMAT, "files": sums})
        files.sync(temporary)
        check_is_new(path)  # again, after the time that writing took
        os.replace(temporary, path)
        files.sync(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _metadata(path, spec, options):
    name = path.name
    if not _DATASET_ID.fullmatch(name):
        name = (re.sub(r"[^-\w]+", "_", name, flags=re.ASCII).strip("-_") or "dataset") + "-v0"
    metadata = {
        "data_format": minari.HDF5,
        "jpeg_encoding": False,
        "observation_space": encode_space(spec.observation),
        "action_space": encode_space(spec.action),
        "dataset_id": name,
        "minari_version": _MINARI_VERSION,
        "environment_id": spec.id,
    }
    registered = gymnasium.registry.get(spec.id)
    if registered is not None and isinstance(registered.entry_point, str):
        with contextlib.suppress(TypeError, ValueError):  # of a keyword that JSON cannot hold
            made = copy.deepcopy(registered)
            made.kwargs.update(options)
            metadata["env_spec"] = made.to_json()
    return metadata


def _counts(episodes, steps, size):
    return {"total_episodes": episodes, "total_steps": steps, "dataset_size": round(size / 1e6, 1)}


def _entries(folder):
    return list(folder.iterdir()) if folder.is_dir() else []
