"""A training job: the seeds of a run that train in one program, with checkpoints and metrics.

On a JAX environment one job has all seeds; on other environments each seed has a job.
"""

from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from itertools import chain
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from etude.environments.backends.episode_log import EpisodeLog
from etude.environments.backends.in_process import HostLimits
from etude.environments.protocol import Environment
from etude.errors import Diverged
from etude.runs.interrupt import Interrupted, InterruptHandler
from etude.runs.interventions import PersonRollout
from etude.runs.job_checkpoints import TrainJob, restore_job
from etude.runs.job_progress import JobProgress, ProgressEvent
from etude.runs.resuming import replay_note, restart_notes, resume_rollout
from etude.runs.settings import Settings
from etude.struct import replace
from etude.training import TrainState, progress


def train_job(
    settings: Settings, job: TrainJob, interrupt: InterruptHandler, warn: Callable[[str], None]
) -> Iterator[ProgressEvent]:
    """Train from the newest checkpoint, or from the start, and yield an event after each chunk.

    Raises Interrupted, after a checkpoint, on a signal to stop.
    """
    job.directory.mkdir(parents=True, exist_ok=True)
    initial = initial_components(settings, job)
    environment, train_state, metadata = open_job(settings, job, warn)
    interrupt.watch(environment)
    player = PersonRollout(settings, environment, interrupt) if settings.is_played else None
    reports = progress(
        settings.algorithm,
        environment,
        job.key,
        settings.steps,
        outside=settings.outside,
        initial=initial,
        resumed=None if train_state is None else (train_state, metadata["iterations"]),
        row_every=settings.row_every,
        make_chunk=player.make_chunk if player else None,
    )
    saved_steps = metadata["steps"]
    try:
        with (
            closing(environment),
            closing(player) if player else nullcontext(),
            closing(JobProgress(settings, job, environment, metadata, warn)) as job_progress,
        ):
            if train_state is not None:
                yield job_progress.resume(train_state)
            if job_progress.stops:
                return
            for report in chain(job_progress.unfinished_rows(train_state), reports):
                event = job_progress.take(report, interrupt)
                saved_steps = job_progress.metadata["steps"]
                yield event
                if job_progress.stops:
                    return
                is_complete = report.iterations == settings.iterations
                if job_progress.is_unfinished or (interrupt.signal and not is_complete):
                    raise Interrupted(
                        f"stopped at step {report.steps:,} of {settings.steps:,}, saved"
                    )
    except Diverged as error:
        is_saved = f"the checkpoint of step {saved_steps:,} is kept"
        raise Diverged(
            f"{error}; {is_saved if saved_steps else 'there is no checkpoint'}"
        ) from None
    except KeyboardInterrupt:
        kept = f"the last checkpoint is that of step {saved_steps:,}"
        raise Interrupted(
            f"stopped in the middle of a step; {kept if saved_steps else 'nothing is saved yet'}"
        ) from None


def open_job(
    settings: Settings, job: TrainJob, warn: Callable[[str], None]
) -> tuple[Environment, TrainState | None, dict[str, Any]]:
    """Return the environment, the state to resume (None before a checkpoint) and its metadata."""
    saved, metadata = restore_job(settings, job, settings.outline(), warn)
    if saved is not None and metadata.get("ended_row"):  # so a larger budget begins a row here
        sums = jax.tree.map(jnp.zeros_like, saved.train_state.metric_sums)
        saved = saved._replace(train_state=replace(saved.train_state, metric_sums=sums))
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
            settings.outside,
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
    if settings.is_played:
        return settings.source.make_rendered("rgb_array", replay=settings.replay_limit)
    seed = int(np.random.SeedSequence([job.seeds[0], iterations]).generate_state(1)[0] >> 1)
    return settings.source.make(
        settings.num_envs,
        settings.backend,
        seed,
        settings.workers,
        HostLimits(replay=settings.replay_limit),
    )


def initial_components(settings: Settings, job: TrainJob) -> dict[str, Any]:
    """The components of other runs that a job starts with, [seed, ...] for many seeds."""
    first = job.seeds[0] - settings.seed
    rows = slice(first, first + len(job.seeds)) if len(job.seeds) > 1 else first
    return jax.tree.map(lambda x: x[rows], settings.initial_components)
