"""Atomic writing and strict reading of files and JSON.

Content is flushed to the disk before it gets its name, so after a crash a name has the old content
or the new, never part of it. Reading takes plain files below a size limit, and JSON without the
extensions of Python's parser. Only one process may write to a directory at a time.
"""

import contextlib
import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import IO, Any

from etude.errors import InvalidInput

JSON_LIMIT = 64 * 2**20  # bytes
SEAL = "sha256"  # the key of the hash in a sealed file
DEPTH_LIMIT = 64  # levels of nested lists and objects that are written
# an indented list of numbers: no string holds a bare line break
_NUMBERS = re.compile(r"\[\n([-+.eE\d,\s]+)\]")
_OPEN_FLAGS = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))


class CorruptFile(InvalidInput):
    """A file does not have the content that was written or that is required."""


def read_bytes(path: Path, limit: int) -> bytes:
    """Read a plain file of at most `limit` bytes; raises CorruptFile for anything else."""
    with open_plain(path) as file:
        if (size := size_of(file)) > limit:
            raise CorruptFile(
                f"{path} has {size:,} bytes where at most {limit:,} are read; it is not a file of "
                "etude's"
            )
        return file.read(limit)


@contextlib.contextmanager
def open_plain(path: Path) -> Iterator[BufferedReader]:
    """Open a plain file once, for all that is checked of it and read from it.

    Raises CorruptFile for a link, folder or device, and for what cannot be read.
    """
    try:
        if os.path.islink(path):
            raise _not_plain(path)
        # a pipe is not waited for, and a link that comes in between is not followed
        flags = os.O_RDONLY | _OPEN_FLAGS
        with open(path, "rb", opener=lambda name, _: os.open(name, flags)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise _not_plain(path)
            yield file
    except IsADirectoryError as error:
        raise _not_plain(path) from error
    except OSError as error:
        raise _unreadable(path, error) from error


def size_of(file: IO[bytes]) -> int:
    """Return the size in bytes of a file that is open."""
    return os.fstat(file.fileno()).st_size


def plain_size(path: Path) -> int:
    """Return the size of a plain file in bytes; raises CorruptFile as `open_plain` does."""
    with open_plain(path) as file:
        return size_of(file)


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Replace the file as a whole: a reader, or a crash, finds the old content or the new."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Flush a file, or the names in a directory, to the disk."""
    if os.name == "nt" and os.path.isdir(path):
        return  # Windows flushes names by itself
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def names_in(folder: Path, name: str, *more: str) -> list[str]:
    """The paths in a folder whose parts match these patterns, in alphabetical order.

    Raises CorruptFile for one of them that is a link, which may lead out of the folder.
    """
    found = []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if not re.fullmatch(name, entry.name):
            continue
        if entry.is_symlink():
            raise CorruptFile(
                f"{entry.name} in {Path(folder).name} is a link, and links are not followed; put "
                "what it names in its place"
            )
        if not more:
            found.append(entry.name)
        elif entry.is_dir():
            found += [f"{entry.name}/{path}" for path in names_in(Path(entry.path), *more)]
    return found


def read_json(path: Path, limit: int = JSON_LIMIT) -> Any:
    """Read strict JSON: UTF-8, unique keys, finite numbers; raises CorruptFile otherwise."""
    return decode_json(read_bytes(path, limit), str(path))


def write_json(path: Path, data: Any) -> None:
    """Replace the file as a whole by `encode_json(data)`."""
    write_bytes(path, encode_json(data))


def write_sealed(path: Path, data: dict[str, Any]) -> None:
    """Replace the file as a whole by the data in JSON and, as their last key, their SHA-256."""
    write_bytes(path, _seal(data))


def read_sealed(path: Path, format: int | None = None) -> dict[str, Any]:
    """Read what `write_sealed` wrote, without the hash.

    With `format` the data have to be of that format. Raises CorruptFile for a file that is not,
    byte for byte, as it was written.
    """
    encoded = read_bytes(path, JSON_LIMIT)
    data = decode_json(encoded, str(path))
    if not isinstance(data, dict):
        raise CorruptFile(f"{path} holds no JSON object; restore it from a copy")
    if format is not None and data.get("format") != format:
        raise CorruptFile(
            f"{path} has format {data.get('format')!r}, and this etude reads {format}; use the "
            "version that wrote it"
        )
    data.pop(SEAL, None)
    if encoded != _seal(data):
        raise CorruptFile(
            f"{path} was changed by hand, or is damaged: its content does not fit the SHA-256 in "
            "it; restore it from a copy"
        )
    return data


def _seal(data):
    return encode_json({**data, SEAL: hashlib.sha256(encode_json(data)).hexdigest()})


def refuse_links(directory: Path) -> None:
    """Raise InvalidInput for a link inside a directory, through which a write would leave it."""
    for folder, folders, names in os.walk(directory):
        for path in (Path(folder) / name for name in (*folders, *names)):
            if path.is_symlink():
                raise InvalidInput(
                    f"{path} is a link to {os.readlink(path)}, and nothing is written through "
                    "links in a run directory; put what it names in its place"
                )


def encode_json(data: Any) -> bytes:
    """Encode data as strict JSON, indented, with each list of numbers on one line.

    Arrays of NumPy and JAX become lists. Non-finite floats become the strings "inf", "-inf" and
    "nan", which `float` takes, and stay strings when read. Raises InvalidInput, naming the place,
    for data that JSON cannot hold.
    """
    text = json.dumps(_plain(data, "the data", 0), indent=2, allow_nan=False)
    encoded = (_NUMBERS.sub(lambda match: f"[{' '.join(match[1].split())}]", text) + "\n").encode()
    if len(encoded) > JSON_LIMIT:
        raise InvalidInput(
            f"the data takes {len(encoded):,} bytes of JSON, the limit is {JSON_LIMIT:,}; write "
            "less"
        )
    return encoded


def decode_json(data: bytes, name: str) -> Any:
    """Decode bytes as `read_json` does; error messages call them `name`."""
    try:
        return json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_finite,
            parse_float=_finite,
        )
    except RecursionError as error:
        raise CorruptFile(f"{name} is nested too deeply; restore it from a copy") from error
    except ValueError as error:
        raise CorruptFile(f"{name} is not strict JSON: {error}; restore it from a copy") from error


