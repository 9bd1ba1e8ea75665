"""A measurement in a JSON file that grows, and goes on after it was stopped."""

from datetime import datetime
from pathlib import Path
from typing import Any

from etude.errors import InvalidInput
from etude.runs.versions import machine_info, package_versions
from etude.storage import files


def begin_or_go_on(path: Path, settings: dict[str, Any], empty: dict[str, Any]) -> dict[str, Any]:
    """What is measured so far with these settings.

    Args:
        path: the file of the measurement, which need not exist.
        settings: what the results depend on.
        empty: the results before anything is measured.

    Returns:
        What the file holds; without one the settings, versions, machine and `empty`.

    Raises:
        InvalidInput: for a file of other settings.
    """
    if not path.exists():
        return {**settings, "versions": package_versions(), "machine": machine_info(), **empty}
    measured = files.read_json(path)
    differing = [name for name, value in settings.items() if measured.get(name) != value]
    if differing:
        raise InvalidInput(
            f"{path} is a measurement with other settings ({', '.join(differing)}); give another "
            "--out"
        )
    return measured


def save(path: Path, measured: dict[str, Any]) -> None:
    """Write what is measured so far, with the date."""
    measured["date"] = datetime.now().strftime("%Y-%m-%d %H:%M")
    files.write_json(path, measured)
