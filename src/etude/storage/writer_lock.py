"""One writer a directory: a lock that says who writes and since when, and ends with its process.

    directory/writer.lock    JSON: process, host, time

The file is locked by the operating system, which gives the lock back when its process ends, however
that ends. Reading the directory needs no lock.
"""

import contextlib
import os
import platform
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from etude.errors import InvalidInput
from etude.storage import files
from etude.storage.files import CorruptFile

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]
    import msvcrt

LOCK = "writer.lock"
LIMIT = 4096  # bytes


@contextlib.contextmanager
def sole_writer(directory: Path) -> Iterator[None]:
    """Be the only one who writes to a directory inside the block.

    Raises InvalidInput, naming process and host, where somebody is already, and for a directory
    that cannot be written to.
    """
    directory = Path(directory).absolute()
    path = directory / LOCK
    try:
        descriptor = _take(directory, path)
    except OSError as error:
        raise InvalidInput(f"{directory} cannot be written to ({error.strerror})") from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # somebody may have removed it
            if _is_named(descriptor, path):
                path.unlink()
        os.close(descriptor)


def _take(directory: Path, path: Path) -> int:
    """Return the descriptor of the locked file."""
    while True:
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        descriptor = os.open(path, flags, 0o644)
        try:
            if not _lock(descriptor):
                raise _refusal(directory, path, _wait_for_holder(descriptor))
            if not _is_named(descriptor, path):  # given back, and removed, in this instant
                os.close(descriptor)
                continue
            holder = _holder(descriptor)
            if holder.get("host", platform.node()) != platform.node():
                raise _refusal(directory, path, holder)  # this machine may not see its locks
            mine = {
                "process": os.getpid(),
                "host": platform.node(),
                "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}",
            }
            os.ftruncate(descriptor, 0)
            os.lseek(descriptor, 0, os.SEEK_SET)
            os.write(descriptor, files.encode_json(mine))
            return descriptor
        except BaseException:
            with contextlib.suppress(OSError):
                os.close(descriptor)
            raise


def _lock(descriptor: int) -> bool:
    """Lock a file for this descriptor alone; False where another has it."""
    try:
        if fcntl is None:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _is_named(descriptor: int, path: Path) -> bool:
    """Whether the open file is still the one of this name."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


def _holder(descriptor: int) -> dict[str, object]:
    """Return what the file says of who holds it; {} where it does not say."""
    try:
        os.lseek(descriptor, 0, os.SEEK_SET)
        holder = files.decode_json(os.read(descriptor, LIMIT), LOCK)
    except (CorruptFile, OSError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _wait_for_holder(descriptor: int) -> dict[str, object]:
    """Return what the holder of a lock says, which it writes in the instants after it took it."""
    for _ in range(50):
        if holder := _holder(descriptor):
            return holder
        time.sleep(0.01)
    return {}


def _refusal(directory: Path, path: Path, holder: dict[str, object]) -> InvalidInput:
    process, host = holder.get("process"), holder.get("host")
    where = "this machine, " if host == platform.node() else "another machine, "
    who = f"process {process} on {where}{host}" if process else "another process"
    if process == os.getpid() and host == platform.node():
        who = f"this process, {process}"
    return InvalidInput(
        f"{directory} is written to by {who}, since {holder.get('since', 'this instant')}; wait "
        f"until it ends, or stop it. If it does not run any more, remove {path}"
    )
