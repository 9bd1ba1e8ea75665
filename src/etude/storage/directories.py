"""Directories that appear whole, are replaced whole and vanish whole, whatever instant the machine
stops at.

A directory is filled under a name nobody reads, flushed to the disk, then renamed. What a crash
leaves behind is known by its name and cleared away by the next write. One process writes to a
directory at a time.
"""

import contextlib
import os
import shutil
from pathlib import Path

from etude.storage.files import sync

_SAVING, _REMOVING, _REPLACED = ".saving_", ".removing_", ".replaced_"


@contextlib.contextmanager
def new_directory(target: Path):
    """Yield a directory to fill; it takes the name `target` only when the block ends well and all
    of it is on the disk.

    An older directory of that name is set aside for the blink between two renames, where `versions`
    still finds it.
    """
    if not target.parent.exists():
        target.parent.mkdir(parents=True)
        sync(target.parent.parent)
    _clear(target.parent)
    temporary, aside = (
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
            os.replace(target, aside)
        os.replace(temporary, target)
        sync(target.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if os.path.lexists(aside):
        remove(aside)


def previous_versions(target: Path) -> list[Path]:
    """Where the directory `target` may be found, best first: under its name, or set aside by a
    write cut short."""
    return [
        path
        for path in (target, target.with_name(_REPLACED + target.name))
        if os.path.lexists(path)
    ]


def list_names(directory: Path) -> set[str]:
    """The names in a directory, those set aside by a write cut short among them; none when there is
    no directory."""
    if not directory.is_dir():
        return set()
    return {path.name.removeprefix(_REPLACED) for path in directory.iterdir()}


def remove(path: Path) -> None:
    """Take the name away first, then what it stood for; a link is removed, not followed."""
    doomed = path.with_name(_REMOVING + path.name)
    os.replace(path, doomed)
    _delete(doomed)


def _clear(directory):
    """Delete what writes cut short have left, and give directories they had set aside their names
    back."""
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
