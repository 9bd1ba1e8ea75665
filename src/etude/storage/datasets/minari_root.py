"""Where Minari keeps the datasets that it has downloaded or made, which are found by their ids."""

import os
import re
from pathlib import Path

from etude.errors import InvalidInput

ROOT = "MINARI_DATASETS_PATH"  # the environment variable that says where it is
_ID = re.compile(r"(?:[-\w]+/)*[-\w]+-v\d+", re.ASCII)  # namespaces, name and version


def minari_root() -> Path:
    """Minari's local root."""
    return Path(os.environ.get(ROOT) or Path.home() / ".minari" / "datasets")


def locate_dataset(path: str | Path) -> Path:
    """The path, or the dataset of that id in Minari's local root where no such path exists.

    Nothing is downloaded. Raises InvalidInput for an id of which there is neither.
    """
    path = Path(path)
    if os.path.lexists(path) or not _ID.fullmatch(path.as_posix()):
        return path
    located = minari_root() / path
    if not located.is_dir():
        raise InvalidInput(
            f"there is no dataset {path}: neither a path of that name, nor {located} in Minari's "
            f"local root ({ROOT} moves that); `minari download {path}` fetches one"
        )
    return located
