"""Shared by the benchmarks: machine information, tables, and stored results."""

import os
import platform
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from etude.storage import files

HERE = Path(__file__).resolve().parent
RESULTS, RUNS = HERE / "results", HERE / "runs"
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
MINUTE = "%Y-%m-%d %H:%M"
MAX_LOAD = 0.5  # average load of the last minute for a quiet machine


def now() -> str:
    return datetime.now().strftime(MINUTE)


def machine_info() -> dict[str, Any]:
    """Return the cores, processor and platform of the machine."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        processor = platform.processor() or platform.machine()
    return {"cores": CORES, "processor": processor, "platform": platform.platform()}


def average_load() -> float:
    """Return the average number of running processes over the last minute."""
    return round(os.getloadavg()[0], 2)


def warn_of_load(load: float, console: Console) -> None:
    """Warn if the machine is busy before a measurement."""
    if load > MAX_LOAD:
        console.print(
            f"the machine is busy with something else: its load is {load}", style="yellow"
        )


def format_versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def console() -> Console:
    """Return a console as wide as the terminal, or wide enough for tables in a file."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 160)


def print_table(
    console: Console, title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]
) -> None:
    """Print a table."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def read_results(directory: Path, stem: str) -> dict[str, Any]:
    """Return the stored results by name."""
    path = directory / f"{stem}.json"
    return files.read_json(path) if path.exists() else {}


def write_results(directory: Path, stem: str, sections: dict[str, Any], text: str) -> None:
    """Write results to `stem`.json, and as a page to `stem`.md."""
    directory.mkdir(parents=True, exist_ok=True)
    files.write_json(directory / f"{stem}.json", sections)
    files.write_bytes(directory / f"{stem}.md", text.encode())
