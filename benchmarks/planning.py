"""Quality and speed of planners, compared with other libraries: `make benchmark-planning`.

The optimum of the pendulum is that of dynamic programming on a grid, from the same starts as the
planners. interleave.py has the method of comparison.
"""

import argparse
import sys
from typing import Any

import jax
import jax.numpy as jnp
import problems
import report
import tables
from interleave import interleave
from peer_planners import BUDGET, PLANNER_WORKLOADS, PlannerWorkload
from planning_quality import pendulum_returns, solved_rates, table_row
from report import RESULTS, RUNS
from stopwatch import median_seconds

import etude
from etude.models.true_models import true_model
from etude.planning.plans import return_of_plans
from etude.planning.protocol import ControlProblem
from etude.planning.sampling.cem import cem
from etude.planning.trajectory.ilqr import ilqr

ETUDE_PARTS = ("reached", "time")  # parts without other libraries
HEADINGS = ["what", "figure", "bar", "met", "measured"]
NOTES = """# Planning

Problems are solved by iLQR from random starts, with a first guess of zero controls. Returns of
Pendulum-v1 are means over the same starts, on the JAX port that equals Gymnasium step by step, with
replanning at every step on the true model. The optimum is the return of the policy of dynamic
programming on a grid. Sizes are samples × steps × iterations. The white noise of the plain
cross-entropy method rarely samples the long pushes of a swing-up: 1,000 × 40 × 10 was no better,
where iCEM gains from a longer horizon. Times are medians without compiling.
"""
console = report.console()


def main() -> None:
    options = parse_arguments()
    directory = RUNS / "quick" if options.quick else RESULTS
    rounds, starts = (1, 4) if options.quick else (max(1, options.rounds), options.starts)
    load, succeeded = report.average_load(), True
    if not options.quick:
        report.warn_of_load(load, console)
    sections = {
        name: result
        for name, result in report.read_results(directory, "planning").items()
        if name in (*ETUDE_PARTS, *PLANNER_WORKLOADS)
    }
    for name in options.only or [*ETUDE_PARTS, *PLANNER_WORKLOADS]:
        console.rule(name)
        metadata = {
            "measured": report.now(),
            "machine": report.machine_info(),
            "load_before": load,
            "quick": options.quick,
        }
        if name == "reached":
            rows = [
                *solved_rates(4 if options.quick else 20),
                *pendulum_returns(starts, 51 if options.quick else 401),
            ]
            result = {"random_starts": starts, "rows": rows}
        elif name == "time":
            result = {"rows": measure_times(0.2 if options.quick else BUDGET)}
        else:
            result = {"rounds": rounds} | measure_workload(
                PLANNER_WORKLOADS[name], rounds, options.quick
            )
        sections[name] = metadata | result
        succeeded &= not tables.error_messages(sections[name])
        report.write_results(directory, "planning", sections, planning_page(sections))
        report.print_table(console, *table(name, sections))
    console.print(f"in {directory / 'planning.md'} and planning.json", soft_wrap=True)
    sys.exit(0 if succeeded else 1)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only",
        action="append",
        choices=[*ETUDE_PARTS, *PLANNER_WORKLOADS],
        help="measure this part; may be repeated",
    )
    parser.add_argument(
        "--starts", type=int, default=100, help="starts of Pendulum-v1 (default 100)"
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="measurements of each side (default 3)"
    )
    parser.add_argument("--quick", action="store_true", help="a short run as a check, stored apart")
    return parser.parse_args()


def measure_workload(workload: PlannerWorkload, rounds: int, quick: bool) -> dict[str, Any]:
    """Measure all sides of a workload; a trial takes a third of the time."""

    def settings(side, trial):
        return (
            workload.settings
            | side.settings
            | {"budget": 0.2 if quick else BUDGET / 3 if trial else BUDGET}
        )

    return {
        "settings": workload.settings,
        "sides": interleave(workload.sides, rounds, settings, workload.unit),
    }


def measure_times(budget: float) -> list[dict[str, Any]]:
    """Time a step of receding-horizon control and a swing-up of the acrobot."""
    model, state = true_model("Pendulum-v1"), jnp.float32([[[3.0, 0.0]]])

    @jax.jit
    def replan(mean, key):
        score = return_of_plans(model, state, key)
        return cem(score, key, mean, 0.5, samples=100, elites=10, iterations=4)[0].mean

    milliseconds = 1e3 * median_seconds(
        lambda: replan(jnp.zeros((25, 1)), jax.random.key(0)).block_until_ready(), budget
    )
    rows = [
        table_row(
            "a step of cem on Pendulum-v1, 100 samples × 25 steps × 4",
            milliseconds,
            f"{milliseconds:.2f} ms",
            "< 2 ms",
            milliseconds < 2,
        )
    ]
    with jax.enable_x64(True):
        acrobot = ControlProblem(
            problems.acrobot_step, lambda x, u, time: problems.cost(x, u), problems.final_cost
        )
        plan_acrobot = lambda: ilqr(
            acrobot, jnp.zeros(4), jnp.zeros((problems.HORIZON, 1))
        ).cost.block_until_ready()
        milliseconds = 1e3 * median_seconds(plan_acrobot, budget)
        cost = float(plan_acrobot())
    return [
        *rows,
        table_row(
            "iLQR, the 50-step acrobot of trajax",
            milliseconds,
            f"{milliseconds:.1f} ms",
            "< 100 ms",
            milliseconds < 100,
        ),
        table_row("its cost", cost, f"{cost:.2f}", "< 51", cost < 51),
    ]


def table(name: str, sections: dict[str, Any]) -> tuple[str, list[str], list[list[str]]]:
    """Return (title, headings, rows) of a section."""
    section = sections[name]
    if name in ETUDE_PARTS:
        return (
            name.capitalize(),
            HEADINGS,
            [
                [
                    row["what"],
                    row["figure"],
                    row["bar"],
                    tables.MET[row["met"]],
                    section["measured"],
                ]
                for row in section["rows"]
            ],
        )
    workload = PLANNER_WORKLOADS[name]
    return tables.comparison_table(
        workload.title,
        workload.targets,
        section["sides"],
        not section["quick"],
        "planner",
        workload.unit,
    )


def planning_page(sections: dict[str, Any]) -> str:
    """The content of planning.md."""
    etude_parts = [name for name in ETUDE_PARTS if name in sections]
    rows = [cells for name in etude_parts for cells in table(name, sections)[2]]
    parts = [NOTES, "\n", report.markdown(HEADINGS, rows), "\n"]
    for name in etude_parts:
        machine = sections[name]["machine"]
        parts.append(
            f"* {name}: on {machine['processor']}, {machine['cores']} cores, load beforehand "
            f"{sections[name]['load_before']}; etude {etude.__version__}, jax {jax.__version__}.\n"
        )
    for name, workload in PLANNER_WORKLOADS.items():
        if name in sections:
            settings = ", ".join(
                f"{key} {value}" for key, value in workload.settings.items() if key != "planner"
            )
            parts.append(
                tables.markdown_section(
                    *table(name, sections),
                    sections[name],
                    workload.unit,
                    [f"* settings: {settings}"],
                )
            )
    return "".join(parts)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
