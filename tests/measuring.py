"""Line coverage, of the processes that tests start too, by SlipCover: a tracer would make JAX's own
Python a third slower."""

import json
import os
import sys
import uuid
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "etude"
LEAST = 90  # per cent of the lines


def folder() -> Path | None:
    """Where the parts of a measurement meet, while there is one."""
    return (
        Path(os.environ["SLIPCOVER_COVERAGE_DIR"])
        if "SLIPCOVER_COVERAGE_DIR" in os.environ
        else None
    )


def python() -> list[str]:
    """The interpreter for a process of its own that adds a part when it ends; what is killed adds
    none."""
    if not (parts := folder()):
        return [sys.executable]
    part = parts / f"coverage-gw-{uuid.uuid4()}.json"
    return [
        sys.executable,
        "-m",
        "slipcover",
        "--source",
        str(SOURCE),
        "--json",
        "--out",
        str(part),
    ]


def merged() -> dict | None:
    """The whole, once the last worker is done; None where nothing is measured, or is not yet
    merged."""
    path = (folder() or SOURCE) / "merged.json"
    return json.loads(path.read_text()) if path.exists() else None
