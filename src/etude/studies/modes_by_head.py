"""What each head makes of an expert who does one thing or another in the same state.

Every head is cloned from the same episodes. Of each clone is measured how often it succeeds, and
how evenly its successes go the expert's ways.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from etude.errors import InvalidInput
from etude.reporting import imitation_figures
from etude.reporting.statistics import bootstrap_interval, iqm
from etude.runs.config_values import plain_fields
from etude.runs.record import record
from etude.studies.measurement import begin_or_go_on, save
from etude.studies.tasks_with_modes import (
    HEADS,
    EpisodeOutcome,
    TaskWithModes,
    cloning_with,
    count_modes,
    play_clones,
    recorded_episodes,
    task_with_modes,
)

DRAWN_EPISODES = 40  # of the first seed, in the picture of each head's ways


def measure_modes_by_head(
    environment: str = "etude/Fork-v0",
    heads: Sequence[str] = tuple(HEADS),
    gradient_steps: int = 12_000,
    chunk: int = 1,
    execute: int = 1,
    seeds: int = 5,
    demonstrations: int = 200,
    episodes: int = 1_000,
    out: str | Path | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Clone an expert of several modes with each head, and draw what becomes of the modes.

    Writes modes_by_head.json into the directory `out` after every head, and at the end
    modes_by_head.png and ways_by_head.png. Where `out` has a measurement, it adds the heads that
    are missing, and draws it again.

    Args:
        environment: etude/Fork-v0, etude/Avoiding-v0 or etude/Push-v0.
        heads: names as of `etude train bc --head`.
        gradient_steps: of each clone.
        chunk: actions that are predicted at once.
        execute: actions of a chunk that are executed.
        seeds: clones of each head.
        demonstrations: episodes of the expert, the same for all clones.
        episodes: that each clone plays.
        out: the directory; by default runs/modes_by_head-ENVIRONMENT.

    Returns:
        The directory and what is measured: the content of modes_by_head.json, which is the
        arguments, date, versions, machine, and for "expert" and each head the result of
        `summarize_modes` and "ways", some episodes of the first seed; "cloning" has the
        hyperparameters of each head.

    Raises:
        InvalidInput: for arguments that do not fit, and a directory with another measurement.
    """
    task = task_with_modes(environment)
    if seeds < 2:
        raise InvalidInput(f"seeds is {seeds}; give at least 2")
    for name in heads:
        if name not in HEADS:
            raise InvalidInput(f"no head is called {name!r}; there are {', '.join(HEADS)}")
    directory = Path(out or f"runs/modes_by_head-{environment.replace('/', '-')}")
    path = directory / "modes_by_head.json"
    settings = {
        "environment": environment,
        "gradient_steps": gradient_steps,
        "chunk": chunk,
        "execute": execute,
        "seeds": seeds,
        "demonstrations": demonstrations,
        "episodes": episodes,
    }
    measured = begin_or_go_on(path, settings, {"heads": {}, "cloning": {}})
    directory.mkdir(parents=True, exist_ok=True)
    dataset = record(environment, "heuristic", episodes=demonstrations, progress=False)
    measured["heads"]["expert"] = summarize_and_show(task, [recorded_episodes(dataset)])
    for name in heads:
        if name in measured["heads"]:
            continue
        cloning: Any = cloning_with(HEADS[name], gradient_steps, chunk, execute)
        played = list(play_clones(cloning, dataset, environment, seeds, episodes))
        measured["heads"][name] = summarize_and_show(task, played)
        measured["cloning"][name] = plain_fields(cloning)
        save(path, measured)
    subtitle = f"{demonstrations} episodes of the expert, {gradient_steps:,} gradient steps"
    imitation_figures.draw_modes_by_head(
        directory / "modes_by_head.png",
        measured,
        title=f"Success and modes of each head, {environment}",
        subtitle=f"{subtitle}; IQM of {seeds} seeds with 95 % intervals",
    )
    imitation_figures.draw_ways_by_head(
        directory / "ways_by_head.png",
        measured,
        task,
        title=f"The ways of each head, {environment}",
        subtitle=f"{subtitle}; {DRAWN_EPISODES} episodes of one seed, red without success",
    )
    return directory, measured


def summarize_and_show(task: TaskWithModes, played: list[list[EpisodeOutcome]]) -> dict[str, Any]:
    """The result of `summarize_modes`, and some episodes of the first seed for a picture.

    "ways" has of each of them is_success and positions, the (x, y) [time][2].
    """
    ways = [
        {
            "is_success": episode.is_success,
            "positions": np.round(np.float64(episode.positions[:, :2]), 3).tolist(),
        }
        for episode in played[0][:DRAWN_EPISODES]
    ]
    return summarize_modes(task, played) | {"ways": ways}


def summarize_modes(task: TaskWithModes, played: list[list[EpisodeOutcome]]) -> dict[str, Any]:
    """The successes and modes of episodes [seed][episode], and their statistics over seeds.

    success, entropy   of each: per_seed, iqm and ci95, the 95 % interval; None where undefined
    left               the same of the share of successes in mode 1, for tasks of two modes
    modes              successes by mode, [seed][mode]

    Entropy is that of the modes of successes, -Σ p log p with the number of modes as base: 1 where
    all are equally frequent, 0 where a single one is left.
    """
    modes = np.array([count_modes(task, episodes) for episodes in played])
    total = modes.sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = modes / total[:, None]
        entropy = -np.where(share > 0, share * np.log(share), 0).sum(1) / np.log(task.num_modes)
    entropy = np.where(total > 0, entropy, np.nan)
    success = [np.mean([episode.is_success for episode in episodes]) for episodes in played]
    return {
        "success": summarize_seeds(success),
        "entropy": summarize_seeds(entropy),
        **({"left": summarize_seeds(share[:, 1])} if task.num_modes == 2 else {}),
        "modes": modes.tolist(),
    }


def summarize_seeds(values: Any) -> dict[str, Any]:
    """per_seed, iqm and ci95 of a number for each seed, of those seeds that have one."""
    values = np.asarray(values, float)
    defined = values[np.isfinite(values)]
    return {
        "per_seed": [float(value) if np.isfinite(value) else None for value in values],
        "iqm": iqm(defined) if defined.size else None,
        "ci95": list(bootstrap_interval(defined[:, None])) if defined.size else None,
    }
