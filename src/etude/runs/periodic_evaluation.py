"""Evaluations during training: the rows and the best checkpoint that come of them.

They read the state of the algorithm between two chunks, and play in an environment of their own
with keys of their own, so they change nothing in training.
"""

import dataclasses
import math
from operator import itemgetter
from pathlib import Path
from typing import Any

import jax

from etude.environments.protocol import Environment
from etude.errors import Diverged
from etude.keys import periodic_evaluation_key
from etude.runs.evaluation import DatasetEvaluator, PolicyEvaluator
from etude.runs.interrupt import InterruptHandler
from etude.runs.settings import Settings
from etude.runs.stopping import EarlyStop, EvaluationRecord, early_stops, record_from_json
from etude.storage import checkpoints
from etude.storage.files import CorruptFile
from etude.training import ProgressReport

Columns = dict[str, list[float]]  # the cells [seed] of each column, NaN where not measured


def state_of_seed(tree: Any, number: int, num_seeds: int) -> Any:
    """The part of a state of a job, [seed, ...] of many seeds, that is its seed `number`'s."""
    return tree if num_seeds == 1 else jax.tree.map(itemgetter(number), tree)


class PeriodicEvaluation:
    """The evaluations of a job: one environment, one program, and a record of each seed."""

    def __init__(self, settings: Settings, seeds: tuple[int, ...], metadata: dict[str, Any]):
        """Make the environment; `metadata` is that of the checkpoint to go on from."""
        self.settings, self.seeds = settings, seeds
        self.records = records_in(metadata, seeds)
        self.evaluator: PolicyEvaluator | DatasetEvaluator | None = None
        if settings.evaluate_every is not None:
            if settings.acts:
                self.evaluator = PolicyEvaluator(settings, settings.evaluate_with)
            else:
                dataset = settings.outside.dataset
                assert dataset is not None  # what does not act has one
                self.evaluator = DatasetEvaluator(settings, dataset)

    @property
    def stops(self) -> tuple[EarlyStop, ...]:
        """Why the job ends early; () where it does not."""
        return early_stops(self.settings, self.seeds, self.records)

    def is_due(self, iterations: int) -> bool:
        """Whether an evaluation follows these iterations: the last one always has one."""
        return self.evaluator is not None and (
            iterations % self.settings.iterations_per_evaluation == 0
            or iterations == self.settings.iterations
        )

    def has_best_at(self, steps: int) -> bool:
        """Whether the best evaluation of a seed is the one after these steps."""
        return any(record.best_step == steps for record in self.records)

    def finish_row(
        self, report: ProgressReport, interrupt: InterruptHandler, training: Environment
    ) -> Columns | None:
        """The columns that evaluations add to the row that ends here, with one where it is due.

        None where no row ends, and where a signal to stop came first: nothing is recorded then.
        """
        if not report.end_of_row:
            return None
        if self.evaluator is None:
            return {}
        if not self.is_due(report.iterations):
            return dict.fromkeys(self.column_names(report), [math.nan] * len(self.seeds))
        if interrupt.signal:
            return None
        try:
            if self.evaluator.environment is not None:
                interrupt.watch(self.evaluator.environment, cancel_after=0)
            cells = [
                self.evaluator.cells(self.state_of(report, i), periodic_evaluation_key(seed))
                for i, seed in enumerate(self.seeds)
            ]
        except KeyboardInterrupt:
            return None
        interrupt.watch(training)
        if self.settings.acts:
            self.record(report.steps, [row["return"] for row in cells])
        return {
            name: [row[column] for row in cells]
            for name, column in zip(self.column_names(report), cells[0], strict=True)
        }

    def record(self, steps: int, means: list[float]) -> None:
        """Take the mean return of each seed into its record."""
        until, patience = self.settings.until, self.settings.patience
        for seed, mean in zip(self.seeds, means, strict=True):
            if not math.isfinite(mean):
                raise Diverged(f"the mean return of an evaluation of seed {seed} is {mean}")
        self.records = [
            record.add(steps, mean, until, patience)
            for record, mean in zip(self.records, means, strict=True)
        ]

    def state_of(self, report: ProgressReport, number: int) -> Any:
        """The state of the algorithm of the job's seed `number`."""
        return state_of_seed(report.train_state.algorithm_state, number, len(self.seeds))

    def column_names(self, report: ProgressReport) -> list[str]:
        """The names of the columns of an evaluation."""
        assert self.evaluator is not None
        return [f"evaluation_{x}" for x in self.evaluator.cell_names(self.state_of(report, 0))]

    def metadata(self) -> dict[str, Any]:
        """What a checkpoint keeps: the record of each seed, where there are evaluations."""
        if self.evaluator is None:
            return {}
        return {"evaluations": [dataclasses.asdict(record) for record in self.records]}

    def save_best(self, directory: Path, saved: Any, metadata: dict[str, Any]) -> None:
        """Keep the checkpoint of these steps for each seed whose best evaluation it had.

        After a kill between the two, the next session does it with the checkpoint it resumes.
        """
        for i, (seed, record) in enumerate(zip(self.seeds, self.records, strict=True)):
            steps = metadata["steps"]
            if record.best_step != steps:
                continue
            best = best_directory(directory, self.seeds, seed)
            if len(self.seeds) == 1:
                checkpoints.keep_best(best, directory / "checkpoints" / f"step_{steps}")
            else:
                own = metadata | {"seeds": [seed], "evaluations": [dataclasses.asdict(record)]}
                state = state_of_seed(saved, i, len(self.seeds))
                path = checkpoints.save_checkpoint(best, steps, state, own)
                checkpoints.remove_others(path)

    def close(self) -> None:
        if self.evaluator is not None:
            self.evaluator.close()


def records_in(metadata: dict[str, Any], seeds: tuple[int, ...]) -> list[EvaluationRecord]:
    """The record of each seed in the metadata of a checkpoint; empty ones where it has none."""
    if "evaluations" not in metadata:
        return [EvaluationRecord()] * len(seeds)
    values = metadata["evaluations"]
    if not isinstance(values, list) or len(values) != len(seeds):
        raise CorruptFile(f"a checkpoint of {len(seeds)} seeds has the evaluations {values!r:.80}")
    return [record_from_json(value, metadata["steps"]) for value in values]


def best_directory(directory: Path, seeds: tuple[int, ...], seed: int) -> Path:
    """What holds the best checkpoint of a seed, in the directory of the job that has `seeds`."""
    best = directory / "checkpoints" / "best"
    return best if len(seeds) == 1 else best / f"seed_{seed}"
