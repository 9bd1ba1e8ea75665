"""Atomic directories: created, replaced and removed as a whole, even if the machine stops.

A directory is filled under a temporary name, flushed to the disk, then renamed. The next write
removes the temporary names that a crash left. Only one process may write to a directory at a time.
"""

import contextlib
import os
import shutil
from pathlib import Path

from etude.storage.files import sync

_SAVING, _REMOVING, _REPLACED = ".saving_", ".removing_", ".replaced_"


@contextlib.contextmanager
def new_directory(target: Path):
    """Yield a directory to fill; it gets the name `target` once the block ends without an error.

    Its files are on the disk by then. An older directory of that name has another name between two
    renames, where `previous_versions` finds it.
    """
    if not target.parent.exists():
        target.parent.mkdir(parents=True)
        sync(target.parent.parent)
    _clear(target.parent)
    temporary, replaced = (
        target.with_name(_SAVING + target.name),
        target.with_name(_REPLACED + target.name),
    )
    temporary.mkdir()
    try:
        yield temporary
        for path in temporary.iterdir():
            sync(path)
        sync(temporary)
        if os.path.lexists(target):
            os.replace(target, replaced)
        os.replace(temporary, target)
        sync(target.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if os.path.lexists(replaced):
        remove(replaced)


def previous_versions(target: Path) -> list[Path]:
    """Return the paths where `target` exists: its own, and that of a replaced directory."""
    return [
        path
        for path in (target, target.with_name(_REPLACED + target.name))
        if os.path.lexists(path)
    ]


def final_name(path: Path) -> str:
    """Return the name of a directory, also while `previous_versions` finds it under another."""
    return path.name.removeprefix(_REPLACED)


def list_names(directory: Path) -> set[str]:
    """Return the names in a directory, replaced ones included; none when it does not exist."""
    if not directory.is_dir():
        return set()
    return {final_name(path) for path in directory.iterdir()}


def remove(path: Path) -> None:
    """Rename the path, then delete it; a link is removed, not followed."""
    removing = path.with_name(_REMOVING + path.name)
    os.replace(path, removing)
    _delete(removing)


def _clear(directory):
    """Delete what interrupted writes left, and restore the names of replaced directories."""
    for path in list(directory.iterdir()):
        if path.name.startswith((_SAVING, _REMOVING)):
            _delete(path)
        elif path.name.startswith(_REPLACED):
            target = path.with_name(path.name.removeprefix(_REPLACED))
            if os.path.lexists(target):
                remove(path)
            else:
                os.replace(path, target)


def _delete(path):
    if path.is_symlink() or not path.is_dir():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)
