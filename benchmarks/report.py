"""What both benchmarks share: the machine, tables, and results that are kept from one run to the next."""
import os
import platform
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from etude.experiment import files

HERE = Path(__file__).resolve().parent
RESULTS, RUNS = HERE / "results", HERE / "runs"
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def now() -> str:
    return f"{datetime.now():%Y-%m-%d %H:%M}"


def machine() -> dict[str, Any]:
    """What a figure was measured on, and how busy that was beforehand: `load` is the mean of the last minute."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        processor = platform.processor() or platform.machine()
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    return {"cores": CORES, "processor": processor, "platform": platform.platform(), "load": load}


def listed(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def show(console: Console, title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(*headings, title=title, title_justify="left")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def earlier(directory: Path, stem: str) -> dict[str, Any]:
    """What was measured before, by name."""
    path = directory / f"{stem}.json"
    return files.read_json(path) if path.exists() else {}


def write(directory: Path, stem: str, sections: dict[str, Any], text: str) -> None:
    """The figures as `stem`.json, and as a page to read, `stem`.md."""
    directory.mkdir(parents=True, exist_ok=True)
    files.write_json(directory / f"{stem}.json", sections)
    files.write_bytes(directory / f"{stem}.md", text.encode())
