"""Training speed compared with other libraries, and start-up times: `make benchmark`.

interleave.py has the method of measurement.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import report
import tables
from interleave import ENVIRON, interleave
from report import RESULTS, RUNS
from workloads import ETUDE_PYTHON, HELP, STARTS, WORKLOADS, Side, Workload, limit_sides

BUDGET = 2.0  # seconds in which an environment, or products, are repeated alone
console = report.console()


def main() -> None:
    options = parse_arguments()
    rounds, directory = (1, RUNS / "quick") if options.quick else (max(1, options.rounds), RESULTS)
    sections, load, succeeded = report.read_results(directory, "speed"), report.average_load(), True
    if options.page:
        report.write_results(directory, "speed", sections, tables.speed_page(sections))
        return
    if not options.quick:
        report.warn_of_load(load, console)
    for name in options.only or [*WORKLOADS, "start-up"]:
        console.rule(name)
        metadata = {
            "measured": report.now(),
            "machine": report.machine_info(),
            "load_before": load,
            "rounds": rounds,
            "quick": options.quick,
        }
        result = (
            measure_start_up(rounds)
            if name == "start-up"
            else measure_workload(WORKLOADS[name], rounds, options.quick)
        )
        sections[name] = metadata | result
        succeeded &= not tables.error_messages(sections[name])
        report.write_results(directory, "speed", sections, tables.speed_page(sections))
        report.print_table(console, *tables.table(name, sections[name]))
    console.print(f"in {directory / 'speed.md'} and speed.json", soft_wrap=True)
    sys.exit(0 if succeeded else 1)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only",
        action="append",
        choices=[*WORKLOADS, "start-up"],
        help="measure this workload; may be repeated",
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="measurements of each side (default 3)"
    )
    parser.add_argument("--quick", action="store_true", help="a few steps as a check, stored apart")
    parser.add_argument(
        "--page", action="store_true", help="write the page of stored results, measure nothing"
    )
    return parser.parse_args()


def measure_workload(workload: Workload, rounds: int, quick: bool) -> dict[str, Any]:
    """Measure all sides of a workload, and what the limits of etude are made of.

    A trial takes a third of the steps. The clock starts after warm-up and a tenth of the steps. The
    environment and the products alone are repeated for a time, not for a number of steps.
    """

    def settings(side, trial):
        warmup, steps = warmup_steps(workload), step_budget(workload, side, quick)
        if trial:
            steps = warmup + (steps - warmup) // 3
        return (
            workload.settings
            | side.settings
            | {"steps": steps, "skip": warmup + (steps - warmup) // 10}
            | {"budget": 0.2 if quick else BUDGET}
        )

    return {
        "settings": workload.settings,
        "sides": interleave(
            [*workload.sides, *limit_sides(workload.sides)], rounds, settings, "steps"
        ),
    }


def step_budget(workload: Workload, side: Side, quick: bool) -> int:
    """Return the environment steps of a measurement."""
    if quick:
        hyperparameters = workload.settings["hyperparameters"]
        # of what does not play, an iteration is its gradient steps
        length = hyperparameters.get("rollout_length", hyperparameters.get("gradient_steps"))
        iteration = length * workload.settings["num_envs"]
        return warmup_steps(workload) + max(600, 6 * iteration)
    return workload.compiled_steps if side.compiled else workload.steps


def warmup_steps(workload: Workload) -> int:
    """Return the environment steps before the first gradient step."""
    return workload.settings["hyperparameters"].get("warmup_steps", 0)


def measure_start_up(rounds: int) -> dict[str, Any]:
    """Measure the seconds from a command to its first line of progress."""
    starts = {"etude --help": {"bar": HELP, "seconds": []}}
    starts |= {label: {"bar": bar, "seconds": []} for label, bar, _, _ in start_up_commands()}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            starts["etude --help"]["seconds"].append(seconds_until("usage:", ["--help"], folder))
            for i, (label, _, arguments, cache) in enumerate(start_up_commands()):
                seconds = seconds_until(
                    "steps/s", [*arguments, "--out", f"{folder}/run-{i}"], f"{folder}/{cache}"
                )
                starts[label]["seconds"].append(seconds)
                console.print(f"{label:42} {seconds:5.1f} s")
    return {"starts": starts}


def start_up_commands() -> Iterator[tuple[str, float, list[str], str]]:
    """Yield (label, seconds at most, arguments, cache of compiled programs) of each start.

    The cache is empty for the first, cold start.
    """
    for algorithm in ("dqn", "ppo"):
        for backend, bars in STARTS.items():
            for state, bar in bars.items():
                yield (
                    f"train {algorithm} CartPole-v1, {backend}, {state}",
                    bar,
                    ["train", algorithm, "CartPole-v1", "--backend", backend],
                    f"{algorithm}-{backend}",
                )


def seconds_until(text: str, arguments: list[str], cache: str) -> float:
    """Return the seconds until etude prints a line with `text`, NaN if never; then kill it."""
    command, environ = (
        [ETUDE_PYTHON.with_name("etude"), *arguments],
        ENVIRON | {"JAX_COMPILATION_CACHE_DIR": cache},
    )
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    clock = time.perf_counter()
    with subprocess.Popen(command, env=environ, text=True, **streams) as process:
        seconds = next(
            (time.perf_counter() - clock for line in process.stdout if text in line), float("nan")
        )
        process.kill()
    return seconds


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
