"""Steps per second beside other libraries at the same work, and seconds to a start: `make
benchmark`.

turns.py says how they are measured.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import pages
import report
from report import RESULTS, RUNS
from turns import ENVIRON, turns
from works import HELP, OURS, STARTS, WORKS, Side, Work

console = report.console()


def main() -> None:
    asked = arguments()
    rounds, directory = (1, RUNS / "quick") if asked.quick else (max(1, asked.rounds), RESULTS)
    sections, load, sound = report.earlier(directory, "speed"), report.load(), True
    if not asked.quick:
        report.warn_of(load, console)
    for name in asked.only or [*WORKS, "start-up"]:
        console.rule(name)
        facts = {
            "measured": report.now(),
            "machine": report.machine(),
            "load_before": load,
            "rounds": rounds,
            "quick": asked.quick,
        }
        found = (
            start_up(rounds) if name == "start-up" else at_work(WORKS[name], rounds, asked.quick)
        )
        sections[name] = facts | found
        sound &= not pages.errors_of(sections[name])
        report.write(directory, "speed", sections, pages.whole(sections))
        report.show(console, *pages.table(name, sections[name]))
    console.print(f"in {directory / 'speed.md'} and speed.json", soft_wrap=True)
    sys.exit(0 if sound else 1)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only",
        action="append",
        choices=[*WORKS, "start-up"],
        help="measure this; may be repeated",
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="measurements of each side (default 3)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a few steps, to see that all works; kept apart"
    )
    return parser.parse_args()


def at_work(work: Work, rounds: int, quick: bool) -> dict[str, Any]:
    """All sides of a work, a trial being a third of the steps; a measurement counts from a tenth of
    them after warm-up on."""

    def settings(side, trial):
        warmup, steps = warmup_of(work), budget(work, side, quick)
        if trial:
            steps = warmup + (steps - warmup) // 3
        return (
            work.settings
            | side.given
            | {"products": work.products, "steps": steps, "skip": warmup + (steps - warmup) // 10}
        )

    return {"settings": work.settings, "sides": turns(work.sides, rounds, settings, "steps")}


def budget(work: Work, side: Side, quick: bool) -> int:
    """Environment steps of a measurement."""
    if quick:
        iteration = work.settings["hyperparameters"]["rollout_length"] * work.settings["num_envs"]
        return warmup_of(work) + max(600, 6 * iteration)
    return work.compiled_steps if side.compiled else work.steps


def warmup_of(work: Work) -> int:
    """Environment steps before the first gradient step."""
    return work.settings["hyperparameters"].get("warmup_steps", 0)


def start_up(rounds: int) -> dict[str, Any]:
    """Seconds from the command to its first line of progress."""
    starts = {"etude --help": {"bar": HELP, "seconds": []}}
    starts |= {label: {"bar": bar, "seconds": []} for label, bar, _, _ in commands()}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            starts["etude --help"]["seconds"].append(until("usage:", ["--help"], folder))
            for i, (label, _, words, cache) in enumerate(commands()):
                seconds = until(
                    "steps/s", [*words, "--out", f"{folder}/run-{i}"], f"{folder}/{cache}"
                )
                starts[label]["seconds"].append(seconds)
                console.print(f"{label:42} {seconds:5.1f} s")
    return {"starts": starts}


def commands() -> Iterator[tuple[str, float, list[str], str]]:
    """What is started: (label, seconds at most, arguments, its cache of compiled programs, empty
    when it is cold)."""
    for algorithm in ("dqn", "ppo"):
        for backend, bars in STARTS.items():
            for state, bar in bars.items():
                yield (
                    f"train {algorithm} CartPole-v1, {backend}, {state}",
                    bar,
                    ["train", algorithm, "CartPole-v1", "--backend", backend],
                    f"{algorithm}-{backend}",
                )


def until(sign: str, words: list[str], cache: str) -> float:
    """Seconds until `etude` with these words prints a line with `sign` in it, and is ended; NaN
    when it never does."""
    command, environ = (
        [OURS.with_name("etude"), *words],
        ENVIRON | {"JAX_COMPILATION_CACHE_DIR": cache},
    )
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    clock = time.perf_counter()
    with subprocess.Popen(command, env=environ, text=True, **quiet) as process:
        seconds = next(
            (time.perf_counter() - clock for line in process.stdout if sign in line), float("nan")
        )
        process.kill()
    return seconds


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
