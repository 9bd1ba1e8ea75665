"""Returns of the presets over several seeds, evaluated on Gymnasium: `make benchmark-learning`.

The result of each seed is written to results/learning.json as it is finished, and the command goes
on from there: it trains the seeds that have no result, and those whose result is of other settings.
A run that was stopped is resumed where it is still in runs/.
"""

import argparse
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import learning_page
import learning_results
import report
from learning_page import HEADINGS
from learning_pool import FAILED, RESULT, Train, run_jobs
from learning_results import Results
from learning_rows import ROWS_WITH_GOALS, Row, all_rows
from learning_runs import Plan, jobs_for, plan_row, remove_runs, train_seeds
from report import RESULTS, RUNS

from etude.cores import usable_cores
from etude.errors import EnvironmentFault, InvalidInput
from etude.runs.interrupt import Interrupted
from etude.storage.writer_lock import sole_writer

console = report.console()


def main() -> None:
    rows = all_rows()
    options = parse_arguments(list(rows))
    named = [*(options.again or ()), *(options.only or ())]
    selected = [*dict.fromkeys(named)] or [
        name for name, row in rows.items() if options.all or row in ROWS_WITH_GOALS
    ]
    is_smoke = options.steps is not None
    results, runs = (RUNS / "smoke",) * 2 if is_smoke else (RESULTS, RUNS / "learning")
    goals = {} if is_smoke else rows
    runs.mkdir(parents=True, exist_ok=True)
    try:
        with sole_writer(runs):
            for name in options.again or ():
                forget(name, results, runs, goals)
            plans = plan_rows([rows[name] for name in selected], options.steps)
            succeeded = measure(plans, options.seeds, results, runs, goals)
    except InvalidInput as error:
        console.print(str(error), style="red", markup=False)
        sys.exit(1)
    except Interrupted as stopped:
        console.print(f"{stopped}; the same command goes on from there", markup=False)
        sys.exit(128 + stopped.signal)
    show(results, goals, selected)
    sys.exit(0 if succeeded and len(plans) == len(selected) else 1)


def parse_arguments(names: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    name = {"action": "append", "choices": names, "metavar": "ROW"}
    parser.add_argument("--only", **name, help="measure this row; may be repeated")
    parser.add_argument(
        "--again", **name, help="measure this row anew, whatever is known of it; may be repeated"
    )
    parser.add_argument("--all", action="store_true", help="measure presets without a goal too")
    parser.add_argument("--seeds", type=int, default=5, help="agents of each row (default 5)")
    parser.add_argument(
        "--steps", type=int, help="steps of each seed, as a check; stored apart from the results"
    )
    options = parser.parse_args()
    if options.seeds < 1:
        parser.error(f"--seeds is {options.seeds}; give at least 1")
    return options


def plan_rows(rows: list[Row], steps: int | None) -> list[Plan]:
    """Return how rows are trained; say which of them this machine cannot train, and why."""
    plans = []
    for row in rows:
        try:
            plans.append(plan_row(row, steps))
        except (InvalidInput, EnvironmentFault) as error:
            console.print(f"{row.name} failed: {error}", style="red", markup=False)
    return plans


def forget(name: str, directory: Path, runs: Path, rows: Mapping[str, Row]) -> None:
    """Mark the results of a row as those of an earlier version, and remove its runs."""
    results = learning_results.read(directory)
    learning_results.mark_as_earlier(results, name)
    learning_page.write(directory, results, rows)
    remove_runs(name, runs)


def measure(
    plans: list[Plan],
    num_seeds: int,
    directory: Path,
    runs: Path,
    rows: Mapping[str, Row],
    train: Train = train_seeds,
    cores: list[int | None] | None = None,
) -> bool:
    """Train the seeds of rows that are not measured yet; return whether all of them are then.

    What a seed reaches is written to `directory` before another begins in its place. `rows` have
    the goals. Raises Interrupted after a signal.
    """
    results, jobs = learning_results.read(directory), []
    for plan in plans:
        missing = learning_results.expect(results, plan.row, plan.settings, num_seeds)
        console.print(
            f"{plan.row.name}: {num_seeds - len(missing)} of {num_seeds} seeds are measured",
            markup=False,
        )
        if missing and plan.expert:
            plan.expert.prepare()
        jobs += jobs_for(plan, missing, runs)
    learning_page.write(directory, results, rows)
    succeeded = True
    with closing(run_jobs(jobs, train, cores or usable_cores())) as ended:
        for job, kind, payload in ended:
            if kind == RESULT:
                learning_results.add_seeds(results, job.plan.row.name, payload)
                learning_page.write(directory, results, rows)
                payload = ", ".join(f"{result['mean']:.1f}" for result in payload.values())
            succeeded &= kind != FAILED
            style = "red" if kind == FAILED else None
            console.print(f"{report.now()} {job.title}: {payload}", style=style, markup=False)
    return succeeded


def show(directory: Path, rows: Mapping[str, Row], selected: list[str]) -> None:
    """Print the table of the selected rows."""
    results: Results = learning_results.read(directory)
    summaries = learning_results.summarize_all(results)
    chosen = {name: results[name] for name in selected if name in summaries}
    table = learning_page.table_rows(chosen, rows, summaries)
    report.print_table(console, "Learning", HEADINGS, table)
    console.print(f"in {directory / 'learning.md'} and learning.json", soft_wrap=True)


if __name__ == "__main__":
    main()
