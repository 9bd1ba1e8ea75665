"""A training job: the seeds of a run that train in one program, with checkpoints and metrics.

On a JAX environment one job has all seeds; on other environments each seed has a job.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from etude.environments.protocol import Environment
from etude.errors import Diverged, InvalidInput
from etude.runs.alarms import MetricAlarms
from etude.runs.interrupt import Interrupted, InterruptHandler
from etude.runs.settings import Settings
from etude.storage import checkpoints
from etude.storage.metrics_csv import MetricsWriter
from etude.struct import replace
from etude.training import (
    Algorithm,
    TrainState,
    init_rollout,
    init_train_state,
    progress,
    restart_rollout,
    vmap_over_seeds,
)


class TrainJob(NamedTuple):
    """Seeds that train in one program, and the directory of their checkpoints and metrics."""

    seeds: tuple[int, ...]
    directory: Path

    @property
    def key(self) -> jax.Array:
        """The PRNG key of one seed, or the keys [seed] of several."""
        keys = [jax.random.key(seed) for seed in self.seeds]
        return jnp.stack(keys) if len(keys) > 1 else keys[0]


class ProgressEvent(NamedTuple):
    """The progress of a job, as plain data that can cross to another process."""

    seeds: tuple[int, ...]
    steps: int  # steps of the budget of each seed
    metrics: dict[str, list[float]]  # [seed]
    end_of_row: bool  # whether a row of metrics ends here
    seconds: float  # total time of training, without compiling and saving
    compile_seconds: float  # total time of compiling


def jobs_for(settings: Settings, directory: Path) -> list[TrainJob]:
    """Divide a run into jobs."""
    seeds = tuple(range(settings.seed, settings.seed + settings.seeds))
    if settings.in_one_program or settings.seeds == 1:
        return [TrainJob(seeds, directory)]
    return [TrainJob((seed,), directory / f"seed_{seed}") for seed in seeds]


def train_job(
    settings: Settings, job: TrainJob, interrupt: InterruptHandler, warn: Callable[[str], None]
) -> Iterator[ProgressEvent]:
    """Train from the newest checkpoint, or from the start, and yield an event after each chunk.

    Raises Interrupted, after a checkpoint, on a signal to stop.
    """
    job.directory.mkdir(parents=True, exist_ok=True)
    environment, train_state, metadata = open_job(settings, job, warn)
    resumed = None if train_state is None else (train_state, metadata["iterations"])
    interrupt.watch(environment)
    restart_every = (
        settings.checkpoint_every
        if environment.deterministic_reset and not environment.functional
        else 0
    )
    seconds, compile_seconds = metadata["seconds"], metadata["compile_seconds"]
    alarms = MetricAlarms()
    reports = progress(
        settings.algorithm,
        environment,
        job.key,
        settings.steps,
        outside=settings.outside,
        initial=initial_components(settings, job),
        resumed=resumed,
        row_every=settings.row_every,
        restart_every=restart_every,
    )
    try:
        with MetricsWriter(job.directory / "metrics.csv") as writer:
            writer.truncate_after(metadata["steps"])
            if train_state is not None:
                yield ProgressEvent(
                    job.seeds, metadata["steps"], {}, False, seconds, compile_seconds
                )
            for report in reports:
                seconds, compile_seconds = (
                    seconds + report.seconds,
                    compile_seconds + report.compile_seconds,
                )
                metrics = {
                    name: np.atleast_1d(value).tolist() for name, value in report.metrics.items()
                }
                if report.end_of_row:
                    write_rows(writer, job, report.steps, metrics)
                    for text in alarms.check(metrics, report.steps):
                        warn(text)
                checkpoint_due = (
                    report.iterations % settings.checkpoint_every == 0
                    or report.iterations == settings.iterations
                )
                if checkpoint_due or interrupt.signal:
                    writer.sync()
                    metadata = {
                        "iterations": report.iterations,
                        "steps": report.steps,
                        "seconds": seconds,
                        "compile_seconds": compile_seconds,
                        "seeds": list(job.seeds),
                    }
                    save_job(job, environment, report.train_state, metadata)
                yield ProgressEvent(
                    job.seeds, report.steps, metrics, report.end_of_row, seconds, compile_seconds
                )
                if interrupt.signal and report.iterations < settings.iterations:
                    raise Interrupted(
                        f"stopped at step {report.steps:,} of {settings.steps:,}, saved"
                    )
    except KeyboardInterrupt:
        raise Interrupted(
            "stopped in the middle of a step; the last checkpoint is that of step "
            f"{metadata['steps']:,}"
        ) from None
    finally:
        environment.close()


def initial_components(settings: Settings, job: TrainJob) -> dict[str, Any]:
    """The components of other runs that a job starts with, [seed, ...] for many seeds."""
    first = job.seeds[0] - settings.seed
    rows = slice(first, first + len(job.seeds)) if len(job.seeds) > 1 else first
    return jax.tree.map(lambda x: x[rows], settings.initial_components)


def open_job(
    settings: Settings, job: TrainJob, warn: Callable[[str], None]
) -> tuple[Environment, TrainState | None, dict[str, Any]]:
    """Return the environment, the state to resume (None before a checkpoint) and its metadata."""
    environment = make_environment(settings, job)
    try:
        train_state, metadata = restore_job(settings, job, environment, warn)
    except InvalidInput:
        environment.close()
        raise
    if train_state is None:
        return environment, None, metadata
    # a new seed, since the episodes of the first seed were trained on before
    if not environment.deterministic_reset:
        environment.close()
        environment = make_environment(settings, job, metadata["iterations"])
    return (
        environment,
        restore_rollout(
            settings.algorithm, train_state, environment, job.key, metadata["iterations"]
        ),
        metadata,
    )


def make_environment(settings: Settings, job: TrainJob, iterations: int = 0) -> Environment:
    """Make the environment of a job; EnvPool's seed depends on the iterations done before."""
    if not settings.plays:
        return settings.outline()
    seed = int(np.random.SeedSequence([job.seeds[0], iterations]).generate_state(1)[0] >> 1)
    return settings.source.make(settings.num_envs, settings.backend, seed, settings.workers)


