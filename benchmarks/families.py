"""Families of algorithms compared: steps and time to a return threshold, and stability after it."""

import math
import statistics
from typing import Any

import numpy as np
import report

# mean return of the training episodes of a row of metrics, with exploration
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

Environment steps and time until the training episodes of a hundredth of the run, exploration
included, first reach a threshold on average, and the stability from then on: *stays there* is the
share of the later hundredths at or above the threshold. The runs are those of the presets in
[learning.md](learning.md). Figures are medians over the seeds that reached the threshold, with the
least and the greatest. Seconds are those of all five seeds in one program without compiling, times
the share of the run's gradient steps until then.
"""


def time_to_threshold(run: Any, train_seconds: float) -> dict[str, Any] | None:
    """Return when each seed of a finished run reached its threshold; None without a threshold.

    Lists over seeds, None for a seed that never did: steps, seconds, and stays, the share of later
    rows at or above the threshold.
    """
    threshold = THRESHOLD.get(run.settings.environment)
    if threshold is None:
        return None
    metrics = run.metrics
    crossings = [
        first_crossing(
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
        "steps": [crossing and crossing[0] for crossing in crossings],
        "seconds": [crossing and crossing[1] * train_seconds for crossing in crossings],
        "stays": [crossing and crossing[2] for crossing in crossings],
    }


def first_crossing(
    step: np.ndarray, updates: np.ndarray, returns: np.ndarray, threshold: float
) -> tuple[int, float, float] | None:
    """Return the first row that reaches `threshold`, None if none does.

    It is (environment steps, share of all gradient steps, share of later rows at or above the
    threshold). Rows without the end of an episode, whose return is NaN, are left out.
    """
    is_known = ~np.isnan(returns)
    is_above = returns >= threshold
    if not is_above.any():
        return None
    row = is_above.argmax()
    return (
        int(step[row]),
        float(updates[: row + 1].sum() / updates.sum()),
        float(is_above[row:][is_known[row:]].mean()),
    )


def families_page(rows: dict[str, Any]) -> str:
    """The content of families.md, from the rows of learning.json."""
    parts = [NOTES]
    for environment, threshold in THRESHOLD.items():
        matching_rows = [
            row
            for row in rows.values()
            if row["environment"] == environment and row.get("reached") and not row.get("setting")
        ]
        table = [
            cells(row) for name in FAMILIES for row in matching_rows if row["algorithm"] == name
        ]
        if table:
            parts.append(
                f"\n## {environment}, to a return of "
                f"{threshold:g}\n\n{report.markdown(HEADINGS, table)}"
            )
    return "".join(parts)


def cells(row: dict[str, Any]) -> list[str]:
    result, seeds = row["reached"], len(row["reached"]["steps"])
    reached = [i for i in range(seeds) if result["steps"][i] is not None]
    steps, seconds, stays = (
        [float(result[name][i]) for i in reached] for name in ("steps", "seconds", "stays")
    )
    return [
        FAMILIES[row["algorithm"]],
        row["algorithm"],
        f"{len(reached)} of {seeds}",
        format_range(steps),
        "–" if row["resumed"] else format_range(seconds),
        f"{statistics.median(stays):.0%}" if stays else "–",
    ]


def format_range(values: list[float]) -> str:
    """Format the median with the least and the greatest value, to three digits."""
    if not values:
        return "–"
    median, minimum, maximum = (
        f"{round(x, 2 - math.floor(math.log10(x))):,.0f}"
        for x in (statistics.median(values), min(values), max(values))
    )
    return f"{median} ({minimum}–{maximum})"
