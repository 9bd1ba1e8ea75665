"""A dataset as a folder of `.npz` files, each of which has some of its episodes.

    part_000000.npz, part_000001.npz, …     see `etude.storage.datasets.npz`

`etude record` writes one while it plays, and removes it once the dataset itself is written. So what
is left after a crash can be read, and `etude dataset FOLDER --to OUT` makes a dataset of it. Where
several copies of the environment were played in parallel, short episodes end first, so there are
more of them in it than in the whole recording.
"""

import contextlib
import itertools
from pathlib import Path

import jax
import numpy as np

from etude.errors import InvalidInput
from etude.spaces import EnvironmentSpec
from etude.storage import files
from etude.storage.datasets.npz import environment_id_of, read_recorded_npz, write_recorded_npz
from etude.storage.datasets.recorded_episodes import FIELDS, LENGTHS, RecordedEpisodes, errors_name
from etude.storage.files import CorruptFile
from etude.storage.writer_lock import sole_writer

UNFINISHED = ".unfinished"  # suffix of the folder of a recording that still runs, or was stopped
_PART, _FIRST = r"part_\d{6}\.npz", "part_000000.npz"


def is_parts(path: Path) -> bool:
    """Whether a directory holds parts of a dataset."""
    return (Path(path) / _FIRST).is_file()


def environment_id_of_parts(path: Path) -> str:
    """The id of the environment in the first part, "" where it has none."""
    return environment_id_of(Path(path) / _FIRST)


def read_parts(path: Path, spec: EnvironmentSpec | None) -> RecordedEpisodes:
    """The episodes of all parts in order; `spec` and errors are those of `read_recorded_npz`."""
    path = Path(path)
    with errors_name(path):
        names = files.names_in(path, _PART)
        for number, name in enumerate(names):
            if name != f"part_{number:06}.npz":
                raise CorruptFile(f"it has no part_{number:06}.npz; copy the whole folder")
        parts = [read_recorded_npz(path / name, spec) for name in names]
        first = parts[0]
        for name, part in zip(names, parts, strict=True):
            if part.environment_id != first.environment_id:
                raise InvalidInput(
                    f"{name} is of the environment {part.environment_id!r}, and {names[0]} of "
                    f"{first.environment_id!r}; put them in a folder each"
                )
    fields = {
        field: jax.tree.map(
            lambda *arrays: np.concatenate(arrays), *(part.fields[field] for part in parts)
        )
        for field in (*FIELDS, LENGTHS)
    }
    note = (
        f"it is a recording that was stopped: `etude dataset {path} --to NAME.npz` makes a "
        "dataset of it, which may have too many short episodes"
    )
    seeds = tuple(seed for part in parts for seed in part.seeds)
    # a part without side views does not say so
    flags = [part.is_side_view or (False,) * part.num_episodes for part in parts]
    is_side_view = tuple(itertools.chain(*flags)) if any(map(any, flags)) else ()
    return first._replace(fields=fields, seeds=seeds, notes=(note,), is_side_view=is_side_view)


class PartsWriter:
    """Writes episodes as the parts of a folder; each part is on the disk before `append` returns.

    Use it in a `with` block, in which it is the only writer. After that, the folder is removed if
    it has no parts.

    Args:
        path: the folder, a new one, or one without parts.
        spec: the spaces of the environment that the episodes are recorded in, and its id.

    Raises:
        InvalidInput: for a folder with parts, and where another process writes.
    """

    def __init__(self, path: Path, spec: EnvironmentSpec):
        self.path, self.spec = Path(path), spec
        self.num_parts = self.num_episodes = 0
        self._exit = contextlib.ExitStack()
        self.check_unused(self.path)

    @staticmethod
    def check_unused(path: Path) -> None:
        """Raise InvalidInput for a folder with the episodes of another recording."""
        if not path.exists():
            return
        if is_parts(path):
            raise InvalidInput(
                f"{path} has the episodes of a recording that was stopped, or still goes on; "
                f"`etude dataset {path} --to NAME` makes a dataset of them, or move it away"
            )
        if not path.is_dir() or path.is_symlink():
            raise InvalidInput(f"{path} exists already; choose another name, or move it away")

    def __enter__(self) -> "PartsWriter":
        try:
            self.path.mkdir(exist_ok=True)
        except OSError as error:
            raise InvalidInput(f"{self.path} cannot be made ({error.strerror})") from error
        with contextlib.ExitStack() as stack:
            stack.callback(self._remove_empty)
            stack.enter_context(sole_writer(self.path))
            self.check_unused(self.path)
            self._exit = stack.pop_all()
        return self

    def __exit__(self, *_) -> None:
        self._exit.close()

    def append(self, episodes: RecordedEpisodes) -> None:
        """Write a part, of checked episodes."""
        part = self.path / f"part_{self.num_parts:06}.npz"
        write_recorded_npz(part, self.spec, episodes.by_episode().end_to_end(self.spec))
        self.num_parts += 1
        self.num_episodes += episodes.num_episodes

    def discard(self) -> None:
        """Remove the parts, once their episodes are in a dataset.

        The first goes last, since `is_parts` looks for it: so a crash leaves what can be read.
        """
        for number in reversed(range(self.num_parts)):
            (self.path / f"part_{number:06}.npz").unlink()
        self.num_parts = self.num_episodes = 0

    def _remove_empty(self):
        if not is_parts(self.path):
            for left in self.path.glob(".part_*.tmp"):
                left.unlink()
            with contextlib.suppress(OSError):  # something of another's is in it
                self.path.rmdir()
                files.sync(self.path.parent)