def checkpoint_template(settings: Settings, job: TrainJob, environment: Environment) -> TrainState:
    """The shapes of a checkpoint, with the rollout state if the environment is functional."""

    def init(key, outside):
        init_seed = partial(init_train_state, settings.algorithm, environment, outside=outside)
        return vmap_over_seeds(init_seed, key)(key)

    train_state = jax.eval_shape(init, job.key, settings.outside)
    return train_state if environment.functional else replace(train_state, rollout_state=())


def save_job(
    job: TrainJob, environment: Environment, train_state: TrainState, metadata: dict[str, Any]
) -> None:
    """Write a checkpoint.

    Raises Diverged, naming the leaf, when a number in it is not finite; the newest checkpoint is
    then still the previous one.
    """
    saved_state = train_state if environment.functional else replace(train_state, rollout_state=())
    for path, leaf in jax.tree_util.tree_leaves_with_path(saved_state.algorithm_state):
        if jnp.issubdtype(leaf.dtype, jnp.floating) and not np.isfinite(leaf).all():
            raise Diverged(
                f"the state of the algorithm is no longer finite at {jax.tree_util.keystr(path)}"
            )
    checkpoints.save_checkpoint(
        job.directory / "checkpoints", metadata["steps"], saved_state, metadata
    )


def restore_job(
    settings: Settings, job: TrainJob, environment: Environment, warn: Callable[[str], None]
) -> tuple[TrainState | None, dict[str, Any]]:
    """The newest intact checkpoint and its metadata; None and zeros before the first."""
    if not has_checkpoint(job):
        return None, {"iterations": 0, "steps": 0, "seconds": 0.0, "compile_seconds": 0.0}
    _, train_state, metadata = checkpoints.load_newest(
        job.directory / "checkpoints", checkpoint_template(settings, job, environment), warn
    )
    return train_state, metadata


def has_checkpoint(job: TrainJob) -> bool:
    """Whether a job has saved a checkpoint."""
    return any((job.directory / "checkpoints").glob("step_*"))


def restore_rollout(
    algorithm: Algorithm,
    train_state: TrainState,
    environment: Environment,
    key: jax.Array,
    iterations: int,
) -> TrainState:
    """Return the training state with its rollout state.

    The rollout state is the saved one or, where environments cannot be saved, one that is started
    as it was when the checkpoint was written.
    """
    if environment.functional:
        return train_state
    if environment.deterministic_reset:
        return replace(
            train_state,
            rollout_state=restart_rollout(
                algorithm, environment, train_state.algorithm_state, key, jnp.int32(iterations - 1)
            ),
        )
    return replace(
        train_state,
        rollout_state=init_rollout(algorithm, environment, train_state.algorithm_state, key),
    )


def write_rows(
    writer: MetricsWriter, job: TrainJob, steps: int, metrics: dict[str, list[float]]
) -> None:
    """Write a row for each seed; NaN, which was not measured, becomes an empty cell."""
    for i, seed in enumerate(job.seeds):
        values = {
            name: None if math.isnan(value[i]) else value[i] for name, value in metrics.items()
        }
        writer.append({"step": steps, "seed": seed, **values})
