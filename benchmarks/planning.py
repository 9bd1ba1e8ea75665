"""What the planners reach, how long they take, and how fast they are beside other libraries: `make
benchmark-planning`.

The pendulum's optimum is found by dynamic programming on a grid, and then played from the same
starts as the planners play. turns.py says how libraries are compared.
"""

import argparse
import sys
from typing import Any

import jax
import jax.numpy as jnp
import pages
import problems
import report
from contests import BUDGET, CONTESTS, Contest
from reached import pendulum, row, solved
from report import RESULTS, RUNS
from stopwatch import seconds
from turns import turns

import etude
from etude.models.true_models import true_model
from etude.planning.plans import return_of_plans
from etude.planning.protocol import ControlProblem
from etude.planning.sampling.cem import cem
from etude.planning.trajectory.ilqr import ilqr

ALONE = ("reached", "time")  # parts without other libraries
HEADINGS = ["what", "figure", "bar", "met", "measured"]
NOTES = """# Planning

What is solved is solved from random starts by iLQR, the first guess being to do nothing. Returns of Pendulum-v1 are means over
the same starts, on the JAX port that is Gymnasium's step for step, planning at every step on the true model; the optimum is
that of dynamic programming on a grid, its policy played from these starts; sizes are samples × steps × iterations. The white
noise of the plain cross-entropy method rarely tries the long pushes of a swing-up: with 1,000 × 40 × 10 it was no better, where
iCEM gains by looking further. Times are medians, compiling apart.
"""
console = report.console()


def main() -> None:
    asked = arguments()
    directory = RUNS / "quick" if asked.quick else RESULTS
    rounds, starts = (1, 4) if asked.quick else (max(1, asked.rounds), asked.starts)
    load, sound = report.load(), True
    if not asked.quick:
        report.warn_of(load, console)
    sections = {
        name: found
        for name, found in report.earlier(directory, "planning").items()
        if name in (*ALONE, *CONTESTS)
    }
    for name in asked.only or [*ALONE, *CONTESTS]:
        console.rule(name)
        facts = {
            "measured": report.now(),
            "machine": report.machine(),
            "load_before": load,
            "quick": asked.quick,
        }
        if name == "reached":
            rows = [
                *solved(4 if asked.quick else 20),
                *pendulum(starts, 51 if asked.quick else 401),
            ]
            found = {"random_starts": starts, "rows": rows}
        elif name == "time":
            found = {"rows": timed(0.2 if asked.quick else BUDGET)}
        else:
            found = {"rounds": rounds} | held(CONTESTS[name], rounds, asked.quick)
        sections[name] = facts | found
        sound &= not pages.errors_of(sections[name])
        report.write(directory, "planning", sections, page(sections))
        report.show(console, *table(name, sections))
    console.print(f"in {directory / 'planning.md'} and planning.json", soft_wrap=True)
    sys.exit(0 if sound else 1)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", action="append", choices=[*ALONE, *CONTESTS], help="measure this; may be repeated"
    )
    parser.add_argument("--starts", type=int, default=100, help="of Pendulum-v1 (default 100)")
    parser.add_argument(
        "--rounds", type=int, default=3, help="measurements beside other libraries (default 3)"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="little of everything, to see that all works; kept apart",
    )
    return parser.parse_args()


def held(contest: Contest, rounds: int, quick: bool) -> dict[str, Any]:
    """All sides of a contest, a trial being a third of the time."""

    def settings(side, trial):
        return (
            contest.settings
            | side.given
            | {"budget": 0.2 if quick else BUDGET / 3 if trial else BUDGET}
        )

    return {
        "settings": contest.settings,
        "sides": turns(contest.sides, rounds, settings, contest.unit),
    }


def timed(budget: float) -> list[dict[str, Any]]:
    """A step of receding horizon, and a swing-up of the acrobot."""
    model, state = true_model("Pendulum-v1"), jnp.float32([3.0, 0.0])

    @jax.jit
    def replan(mean, key):
        score = return_of_plans(model, state, key)
        return cem(score, key, mean, 0.5, samples=100, elites=10, iterations=4).mean

    milliseconds = 1e3 * seconds(
        lambda: replan(jnp.zeros((25, 1)), jax.random.key(0)).block_until_ready(), budget
    )
    rows = [
        row(
            "a step of cem on Pendulum-v1, 100 samples × 25 steps × 4",
            milliseconds,
            f"{milliseconds:.2f} ms",
            "< 2 ms",
            milliseconds < 2,
        )
    ]
    with jax.enable_x64(True):
        acrobot = ControlProblem(
            problems.swing, lambda x, u, time: problems.cost(x, u), problems.final_cost
        )
        run = lambda: ilqr(
            acrobot, jnp.zeros(4), jnp.zeros((problems.HORIZON, 1))
        ).cost.block_until_ready()
        milliseconds = 1e3 * seconds(run, budget)
        cost = float(run())
    return [
        *rows,
        row(
            "iLQR, the 50-step acrobot of trajax",
            milliseconds,
            f"{milliseconds:.1f} ms",
            "< 100 ms",
            milliseconds < 100,
        ),
        row("its cost", cost, f"{cost:.2f}", "< 51", cost < 51),
    ]


def table(name: str, sections: dict[str, Any]) -> tuple[str, list[str], list[list[str]]]:
    """(title, headings, rows) of a section."""
    section = sections[name]
    if name in ALONE:
        return (
            name.capitalize(),
            HEADINGS,
            [
                [row["what"], row["figure"], row["bar"], pages.MET[row["met"]], section["measured"]]
                for row in section["rows"]
            ],
        )
    contest = CONTESTS[name]
    return pages.compared(
        contest.title, contest.bars, section["sides"], not section["quick"], "planner", contest.unit
    )


def page(sections: dict[str, Any]) -> str:
    """planning.md"""
    alone = [name for name in ALONE if name in sections]
    rows = [cells for name in alone for cells in table(name, sections)[2]]
    parts = [NOTES, "\n", report.markdown(HEADINGS, rows), "\n"]
    for name in alone:
        machine = sections[name]["machine"]
        parts.append(
            f"* {name}: on {machine['processor']}, {machine['cores']} cores, load beforehand "
            f"{sections[name]['load_before']}; etude {etude.__version__}, jax {jax.__version__}.\n"
        )
    for name, contest in CONTESTS.items():
        if name in sections:
            settings = ", ".join(
                f"{key} {value}" for key, value in contest.settings.items() if key != "planner"
            )
            parts.append(
                pages.written(
                    *table(name, sections),
                    sections[name],
                    contest.unit,
                    [f"* settings: {settings}"],
                )
            )
    return "".join(parts)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
