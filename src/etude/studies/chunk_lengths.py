"""How often clones succeed by the length of their chunks, with one head and with another."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from etude.errors import InvalidInput
from etude.reporting import imitation_figures
from etude.runs.config_values import plain_fields
from etude.runs.record import record
from etude.studies.measurement import begin_or_go_on, save
from etude.studies.modes_by_head import summarize_modes
from etude.studies.tasks_with_modes import (
    HEADS,
    cloning_with,
    play_clones,
    recorded_episodes,
    task_with_modes,
)

CHUNKS = (1, 4, 8, 16)  # actions that are predicted at once, of which half are executed
COMPARED = ("deterministic", "flow")  # heads


def measure_chunk_lengths(
    environment: str = "etude/Avoiding-v0",
    chunks: Sequence[int] = CHUNKS,
    gradient_steps: int = 6_000,
    seeds: int = 5,
    demonstrations: int = 200,
    episodes: int = 1_000,
    out: str | Path | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Clone the expert of a task with chunks of several lengths, and draw the successes.

    Writes chunk_lengths.json into the directory `out` after the clones of each head with each
    length, and at the end chunk_lengths.png. Where `out` has a measurement, it adds the lengths
    that are missing, and draws it again.

    Args:
        environment: etude/Avoiding-v0, etude/Push-v0 or etude/Fork-v0.
        chunks: lengths of chunks, of which half are executed, and the action of a chunk of one.
        gradient_steps: of each clone.
        seeds: clones of each head with each length.
        demonstrations: episodes of the expert, the same for all clones.
        episodes: that each clone plays.
        out: the directory; by default runs/chunk_lengths-ENVIRONMENT.

    Returns:
        The directory and what is measured: the content of chunk_lengths.json, which is the
        arguments, date, versions, machine, "expert", the result of `summarize_modes`, and in
        "heads" the same for each head by length; "cloning" has the hyperparameters of each head.

    Raises:
        InvalidInput: for arguments that do not fit, and a directory with another measurement.
    """
    if not chunks:
        raise InvalidInput("chunks is empty; give at least one length")
    task = task_with_modes(environment)
    directory = Path(out or f"runs/chunk_lengths-{environment.replace('/', '-')}")
    path = directory / "chunk_lengths.json"
    if seeds < 2:
        raise InvalidInput(f"seeds is {seeds}; give at least 2")
    settings = {
        "environment": environment,
        "gradient_steps": gradient_steps,
        "seeds": seeds,
        "demonstrations": demonstrations,
        "episodes": episodes,
        "cloning": {
            name: plain_fields(cloning_with(HEADS[name], gradient_steps)) for name in COMPARED
        },
    }
    measured = begin_or_go_on(path, settings, {"heads": {name: {} for name in COMPARED}})
    measured["chunks"] = sorted({*measured.get("chunks", ()), *chunks})
    directory.mkdir(parents=True, exist_ok=True)
    dataset = record(environment, "heuristic", episodes=demonstrations, progress=False)
    measured["expert"] = summarize_modes(task, [recorded_episodes(dataset)])
    for chunk in measured["chunks"]:
        for name, by_length in measured["heads"].items():
            if str(chunk) in by_length:
                continue
            cloning: Any = cloning_with(HEADS[name], gradient_steps, chunk, max(1, chunk // 2))
            played = list(play_clones(cloning, dataset, environment, seeds, episodes))
            by_length[str(chunk)] = summarize_modes(task, played)
            save(path, measured)
    imitation_figures.draw_success_by_chunk(
        directory / "chunk_lengths.png",
        measured,
        title=f"Success by the length of chunks, {environment}",
        subtitle=f"{demonstrations} episodes of the expert; IQM of {seeds} seeds with 95 % "
        f"intervals, {episodes:,} episodes each",
    )
    return directory, measured
