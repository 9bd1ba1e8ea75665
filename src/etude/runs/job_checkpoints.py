"""The checkpoints of training jobs: what they hold, and what is believed of them when read."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from etude.environments.backends.episode_log import EpisodeLog, array_shapes
from etude.environments.protocol import Environment
from etude.errors import Diverged, shown
from etude.runs.periodic_evaluation import best_directory, records_in
from etude.runs.settings import Settings
from etude.storage import checkpoints
from etude.storage.files import CorruptFile
from etude.storage.metrics_csv import measure_rows
from etude.struct import replace
from etude.training import TrainState, init_train_state, vmap_over_seeds


class TrainJob(NamedTuple):
    """Seeds that train in one program, and the directory of their checkpoints and metrics."""

    seeds: tuple[int, ...]
    directory: Path

    @property
    def metrics_path(self) -> Path:
        return self.directory / "metrics.csv"

    @property
    def key(self) -> jax.Array:
        """The PRNG key of one seed, or the keys [seed] of several."""
        keys = [jax.random.key(seed) for seed in self.seeds]
        return jnp.stack(keys) if len(keys) > 1 else keys[0]


class SavedState(NamedTuple):
    """What a checkpoint holds of a job."""

    train_state: TrainState  # with a rollout_state of () where the environments cannot be saved
    # of environments with a replayer; else ()
    episode_log: EpisodeLog | tuple[()] = ()


def jobs_for(settings: Settings, directory: Path) -> list[TrainJob]:
    """Divide a run into jobs."""
    seeds = tuple(range(settings.seed, settings.seed + settings.seeds))
    if settings.in_one_program or settings.seeds == 1:
        return [TrainJob(seeds, directory)]
    return [TrainJob((seed,), directory / f"seed_{seed}") for seed in seeds]


def checkpoint_template(
    settings: Settings, job: TrainJob, environment: Environment, metadata: dict[str, Any]
) -> SavedState:
    """The shapes of a checkpoint with this metadata, which `check_metadata` has checked."""

    def init(key, outside):
        init_seed = partial(init_train_state, settings.algorithm, environment, outside=outside)
        return vmap_over_seeds(init_seed, key)(key)

    train_state = jax.eval_shape(init, job.key, settings.outside)
    if environment.functional:
        return SavedState(train_state)
    if "episode_log" not in metadata:
        return SavedState(replace(train_state, rollout_state=()))
    shapes = array_shapes(settings.num_envs, *metadata["episode_log"])
    leaves: list[Any] = [jax.ShapeDtypeStruct((size,), dtype) for size, dtype in shapes]
    return SavedState(train_state, EpisodeLog(*leaves))


def save_job(
    job: TrainJob, environment: Environment, train_state: TrainState, metadata: dict[str, Any]
) -> None:
    """Write a checkpoint.

    Raises Diverged, naming the leaf, when a number in it is not finite; the newest checkpoint is
    then still the previous one.
    """
    if leaf := not_finite(train_state.algorithm_state):
        raise Diverged(f"the state of the algorithm is no longer finite at {leaf}")
    saved = SavedState(train_state)
    if environment.replayer is not None:
        log = environment.replayer.episode_log()
        saved = SavedState(train_state, log)
        metadata = metadata | {"episode_log": [log.actions.size, log.digests.size]}
    elif not environment.functional:
        saved = SavedState(replace(train_state, rollout_state=()))
    checkpoints.save_checkpoint(job.directory / "checkpoints", metadata["steps"], saved, metadata)


def not_finite(tree: Any) -> str:
    """The path of the first leaf with a number that is not finite, "" where all are."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if jnp.issubdtype(leaf.dtype, jnp.floating) and not np.isfinite(leaf).all():
            return jax.tree_util.keystr(path) or "its only array"
    return ""


def restore_job(
    settings: Settings, job: TrainJob, environment: Environment, warn: Callable[[str], None]
) -> tuple[SavedState | None, dict[str, Any]]:
    """The newest intact checkpoint and its metadata; None and zeros before the first."""
    if not has_checkpoint(job):
        return None, {"iterations": 0, "steps": 0, "seconds": 0.0, "compile_seconds": 0.0}
    return restore_from(job.directory / "checkpoints", settings, job, environment, warn)


