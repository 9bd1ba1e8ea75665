"""What a run keeps of itself, written by a test as etude writes it."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import load_file, save_file

import etude
from etude.runs.job_checkpoints import TrainJob, checkpoint_template, save_job
from etude.runs.options import RunOptions
from etude.runs.run import Run, create_run
from etude.runs.settings import Settings
from etude.runs.train import resolve_settings
from etude.storage import checkpoints, files
from etude.storage.metrics_csv import MetricsWriter, measure_rows


def metadata_of(settings: Settings, job: TrainJob, iterations: int) -> dict[str, Any]:
    """The metadata of a job's checkpoint; its metrics.csv has the rows that it has."""
    steps = iterations * settings.steps_per_iteration
    return {
        "iterations": iterations,
        "steps": steps,
        "seconds": 0.0,
        "compile_seconds": 0.0,
        "seeds": list(job.seeds),
        "metrics": measure_rows(job.metrics_path, steps),
    }


def begun(
    directory: Path, algorithm: Any = None, iterations: tuple[int, ...] = (), **options
) -> Run:
    """A run of Q-learning on FrozenLake with rows and checkpoints of numbers that are no zeros, as
    if it had been trained for as many iterations."""
    options = {"steps": 100, "backend": "gymnasium", "evaluation_episodes": 1} | options
    algorithm = etude.QLearning() if algorithm is None else algorithm
    settings = resolve_settings(algorithm, "FrozenLake-v1", RunOptions(**options))
    run, rng = create_run(settings, directory), np.random.default_rng(0)
    for job in run.jobs:
        job.directory.mkdir(exist_ok=True)
        shapes = checkpoint_template(settings, job, settings.outline(), {}).train_state
        for count in iterations:
            with MetricsWriter(job.metrics_path) as writer:
                for seed in job.seeds:
                    row = {"step": count * settings.steps_per_iteration, "seed": seed}
                    writer.append(row | {"loss": rng.uniform(1, 2)})
            numbers = jax.tree.map(lambda x: rng.uniform(1, 2, x.shape).astype(x.dtype), shapes)
            save_job(job, settings.outline(), numbers, metadata_of(settings, job, count))
    return run


def finished(directory: Path, **options) -> Run:
    """A run as it is at its end; what the evaluation measured is made up."""
    run = begun(directory, iterations=(50, 100), **options)
    summary = {"steps": run.settings.trained_steps, "evaluation": {"iqm": 0.25, "returns": [[1.0]]}}
    files.write_sealed(run.directory / "summary.json", summary)
    return run


def rewrite_config(directory: Path, changes: dict[str, Any]) -> None:
    """Change keys of config.json, with a hash that fits, as whoever means harm would."""
    path = directory / "config.json"
    config = files.read_sealed(path) | changes
    files.write_sealed(path, {key: value for key, value in config.items() if value is not ...})


def rewrite_checkpoint(path: Path, change: Any = None, **metadata: Any) -> None:
    """Change keys of a checkpoint's metadata (... removes one), and its arrays by name with
    `change`; the manifest fits."""
    facts = files.read_json(path / checkpoints.METADATA) | metadata
    kept = {key: value for key, value in facts.items() if value is not ...}
    files.write_json(path / checkpoints.METADATA, kept)
    if change is not None:
        arrays = load_file(path / checkpoints.ARRAYS)
        save_file(change(arrays), path / checkpoints.ARRAYS)
    names = (checkpoints.ARRAYS, checkpoints.METADATA)
    measures = {name: checkpoints._measure(path / name) for name in names}
    step = checkpoints.step_of(path)
    (path / checkpoints.MANIFEST).write_bytes(checkpoints._manifest(step, measures))
