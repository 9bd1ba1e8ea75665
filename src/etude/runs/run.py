"""A run: a directory, what was asked for, and what came of it.

config.json  metrics.csv  summary.json  learning_curve.png  checkpoints/step_N/  video/
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import jax
import numpy as np

from etude.algorithms import registered_name
from etude.environments.registry import Backend, choose_backend, make
from etude.errors import InvalidInput
from etude.reporting import figures, statistics
from etude.storage import files, metrics_csv
from etude.runs.display import Display, display_for
from etude.runs.interrupt import InterruptHandler, Interrupted
from etude.runs.job import (
    ProgressEvent,
    TrainJob,
    jobs_for,
    make_environment,
    restore_job,
    train_job,
)
from etude.runs.processes import train_jobs, usable_cores
from etude.runs.settings import Settings, environment_changes, from_json, to_json
from etude.runs.video import record_video
from etude.rollout import evaluate, initial_memory
from etude.struct import replace
from etude.training import run_compiled
from etude.types import Array

ROWS, CHECKPOINTS = 100, 10  # of a run, about


class Run:
    """A run directory. Make one with `train`, open one with `load`."""

    def __init__(self, directory: Path, settings: Settings):
        self.directory, self.settings = Path(directory), settings

    def __repr__(self) -> str:
        return f"Run({str(self.directory)!r}: {self.name})"

    @property
    def name(self) -> str:
        return f"{self.settings.name} on {self.settings.environment}"

    @property
    def jobs(self) -> list[TrainJob]:
        return jobs_for(self.settings, self.directory)

    @property
    def summary(self) -> dict[str, Any]:
        """What summary.json says; raises InvalidInput before the run is complete."""
        if not (path := self.directory / "summary.json").exists():
            raise InvalidInput(
                f"{self.directory} is not complete; go on with: etude resume {self.directory}"
            )
        return files.read_json(path)

    @property
    def metrics(self) -> dict[str, np.ndarray]:
        """The columns of metrics.csv, [row], NaN where nothing was measured; a row for each
        seed."""
        tables = [metrics_csv.read_metrics(part.directory / "metrics.csv") for part in self.jobs]
        return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}

    def states(self, warn: Callable[[str], None] = lambda text: None) -> list[Any]:
        """The algorithm's state for each seed, from the newest checkpoints."""
        return [state for part in self.jobs for state in self._states_of(part, warn)]

    def _states_of(self, part, warn):
        with closing(make_environment(self.settings, part)) as environment:
            training, _ = restore_job(self.settings, part, environment, warn)
        if training is None:
            raise InvalidInput(
                f"{part.directory} holds no checkpoint yet; train it with: etude "
                f"resume {self.directory}"
            )
        if len(part.seeds) == 1:
            return [training.state]
        return [jax.tree.map(itemgetter(i), training.state) for i in range(len(part.seeds))]

    def evaluate(
        self,
        episodes: int | None = None,
        *,
        explore: bool = False,
        seed: int | None = None,
        warn: Callable[[str], None] = lambda text: None,
        interrupt: InterruptHandler | None = None,
    ) -> dict[str, Any]:
        """Judge every seed's policy over `episodes` whole episodes of the Gymnasium environment.

        The policy is deterministic (its mode, the greedy action) unless `explore`. Returns
        episodes, deterministic, mean, std, iqm, ci95 [low, high] of the IQM, per_seed [seed],
        returns [seed][episode].
        """
        episodes = episodes or self.settings.evaluation_episodes
        if episodes < 1:
            raise InvalidInput(f"episodes is {episodes}; it must be at least 1")
        copies = max(n for n in range(1, 11) if episodes % n == 0)
        environment = make(
            self.settings.environment, copies, "gymnasium", **self.settings.env_kwargs
        )
        if interrupt is not None:
            interrupt.watch(environment, patience=0)

        @jax.jit
        def judge(state, key):
            def policy(observation, memory, key):
                return self.settings.algorithm.act(state, observation, memory, key, explore=explore)

            return evaluate(
                environment, policy, key, episodes, initial_memory(environment, policy)
            )[0]

        base = self.settings.seed if seed is None else seed
        with closing(environment):
            returns = [
                np.asarray(
                    run_compiled(
                        environment, judge, state, jax.random.fold_in(jax.random.key(base), i)
                    )
                ).tolist()
                for i, state in enumerate(self.states(warn))
            ]
        return {
            "episodes": episodes,
            "deterministic": not explore,
            **statistics.summarize_returns(returns),
        }

    def finish(
        self,
        updates: list[ProgressEvent],
        display: Display,
        interrupt: InterruptHandler,
        began: float,
    ) -> None:
        """Evaluate, then write summary.json and learning_curve.png; `began` is when the clock of
        the session started."""
        display.note("evaluating on the Gymnasium environment")
        evaluation = self.evaluate(warn=display.warn, interrupt=interrupt)
        seconds, compiling = (
            sum(getattr(update, name) for update in updates)
            for name in ("seconds", "compile_seconds")
        )
        settings = self.settings
        steps = settings.trained_steps
        # so many programs train at a time
        elapsed = seconds / min(len(self.jobs), len(usable_cores()))
        files.write_json(
            self.directory / "summary.json",
            {
                "algorithm": settings.name,
                "environment": settings.environment,
                "backend": settings.backend,
                "seeds": settings.seeds,
                "steps": steps,
                "wall_seconds": time.perf_counter() - began,
                "train_seconds": seconds,
                "compile_seconds": compiling,
                "train_steps_per_second": steps * settings.seeds / max(elapsed, 1e-9),
                "evaluation": evaluation,
            },
        )
        if len(self.jobs) > 1:
            self._merge_metrics()
        self.draw(evaluation)

    def draw(self, evaluation: dict[str, Any] | None) -> Path:
        """Draw learning_curve.png."""
        metrics, settings = self.metrics, self.settings
        seeds = np.unique(metrics["seed"])
        steps = metrics["step"][metrics["seed"] == seeds[0]]
        curves = [metrics["episode_return"][metrics["seed"] == seed] for seed in seeds]
        path = self.directory / "learning_curve.png"
        plural = "s" if settings.seeds > 1 else ""
        figures.draw_learning_curve(
            path,
            steps,
            curves,
            evaluation,
            title=self.name,
            subtitle=f"{settings.seeds} seed{plural}, trained on the {settings.backend} backend",
        )
        return path

    def _merge_metrics(self):
        """One metrics.csv for seeds that trained in processes of their own."""
        tables = [
            (part.directory / "metrics.csv").read_text().splitlines(keepends=True)
            for part in self.jobs
        ]
        merged = "".join([tables[0][0], *(row for table in tables for row in table[1:])])
        files.write_bytes(self.directory / "metrics.csv", merged.encode())


