"""HDF5 files, read so that one that is damaged or made to do harm is refused.

Only plain groups and arrays of numbers are read, by name. Links to other places, arrays whose
values lie in other files, references, Python objects, filters that are plugins, and arrays that
declare more than the file holds are refused before memory is taken for them. `h5py` is needed,
which is an extra of etude.
"""

import contextlib
import math
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from etude.errors import InvalidInput
from etude.storage import files
from etude.storage.datasets.budget import ReadBudget
from etude.storage.files import CorruptFile

NAME_LIMIT = 1000  # characters of a name or a text
_CHUNK_LIMIT = 2**26  # bytes
_HEAP = b"GCOL\1"  # the beginning of a heap: signature and version
# their numbers in HDF5: deflate (gzip), shuffle, fletcher32; and LZF, which h5py has with it
_FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 32000: "lzf"}


def import_h5py() -> Any:
    """The module h5py; raises InvalidInput, naming the extra, where it is not installed."""
    try:
        import h5py
    except ImportError as error:
        raise InvalidInput(
            'datasets in HDF5 need h5py, which is not installed: pip install "etude[data]"'
        ) from error
    return h5py


@contextlib.contextmanager
def open_hdf5(path: Path) -> Iterator["Group"]:
    """The root group of a plain HDF5 file, to read from inside the block.

    Raises:
        InvalidInput: where h5py is not installed.
        CorruptFile: for what cannot be read as such a file; the path is not in its message.
    """
    h5py = import_h5py()
    size = files.plain_size(path)
    try:
        with h5py.File(path, "r", locking=False) as file:
            yield Group(file, "", ReadBudget(path, size))
    except (InvalidInput, MemoryError):
        raise
    except Exception as error:  # h5py raises many kinds for a damaged file
        reason = f"{error}".partition("\n")[0]
        raise CorruptFile(
            f"it is damaged or not HDF5 ({reason}); export or copy it again"
        ) from error


