"""One writer a directory: a lock that says who writes, since when, and knows when he is dead.

    directory/writer.lock/holder.json    process, its start, host and time

The lock is a directory that gets its name with its content, by renaming, which succeeds for one of
several that try. The lock of a process that has ended is taken over. Reading needs no lock.
"""

import contextlib
import errno
import os
import platform
import shutil
import time
import uuid
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from etude.errors import InvalidInput
from etude.storage import files
from etude.storage.files import CorruptFile

LOCK, HOLDER = "writer.lock", "holder.json"
LIMIT = 4096  # bytes
ATTEMPTS = 100


@contextlib.contextmanager
def sole_writer(directory: Path) -> Iterator[None]:
    """Be the only one who writes to a directory inside the block.

    Raises InvalidInput, naming process and host, where somebody is already, and for a directory
    that cannot be written to.
    """
    directory = Path(directory).absolute()
    lock, mine = directory / LOCK, directory / f"{LOCK}.{uuid.uuid4().hex}"
    try:
        mine.mkdir()
    except OSError as error:
        raise InvalidInput(f"{directory} cannot be written to ({error.strerror})") from error
    try:
        files.write_json(mine / HOLDER, _this_process())
        number = mine.stat().st_ino
        _take(directory, mine)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # somebody may have removed it
                if lock.stat().st_ino == number:
                    os.rename(lock, mine)
            for dead in directory.glob(f"{LOCK}.dead-*"):
                shutil.rmtree(dead, ignore_errors=True)
    finally:
        shutil.rmtree(mine, ignore_errors=True)


def _take(directory, mine):
    lock = directory / LOCK
    for _ in range(ATTEMPTS):
        try:
            os.rename(mine, lock)
            return
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY) and not os.path.lexists(lock):
                raise
        holder = _read(lock)
        if holder is None:  # it was given back in this instant, or is none
            time.sleep(0.01)
            continue
        if words := _alive(holder):
            raise InvalidInput(
                f"{directory} is written to by {words}, since {holder['since']}; wait until it "
                f"ends, or stop it. If it does not run any more, remove {lock}"
            )
        # a name that follows from the holder, and stays until the lock is given back: of several
        # that find him dead, one can rename, and none renames the lock of a successor
        name = f"{LOCK}.dead-{holder['process']}-{holder['started'].replace(os.sep, '-')}"
        with contextlib.suppress(OSError):
            os.rename(lock, directory / name)
    raise InvalidInput(f"{lock} cannot be taken; remove it if no process writes to {directory}")


def _read(lock):
    """Return the holder of a lock, None where there is none any more."""
    try:
        holder = files.decode_json(files.read_bytes(lock / HOLDER, LIMIT), str(lock))
    except CorruptFile:
        return None
    own = {name: type(value) for name, value in _this_process().items()}
    is_holder = isinstance(holder, dict) and {key: type(x) for key, x in holder.items()} == own
    return holder if is_holder else None


def _this_process() -> dict[str, Any]:
    return {
        "process": os.getpid(),
        "started": _start_of(os.getpid()),
        "host": platform.node(),
        "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}",
    }


def _alive(holder):
    """Return words for the holder of a lock if it may still run, "" if it has ended."""
    process, host = holder["process"], holder["host"]
    if host != platform.node():
        return f"process {process} on {host}, another machine"
    if process == os.getpid() and holder["started"] == _start_of(process):
        return f"this process, {process}"
    if not _runs(process) or holder["started"] != _start_of(process):
        return ""
    return f"process {process} on this machine, {host}"


def _runs(process):
    if os.name == "nt":
        return True  # where a signal of 0 would end it
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _start_of(process):
    """Return what tells a process from a later one of the same number, "" where it is not known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # after the name of the program, which may hold anything: state, parent, …, start
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    has_ended = fields[0] in "ZX"
    return "" if has_ended else f"{boot}-{fields[19]}"
