"""The progress of a training job: its rows of metrics, evaluations, checkpoints and warnings."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from etude.environments.protocol import Environment
from etude.runs.alarms import MetricAlarms
from etude.runs.endless_episodes import EndlessEpisodes
from etude.runs.interrupt import InterruptHandler
from etude.runs.job_checkpoints import SavedState, TrainJob, last_row_step, metrics_fault, save_job
from etude.runs.periodic_evaluation import PeriodicEvaluation
from etude.runs.settings import Settings
from etude.runs.stopping import EarlyStop
from etude.storage.metrics_csv import MetricsWriter, measure_rows
from etude.training import ProgressReport, TrainState, average_metrics


class ProgressEvent(NamedTuple):
    """The progress of a job, as plain data that can cross to another process."""

    seeds: tuple[int, ...]
    steps: int  # steps of the budget of each seed
    metrics: dict[str, list[float]]  # [seed]
    end_of_row: bool  # whether a row of metrics ends here
    seconds: float  # total time of training, without compiling and saving
    compile_seconds: float  # total time of compiling
    stops: tuple[EarlyStop, ...] = ()  # why the job ended early


class JobProgress:
    """Takes the reports of a job: it leaves on the disk what it has learned, and says the rest.

    `metadata` is that of the newest checkpoint, with zeros before the first.
    """

    def __init__(
        self,
        settings: Settings,
        job: TrainJob,
        environment: Environment,
        metadata: dict[str, Any],
        warn: Callable[[str], None],
    ):
        self.settings, self.job, self.environment = settings, job, environment
        self.metadata, self.warn = metadata, warn
        self.seconds, self.compile_seconds = metadata["seconds"], metadata["compile_seconds"]
        self.alarms, self.endless = MetricAlarms(), EndlessEpisodes(settings, metadata["steps"])
        self.is_unfinished = False  # a row ended, and a signal came in its evaluation
        self.writer = MetricsWriter(job.metrics_path)
        if fault := metrics_fault(job, metadata):
            warn(f"{fault}; what is lost is missing from the curve")
        self.writer.truncate_after(last_row_step(metadata))
        self.evaluations = PeriodicEvaluation(settings, job.seeds, metadata)

    @property
    def stops(self) -> tuple[EarlyStop, ...]:
        """Why the job ends early; () where it goes on."""
        return self.evaluations.stops

    def resume(self, train_state: TrainState) -> ProgressEvent:
        """The event of a checkpoint that is gone on from."""
        self.evaluations.save_best(self.job.directory, SavedState(train_state), self.metadata)
        return self._event(self.metadata["steps"], {}, False)

    def unfinished_rows(self, train_state: TrainState | None) -> list[ProgressReport]:
        """The report of the row that the checkpoint lacks, where it was saved in its evaluation."""
        if train_state is None or not self.metadata.get("unfinished_row"):
            return []
        return [unfinished_row(train_state, self.metadata)]

    def take(self, report: ProgressReport, interrupt: InterruptHandler) -> ProgressEvent:
        """Write the row that ends with a report, evaluate and save where that is due."""
        self.seconds += report.seconds
        self.compile_seconds += report.compile_seconds
        metrics = {name: np.atleast_1d(value).tolist() for name, value in report.metrics.items()}
        self._warn_of(report)
        row = self.evaluations.finish_row(report, interrupt, self.environment)
        self.is_unfinished = report.end_of_row and row is None
        if row is not None:
            metrics |= row
            write_rows(self.writer, self.job, report.steps, metrics)
            for text in self.alarms.check(metrics, report.steps):
                self.warn(text)
        if self._is_checkpoint_due(report) or interrupt.signal or self.is_unfinished:
            self._save(report)
        return self._event(report.steps, metrics, report.end_of_row)

    def close(self) -> None:
        """Flush the rows to the disk, and close what evaluations play in."""
        self.writer.close()
        self.evaluations.close()

    def _warn_of(self, report: ProgressReport) -> None:
        for notice in self.environment.notices():
            self.warn(notice)
        is_first = self.job.seeds[0] == self.settings.seed  # of all seeds, which are alike in this
        if is_first and (text := self.endless.warning(report)):
            self.warn(text)

    def _is_checkpoint_due(self, report: ProgressReport) -> bool:
        return (
            report.iterations % self.settings.checkpoint_every == 0
            or report.iterations == self.settings.iterations
            or self.evaluations.has_best_at(report.steps)
            or bool(self.stops)
        )

    def _save(self, report: ProgressReport) -> None:
        self.writer.sync()
        metadata = {
            "iterations": report.iterations,
            "steps": report.steps,
            "seconds": self.seconds,
            "compile_seconds": self.compile_seconds,
            "seeds": list(self.job.seeds),
            "metrics": measure_rows(self.job.metrics_path, report.steps),
            **self.evaluations.metadata(),
            **({"unfinished_row": True} if self.is_unfinished else {}),
            **({"ended_row": True} if report.end_of_row and not self.is_unfinished else {}),
        }
        save_job(self.job, self.environment, report.train_state, metadata)
        self.metadata = metadata
        saved = SavedState(report.train_state)
        self.evaluations.save_best(self.job.directory, saved, metadata)

    def _event(
        self, steps: int, metrics: dict[str, list[float]], end_of_row: bool
    ) -> ProgressEvent:
        return ProgressEvent(
            self.job.seeds,
            steps,
            metrics,
            end_of_row,
            self.seconds,
            self.compile_seconds,
            self.stops,
        )


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


def write_rows(
    writer: MetricsWriter, job: TrainJob, steps: int, metrics: dict[str, list[float]]
) -> None:
    """Write a row for each seed; NaN, which was not measured, becomes an empty cell."""
    for i, seed in enumerate(job.seeds):
        values = {
            name: None if math.isnan(value[i]) else value[i] for name, value in metrics.items()
        }
        writer.append({"step": steps, "seed": seed, **values})
