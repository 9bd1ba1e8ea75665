"""What a run keeps of itself, written by a test as etude writes it."""

from pathlib import Path

from etude.runs.job import TrainJob
from etude.runs.settings import Settings
from etude.storage import files
from etude.storage.metrics_csv import measure_rows


def metadata_of(settings: Settings, job: TrainJob, iterations: int) -> dict:
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


def rewrite_config(directory: Path, changes: dict) -> None:
    """Change keys of config.json, with a hash that fits, as whoever means harm would."""
    path = directory / "config.json"
    config = files.read_json(path)
    files.write_sealed(path, {k: v for k, v in (config | changes).items() if k != files.SEAL})
