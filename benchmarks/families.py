"""Kinds of algorithm side by side: experience, time and steadiness on the way to a return."""

import math
import statistics
from typing import Any

import numpy as np
import report

# of the return while it trains and explores, a row's mean
THRESHOLD = {"CartPole-v1": 400.0, "Pendulum-v1": -200.0}
FAMILIES = {
    "ppo": "policy gradient, on-policy",
    "pqn": "value, in many copies, no replay",
    "dqn": "value, replay",
    "rainbow": "value, replay",
    "naf": "value, replay, quadratic in the action",
    "ddpg": "deterministic policy gradient, replay",
    "td3": "deterministic policy gradient, replay",
    "off-policy-actor-critic": "actor-critic, replay",
    "sac": "actor-critic, replay",
}
HEADINGS = ["family", "algorithm", "seeds there", "environment steps", "seconds", "stays there"]
NOTES = """# Families

How much experience and how much time each kind of algorithm needs until its episodes, exploration included, first return
a threshold on average over a hundredth of the run, and how steady it is from then on: *stays there* is the share of
the later hundredths at the threshold or above. Presets, from the runs of [learning.md](learning.md): medians over the seeds
that got there, with the least and the most. The seconds are those of all five seeds in one program, compiling apart, taken
as the share of the run's gradient steps until then.
"""


def reached(run: Any, train_seconds: float) -> dict[str, Any] | None:
    """When each seed of a finished run came to its environment's threshold; None where there is
    none.

    Lists over seeds, null for one that never did: steps, seconds, and stays, the share of the later
    rows still there.
    """
    threshold = THRESHOLD.get(run.settings.environment)
    if threshold is None:
        return None
    metrics = run.metrics
    there = [
        arrival(
            *(
                metrics[name][metrics["seed"] == seed]
                for name in ("step", "updates", "episode_return")
            ),
            threshold,
        )
        for seed in np.unique(metrics["seed"])
    ]
    return {
        "threshold": threshold,
        "steps": [first and first[0] for first in there],
        "seconds": [first and first[1] * train_seconds for first in there],
        "stays": [first and first[2] for first in there],
    }


def arrival(
    step: np.ndarray, updates: np.ndarray, returns: np.ndarray, threshold: float
) -> tuple[int, float, float] | None:
    """(environment steps, share of all gradient steps, share of the later rows there) at the first
    row with `threshold`.

    A row in which no episode ended, its return NaN, tells nothing.
    """
    known = ~np.isnan(returns)
    there = returns >= threshold
    if not there.any():
        return None
    first = there.argmax()
    return (
        int(step[first]),
        float(updates[: first + 1].sum() / updates.sum()),
        float(there[first:][known[first:]].mean()),
    )


def page(rows: dict[str, Any]) -> str:
    """families.md, of what learning.json holds."""
    parts = [NOTES]
    for environment, threshold in THRESHOLD.items():
        mine = [
            row for row in rows.values() if row["environment"] == environment and row.get("reached")
        ]
        table = [cells(row) for name in FAMILIES for row in mine if row["algorithm"] == name]
        if table:
            parts.append(
                f"\n## {environment}, to a return of "
                f"{threshold:g}\n\n{report.markdown(HEADINGS, table)}"
            )
    return "".join(parts)


def cells(row: dict[str, Any]) -> list[str]:
    found, seeds = row["reached"], len(row["reached"]["steps"])
    there = [i for i in range(seeds) if found["steps"][i] is not None]
    steps, seconds, stays = (
        [float(found[name][i]) for i in there] for name in ("steps", "seconds", "stays")
    )
    return [
        FAMILIES[row["algorithm"]],
        row["algorithm"],
        f"{len(there)} of {seeds}",
        spread(steps),
        "–" if row["resumed"] else spread(seconds),
        f"{statistics.median(stays):.0%}" if stays else "–",
    ]


def spread(values: list[float]) -> str:
    """Median, least and most, to three figures."""
    if not values:
        return "–"
    middle, least, most = (
        f"{round(x, 2 - math.floor(math.log10(x))):,.0f}"
        for x in (statistics.median(values), min(values), max(values))
    )
    return f"{middle} ({least}–{most})"
