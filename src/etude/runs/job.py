"""The part of a run that trains in one program: all its seeds on a JAX environment, one seed on any
other."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from etude.environments import make
from etude.environments.protocol import Environment
from etude.errors import Diverged, InvalidInput
from etude.storage import checkpoints
from etude.runs.interrupt import InterruptHandler, Interrupted
from etude.storage.metrics_csv import MetricsWriter
from etude.runs.settings import Settings
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
    """Its seeds, and the directory of its checkpoints and metrics."""

    seeds: tuple[int, ...]
    directory: Path

    @property
    def key(self) -> jax.Array:
        """One key, or [seed] of them."""
        keys = [jax.random.key(seed) for seed in self.seeds]
        return jnp.stack(keys) if len(keys) > 1 else keys[0]


class ProgressEvent(NamedTuple):
    """News of a part, as plain data that can cross to another process."""

    seeds: tuple[int, ...]
    steps: int  # environment steps of each seed
    metrics: dict[str, list[float]]  # [seed]
    end_of_row: bool  # a row of metrics ends here
    seconds: float  # of training in all, without compiling and saving
    compile_seconds: float  # in all


def jobs_for(settings: Settings, directory: Path) -> list[TrainJob]:
    """How a run divides into programs."""
    seeds = tuple(range(settings.seed, settings.seed + settings.seeds))
    if settings.backend == "jax" or settings.seeds == 1:
        return [TrainJob(seeds, directory)]
    return [TrainJob((seed,), directory / f"seed_{seed}") for seed in seeds]


def train_job(
    settings: Settings, part: TrainJob, interrupt: InterruptHandler, warn: Callable[[str], None]
) -> Iterator[ProgressEvent]:
    """Train from the newest checkpoint, or from the beginning, to the end of the budget; an Update
    after each chunk.

    Raises Interrupted, after saving, when it was asked to stop.
    """
    part.directory.mkdir(parents=True, exist_ok=True)
    environment, training, facts = open_job(settings, part, warn)
    resumed = None if training is None else (training, facts["iterations"])
    interrupt.watch(environment)
    restart_every = (
        settings.checkpoint_every
        if environment.deterministic_reset and not environment.functional
        else 0
    )
    seconds, compile_seconds = facts["seconds"], facts["compile_seconds"]
    reports = progress(
        settings.algorithm,
        environment,
        part.key,
        settings.steps,
        resumed=resumed,
        row_every=settings.row_every,
        restart_every=restart_every,
    )
    try:
        with MetricsWriter(part.directory / "metrics.csv") as records:
            records.truncate_after(facts["steps"])
            if training is not None:
                yield ProgressEvent(part.seeds, facts["steps"], {}, False, seconds, compile_seconds)
            for report in reports:
                seconds, compile_seconds = (
                    seconds + report.seconds,
                    compile_seconds + report.compile_seconds,
                )
                metrics = {
                    name: np.atleast_1d(value).tolist() for name, value in report.metrics.items()
                }
                if report.end_of_row:
                    write_rows(records, part, report.steps, metrics)
                ends = (
                    report.iterations % settings.checkpoint_every == 0
                    or report.iterations == settings.iterations
                )
                if ends or interrupt.signal:
                    records.sync()
                    facts = {
                        "iterations": report.iterations,
                        "steps": report.steps,
                        "seconds": seconds,
                        "compile_seconds": compile_seconds,
                        "seeds": list(part.seeds),
                    }
                    save_job(part, environment, report.train_state, facts)
                yield ProgressEvent(
                    part.seeds, report.steps, metrics, report.end_of_row, seconds, compile_seconds
                )
                if interrupt.signal and report.iterations < settings.iterations:
                    raise Interrupted(
                        f"stopped at step {report.steps:,} of {settings.steps:,}, saved"
                    )
    except KeyboardInterrupt:
        raise Interrupted(
            "stopped in the middle of a step; the last checkpoint is that of step "
            f"{facts['steps']:,}"
        ) from None
    finally:
        environment.close()


def open_job(
    settings: Settings, part: TrainJob, warn: Callable[[str], None]
) -> tuple[Environment, TrainState | None, dict[str, Any]]:
    """The environment, the training to go on with (None before the first checkpoint), and the facts
    of where it stands."""
    environment = make_environment(settings, part)
    try:
        training, facts = restore_job(settings, part, environment, warn)
    except InvalidInput:
        environment.close()
        raise
    if training is None:
        return environment, None, facts
    # what it would play from its first seed, it has played already
    if not environment.deterministic_reset:
        environment.close()
        environment = make_environment(settings, part, facts["iterations"])
    return (
        environment,
        restore_rollout(settings.algorithm, training, environment, part.key, facts["iterations"]),
        facts,
    )


def make_environment(settings: Settings, part: TrainJob, iterations: int = 0) -> Environment:
    """The environment the part trains on; EnvPool's seed, given once, follows from the iterations
    done before."""
    seed = int(np.random.SeedSequence([part.seeds[0], iterations]).generate_state(1)[0] >> 1)
    return make(
        settings.environment,
        settings.num_envs,
        settings.backend,
        seed=seed,
        workers=settings.workers,
        **settings.env_kwargs,
    )


def checkpoint_template(settings: Settings, part: TrainJob, environment: Environment) -> TrainState:
    """The shapes of what a checkpoint holds; play is part of it where it can be saved."""
    training = jax.eval_shape(
        vmap_over_seeds(partial(init_train_state, settings.algorithm, environment), part.key),
        part.key,
    )
    return training if environment.functional else replace(training, rollout_state=())


def save_job(
    part: TrainJob, environment: Environment, training: TrainState, facts: dict[str, Any]
) -> None:
    """Write a checkpoint.

    Raises Diverged, naming the leaf, when a number in it is not finite: the checkpoint before stays
    the newest.
    """
    kept = training if environment.functional else replace(training, rollout_state=())
    for path, leaf in jax.tree_util.tree_leaves_with_path(kept.state):
        if jnp.issubdtype(leaf.dtype, jnp.floating) and not jnp.isfinite(leaf).all():
            raise Diverged(
                f"the state of the algorithm is no longer finite at {jax.tree_util.keystr(path)}"
            )
    checkpoints.save_checkpoint(part.directory / "checkpoints", facts["steps"], kept, facts)


def restore_job(
    settings: Settings, part: TrainJob, environment: Environment, warn: Callable[[str], None]
) -> tuple[TrainState | None, dict[str, Any]]:
    """The newest checkpoint that is whole, and its facts; None and zeros before the first."""
    directory = part.directory / "checkpoints"
    if not directory.is_dir() or not any(directory.glob("step_*")):
        return None, {"iterations": 0, "steps": 0, "seconds": 0.0, "compile_seconds": 0.0}
    _, training, facts = checkpoints.load_newest(
        directory, checkpoint_template(settings, part, environment), warn
    )
    return training, facts


def restore_rollout(
    algorithm: Algorithm,
    training: TrainState,
    environment: Environment,
    key: jax.Array,
    iterations: int,
) -> TrainState:
    """The training with its play: saved with it, or started afresh as it was when the checkpoint
    was written."""
    if environment.functional:
        return training
    if environment.deterministic_reset:
        return replace(
            training,
            rollout_state=restart_rollout(
                algorithm, environment, training.state, key, jnp.int32(iterations - 1)
            ),
        )
    return replace(
        training, rollout_state=init_rollout(algorithm, environment, training.state, key)
    )


def write_rows(
    records: MetricsWriter, part: TrainJob, steps: int, metrics: dict[str, list[float]]
) -> None:
    """A row for each seed; what was not measured is left empty."""
    for i, seed in enumerate(part.seeds):
        values = {
            name: None if math.isnan(value[i]) else value[i] for name, value in metrics.items()
        }
        records.append({"step": steps, "seed": seed, **values})
