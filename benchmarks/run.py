"""Steps per second beside other libraries at the same work, and seconds to a start: `make benchmark`.

Every measurement is a process of its own, and the sides take turns, so that what else the machine does falls on all.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import pages
import report
from report import HERE, RESULTS, RUNS
from works import HELP, OURS, STARTS, WORKS, Side, Work

TIMEOUT = 1_800             # seconds for one measurement
QUIET = 0.5                 # processes at work in the last minute, at most, before a measurement that counts
TUNING = ("JAX_", "XLA_", "OMP_", "MKL_", "TORCH_")         # what the caller has set of these stays out
ENVIRON = {name: value for name, value in os.environ.items() if not name.startswith(TUNING)}
console = report.console()


class Failed(Exception):
    """A measurement came to nothing."""


def main() -> None:
    asked = arguments()
    rounds, directory = (1, RUNS / "quick") if asked.quick else (max(1, asked.rounds), RESULTS)
    sections, load, sound = report.earlier(directory, "speed"), report.load(), True
    if not asked.quick and load > QUIET:
        console.print(f"the machine is busy with something else: its load is {load}", style="yellow")
    for name in asked.only or [*WORKS, "start-up"]:
        console.rule(name)
        facts = {"measured": report.now(), "machine": report.machine(), "load_before": load, "rounds": rounds,
                 "quick": asked.quick}
        found = start_up(rounds) if name == "start-up" else at_work(WORKS[name], rounds, asked.quick)
        sections[name] = facts | found
        sound &= not pages.errors_of(sections[name])
        report.write(directory, "speed", sections, pages.whole(sections))
        report.show(console, *pages.table(name, sections[name]))
    console.print(f"in {directory / 'speed.md'} and speed.json", soft_wrap=True)
    sys.exit(0 if sound else 1)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", choices=[*WORKS, "start-up"], help="measure this; may be repeated")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each side (default 3)")
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that all works; kept apart")
    return parser.parse_args()


def at_work(work: Work, rounds: int, quick: bool) -> dict[str, Any]:
    """All sides of a work: first which variant of each is the faster, then the rounds, in turn."""
    sides = {side.label: {"variant": next(iter(side.variants)), "tried": {}, "measurements": []} for side in work.sides}
    for side in work.sides:
        if len(side.variants) > 1:
            choose(work, side, sides[side.label], quick)
    for seed in range(1, rounds + 1):
        for side in work.sides:
            if "error" not in sides[side.label]:
                attempt(work, side, sides[side.label], budget(work, side, quick), seed)
    return {"settings": work.settings, "sides": sides}


def choose(work: Work, side: Side, found: dict[str, Any], quick: bool) -> None:
    """Try the variants of a side on a third of the steps, and take the fastest."""
    warmup = warmup_of(work)
    for variant in side.variants:
        found["variant"] = variant
        attempt(work, side, found, warmup + (budget(work, side, quick) - warmup) // 3, 0)
        if "error" in found:
            return
        found["tried"][variant] = found["measurements"].pop()["rate"]
    found["variant"] = max(found["tried"], key=found["tried"].get)


def budget(work: Work, side: Side, quick: bool) -> int:
    """Environment steps of a measurement."""
    if quick:
        iteration = work.settings["hyperparameters"]["rollout_length"] * work.settings["num_envs"]
        return warmup_of(work) + max(600, 6 * iteration)
    return work.compiled_steps if side.compiled else work.steps


def warmup_of(work: Work) -> int:
    """Environment steps before the first gradient step."""
    return work.settings["hyperparameters"].get("warmup_steps", 0)


def attempt(work: Work, side: Side, found: dict[str, Any], steps: int, seed: int) -> None:
    """One measurement more in `found`, or its error; it counts from a tenth of the steps after warm-up on."""
    warmup, variant = warmup_of(work), found["variant"]
    settings = work.settings | side.given | {"products": work.products, "steps": steps, "seed": seed,
                                             "skip": warmup + (steps - warmup) // 10}
    try:
        measured = json.loads(output([side.python, HERE / side.script, json.dumps(settings)], side.variants[variant]))
    except Failed as failure:
        found["error"] = str(failure)
        console.print(f"{side.label:18} failed: {failure}", style="red", markup=False)
        return
    found["versions"] = measured.pop("versions")
    rate = measured["steps"] / measured["seconds"]
    found["measurements"].append(measured | {"rate": rate, "seed": seed})
    console.print(f"{side.label:18} {rate:10,.0f} steps/s  {variant}")


def output(command: list[Any], environ: dict[str, str]) -> str:
    """The last line a process prints; raises Failed, with its last word, when it fails."""
    try:
        done = subprocess.run(command, env=ENVIRON | {"JAX_PLATFORMS": "cpu"} | environ, capture_output=True, text=True,
                              timeout=TIMEOUT)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failed(f"{error}; `make benchmark` installs what it needs") from error
    if done.returncode:
        raise Failed((done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1])
    return done.stdout.strip().splitlines()[-1]


def start_up(rounds: int) -> dict[str, Any]:
    """Seconds from the command to its first line of progress."""
    starts = {"etude --help": {"bar": HELP, "seconds": []}}
    starts |= {label: {"bar": bar, "seconds": []} for label, bar, _, _ in commands()}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            starts["etude --help"]["seconds"].append(until("usage:", ["--help"], folder))
            for i, (label, _, words, cache) in enumerate(commands()):
                seconds = until("steps/s", [*words, "--out", f"{folder}/run-{i}"], f"{folder}/{cache}")
                starts[label]["seconds"].append(seconds)
                console.print(f"{label:42} {seconds:5.1f} s")
    return {"starts": starts}


def commands() -> Iterator[tuple[str, float, list[str], str]]:
    """What is started: (label, seconds at most, arguments, its cache of compiled programs, empty when it is cold)."""
    for algorithm in ("dqn", "ppo"):
        for backend, bars in STARTS.items():
            for state, bar in bars.items():
                yield (f"train {algorithm} CartPole-v1, {backend}, {state}", bar,
                       ["train", algorithm, "CartPole-v1", "--backend", backend], f"{algorithm}-{backend}")


def until(sign: str, words: list[str], cache: str) -> float:
    """Seconds until `etude` with these words prints a line with `sign` in it, and is ended; NaN when it never does."""
    command, environ = [OURS.with_name("etude"), *words], ENVIRON | {"JAX_COMPILATION_CACHE_DIR": cache}
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    clock = time.perf_counter()
    with subprocess.Popen(command, env=environ, text=True, **quiet) as process:
        seconds = next((time.perf_counter() - clock for line in process.stdout if sign in line), float("nan"))
        process.kill()
    return seconds


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
