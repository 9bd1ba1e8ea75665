"""Runs: settings and results in one directory, which is made, opened, evaluated and drawn.

config.json  metrics.csv  summary.json  learning_curve.png  video/
checkpoints/step_N/  and, of runs that are evaluated in training, checkpoints/best/step_N/
"""

import contextlib
import copy
import math
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Self, get_args

import jax
import numpy as np

from etude.cores import num_cores
from etude.data.dataset import Dataset
from etude.environments.sources import EnvironmentLike
from etude.errors import InvalidInput
from etude.reporting import figures
from etude.reporting.statistics import iqm
from etude.runs.config import CONFIG, from_json, read_config, start_as_before, to_json, write_config
from etude.runs.display import Display
from etude.runs.evaluation import evaluate_on_dataset, evaluate_policies
from etude.runs.interrupt import Interrupted, InterruptHandler
from etude.runs.job_checkpoints import (
    TrainJob,
    has_checkpoint,
    has_rows,
    jobs_for,
    metrics_fault,
    newest_metadata,
    restore_best,
    restore_job,
)
from etude.runs.job_progress import ProgressEvent
from etude.runs.options import AT_MOST, check_whole
from etude.runs.outside import (
    DatasetLike,
    check_next_observations,
    describe,
    open_dataset,
    reopen_dataset,
)
from etude.runs.periodic_evaluation import state_of_seed
from etude.runs.settings import Settings
from etude.runs.torsos import TorsoLike, names_torso
from etude.storage import files, metrics_csv
from etude.storage.files import CorruptFile
from etude.storage.writer_lock import LOCK, sole_writer

Which = Literal["last", "best"]  # of a run's checkpoints
LATEST_EPISODES = 20  # of training, whose mean return is compared with the evaluation