class Group:
    """A group of an HDF5 file; whatever is reached through it is checked first."""

    def __init__(self, group: Any, path: str, budget: ReadBudget):
        self._group, self._path, self._budget = group, path, budget

    def __contains__(self, name: str) -> bool:
        return name in self._group

    def names(self) -> list[str]:
        """The names in the group, in alphabetical order."""
        return sorted(self._group)

    def is_group(self, name: str) -> bool:
        """Whether there is a group of that name."""
        return isinstance(self._child(name), import_h5py().Group)

    def group(self, name: str) -> "Group":
        """The group of that name; raises CorruptFile where there is none."""
        child, path = self._child(name), self._path_of(name)
        if not isinstance(child, import_h5py().Group):
            raise CorruptFile(f"{path!r} is an array and should be a group; export it again")
        return Group(child, path, self._budget)

    def attribute_names(self) -> list[str]:
        """The names of the attributes of the group."""
        return list(self._group.attrs)

    def attribute(self, name: str) -> int | float | None:
        """A number that the group has as an attribute, None where there is none.

        Raises CorruptFile for an attribute of another kind: in a damaged file, reading a text of
        any length may never end.
        """
        attributes = self._group.attrs
        if name not in attributes:
            return None
        attribute = attributes.get_id(name)
        if attribute.shape != () or attribute.dtype.kind not in "biuf":
            raise CorruptFile(
                f"the attribute {name!r} of {self._path or 'the file'!r} is not a number; write it "
                "again"
            )
        return attributes[name].item()

    def array(self, name: str) -> np.ndarray:
        """The array of that name; raises CorruptFile for what is not one of numbers."""
        dataset, path = self._dataset(name), self._path_of(name)
        dtype = dataset.dtype
        if dtype.kind not in "biuf" or dtype.itemsize > 8 or dtype.shape:
            raise CorruptFile(
                f"{path!r} has the dtype {dtype}; only arrays of numbers of at most 8 bytes are "
                "read, and no references or Python objects"
            )
        self._budget.spend(_size(dataset.shape, dtype.itemsize), path)
        self._check_is_there(dataset, dtype.itemsize, path)
        return dataset[()]

    def num_axes(self, name: str) -> int:
        """The number of axes of the array of that name."""
        return len(self._dataset(name).shape)

    def rows_of_bytes(self, name: str) -> Iterator[bytes]:
        """The bytes of each row of an array of bytes [row, byte] or of rows of several lengths."""
        dataset, path = self._dataset(name), self._path_of(name)
        if dataset.dtype.kind != "O":
            yield from (row.tobytes() for row in self.array(name))
            return
        if import_h5py().check_vlen_dtype(dataset.dtype) != np.uint8 or dataset.ndim != 1:
            raise CorruptFile(f"{path!r} has rows of another kind than bytes; export it again")
        self._budget.spend(_size(dataset.shape, 16), path)
        _check_heaps(self._budget.path)
        for row in range(len(dataset)):
            yield dataset[row].tobytes()

    def spend(self, amount: int, name: str) -> None:
        """Count bytes that are made of what is read; raises CorruptFile where they are too many."""
        self._budget.spend(amount, self._path_of(name))

    def _path_of(self, name):
        return f"{self._path}/{name}".lstrip("/")[:NAME_LIMIT]

    def _child(self, name):
        h5py, path = import_h5py(), self._path_of(name)
        if not name or "/" in name or name == ".":  # a path would be followed through any link
            raise CorruptFile(f"{name[:NAME_LIMIT]!r} is not a name in a group; rename it")
        links = self._group.id.links
        if not links.exists(name.encode()):
            raise CorruptFile(f"it has no {path!r}; export it again, or add that")
        kind = links.get_info(name.encode()).type
        if kind != h5py.h5l.TYPE_HARD:
            kinds = {h5py.h5l.TYPE_SOFT: "soft link", h5py.h5l.TYPE_EXTERNAL: "external link"}
            raise CorruptFile(
                f"{path!r} is a link to another place ({kinds.get(kind, 'of a user')}), and links "
                "are not followed; put what it names in its place"
            )
        return self._group[name]

    def _dataset(self, name):
        dataset, path = self._child(name), self._path_of(name)
        if not isinstance(dataset, import_h5py().Dataset):
            raise CorruptFile(f"{path!r} is a group and should be an array; export it again")
        if dataset.is_virtual or dataset.external:
            raise CorruptFile(
                f"the values of {path!r} are in other files, which are not read; copy them into "
                "this file"
            )
        if dataset.shape is None:
            raise CorruptFile(f"{path!r} holds nothing; export it again")
        filters = dataset.id.get_create_plist()
        for number in (filters.get_filter(i)[0] for i in range(filters.get_nfilters())):
            if number not in _FILTERS:
                raise CorruptFile(
                    f"{path!r} was written with the filter {number}, a plugin; only "
                    f"{', '.join(_FILTERS.values())} are read: write it with one of these"
                )
        return dataset

    def _check_is_there(self, dataset, itemsize, path):
        """Check that the file holds what an array declares, before it is read."""
        size = _size(dataset.shape, itemsize)
        if not size:
            return
        if dataset.chunks is None:
            is_whole = dataset.id.get_storage_size() >= size
        else:
            chunks = zip(dataset.shape, dataset.chunks, strict=True)
            expected = math.prod(-(-length // chunk) for length, chunk in chunks)
            is_whole = dataset.id.get_num_chunks() == expected
            if _size(dataset.chunks, itemsize) > _CHUNK_LIMIT:
                raise CorruptFile(
                    f"{path!r} lies in chunks of more than {_CHUNK_LIMIT:,} bytes; write it in "
                    "smaller ones"
                )
        if not is_whole:
            raise CorruptFile(
                f"{path!r} has the shape {dataset.shape}, and the file does not hold so much; "
                "export or copy it again"
            )


def _size(shape, itemsize):
    return math.prod(map(int, shape)) * itemsize


def _check_heaps(path):
    """Check that the heaps, which hold rows of several lengths, can be walked to their ends.

    HDF5 walks them from object to object, and would not move on from a free one without a size.
    """
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        begin = data.find(_HEAP)
        while begin >= 0:
            place = begin + 16
            end = begin + int.from_bytes(data[begin + 8 : place], "little")
            while place + 16 <= min(end, len(data)):
                index = int.from_bytes(data[place : place + 2], "little")
                size = int.from_bytes(data[place + 8 : place + 16], "little")
                step = 16 + -(-size // 8) * 8 if index else size
                if not step:
                    raise CorruptFile("a heap in it is damaged; export or copy it again")
                place += step
            begin = data.find(_HEAP, begin + 1)
