"""A training job: the seeds of a run that train in one program, with checkpoints and metrics.

On a JAX environment one job has all seeds; on other environments each seed has a job.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from etude.environments.backends.episode_log import EpisodeLog, empty_log
from etude.environments.protocol import Environment
from etude.errors import Diverged, shown
from etude.runs.alarms import MetricAlarms
from etude.runs.endless_episodes import EndlessEpisodes
from etude.runs.interrupt import Interrupted, InterruptHandler
from etude.runs.periodic_evaluation import PeriodicEvaluation, best_directory, records_in
from etude.runs.resuming import replay_note, restart_notes, resume_rollout
from etude.runs.settings import Settings
from etude.runs.stopping import EarlyStop
from etude.storage import checkpoints
from etude.storage.files import CorruptFile
from etude.storage.metrics_csv import MetricsWriter, measure_rows
from etude.struct import replace
from etude.training import (
    ProgressReport,
    TrainState,
    average_metrics,
    init_train_state,
    progress,
    vmap_over_seeds,
)


class SavedState(NamedTuple):
    """What a checkpoint holds of a job."""

    train_state: TrainState  # with a rollout_state of () where the environments cannot be saved
    # of environments with a replayer; else ()
    episode_log: EpisodeLog | tuple[()] = ()


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


class ProgressEvent(NamedTuple):
    """The progress of a job, as plain data that can cross to another process."""

    seeds: tuple[int, ...]
    steps: int  # steps of the budget of each seed
    metrics: dict[str, list[float]]  # [seed]
    end_of_row: bool  # whether a row of metrics ends here
    seconds: float  # total time of training, without compiling and saving
    compile_seconds: float  # total time of compiling
    stops: tuple[EarlyStop, ...] = ()  # why the job ended early


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
    )
    evaluations = None
    try:
        evaluations = PeriodicEvaluation(settings, job.seeds, metadata)
        with MetricsWriter(job.metrics_path) as writer:
            if fault := metrics_fault(job, metadata):
                warn(f"{fault}; what is lost is missing from the curve")
            writer.truncate_after(last_row_step(metadata))
            unfinished_rows: list[ProgressReport] = []
            if train_state is not None:
                evaluations.save_best(job.directory, SavedState(train_state), metadata)
                stops = evaluations.stops
                yield ProgressEvent(
                    job.seeds, metadata["steps"], {}, False, seconds, compile_seconds, stops
                )
                if stops:
                    return
                if metadata.get("unfinished_row"):
                    unfinished_rows = [unfinished_row(train_state, metadata)]
            endless = EndlessEpisodes(settings, metadata["steps"])
            for report in chain(unfinished_rows, reports):
                for notice in environment.notices():
                    warn(notice)
                seconds, compile_seconds = (
                    seconds + report.seconds,
                    compile_seconds + report.compile_seconds,
                )
                metrics = {
                    name: np.atleast_1d(value).tolist() for name, value in report.metrics.items()
                }
                if job.seeds[0] == settings.seed and (text := endless.warning(report)):
                    warn(text)
                row = evaluations.finish_row(report, interrupt, environment)
                if row is not None:
                    metrics |= row
                    write_rows(writer, job, report.steps, metrics)
                    for text in alarms.check(metrics, report.steps):
                        warn(text)
                is_unfinished = report.end_of_row and row is None
                stops = evaluations.stops
                checkpoint_due = (
                    report.iterations % settings.checkpoint_every == 0
                    or report.iterations == settings.iterations
                    or evaluations.has_best_at(report.steps)
                    or bool(stops)
                )
                if checkpoint_due or interrupt.signal or is_unfinished:
                    writer.sync()
                    checkpoint = {
                        "iterations": report.iterations,
                        "steps": report.steps,
                        "seconds": seconds,
                        "compile_seconds": compile_seconds,
                        "seeds": list(job.seeds),
                        "metrics": measure_rows(job.metrics_path, report.steps),
                        **evaluations.metadata(),
                        **({"unfinished_row": True} if is_unfinished else {}),
                    }
                    save_job(job, environment, report.train_state, checkpoint)
                    metadata = checkpoint
                    saved = SavedState(report.train_state)
                    evaluations.save_best(job.directory, saved, metadata)
                yield ProgressEvent(
                    job.seeds,
                    report.steps,
                    metrics,
                    report.end_of_row,
                    seconds,
                    compile_seconds,
                    stops,
                )
                if stops:
                    return
                if is_unfinished or (interrupt.signal and report.iterations < settings.iterations):
                    raise Interrupted(
                        f"stopped at step {report.steps:,} of {settings.steps:,}, saved"
                    )
    except Diverged as error:
        steps = metadata["steps"]
        kept = f"the checkpoint of step {steps:,} is kept" if steps else "there is no checkpoint"
        raise Diverged(f"{error}; {kept}") from None
    except KeyboardInterrupt:
        raise Interrupted(
            "stopped in the middle of a step; the last checkpoint is that of step "
            f"{metadata['steps']:,}"
        ) from None
    finally:
        environment.close()
        if evaluations is not None:
            evaluations.close()


def unfinished_row(train_state: TrainState, metadata: dict[str, Any]) -> ProgressReport:
    """The report of a row that was saved when a signal came in its evaluation, to go on from."""
    return ProgressReport(
        train_state,
        metadata["iterations"],
        metadata["steps"],
        average_metrics(jax.device_get(train_state.metric_sums)),
        end_of_row=True,
        seconds=0.0,
        compile_seconds=0.0,
    )


def last_row_step(metadata: dict[str, Any]) -> int:
    """The step up to which rows are in metrics.csv at a checkpoint: an unfinished one is not."""
    return metadata["steps"] - bool(metadata.get("unfinished_row"))


def initial_components(settings: Settings, job: TrainJob) -> dict[str, Any]:
    """The components of other runs that a job starts with, [seed, ...] for many seeds."""
    first = job.seeds[0] - settings.seed
    rows = slice(first, first + len(job.seeds)) if len(job.seeds) > 1 else first
    return jax.tree.map(lambda x: x[rows], settings.initial_components)


def open_job(
    settings: Settings, job: TrainJob, warn: Callable[[str], None]
) -> tuple[Environment, TrainState | None, dict[str, Any]]:
    """Return the environment, the state to resume (None before a checkpoint) and its metadata."""
    saved, metadata = restore_job(settings, job, settings.outline(), warn)
    iterations = metadata["iterations"]
    environment = make_environment(settings, job, iterations)
    if saved is None:
        return environment, None, metadata
    if environment.functional:
        return environment, saved.train_state, metadata
    if isinstance(saved.episode_log, EpisodeLog):
        warn(replay_note(saved.episode_log))
    try:
        train_state, reasons = resume_rollout(
            settings.algorithm,
            environment,
            saved.train_state,
            saved.episode_log,
            job.key,
            iterations,
        )
    except BaseException:
        environment.close()
        raise
    for note in restart_notes(saved.episode_log, reasons):
        warn(note)
    return environment, train_state, metadata


def make_environment(settings: Settings, job: TrainJob, iterations: int = 0) -> Environment:
    """Make the environment of a job.

    EnvPool's seed depends on the iterations done before, since the episodes of the first seed were
    trained on then.
    """
    if not settings.plays:
        return settings.outline()
    seed = int(np.random.SeedSequence([job.seeds[0], iterations]).generate_state(1)[0] >> 1)
    return settings.source.make(
        settings.num_envs,
        settings.backend,
        seed,
        settings.workers,
        replay_limit=settings.replay_limit,
    )


def checkpoint_template(
    settings: Settings, job: TrainJob, environment: Environment, metadata: dict[str, Any]
) -> SavedState:
    """The shapes of a checkpoint with this metadata.

    Raises CorruptFile for metadata that none has.
    """

    def init(key, outside):
        init_seed = partial(init_train_state, settings.algorithm, environment, outside=outside)
        return vmap_over_seeds(init_seed, key)(key)

    train_state = jax.eval_shape(init, job.key, settings.outside)
    if environment.functional:
        return SavedState(train_state)
    sizes = metadata.get("episode_log")
    if sizes is None:
        return SavedState(replace(train_state, rollout_state=()))
    if not isinstance(sizes, list) or [type(size) for size in sizes] != [int, int]:
        raise CorruptFile(f"its metadata gives episode_log as {sizes!r}, which is no two sizes")
    return SavedState(train_state, empty_log(settings.num_envs, *sizes))


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
    return restore_from(directory, settings, TrainJob((seed,), directory), environment, warn)


def restore_from(
    directory: Path,
    settings: Settings,
    job: TrainJob,
    environment: Environment,
    warn: Callable[[str], None],
) -> tuple[SavedState, dict[str, Any]]:
    """The newest intact checkpoint of a job in a directory, and its metadata."""

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
    return any((job.directory / "checkpoints").glob("step_*"))


def has_rows(job: TrainJob) -> bool:
    """Whether a job has written a row of metrics."""
    return job.metrics_path.exists() and job.metrics_path.stat().st_size > 0


def write_rows(
    writer: MetricsWriter, job: TrainJob, steps: int, metrics: dict[str, list[float]]
) -> None:
    """Write a row for each seed; NaN, which was not measured, becomes an empty cell."""
    for i, seed in enumerate(job.seeds):
        values = {
            name: None if math.isnan(value[i]) else value[i] for name, value in metrics.items()
        }
        writer.append({"step": steps, "seed": seed, **values})
