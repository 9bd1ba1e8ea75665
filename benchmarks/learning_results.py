"""The returns that `learning.py` has measured, seed by seed, in one file and on one page.

learning.json holds an object for each row, by its name:

    algorithm, setting, library, environment
    num_seeds   the number of seeds that were asked for last
    current     the digest of the settings that the row has now
    settings    {digest: what determines the training of a seed}
    seeds       {seed: its result}, where `settings` is the digest of those it was trained with

The result of a seed has settings, mean and std of its returns (std None where it was not kept),
episodes, success, backend, steps, seconds, resumed, measured, versions, machine, and reached (see
`families.py`). What is said of the seeds together is computed from them.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import families
import report
from learning_rows import PUBLISHED, Row, Summary

from etude.reporting.statistics import summarize_returns
from etude.storage import files

STEM = "learning"
Results = dict[str, dict[str, Any]]
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
machine with other load; seeds that train in one program share its time equally, as all five seeds
of a row did before 2026-12; a resumed seed has none. reinforce on CartPole-v1 learns from its first 200 episodes only. Success, of
tasks with goals, is the share of 100 episodes at whose end the goal is reached: its IQM and
interval. The published scores are those of rl-baselines3-zoo (benchmark.md at 0088472), of one run
with the settings of the presets, on version 2 of LunarLander. A library in brackets was trained and
evaluated in the same way, with the same settings.
"""
REMARKS = {  # on rows that miss their bar
    "rainbow-LunarLander-v3": "one seed of five learns to hover and never lands; at a discount of "
    ".995 two of four did"
}


def digest_of(settings: dict[str, Any]) -> str:
    """What tells settings from others."""
    return hashlib.sha256(files.encode_json(settings)).hexdigest()[:12]


def expect(results: Results, row: Row, settings: dict[str, Any], num_seeds: int) -> list[int]:
    """Note the settings and the number of seeds of a row; return the seeds that are to be measured.

    They are those without a result, and those whose result is of other settings.
    """
    digest = digest_of(settings)
    result = results.setdefault(
        row.name,
        {
            "algorithm": row.algorithm,
            "setting": row.setting,
            "library": row.library,
            "environment": row.environment,
            "num_seeds": num_seeds,
            "current": digest,
            "settings": {},
            "seeds": {},
        },
    )
    result |= {"num_seeds": num_seeds, "current": digest}
    result["settings"][digest] = settings
    drop_unused_settings(result)
    return [
        seed
        for seed in range(num_seeds)
        if result["seeds"].get(str(seed), {}).get("settings") != digest
    ]


def mark_as_earlier(results: Results, name: str) -> None:
    """Mark all results of a row as those of an earlier version, whatever their settings."""
    for seed in results.get(name, {}).get("seeds", {}).values():
        seed["settings"] = None


def add_seeds(results: Results, name: str, seeds: dict[int, dict[str, Any]]) -> None:
    """Add the results of seeds to a row, with its current settings."""
    result = results[name]
    known = result["seeds"] | {
        str(seed): {"settings": result["current"]} | values for seed, values in seeds.items()
    }
    result["seeds"] = {seed: known[seed] for seed in sorted(known, key=int)}
    drop_unused_settings(result)


def drop_unused_settings(result: dict[str, Any]) -> None:
    used = {result["current"], *(seed["settings"] for seed in result["seeds"].values())}
    result["settings"] = {
        digest: settings for digest, settings in result["settings"].items() if digest in used
    }


def read(directory: Path) -> Results:
    """Return the stored results by the names of their rows."""
    return report.read_results(directory, STEM)


def write(directory: Path, results: Results, rows: Mapping[str, Row]) -> None:
    """Write learning.json, and learning.md and families.md from it; `rows` have the goals."""
    report.write_results(directory, STEM, results, learning_page(results, rows))
    shown = [result | {"seeds": shown_seeds(result)} for result in results.values()]
    page = families.families_page(row for row in shown if row["seeds"])
    files.write_bytes(directory / "families.md", page.encode())


def shown_seeds(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The results of the seeds with the current settings; of all seeds where none has them."""
    seeds = [*result["seeds"].values()]
    return [seed for seed in seeds if seed["settings"] == result["current"]] or seeds


def summarize(result: dict[str, Any]) -> Summary:
    """Return iqm, ci95, per_seed and success of the shown seeds of a row, and what they are.

    complete  whether they are as many as were asked for
    current   whether they have the current settings
    """
    seeds = shown_seeds(result)
    success = [seed["success"] for seed in seeds]
    return {
        **statistics_of([seed["mean"] for seed in seeds]),
        "success": None if None in success else statistics_of(success),
        "complete": len(seeds) >= result["num_seeds"],
        "current": seeds[0]["settings"] == result["current"],
    }


def statistics_of(scores: list[float]) -> dict[str, Any]:
    summary = summarize_returns([[score] for score in scores])
    return {key: summary[key] for key in ("iqm", "ci95", "per_seed")}


def summarize_all(results: Results) -> dict[str, Summary]:
    """Return the summary of each row that has a seed."""
    return {name: summarize(result) for name, result in results.items() if result["seeds"]}


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
        success_text(summary["success"]),
        row.goal.text if row and row.goal else "–",
        {True: "yes", False: "no", None: "–"}[is_met(row, summary, summaries)],
        "–" if published is None else f"{published:.1f}",
        seconds_text(seeds),
        max(seed["measured"] for seed in seeds),
    ]


def interval_text(interval: list[float], digits: int) -> str:
    low, high = map(float, interval)
    return f"{low:.{digits}f} to {high:.{digits}f}"


def success_text(success: dict[str, Any] | None) -> str:
    if success is None:
        return "–"
    return f"{success['iqm']:.2f} ({interval_text(success['ci95'], 2)})"


def seconds_text(seeds: list[dict[str, Any]]) -> str:
    if any(seed["resumed"] for seed in seeds):
        return "–"
    return f"{sum(seed['seconds'] for seed in seeds) / len(seeds):.0f}"