def train(
    algorithm: Any,
    environment: str,
    *,
    steps: int,
    seeds: int = 1,
    seed: int = 0,
    backend: Backend = "auto",
    num_envs: int | None = None,
    workers: int = 0,
    options: dict[str, Any] | None = None,
    frame_stack: int = 1,
    action_masks: bool = False,
    out: str | Path | None = None,
    checkpoint_interval: int | None = None,
    evaluation_episodes: int = 100,
    video: bool = False,
    progress: bool = True,
) -> Run:
    """Train an algorithm on an environment for `steps` steps of each seed, judge it on Gymnasium,
    and leave a run directory.

    environment          a Gymnasium id, or module:Name to import the module that registers it
    backend              auto, jax, envpool or gymnasium: what it trains on
    num_envs             copies stepped at once by each seed; the algorithm's own default when None
    workers, options     processes for a slow Gymnasium environment; keyword arguments of
                         gymnasium.make
    frame_stack          the latest observations that are seen at once
    action_masks         whether info["action_mask"] says which choices are allowed
    out                  the run directory, which must not hold anything; runs/<name>-<time> when
                         None
    checkpoint_interval  environment steps between checkpoints; a tenth of the budget when None

    Raises InvalidInput for what cannot be done as asked, EnvironmentFault, Diverged, and
    Interrupted after Ctrl-C.
    """
    settings = resolve_settings(
        algorithm,
        environment,
        steps=steps,
        seeds=seeds,
        seed=seed,
        backend=backend,
        num_envs=num_envs,
        workers=workers,
        options=options,
        frame_stack=frame_stack,
        action_masks=action_masks,
        checkpoint_interval=checkpoint_interval,
        evaluation_episodes=evaluation_episodes,
    )
    run = create_run(settings, out)
    return run_training(run, display_for(run, progress), video)


