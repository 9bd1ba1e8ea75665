"""Sides at the same work: every measurement is a process of its own, and they take turns, so that
what else the machine does falls on all."""

import json
import os
import subprocess
from collections.abc import Callable
from typing import Any

import report
from report import HERE
from works import Side

TIMEOUT = 1_800  # seconds for one measurement
TUNING = ("JAX_", "XLA_", "OMP_", "MKL_", "TORCH_")  # what the caller has set of these stays out
ENVIRON = {name: value for name, value in os.environ.items() if not name.startswith(TUNING)}
console = report.console()


class Failed(Exception):
    """A measurement came to nothing."""


def turns(
    sides: list[Side], rounds: int, settings: Callable[[Side, bool], dict[str, Any]], unit: str
) -> dict[str, Any]:
    """What each side measures, by label: first which of its variants is the fastest, then the
    rounds, in turn.

    `settings` is what a side is told, of a trial or not, beside a seed. It answers with steps, of
    `unit`, and their seconds.
    """
    found = {
        side.label: {"variant": next(iter(side.variants)), "tried": {}, "measurements": []}
        for side in sides
    }
    for side in sides:
        if len(side.variants) > 1:
            choose(side, found[side.label], settings(side, True) | {"seed": 0}, unit)
    for seed in range(1, rounds + 1):
        for side in sides:
            if goes_on(found[side.label]):
                attempt(side, found[side.label], settings(side, False) | {"seed": seed}, unit)
    return found


def goes_on(found: dict[str, Any]) -> bool:
    """Whether there is more to measure of a side: it has not failed, and its library is there."""
    return not found.keys() & {"error", "absent"}


def choose(side: Side, found: dict[str, Any], settings: dict[str, Any], unit: str) -> None:
    """Try the variants of a side, and take the fastest."""
    for variant in side.variants:
        found["variant"] = variant
        attempt(side, found, settings, unit)
        if not goes_on(found):
            return
        found["tried"][variant] = found["measurements"].pop()["rate"]
    found["variant"] = max(found["tried"], key=found["tried"].get)


def attempt(side: Side, found: dict[str, Any], settings: dict[str, Any], unit: str) -> None:
    """One measurement more in `found`, or why there is none."""
    variant = found["variant"]
    try:
        measured = json.loads(
            output([side.python, HERE / side.script, json.dumps(settings)], side.variants[variant])
        )
    except Failed as failure:
        found["error"] = str(failure)
        console.print(f"{side.label:18} failed: {failure}", style="red", markup=False)
        return
    if "absent" in measured:
        found["absent"] = measured["absent"]
        console.print(f"{side.label:18} not installed", markup=False)
        return
    found["versions"] = measured.pop("versions")
    rate = measured["steps"] / measured["seconds"]
    found["measurements"].append(measured | {"rate": rate, "seed": settings["seed"]})
    console.print(f"{side.label:18} {rate:10,.0f} {unit}/s  {variant}")


def output(command: list[Any], environ: dict[str, str]) -> str:
    """The last line a process prints; raises Failed, with its last word, when it fails."""
    try:
        done = subprocess.run(
            command,
            env=ENVIRON | {"JAX_PLATFORMS": "cpu"} | environ,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failed(f"{error}; make installs what it needs, as `make benchmark`") from error
    if done.returncode:
        raise Failed((done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1])
    return done.stdout.strip().splitlines()[-1]
