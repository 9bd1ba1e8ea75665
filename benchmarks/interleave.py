"""Interleaved measurements: sides take turns, each in a new process, to share disturbances."""

import json
import os
import subprocess
from collections.abc import Callable
from typing import Any

import report
from report import HERE
from workloads import Side

TIMEOUT = 1_800  # seconds for one measurement
# prefixes of variables that are not passed on
TUNING = ("JAX_", "XLA_", "PJRT_", "NPROC", "OMP_", "MKL_", "TORCH_")
ENVIRON = {name: value for name, value in os.environ.items() if not name.startswith(TUNING)}
console = report.console()


class MeasurementError(Exception):
    """A measurement failed."""


def interleave(
    sides: list[Side], rounds: int, settings: Callable[[Side, bool], dict[str, Any]], unit: str
) -> dict[str, Any]:
    """Measure the sides in turn and return the results by label.

    A trial finds the fastest variant of each side, then the rounds follow. `settings(side, trial)`
    are the settings of a side without the seed. A side prints its steps, in `unit`, and seconds.
    """
    results = {
        side.label: {"variant": next(iter(side.variants)), "tried": {}, "measurements": []}
        for side in sides
    }
    for side in sides:
        if len(side.variants) > 1:
            choose_variant(side, results[side.label], settings(side, True) | {"seed": 0}, unit)
    for seed in range(1, rounds + 1):
        for side in sides:
            if is_measurable(results[side.label]):
                measure(side, results[side.label], settings(side, False) | {"seed": seed}, unit)
    return results


def is_measurable(result: dict[str, Any]) -> bool:
    """Return whether a side can be measured: it has not failed, and its library is installed."""
    return not result.keys() & {"error", "absent"}


def choose_variant(side: Side, result: dict[str, Any], settings: dict[str, Any], unit: str) -> None:
    """Try the variants of a side and choose the fastest."""
    for variant in side.variants:
        result["variant"] = variant
        measure(side, result, settings, unit)
        if not is_measurable(result):
            return
        result["tried"][variant] = result["measurements"].pop()["rate"]
    result["variant"] = max(result["tried"], key=result["tried"].get)


def measure(side: Side, result: dict[str, Any], settings: dict[str, Any], unit: str) -> None:
    """Add a measurement to `result`, or the reason why there is none."""
    variant = result["variant"]
    if not side.python.exists():
        result["absent"] = f"there is no {side.python}"
        console.print(f"{side.label:42} not installed", markup=False)
        return
    try:
        output = json.loads(
            run_process(
                [side.python, HERE / side.script, json.dumps(settings)], side.variants[variant]
            )
        )
    except MeasurementError as failure:
        result["error"] = str(failure)
        console.print(f"{side.label:42} failed: {failure}", style="red", markup=False)
        return
    if "absent" in output:
        result["absent"] = output["absent"]
        console.print(f"{side.label:42} not installed", markup=False)
        return
    result["versions"] = output.pop("versions")
    rate = output["steps"] / output["seconds"]
    result["measurements"].append(output | {"rate": rate, "seed": settings["seed"]})
    console.print(f"{side.label:42} {rate:10,.0f} {unit}/s  {variant}")


def run_process(command: list[Any], environ: dict[str, str]) -> str:
    """Return the last line that a process prints; raises MeasurementError when it fails."""
    try:
        completed = subprocess.run(
            command,
            env=ENVIRON | {"JAX_PLATFORMS": "cpu"} | environ,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MeasurementError(
            f"{error}; make installs what it needs, as `make benchmark`"
        ) from error
    if completed.returncode:
        raise MeasurementError(
            (completed.stderr.strip().splitlines() or [f"exit status {completed.returncode}"])[-1]
        )
    return completed.stdout.strip().splitlines()[-1]