class Run:
    """A run and its directory; `train` makes one and `load` opens one."""

    def __init__(self, directory: Path, settings: Settings):
        # made absolute once, since an environment may change the working directory
        self.directory, self.settings = Path(directory).absolute(), settings
        here = Path.cwd()
        is_below = self.directory.is_relative_to(here)
        self.shown_directory = self.directory.relative_to(here) if is_below else self.directory

    def __repr__(self) -> str:
        return f"Run({str(self.shown_directory)!r}: {self.name})"

    def with_settings(self, settings: Settings) -> Self:
        """The run in the same directory with other settings."""
        run = copy.copy(self)
        run.settings = settings
        return run

    @property
    def name(self) -> str:
        return self.settings.title

    @property
    def jobs(self) -> list[TrainJob]:
        return jobs_for(self.settings, self.directory)

    @property
    def is_parallel(self) -> bool:
        """Whether each job trains in a process of its own."""
        return len(self.jobs) > 1 and self.settings.is_picklable

    @property
    def resume_command(self) -> str:
        return self.settings.resume_command(self.shown_directory)

    @property
    def summary(self) -> dict[str, Any]:
        """The content of summary.json; raises InvalidInput before the run is complete."""
        if not (path := self.directory / "summary.json").exists():
            raise InvalidInput(
                f"{self.shown_directory} is not complete; go on with: {self.resume_command}"
            )
        return files.read_sealed(path)

    @property
    def metrics(self) -> dict[str, np.ndarray]:
        """The columns of metrics.csv, [row], with a row for each seed; NaN where not measured.

        Raises CorruptFile where the rows up to the newest checkpoint are not those written.
        """
        for job in self.jobs:
            if fault := metrics_fault(job, newest_metadata(self.settings, job)):
                raise CorruptFile(f"{fault}; restore it from a copy, or resume the run without it")
        return self._unchecked_metrics()

    def _unchecked_metrics(self):
        paths = [job.metrics_path for job in self.jobs if has_rows(job)]
        tables = [table for path in paths if (table := metrics_csv.read_metrics(path))]
        names = tables[0] if tables else ()
        return {name: np.concatenate([table[name] for table in tables]) for name in names}

    def states(
        self, warn: Callable[[str], None] = lambda text: None, *, which: Which = "last"
    ) -> list[Any]:
        """The state of the algorithm of each seed.

        They are those of the last checkpoints, or of the best, by the evaluations during training.
        `warn` is told of a damaged checkpoint that is passed over. Raises InvalidInput where a run
        has no such checkpoint.
        """
        return [state for state, _ in self._states(warn, which)]

    def _states(self, warn, which) -> Iterator[tuple[Any, dict[str, Any]]]:
        """Yield the state of the algorithm of each seed, and the metadata of its checkpoint."""
        if which not in get_args(Which):
            raise InvalidInput(f"which is {which!r}; choose one of {', '.join(get_args(Which))}")
        for job in self.jobs:
            yield from (self._best_of if which == "best" else self._last_of)(job, warn)

    def _last_of(self, job, warn):
        saved, metadata = restore_job(self.settings, job, self.settings.outline(), warn)
        if saved is None:
            raise InvalidInput(
                f"{self.shown_directory} holds no checkpoint yet; train it with: "
                f"{self.resume_command}"
            )
        for i in range(len(job.seeds)):
            yield state_of_seed(saved.train_state.algorithm_state, i, len(job.seeds)), metadata

    def _best_of(self, job, warn):
        if self.settings.evaluate_every is None:
            raise InvalidInput(
                f"{self.directory} has no best checkpoint, since it was not evaluated during "
                "training (evaluate_every); take the last"
            )
        if not self.settings.acts:
            raise InvalidInput(
                f"{self.settings.name} has no return to be best by; take the last checkpoint"
            )
        if not has_checkpoint(job) or not newest_metadata(self.settings, job).get("evaluations"):
            raise InvalidInput(
                f"{self.shown_directory} was not evaluated yet; go on with: {self.resume_command}"
            )
        for seed in job.seeds:
            saved, metadata = restore_best(self.settings, job, seed, self.settings.outline(), warn)
            yield saved.train_state.algorithm_state, metadata

    def evaluate(
        self,
        episodes: int | None = None,
        *,
        explore: bool = False,
        seed: int | None = None,
        dataset: DatasetLike | None = None,
        which: Which = "last",
        warn: Callable[[str], None] = lambda text: None,
        interrupt: InterruptHandler | None = None,
    ) -> dict[str, Any]:
        """Evaluate what each seed has learned, by the last checkpoints or the best.

        A policy plays `episodes` whole episodes on the Gymnasium environment of that id, or on the
        environment itself where it was given as an object. It is deterministic (its mode, the
        greedy action) unless `explore`, or unless its algorithm draws in any case: one of several
        modes of a head, or the plans of a planner. An algorithm that has nothing to act with is
        evaluated on the dataset that it learned from, or on another `dataset` of the same spaces.

        Returns:
            Of a policy: environment (which of the two), episodes, explore, deterministic, cut (the
            episodes of all seeds that were cut off after max_steps), max_steps, mean, std, iqm,
            ci95 [low, high] of the IQM, per_seed [seed], returns [seed][episode], which, steps (of
            each seed's checkpoint); best_means [seed] of the evaluations that chose the best; and
            success (iqm, ci95, per_seed) of the share of episodes whose last `info` says
            `is_success`, where it says so; and measures (by name: iqm, ci95, per_seed and medians
            [seed]) of what the algorithm tells of the end of an episode, such as the distance to
            its goal, where it tells something. Otherwise: dataset, steps, metrics (by name: mean,
            std, iqm, ci95, per_seed).

        Raises:
            InvalidInput: for an argument that the algorithm does not use, and for fewer than one
                episode or a seed that is not in [0, 2³²).
        """
        if episodes is not None:
            check_whole("episodes", episodes, 1, AT_MOST["evaluation_episodes"])
        if seed is not None:
            check_whole("seed", seed, 0, AT_MOST["seed"])
        settings = self.settings
        first_seed = settings.seed if seed is None else seed
        if settings.acts:
            if dataset is not None:
                raise InvalidInput(
                    f"dataset is {describe(dataset)}, and {settings.name} is evaluated over whole "
                    "episodes; leave it out"
                )
            episodes = settings.evaluation_episodes if episodes is None else episodes
            evaluations = self._evaluate_policies(
                [which], warn, interrupt, episodes=episodes, explore=explore, seed=first_seed
            )
            return dict(evaluations)[which]
        if episodes is not None or explore:
            raise InvalidInput(
                f"{settings.name} has nothing to act with, so it is evaluated on a dataset, not "
                "over episodes; leave out episodes and the stochastic policy"
            )
        opened, path = self._evaluation_dataset(dataset)
        states = self.states(warn, which=which)
        return evaluate_on_dataset(settings, states, opened, path, first_seed)

    def _evaluate_policies(
        self,
        groups: list[Which],
        warn: Callable[[str], None],
        interrupt: InterruptHandler | None,
        *,
        episodes: int,
        explore: bool,
        seed: int,
    ) -> Iterator[tuple[Which, dict[str, Any]]]:
        """Yield what `evaluate` returns of each group of checkpoints, on the same episodes."""
        metadata: dict[Which, list[dict[str, Any]]] = {which: [] for which in groups}

        def states_of(which: Which) -> Iterator[Any]:
            for state, of_checkpoint in self._states(warn, which):
                metadata[which].append(of_checkpoint)
                yield state

        states = {which: states_of(which) for which in groups}
        evaluations = evaluate_policies(self.settings, states, episodes, explore, seed, interrupt)
        for which, evaluation in evaluations:
            evaluation |= {"which": which, "steps": [x["steps"] for x in metadata[which]]}
            if which == "best":
                means = [x["evaluations"][0]["best_mean"] for x in metadata[which]]
                evaluation["best_means"] = means
            yield which, evaluation

    def _evaluation_dataset(self, dataset: DatasetLike | None) -> tuple[Dataset, str]:
        """The dataset to evaluate on, and its path: the one that is given, else the run's own."""
        spec, record = self.settings.outline().spec, self.settings.dataset
        if dataset is not None:
            opened, found, _ = open_dataset(dataset, spec)
            check_next_observations(self.settings.algorithm, self.settings.name, opened)
            return opened, found.path
        assert record is not None  # a run of an algorithm that needs a dataset has one
        at_hand = self.settings.outside.dataset
        if at_hand is not None and not isinstance(at_hand.episode_lengths, jax.ShapeDtypeStruct):
            return at_hand, record.path
        return reopen_dataset(record, None, spec), record.path

    def finish(
        self,
        events: list[ProgressEvent],
        display: Display,
        interrupt: InterruptHandler,
        start_time: float,
        compiled_before: float,
    ) -> None:
        """Evaluate, then write learning_curve.png and summary.json.

        `start_time` is the `time.perf_counter()` at the start of the session, and `compiled_before`
        what compiling took in the sessions before it, in seconds.
        """
        settings = self.settings
        stops = sorted(stop for event in events for stop in event.stops)
        ends = {stop: event.steps for event in events for stop in event.stops}
        for stop in stops:
            rule = f"met the rule to stop {stop.text(settings)}"
            on = f"; the seeds of its program trained on to step {ends[stop]:,}, until all had"
            display.note(f"seed {stop.seed} {rule}{on if ends[stop] > stop.step else ''}")
        display.note(
            f"evaluating on {settings.source.evaluated_on if settings.acts else 'the dataset'}"
        )
        evaluations = self._final_evaluations(display, interrupt)
        seconds, compile_seconds = (
            sum(getattr(event, name) for event in events) for name in ("seconds", "compile_seconds")
        )
        total_steps = sum(event.steps * len(event.seeds) for event in events)
        at_once = min(len(self.jobs), num_cores()) if self.is_parallel else 1
        if len(self.jobs) > 1:
            self._merge_metrics()
        self.draw_learning_curve(evaluations["evaluation"])
        # last, for it says that the run is complete
        files.write_sealed(
            self.directory / "summary.json",
            {
                "algorithm": settings.name,
                "environment": settings.environment,
                "backend": settings.backend,
                "seeds": settings.seeds,
                "steps": max(event.steps for event in events),
                "unit": settings.unit,
                "wall_seconds": time.perf_counter() - start_time,
                "train_seconds": seconds,
                "compile_seconds": (compile_seconds - compiled_before) / at_once,
                "train_steps_per_second": total_steps / max(seconds / at_once, 1e-9),
                **evaluations,
                **({"stopped": [stop._asdict() for stop in stops]} if stops else {}),
                **self._training_returns(),
                **({"initial": to_json(settings)["initial"]} if settings.initial else {}),
            },
        )

    def _final_evaluations(
        self, display: Display, interrupt: InterruptHandler
    ) -> dict[str, dict[str, Any]]:
        """The evaluation of the last checkpoints and, where there are some, of the best."""
        settings = self.settings
        if not settings.acts or settings.evaluate_every is None:
            return {"evaluation": self.evaluate(warn=display.warn, interrupt=interrupt)}
        names, evaluated = {"last": "evaluation", "best": "evaluation_best"}, {}
        evaluations = self._evaluate_policies(
            ["last", "best"],
            display.warn,
            interrupt,
            episodes=settings.evaluation_episodes,
            explore=False,
            seed=settings.seed,
        )
        try:
            for which, evaluation in evaluations:
                evaluated[names[which]] = evaluation
        except CorruptFile as error:
            if not evaluated:
                raise
            display.warn(f"the best checkpoint is not evaluated: {error}")
        return evaluated

    def _training_returns(self) -> dict[str, Any]:
        """The mean return of each seed's latest training episodes, where every seed ended some."""
        if not self.settings.plays:
            return {}
        latest = [latest_return(rows) for rows in self._rows_by_seed() if rows]
        means = [mean for mean, _ in latest]
        if len(means) < self.settings.seeds or np.isnan(means).any():
            return {}
        episodes = [count for _, count in latest]
        return {"training_return": {"iqm": iqm(means), "per_seed": means, "episodes": episodes}}

    def _rows_by_seed(self) -> list[dict[str, np.ndarray]]:
        """The columns of metrics.csv of each seed, of which some may have no row left."""
        # rows that were lost were told of when the run was resumed
        metrics = self._unchecked_metrics()
        seeds = range(self.settings.seed, self.settings.seed + self.settings.seeds)
        return [
            {name: column[metrics["seed"] == seed] for name, column in metrics.items()}
            for seed in seeds
        ]

    def draw_learning_curve(self, evaluation: dict[str, Any] | None) -> Path | None:
        """Draw learning_curve.png; None where metrics.csv has no row."""
        settings = self.settings
        rows_by_seed = [rows for rows in self._rows_by_seed() if rows and len(rows["step"])]
        if not rows_by_seed:  # they were lost, which was told
            return None
        plotted = "episode_return" if settings.plays else loss_name(rows_by_seed[0])
        steps, curves = figures.on_common_steps(
            [(rows["step"], rows[plotted]) for rows in rows_by_seed]
        )
        path = self.directory / "learning_curve.png"
        plural = "s" if settings.seeds > 1 else ""
        origin = f"on the {settings.backend} backend" if settings.plays else "from a dataset"
        evaluations = None
        if settings.acts and settings.evaluate_every is not None:
            evaluations = figures.on_common_steps(
                [(rows["step"], rows["evaluation_return"]) for rows in rows_by_seed]
            )
        figures.draw_learning_curve(
            path,
            steps,
            curves,
            evaluation if settings.acts else None,
            title=self.name,
            subtitle=f"{settings.seeds} seed{plural}, trained {origin}",
            loss="" if settings.plays else plotted.replace("_", " "),
            evaluations=evaluations,
        )
        return path

    def _merge_metrics(self):
        """Merge the metrics.csv of the jobs into one."""
        tables = [
            files.read_bytes(job.metrics_path, metrics_csv.SIZE_LIMIT).splitlines(keepends=True)
            for job in self.jobs
            if has_rows(job)
        ]
        if not tables:
            return
        merged = b"".join([tables[0][0], *(row for table in tables for row in table[1:])])
        files.write_bytes(self.directory / "metrics.csv", merged)


