"""The returns that `learning.py` has measured, seed by seed, in one file.

learning.json holds an object for each row, by its name:

    algorithm, setting, library, environment
    num_seeds   the number of seeds that were asked for last
    current     the digest of the settings that the row has now
    settings    {digest: what determines the training of a seed}
    seeds       {seed: its result}, where `settings` is the digest of those it was trained with

The result of a seed has settings, mean and std of its returns (std None where it was not kept),
episodes, success, backend, steps, seconds, resumed, measured, versions, machine, reached (see
`families.py`), distance, the median to the goal, where the algorithm measures it, and of what
imitates expert, the mean return of its expert. What is said of the seeds together is computed from
them.
"""

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

import report
from learning_rows import Row, Summary

from etude.reporting.statistics import summarize_returns

STEM = "learning"
Results = dict[str, dict[str, Any]]


def digest_of(settings: dict[str, Any]) -> str:
    """What tells settings from others."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


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
    """Drop the settings that no seed was trained with, but for the current ones."""
    used = {result["current"], *(seed["settings"] for seed in result["seeds"].values())}
    result["settings"] = {
        digest: settings for digest, settings in result["settings"].items() if digest in used
    }


def read(directory: Path) -> Results:
    """Return the stored results by the names of their rows."""
    return report.read_results(directory, STEM)


def shown_seeds(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The results of the seeds with the current settings; of all seeds where none has them."""
    seeds = [*result["seeds"].values()]
    return [seed for seed in seeds if seed["settings"] == result["current"]] or seeds


def summarize(result: dict[str, Any]) -> Summary:
    """Return iqm, ci95, per_seed, success and distance of the shown seeds of a row, and what they
    are.

    complete  whether they are as many as were asked for
    current   whether they have the current settings
    expert    the mean return of the expert that they imitate; None without one
    """
    seeds = shown_seeds(result)
    success, distance = (
        [seed["success"] for seed in seeds],
        [seed.get("distance") for seed in seeds],
    )
    return {
        **statistics_of(tuple(seed["mean"] for seed in seeds)),
        "success": None if None in success else statistics_of(tuple(success)),
        "distance": None if None in distance else statistics_of(tuple(distance)),
        "complete": len(seeds) >= result["num_seeds"],
        "current": seeds[0]["settings"] == result["current"],
        "expert": seeds[0].get("expert"),
    }


@functools.cache
def statistics_of(scores: tuple[float, ...]) -> dict[str, Any]:
    """The statistics of the scores of seeds."""
    summary = summarize_returns([[score] for score in scores])
    return {key: summary[key] for key in ("iqm", "ci95", "per_seed")}


def summarize_all(results: Results) -> dict[str, Summary]:
    """Return the summary of each row that has a seed."""
    return {name: summarize(result) for name, result in results.items() if result["seeds"]}