def restore_best(
    settings: Settings,
    job: TrainJob,
    seed: int,
    environment: Environment,
    warn: Callable[[str], None],
) -> tuple[SavedState, dict[str, Any]]:
    """The best checkpoint of a seed of the job, and its metadata."""
    directory = best_directory(job.directory, job.seeds, seed)
    of_seed = TrainJob((seed,), directory)
    saved, metadata = restore_from(directory, settings, of_seed, environment, warn)
    records = records_in(newest_metadata(settings, job), job.seeds)
    best_step = records[job.seeds.index(seed)].best_step
    if metadata["steps"] != best_step:
        raise CorruptFile(
            f"{directory} holds the checkpoint of step {metadata['steps']:,}, and the best "
            f"evaluation of seed {seed} was at step {best_step}; take the last checkpoint"
        )
    return saved, metadata


def restore_from(
    directory: Path,
    settings: Settings,
    job: TrainJob,
    environment: Environment,
    warn: Callable[[str], None],
) -> tuple[SavedState, dict[str, Any]]:
    """The newest intact checkpoint of a job in a directory, and its metadata.

    Raises CorruptFile where it is not what it says of itself, and for weights that are not finite.
    """

    def template(metadata):
        check_metadata(settings, job, metadata)
        return checkpoint_template(settings, job, environment, metadata)

    path, saved, metadata = checkpoints.load_newest(directory, template, warn)
    if checkpoints.step_of(path) != metadata["steps"]:
        raise CorruptFile(
            f"{path} says of itself that it is of step {metadata['steps']:,}; take another "
            "checkpoint"
        )
    if leaf := not_finite(saved.train_state.algorithm_state):
        raise CorruptFile(
            f"{path} holds numbers that are not finite, at {leaf}; take another checkpoint"
        )
    return saved, metadata


def check_metadata(settings: Settings, job: TrainJob, metadata: dict[str, Any]) -> None:
    """Raise CorruptFile, naming key and value, for metadata that no checkpoint of the job has."""

    def require(key, fits, words):
        if not fits(value := metadata.get(key)):
            raise CorruptFile(f"its {key} is {shown(value)}, which must be {words}")

    budget, seeds = settings.iterations, list(job.seeds)
    require(
        "iterations",
        lambda value: type(value) is int and 1 <= value <= budget,
        f"a whole number from 1 to {budget:,}",
    )
    steps = metadata["iterations"] * settings.steps_per_iteration
    require("steps", lambda value: type(value) is int and value == steps, f"{steps:,}")
    require("seeds", lambda value: repr(value) == repr(seeds), shown(seeds))
    for key in ("seconds", "compile_seconds"):
        require(key, lambda value: type(value) in (int, float) and value >= 0, "a number from 0")
    require(
        "metrics",
        lambda value: (
            isinstance(value, dict)
            and {key: type(item) for key, item in value.items()} == {"rows": int, "sha256": str}
        ),
        "the number of rows and their SHA-256",
    )
    if "episode_log" in metadata:
        require(
            "episode_log",
            lambda value: (
                isinstance(value, list)
                and [type(size) for size in value] == [int, int]
                and min(value) >= 0
            ),
            "the two sizes of a log",
        )
    records_in(metadata, job.seeds)


def newest_metadata(settings: Settings, job: TrainJob) -> dict[str, Any]:
    """The metadata of the newest checkpoint; {} before the first.

    Raises CorruptFile for metadata that no checkpoint of the job has.
    """
    metadata = checkpoints.load_newest_metadata(job.directory / "checkpoints")
    if metadata is None:
        return {}
    check_metadata(settings, job, metadata)
    return metadata


def metrics_fault(job: TrainJob, metadata: dict[str, Any]) -> str:
    """What is wrong with the rows of metrics.csv up to a checkpoint, from its metadata; else ""."""
    recorded = metadata.get("metrics")
    if recorded is None:  # before the first checkpoint
        return ""
    found = measure_rows(job.metrics_path, last_row_step(metadata))
    if found == recorded:
        return ""
    if found["rows"] == recorded["rows"]:
        what = "its rows are not those"
    else:
        what = f"it has {found['rows']:,} of the {recorded['rows']:,} rows"
    return (
        f"{job.metrics_path} was changed: {what} that were written up to step {metadata['steps']:,}"
    )


def has_checkpoint(job: TrainJob) -> bool:
    """Whether a job has saved a checkpoint."""
    return checkpoints.has_any(job.directory / "checkpoints")


def has_rows(job: TrainJob) -> bool:
    """Whether a job has written a row of metrics."""
    return job.metrics_path.exists() and job.metrics_path.stat().st_size > 0


def last_row_step(metadata: dict[str, Any]) -> int:
    """The step up to which rows are in metrics.csv at a checkpoint: an unfinished one is not."""
    return metadata["steps"] - bool(metadata.get("unfinished_row"))