def latest_return(rows: dict[str, np.ndarray]) -> tuple[float, int]:
    """The mean return of a seed's latest training episodes, at least 20, and their number.

    Args:
        rows: the columns of its metrics.csv, of which each row has the mean over its episodes.
    """
    counts = np.cumsum(rows["episodes"][::-1])
    num_rows = int(np.searchsorted(counts, LATEST_EPISODES)) + 1
    episodes, returns = rows["episodes"][-num_rows:], rows["episode_return"][-num_rows:]
    total = int(episodes.sum())
    return float(np.nansum(episodes * returns) / total) if total else math.nan, total


def loss_name(metrics: dict[str, np.ndarray]) -> str:
    """The first loss among the columns of metrics.csv; without one, the last metric."""
    return next((name for name in metrics if name.endswith("loss")), [*metrics][-1])


def create_run(settings: Settings, out: str | Path | None = None) -> Run:
    """Create a run directory with its config.json; an `out` that exists has to be empty.

    Of several that ask for one directory at once, one gets it. Raises InvalidInput for the others.
    """
    try:
        directory = make_directory(settings) if out is None else Path(out).absolute()
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(
            f"{error.filename} cannot be made ({error.strerror}); give another --out"
        ) from error
    with sole_writer(directory):
        if (directory / CONFIG).exists():
            raise InvalidInput(
                f"{directory} holds another run; give another --out, or go on with it: "
                f"etude resume {directory}"
            )
        if any(path.name != LOCK for path in directory.iterdir()):
            raise InvalidInput(f"{directory} exists and is not empty; give another --out")
        write_config(directory, to_json(settings))
    files.sync(directory.parent)
    return Run(directory, settings)