def _plain(data, place, depth):
    if depth > DEPTH_LIMIT:
        raise InvalidInput(
            f"{place[:80]}… is nested more than {DEPTH_LIMIT} deep; JSON files of etude are not"
        )
    if hasattr(data, "dtype") and hasattr(data, "tolist"):
        data = data.tolist()
    if data is None or isinstance(data, (str, bool, int)):
        return data
    if isinstance(data, float):
        return float(data) if math.isfinite(data) else str(float(data))
    if isinstance(data, (list, tuple)):
        return [_plain(item, f"{place}[{i}]", depth + 1) for i, item in enumerate(data)]
    if isinstance(data, dict):
        for key in data:
            if not isinstance(key, str):
                raise InvalidInput(f"{place} has the key {key!r}; keys of JSON are strings")
        return {key: _plain(value, f"{place}[{key!r}]", depth + 1) for key, value in data.items()}
    raise InvalidInput(
        f"{place} is a {type(data).__name__}; JSON holds numbers, strings, lists, dicts and None"
    )


def _unique(pairs):
    unique = dict(pairs)
    if len(unique) < len(pairs):
        raise ValueError("an object names the same key twice")
    return unique


def _finite(text):
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a finite number")
    return number


def _not_plain(path):
    return CorruptFile(
        f"{path} is not a plain file (but a link, a folder or a device); put the file itself there"
    )


def _unreadable(path, error):
    return CorruptFile(f"{path} cannot be read ({error.strerror or error}); restore it from a copy")
