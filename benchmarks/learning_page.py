"""The page of the returns that `learning.py` has measured, and of the families beside it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import families
import report
from learning_results import STEM, Results, shown_seeds, summarize_all
from learning_rows import PUBLISHED, Row, Summary

from etude.storage import files

HEADINGS = [
    "algorithm",
    "environment",
    "steps",
    "backend",
    "seeds",
    "IQM",
    "95 % interval",
    "each seed",
    "success",
    "bar",
    "met",
    "published",
    "s a seed",
    "measured",
]
NOTES = """# Learning

Presets are trained on the backend shown, then evaluated on Gymnasium for 100 episodes of each seed
with the deterministic policy. The score of a seed is its mean return; the IQM is that of the seeds'
scores, with a bootstrap interval over seeds. Steps are those of each seed. *Seeds* is the number of
those measured with the settings of today. Where it is less than was asked for, the others are yet
to be measured, and the bar is not judged; where it is none, the figures are *of an earlier version*
of the settings or of the training. The seconds of a seed are those of training and evaluation, on a
machine with other load; seeds that train in one program share its time equally; where a seed was
resumed there are none. Where learning.json has no standard deviation, they are a fifth of the time
of all five seeds.

reinforce on CartPole-v1 learns from its first 200 episodes only. Success, of tasks with goals, is
the share of 100 episodes at whose end the goal is reached: its IQM and interval. Beside it are
those of the seeds' median distances to the goal, where the algorithm measures them. The published
scores are those of rl-baselines3-zoo (benchmark.md at 0088472), of one run with the settings of the
presets, on version 2 of LunarLander. A library in brackets was trained and evaluated in the same
way, with the same settings.

bc and dagger imitate an expert, which is a heuristic or one run of a preset with the seed 0: sac
with 100,000 steps on HalfCheetah, ppo on Hopper. Its mean return over 100 episodes stands in the
column of the bar. bc learns from the first 2,000 steps of its episodes on MuJoCo's environments,
from 5,000 on the landers, 1,100 in the T-maze and 10,000 on the cart-pole without velocities, whose
presets have a memory that *feed-forward* is without; its own steps are gradient steps.
*first-round* is what dagger has after its first round, 1,000 labels and as many gradient steps.
*noise*: normal noise of standard deviation 0.1 in what was executed while the steps were recorded,
`etude record --noise 0.1`. All seeds of a row have the same expert, and the same steps of it.
"""
REMARKS = {  # on rows that miss their bar
    "rainbow-LunarLander-v3": "one seed of five learns to hover and never lands; at a discount of "
    ".995 two of four did",
    "bc-first-round-Hopper-v5-1000": "one round of this expert is enough to clone it, with "
    "observations normalized and a network of 2 × 256",
    "bc-noise-Hopper-v5": "clones without noise are as good as this expert already",
}


def write(directory: Path, results: Results, rows: Mapping[str, Row]) -> None:
    """Write learning.json, and learning.md and families.md from it; `rows` have the goals."""
    report.write_results(directory, STEM, results, learning_page(results, rows))
    shown = [result | {"seeds": shown_seeds(result)} for result in results.values()]
    page = families.families_page(row for row in shown if row["seeds"])
    files.write_bytes(directory / "families.md", page.encode())


def table_rows(
    results: Results, rows: Mapping[str, Row], summaries: dict[str, Summary]
) -> list[list[str]]:
    """The cells of each row that has a seed."""
    return [
        cells(result, rows.get(name), summaries[name], summaries)
        for name, result in results.items()
        if name in summaries
    ]


def learning_page(results: Results, rows: Mapping[str, Row]) -> str:
    """The content of learning.md."""
    summaries = summarize_all(results)
    table = report.markdown(HEADINGS, table_rows(results, rows, summaries))
    remarks = [
        f"* {name} misses its bar: {text}.\n"
        for name, text in REMARKS.items()
        if name in summaries and is_met(rows.get(name), summaries[name], summaries) is False
    ]
    machines = {
        f"* {seed['measured'][:10]}, {seed['machine']}: {seed['versions']}\n"
        for name in summaries
        for seed in shown_seeds(results[name])
    }
    return f"{NOTES}\n{table}\n{''.join([*remarks, *sorted(machines)])}"


def is_met(row: Row | None, summary: Summary, summaries: dict[str, Summary]) -> bool | None:
    """Whether a row meets its goal; None without one, and before each of its seeds is measured."""
    if row is None or row.goal is None or not summary["complete"]:
        return None
    return row.goal.met(summary, summaries)


def cells(
    result: dict[str, Any], row: Row | None, summary: Summary, summaries: dict[str, Summary]
) -> list[str]:
    """The cells of a row of the page; `row` has its goal, None where there is none."""
    seeds = shown_seeds(result)
    variant = result["setting"] or result["library"]
    count = str(len(seeds)) if summary["complete"] else f"{len(seeds)} of {result['num_seeds']}"
    published = PUBLISHED.get((result["algorithm"], result["environment"]))
    return [
        result["algorithm"] + (f" ({variant})" if variant else ""),
        result["environment"],
        f"{seeds[0]['steps']:,}",
        seeds[0]["backend"],
        count if summary["current"] else f"{count}, of an earlier version",
        f"{summary['iqm']:.1f}",
        interval_text(summary["ci95"], 1) if len(seeds) > 1 else "–",
        ", ".join(f"{score:.1f}" for score in summary["per_seed"]),
        success_text(summary["success"], summary["distance"]),
        goal_text(row, summary),
        {True: "yes", False: "no", None: "–"}[is_met(row, summary, summaries)],
        "–" if published is None else f"{published:.1f}",
        seconds_text(seeds),
        max(seed["measured"] for seed in seeds),
    ]


def goal_text(row: Row | None, summary: Summary) -> str:
    """The goal, with the mean return of the expert where there is one."""
    text = row.goal.text if row and row.goal else "–"
    return text if summary["expert"] is None else f"{text} (expert {summary['expert']:.1f})"


def interval_text(interval: list[float], digits: int) -> str:
    low, high = map(float, interval)
    return f"{low:.{digits}f} to {high:.{digits}f}"


def success_text(success: dict[str, Any] | None, distance: dict[str, Any] | None) -> str:
    """The share of successes and the distance to the goal, of what is known of them."""
    parts = []
    if success is not None:
        parts.append(f"{success['iqm']:.2f} ({interval_text(success['ci95'], 2)})")
    if distance is not None:
        interval = interval_text(distance["ci95"], 3)
        parts.append(f"distance {distance['iqm']:.3f} ({interval})")
    return "; ".join(parts) or "–"


def seconds_text(seeds: list[dict[str, Any]]) -> str:
    if any(seed["resumed"] for seed in seeds):
        return "–"
    return f"{sum(seed['seconds'] for seed in seeds) / len(seeds):.0f}"