def make_directory(settings: Settings) -> Path:
    """Make a directory of a new name, runs/ALGORITHM-ENVIRONMENT-TIME."""
    identifier = settings.environment.split(":")[-1].replace("/", "-")
    name = settings.name.split(":")[-1].lower()
    stem = Path("runs").absolute() / f"{name}-{identifier}-{datetime.now():%Y%m%d-%H%M%S}"
    directory, number = stem, 1
    while True:
        try:
            directory.mkdir(parents=True)
            return directory
        except FileExistsError:  # made by another command, maybe in this very instant
            number += 1
            directory = stem.with_name(f"{stem.name}-{number}")


@contextlib.contextmanager
def remove_if_untrained(run: Run) -> Iterator[None]:
    """Where an error, not a signal, ends the block before a step of the new run is kept, remove all
    that it has written."""
    try:
        yield
    except Interrupted:
        raise
    except Exception:
        is_trained = any(has_checkpoint(job) or has_rows(job) for job in run.jobs)
        for path in [] if is_trained else run.directory.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()
        raise


def load(
    path: str | Path,
    algorithm: Any = None,
    environment: EnvironmentLike | None = None,
    torso: TorsoLike | None = None,
) -> Run:
    """Open a run directory.

    Args:
        path: the run directory.
        algorithm: the class of the run's algorithm, or an instance with the run's values, if that
            is not etude's.
        environment: the environment of the run, if a file cannot stand for it. That is one given as
            an object, which is given again (its spaces are compared), and one named module:Name,
            whose module a file never makes etude import, unless it is imported already.
        torso: the torso of the run's algorithm, if it has one: the function that makes it, or its
            name module:function.

    Returns:
        The run.

    Raises:
        InvalidInput: for a directory that is no run, for a config.json that is not as it was
            written, and for another algorithm, environment or torso than the run's.
    """
    config = read_config(Path(path))
    start_as_before(config)  # what it computes now is then what it computed in training
    return Run(Path(path), from_json(config, algorithm, environment, torso))


def load_beside(path: Path, environment: EnvironmentLike, torso: TorsoLike | None = None) -> Run:
    """The run at `path`, with the environment and the torso given here if no file can name its own.

    A run of etude's own networks gets no torso.
    """
    config = read_config(path)
    is_given = (
        config.get("environment_kind", "id") != "id" or config.get("environment") == environment
    )
    has_torso = names_torso(config.get("hyperparameters"))
    settings = from_json(
        config, environment=environment if is_given else None, torso=torso if has_torso else None
    )
    return Run(path, settings)