def resolve_settings(
    algorithm: Any,
    environment: str,
    *,
    steps: int,
    seeds: int = 1,
    seed: int = 0,
    backend: Backend = "auto",
    num_envs: int | None = None,
    workers: int = 0,
    options: dict[str, Any] | None = None,
    frame_stack: int = 1,
    action_masks: bool = False,
    checkpoint_interval: int | None = None,
    evaluation_episodes: int = 100,
    name: str | None = None,
) -> Settings:
    """The settings of a run, everything checked that can be without training; arguments as for
    `train`.

    `name` is what the algorithm was asked for by; when None, the one that says most of it.
    """
    num_envs = getattr(algorithm, "default_num_envs", 1) if num_envs is None else num_envs
    # a planner that names no model plans on what it acts in
    if getattr(algorithm, "model", None) == "":
        algorithm = replace(algorithm, model=environment.split(":")[-1])
    backend = choose_backend(environment, backend, bool(options or workers or action_masks))
    settings = Settings(
        name or registered_name(algorithm),
        algorithm,
        environment,
        backend,
        steps,
        num_envs,
        seed,
        seeds,
        workers,
        options or {},
        frame_stack,
        action_masks,
        evaluation_episodes=evaluation_episodes,
    )
    settings.validate_fields()
    if checkpoint_interval is not None and checkpoint_interval < 1:
        raise InvalidInput(f"checkpoint_interval is {checkpoint_interval}; it must be at least 1")
    sample = make(environment, num_envs, backend, **settings.env_kwargs)
    # what the algorithm says of the spaces
    jax.eval_shape(partial(algorithm.init, spec=sample.spec), jax.random.key(0))
    sample.close()
    rows = max(1, settings.iterations // ROWS)
    wanted = settings.iterations / CHECKPOINTS
    if checkpoint_interval is not None:
        wanted = checkpoint_interval / settings.steps_per_iteration
    return Settings(
        **{
            **vars(settings),
            "row_every": rows,
            "checkpoint_every": max(1, round(wanted / rows)) * rows,
        }
    )


def create_run(settings: Settings, out: str | Path | None = None) -> Run:
    """A new run directory with its config.json.

    Raises InvalidInput when there is something in it already.
    """
    if out is None:
        identifier = settings.environment.split(":")[-1].replace("/", "-")
        stem = f"{settings.name}-{identifier}-{datetime.now():%Y%m%d-%H%M%S}"
        names = (f"{stem}{suffix}" for suffix in ("", *(f"-{i}" for i in range(2, 1000))))
        out = next(path for name in names if not (path := Path("runs") / name).exists())
    directory = Path(out)
    if (directory / "config.json").exists():
        raise InvalidInput(
            f"{directory} holds another run; give another --out, or go on with it: "
            f"etude resume {directory}"
        )
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InvalidInput(f"{directory} exists and is not empty; give another --out")
    directory.mkdir(parents=True, exist_ok=True)
    files.write_json(directory / "config.json", to_json(settings))
    return Run(directory, settings)


def load(path: str | Path, algorithm: Any = None, environment: str | None = None) -> Run:
    """Open a run directory; `algorithm` is an instance of its algorithm where that is your own.

    An environment called module:Name is never imported on a file's word: say its name as
    `environment`, or import the module first. Raises InvalidInput for what is no run.
    """
    directory = Path(path)
    if not (directory / "config.json").is_file():
        raise InvalidInput(
            f"{directory} is not a run: it has no config.json; a run is what "
            "`etude train` left its path of"
        )
    settings = from_json(files.read_json(directory / "config.json"), algorithm)
    name = settings.environment
    if environment is not None and environment != name:
        raise InvalidInput(f"{directory} was trained on {name}, not on {environment}")
    if ":" in name and environment is None and name.split(":")[0] not in sys.modules:
        raise InvalidInput(
            f"{directory} was trained on {name}, whose module etude does not "
            "import because a file says so; "
            f"add --environment {name} (in Python environment={name!r})"
        )
    return Run(directory, settings)


def resume(
    path: str | Path,
    steps: int | None = None,
    *,
    algorithm: Any = None,
    environment: str | None = None,
    video: bool = False,
    progress: bool = True,
) -> Run:
    """Go on with a run from its newest checkpoint, to its own budget or to a larger one of
    `steps`."""
    run = load(path, algorithm, environment)
    if steps is not None:
        run = extend_budget(run, steps)
    elif (run.directory / "summary.json").exists():
        raise InvalidInput(
            f"{run.directory} is complete at {run.summary['steps']:,} steps; give "
            "--steps to go on further"
        )
    display = display_for(run, progress)
    if changed := environment_changes(files.read_json(run.directory / "config.json")):
        display.warn(
            f"this run began elsewhere ({'; '.join(changed)}): it goes on, but not bit "
            "for bit as it would have there"
        )
    return run_training(run, display, video)


def extend_budget(run: Run, steps: int) -> Run:
    """The same run with a larger budget.

    Raises InvalidInput when it is not larger.
    """
    before = run.settings
    settings = Settings(**{**vars(before), "steps": steps})
    settings.validate_fields()
    complete = (run.directory / "summary.json").exists()
    if settings.iterations < before.iterations or (
        complete and settings.iterations == before.iterations
    ):
        raise InvalidInput(
            f"steps is {steps}; {run.directory} has a budget of {before.steps:,} "
            "already, so give more than that"
        )
    files.write_json(run.directory / "config.json", to_json(settings))
    (run.directory / "summary.json").unlink(missing_ok=True)
    return Run(run.directory, settings)


def run_training(run: Run, display: Display, video: bool = False) -> Run:
    """Train to the end of the budget, evaluate and report."""
    began, last, interrupt = time.perf_counter(), {}, InterruptHandler()
    try:
        with interrupt, display:
            for update in run_jobs(run, interrupt, display.warn):
                last[update.seeds] = update
                display.show(update)
            run.finish(list(last.values()), display, interrupt, began)
            if video:
                display.note("recording a video")
                record_video(run, run.directory / "video")
    except (Interrupted, KeyboardInterrupt) as stopped:
        trained = len(last) == len(run.jobs) and all(
            news.steps >= run.settings.trained_steps for news in last.values()
        )
        what = (
            str(stopped)
            or f"stopped {'in the evaluation; training is complete and saved' if trained else 'before it began'}"
        )
        raise Interrupted(
            f"{what}. Go on with: etude resume {run.directory}", interrupt.signal
        ) from None
    display.report(run)
    return run


def run_jobs(
    run: Run, interrupt: InterruptHandler, warn: Callable[[str], None]
) -> Iterator[ProgressEvent]:
    """Train all parts, in this process when there is one."""
    if len(run.jobs) == 1:
        return train_job(run.settings, run.jobs[0], interrupt, warn)
    return train_jobs(run.settings, run.jobs, interrupt, warn)
