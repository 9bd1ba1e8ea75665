"""Families of algorithms compared: steps and time to a return threshold, and stability after it."""

import math
import statistics
from collections.abc import Iterable
from typing import Any

import numpy as np
import report

from etude.algorithms import algorithm_factory
from etude.algorithms.assumptions import EVERY_ACTION, Assumptions

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
    "pets": "planning on a learned model",
    "mbmf": "planning on a learned model, then actor-critic",
    "mpc": "planning on the true model, no learning",
    "guided-policy-search": "planning on the true model, into a policy",
}
HEADINGS = [
    "family", "algorithm", "assumes", "seeds there", "environment steps", "seconds", "stays there",
]  # fmt: skip
NOTES = """# Families

Environment steps and time until the training episodes of a hundredth of the run, exploration
included, first reach a threshold on average, and the stability from then on: *stays there* is the
share of the later hundredths at or above the threshold. The runs are those of the presets in
[learning.md](learning.md). Figures are medians over the seeds that reached the threshold, with the
least and the greatest. Seconds are those of a seed without compiling, times the share of the run's
gradient steps until then; seeds that train in one program share its time equally. What an algorithm
assumes beyond an observation that tells the state is what it declares, with all else in
[docs/algorithms.md](../../docs/algorithms.md).
"""


def time_to_threshold(
    environment: str, metrics: dict[str, np.ndarray], train_seconds: float
) -> list[dict[str, Any] | None]:
    """Return when each seed of a finished run reached its threshold, None for one that never did.

    It is steps, seconds, and stays, the share of later rows at or above the threshold. Without a
    threshold, or without episodes of training, it is None for all. `train_seconds` are those of
    each seed.
    """
    seeds = np.unique(metrics["seed"])
    if environment not in THRESHOLD or "episode_return" not in metrics:
        return [None] * len(seeds)
    columns = [metrics[name] for name in ("step", "updates", "episode_return")]
    crossings = [
        first_crossing(
            *(column[metrics["seed"] == seed] for column in columns), THRESHOLD[environment]
        )
        for seed in seeds
    ]
    return [
        crossing
        and {"steps": crossing[0], "seconds": crossing[1] * train_seconds, "stays": crossing[2]}
        for crossing in crossings
    ]


def first_crossing(
    step: np.ndarray, updates: np.ndarray, returns: np.ndarray, threshold: float
) -> tuple[int, float, float] | None:
    """Return the first row that reaches `threshold`, None if none does.

    It is (environment steps, share of all gradient steps, or of the steps where nothing is learned,
    share of later rows at or above the threshold). Rows without the end of an episode, whose return
    is NaN, are left out.
    """
    is_known = ~np.isnan(returns)
    is_above = returns >= threshold
    if not is_above.any():
        return None
    row = is_above.argmax()
    return (
        int(step[row]),
        float(updates[: row + 1].sum() / updates.sum() if updates.any() else step[row] / step[-1]),
        float(is_above[row:][is_known[row:]].mean()),
    )


def families_page(rows: Iterable[dict[str, Any]]) -> str:
    """The content of families.md, from rows with the results of their `seeds`, a list."""
    parts = [NOTES]
    presets = {(row["algorithm"], row["environment"]): row for row in rows if not row["setting"]}
    for environment, threshold in THRESHOLD.items():
        table = [
            cells(name, presets[name, environment]["seeds"])
            for name in FAMILIES
            if (name, environment) in presets
        ]
        if table:
            parts.append(
                f"\n## {environment}, to a return of "
                f"{threshold:g}\n\n{report.markdown(HEADINGS, table)}"
            )
    return "".join(parts)


def cells(algorithm: str, seeds: list[dict[str, Any]]) -> list[str]:
    """The cells of a preset, from the results of its seeds."""
    reached = [seed["reached"] for seed in seeds if seed["reached"]]
    steps, seconds, stays = (
        [float(crossing[name]) for crossing in reached] for name in ("steps", "seconds", "stays")
    )
    return [
        FAMILIES[algorithm],
        algorithm,
        assumed(algorithm_factory(algorithm)().assumes),
        f"{len(reached)} of {len(seeds)}",
        format_range(steps),
        "–" if any(seed["resumed"] for seed in seeds) else format_range(seconds),
        f"{statistics.median(stays):.0%}" if stays else "–",
    ]


def assumed(assumes: Assumptions) -> str:
    """What an algorithm declares to assume, beside an observation that tells the state."""
    kinds = "" if assumes.actions == EVERY_ACTION else ", ".join(assumes.actions) + " actions"
    flags = {
        "vector observations": assumes.vector_observations,
        "episodes end": assumes.episodes,
        "smooth": assumes.smooth,
        "known model": assumes.known_model,
    }
    return "; ".join([*filter(None, [kinds]), *(name for name, holds in flags.items() if holds)])


def format_range(values: list[float]) -> str:
    """Format the median with the least and the greatest value, to three digits at most."""
    if not values:
        return "–"
    median, minimum, maximum = (
        f"{x:.1f}" if x < 10 else f"{round(x, 2 - math.floor(math.log10(x))):,.0f}"
        for x in (statistics.median(values), min(values), max(values))
    )
    return f"{median} ({minimum}–{maximum})"
