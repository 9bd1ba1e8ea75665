"""The part of a run that trains in one program: all its seeds on a JAX environment, one seed on any other."""
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
from etude.experiment import checkpoint
from etude.experiment.interrupt import Interrupt, Interrupted
from etude.experiment.records import Records
from etude.experiment.settings import Settings
from etude.struct import replace
from etude.training import Algorithm, Training, begin, over_seeds, progress, restart, start


class Part(NamedTuple):
    """Its seeds, and the directory of its checkpoints and metrics."""
    seeds: tuple[int, ...]
    directory: Path

    @property
    def key(self) -> jax.Array:
        """One key, or [seed] of them."""
        keys = [jax.random.key(seed) for seed in self.seeds]
        return jnp.stack(keys) if len(keys) > 1 else keys[0]


class Update(NamedTuple):
    """News of a part, as plain data that can cross to another process."""
    seeds: tuple[int, ...]
    steps: int                             # environment steps of each seed
    metrics: dict[str, list[float]]        # [seed]
    row: bool                              # a row of metrics ends here
    seconds: float                         # of training in all, without compiling and saving
    compile_seconds: float                 # in all


def parts_of(settings: Settings, directory: Path) -> list[Part]:
    """How a run divides into programs."""
    seeds = tuple(range(settings.seed, settings.seed + settings.seeds))
    if settings.backend == "jax" or settings.seeds == 1:
        return [Part(seeds, directory)]
    return [Part((seed,), directory / f"seed_{seed}") for seed in seeds]


def train_part(settings: Settings, part: Part, interrupt: Interrupt, warn: Callable[[str], None]) -> Iterator[Update]:
    """Train from the newest checkpoint, or from the beginning, to the end of the budget; an Update after each chunk.

    Raises Interrupted, after saving, when it was asked to stop.
    """
    part.directory.mkdir(parents=True, exist_ok=True)
    environment, training, facts = take_up(settings, part, warn)
    resumed = None if training is None else (training, facts["iterations"])
    interrupt.watch(environment)
    restart_every = settings.checkpoint_every if environment.reseeds and not environment.pure else 0
    seconds, compile_seconds = facts["seconds"], facts["compile_seconds"]
    reports = progress(settings.algorithm, environment, part.key, settings.steps, resumed=resumed, row_every=settings.row_every,
                       restart_every=restart_every)
    try:
        with Records(part.directory / "metrics.csv") as records:
            records.truncate_after(facts["steps"])
            if training is not None:
                yield Update(part.seeds, facts["steps"], {}, False, seconds, compile_seconds)
            for report in reports:
                seconds, compile_seconds = seconds + report.seconds, compile_seconds + report.compile_seconds
                metrics = {name: np.atleast_1d(value).tolist() for name, value in report.metrics.items()}
                if report.row_complete:
                    write_rows(records, part, report.steps, metrics)
                ends = report.iterations % settings.checkpoint_every == 0 or report.iterations == settings.iterations
                if ends or interrupt.signal:
                    records.sync()
                    facts = {"iterations": report.iterations, "steps": report.steps, "seconds": seconds,
                             "compile_seconds": compile_seconds, "seeds": list(part.seeds)}
                    save(part, environment, report.training, facts)
                yield Update(part.seeds, report.steps, metrics, report.row_complete, seconds, compile_seconds)
                if interrupt.signal and report.iterations < settings.iterations:
                    raise Interrupted(f"stopped at step {report.steps:,} of {settings.steps:,}, saved")
    except KeyboardInterrupt:
        raise Interrupted(f"stopped in the middle of a step; the last checkpoint is that of step {facts['steps']:,}") from None
    finally:
        environment.close()


def take_up(settings: Settings, part: Part, warn: Callable[[str], None]) -> tuple[Environment, Training | None, dict[str, Any]]:
    """The environment, the training to go on with (None before the first checkpoint), and the facts of where it stands."""
    environment = build(settings, part)
    try:
        training, facts = restore(settings, part, environment, warn)
    except InvalidInput:
        environment.close()
        raise
    if training is None:
        return environment, None, facts
    if not environment.reseeds:                         # what it would play from its first seed, it has played already
        environment.close()
        environment = build(settings, part, facts["iterations"])
    return environment, in_play(settings.algorithm, training, environment, part.key, facts["iterations"]), facts


def build(settings: Settings, part: Part, iterations: int = 0) -> Environment:
    """The environment the part trains on; EnvPool's seed, given once, follows from the iterations done before."""
    seed = int(np.random.SeedSequence([part.seeds[0], iterations]).generate_state(1)[0] >> 1)
    return make(settings.environment, settings.num_envs, settings.backend, seed=seed, workers=settings.workers,
                **settings.view)


def template(settings: Settings, part: Part, environment: Environment) -> Training:
    """The shapes of what a checkpoint holds; play is part of it where it can be saved."""
    training = jax.eval_shape(over_seeds(partial(begin, settings.algorithm, environment), part.key), part.key)
    return training if environment.pure else replace(training, stage=())


def save(part: Part, environment: Environment, training: Training, facts: dict[str, Any]) -> None:
    """Write a checkpoint.

    Raises Diverged, naming the leaf, when a number in it is not finite: the checkpoint before stays the newest.
    """
    kept = training if environment.pure else replace(training, stage=())
    for path, leaf in jax.tree_util.tree_leaves_with_path(kept.state):
        if jnp.issubdtype(leaf.dtype, jnp.floating) and not jnp.isfinite(leaf).all():
            raise Diverged(f"the state of the algorithm is no longer finite at {jax.tree_util.keystr(path)}")
    checkpoint.save(part.directory / "checkpoints", facts["steps"], kept, facts)


def restore(settings: Settings, part: Part, environment: Environment,
            warn: Callable[[str], None]) -> tuple[Training | None, dict[str, Any]]:
    """The newest checkpoint that is whole, and its facts; None and zeros before the first."""
    directory = part.directory / "checkpoints"
    if not directory.is_dir() or not any(directory.glob("step_*")):
        return None, {"iterations": 0, "steps": 0, "seconds": 0.0, "compile_seconds": 0.0}
    _, training, facts = checkpoint.newest(directory, template(settings, part, environment), warn)
    return training, facts


def in_play(algorithm: Algorithm, training: Training, environment: Environment, key: jax.Array, iterations: int) -> Training:
    """The training with its play: saved with it, or started afresh as it was when the checkpoint was written."""
    if environment.pure:
        return training
    if environment.reseeds:
        return replace(training, stage=restart(algorithm, environment, training.state, key, jnp.int32(iterations - 1)))
    return replace(training, stage=start(algorithm, environment, training.state, key))


def write_rows(records: Records, part: Part, steps: int, metrics: dict[str, list[float]]) -> None:
    """A row for each seed; what was not measured is left empty."""
    for i, seed in enumerate(part.seeds):
        values = {name: None if math.isnan(value[i]) else value[i] for name, value in metrics.items()}
        records.append({"step": steps, "seed": seed, **values})
