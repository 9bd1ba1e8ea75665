"""The experts of the rows of `learning.py` that imitate, and the episodes that they show.

They are kept in runs/experts and made where they are missing: a run of the expert's preset with the
seed 0, and of its episodes as many steps as the row has labels. All seeds of a row learn from the
same expert and the same steps.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from learning_results import digest_of
from learning_rows import Row, Shown
from report import RUNS

import etude
from etude.data.dataset import Dataset, dataset_shapes, episode_returns
from etude.environments.sources import environment_source
from etude.runs.config_values import plain_fields
from etude.runs.options import RunOptions
from etude.runs.train import train_new
from etude.storage import files
from etude.struct import replace
from etude.studies.demonstrations_needed import first_steps, record_steps

HEURISTIC = "heuristic"
EPISODES = 100  # that judge the expert


class ExpertRun(NamedTuple):
    """Who shows what a row learns from, and where it is kept."""

    shown: Shown
    environment: str
    settings: dict[str, Any]  # all that determines what is shown, but versions and machine
    directory: Path

    @property
    def run(self) -> Path:
        return self.directory / "run"

    @property
    def demonstrations(self) -> Path:
        every = f"-every-{self.shown.every}" if self.shown.every > 1 else ""
        name = f"{self.shown.labels}-labels-noise-{self.shown.noise:g}{every}.npz"
        return self.directory / name

    def expert(self) -> str | Path:
        """The expert, as `etude record` takes it."""
        return HEURISTIC if self.shown.expert == HEURISTIC else self.run

    def options(self) -> dict[str, Any]:
        """What `etude.train` is given from outside."""
        if self.shown.labels is None:
            return {"expert": self.expert()}
        return {"dataset": self.demonstrations}

    def mean(self) -> float:
        """The expert's mean return over EPISODES episodes."""
        return files.read_json(self.directory / "expert.json")["mean"]

    def prepare(self) -> None:
        """Train the expert, judge it and record its steps, whatever of it is missing."""
        self.directory.mkdir(parents=True, exist_ok=True)
        if self.shown.expert != HEURISTIC:
            self.train()
        if not (self.directory / "expert.json").exists():
            judged = etude.record(
                self.environment, self.expert(), episodes=EPISODES, progress=False
            )
            returns = episode_returns(judged)
            facts = {"mean": float(returns.mean()), "std": float(returns.std(ddof=1))}
            files.write_json(self.directory / "expert.json", facts | self.settings)
        if self.shown.labels is not None and not self.demonstrations.exists():
            labels, noise = self.shown.labels, self.shown.noise
            recorded = record_steps(self.environment, self.expert(), labels, 0, noise)
            shown = thin(first_steps(recorded, labels), self.shown.every)
            etude.write_dataset(self.demonstrations, shown)

    def train(self) -> None:
        """Train the expert, or go on with it."""
        if (self.run / "summary.json").exists():
            return
        if (self.run / "config.json").exists():
            etude.resume(self.run, progress=False)
            return
        preset = etude.preset(self.shown.expert, self.environment)
        options = RunOptions(
            steps=self.shown.steps or preset.steps, num_envs=preset.num_envs, out=self.run
        )
        train_new(preset.algorithm, self.environment, options, progress=False)


def plan_expert(row: Row) -> ExpertRun:
    """The expert of a row that imitates."""
    shown = row.shown
    settings: dict[str, Any] = {"expert": shown.expert, "environment": row.environment}
    if shown.expert != HEURISTIC:
        preset = etude.preset(shown.expert, row.environment)
        settings |= {
            "steps": shown.steps or preset.steps,
            "num_envs": preset.num_envs,
            "hyperparameters": plain_fields(preset.algorithm),
            "seed": 0,
        }
    name = f"{shown.expert}-{row.environment.split('/')[-1]}-{digest_of(settings)}"
    told = settings | {"labels": shown.labels, "noise": shown.noise}
    if shown.every > 1:
        told["every"] = shown.every
    return ExpertRun(shown, row.environment, told, RUNS / "experts" / name)


def thin(dataset: Dataset, every: int) -> Dataset:
    """The first step of a dataset and each that is `every` later, as episodes of one step."""
    if every == 1:
        return dataset
    transitions = jax.tree.map(lambda x: x[::every], dataset.transitions)
    return replace(
        dataset,
        transitions=replace(transitions, truncated=~transitions.terminated),
        episode_lengths=jax.numpy.ones(len(transitions.reward), np.int32),
    )


def stand_ins(row: Row) -> dict[str, Any]:
    """Options with which the settings of a row are resolved before there is an expert."""
    if row.shown.labels is None:
        return {"expert": "random"}
    spec = environment_source(row.environment).outline(1, "gymnasium").spec
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), dataset_shapes(spec, 2, 2))
    return {"dataset": replace(zeros, episode_lengths=np.ones(2, np.int32))}
