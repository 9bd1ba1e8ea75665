"""The runs in which `learning.py` trains and evaluates the seeds of a row.

Seeds on the jax backend train in one program, so they are one run; others are a run each.
"""

import json
import shutil
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import families
import learning_experts
import numpy as np
import report
from learning_results import digest_of
from learning_rows import Row
from workloads import PEER_PYTHON

import etude
from etude.errors import InvalidInput
from etude.runs.config import to_json
from etude.runs.options import RunOptions
from etude.runs.run import Run
from etude.runs.torsos import torso_of
from etude.runs.train import resolve_settings, train_new
from etude.storage import files
from etude.struct import replace

RESUMED = "resumed.json"  # marks a resumed run, whose seconds are those of its last session
SeedResults = dict[int, dict[str, Any]]  # by seed; see learning_results.py


class Plan(NamedTuple):
    """How the seeds of a row are trained."""

    row: Row
    algorithm: Any
    steps: int
    settings: dict[str, Any]  # all that determines the training of a seed, but versions and machine
    in_one_program: bool
    expert: learning_experts.ExpertRun | None = None  # who shows what to do


class Job(NamedTuple):
    """A run: seeds of a row that follow each other."""

    plan: Plan
    seeds: range
    directory: Path

    @property
    def title(self) -> str:
        seeds = " to ".join(map(str, sorted({self.seeds[0], self.seeds[-1]})))
        return f"{self.plan.row.name}, seed{'s' * (len(self.seeds) > 1)} {seeds}"


def plan_row(row: Row, steps: int | None = None) -> Plan:
    """Return how a row is trained; `steps` is another budget. It has no goal: goals stay here."""
    preset = etude.preset(row.algorithm, row.environment)
    algorithm = replace(preset.algorithm, **dict(row.fields))
    steps_asked, steps = steps, (row.steps or preset.steps) if steps is None else steps
    expert = None
    options = RunOptions(steps=steps, num_envs=preset.num_envs)
    stand_ins = learning_experts.stand_ins(row) if row.shown else {}
    settings = resolve_settings(algorithm, row.environment, replace(options, **stand_ins))
    if row.shown:
        if steps_asked is not None and row.shown.expert != learning_experts.HEURISTIC:
            row = row._replace(shown=row.shown._replace(steps=steps_asked))
        expert = learning_experts.plan_expert(row)
    recorded = {
        **({"shown": expert.settings} if expert else {}),
        **({"library": row.library} if row.library else {}),
        "algorithm": row.algorithm,
        "environment": row.environment,
        "backend": "gymnasium" if row.library else settings.backend,
        "num_envs": settings.num_envs,
        "steps": settings.trained_steps,
        "hyperparameters": to_json(settings)["hyperparameters"],
    }
    in_one_program = settings.in_one_program and not row.library
    return Plan(row._replace(goal=None), algorithm, options.steps, recorded, in_one_program, expert)


def jobs_for(plan: Plan, seeds: list[int], directory: Path) -> list[Job]:
    """The runs of these seeds, each in a directory of its own below `directory`."""
    groups: list[range] = []
    for seed in seeds:
        if groups and plan.in_one_program and groups[-1].stop == seed:
            groups[-1] = range(groups[-1].start, seed + 1)
        else:
            groups.append(range(seed, seed + 1))
    stem = directory / plan.row.name / digest_of(plan.settings)
    return [
        Job(plan, group, stem / "-".join(["seeds", *map(str, sorted({group[0], group[-1]}))]))
        for group in groups
    ]


def remove_runs(name: str, directory: Path) -> None:
    """Remove the runs of a row, so that it is trained anew."""
    shutil.rmtree(directory / name, ignore_errors=True)


def train_seeds(job: Job) -> SeedResults:
    """Train the seeds of a job, resume its run where it has begun, and evaluate them."""
    if job.plan.row.library:
        return train_peer(job)
    directory, torso = job.directory, torso_of(job.plan.algorithm)
    expert = job.plan.expert
    if (directory / "summary.json").exists():
        run = etude.load(directory, torso=torso)
    elif (directory / "config.json").exists():
        files.write_json(directory / RESUMED, {"resumed": report.now()})
        run = etude.resume(directory, torso=torso, progress=False)
    else:
        options = RunOptions(
            steps=job.plan.steps,
            num_envs=job.plan.settings["num_envs"],
            seed=job.seeds[0],
            seeds=len(job.seeds),
            out=directory,
            **(expert.options() if expert else {}),
        )
        run = train_new(job.plan.algorithm, job.plan.row.environment, options, progress=False)
    results = results_of(run)
    if expert:
        results = {seed: result | {"expert": expert.mean()} for seed, result in results.items()}
    return results


def results_of(run: Run) -> SeedResults:
    """Return the results of the seeds of a finished run."""
    summary, config = run.summary, files.read_sealed(run.directory / "config.json")
    evaluation, num_seeds = summary["evaluation"], summary["seeds"]
    finished = datetime.fromtimestamp((run.directory / "summary.json").stat().st_mtime)
    reached = families.time_to_threshold(
        summary["environment"], run.metrics, summary["train_seconds"] / num_seeds
    )
    common = {
        "episodes": evaluation["episodes"],
        "backend": summary["backend"],
        "steps": summary["steps"],
        "seconds": summary["wall_seconds"] / num_seeds,
        "resumed": (run.directory / RESUMED).exists(),
        "measured": finished.strftime(report.MINUTE),
        "versions": report.format_versions(config["versions"]),
        "machine": machine_text(config["machine"]),
    }
    success = evaluation.get("success", {}).get("per_seed", [None] * num_seeds)
    distances = evaluation.get("measures", {}).get("distance", {}).get("medians")
    return {
        run.settings.seed + i: {
            "mean": evaluation["per_seed"][i],
            "std": float(np.std(evaluation["returns"][i], ddof=1)),
            "success": success[i],
            **({"distance": distances[i]} if distances else {}),
            **common,
            "reached": reached[i],
        }
        for i in range(num_seeds)
    }


def machine_text(machine: dict[str, Any]) -> str:
    cores = machine["cores"]
    return f"{cores} core{'s' * (cores > 1)} of {machine['processor']}, {machine['platform']}"


def train_peer(job: Job) -> SeedResults:
    """Train a seed in another library, by its script in peers/, and evaluate it."""
    if not PEER_PYTHON.exists():
        raise InvalidInput(
            f"{job.plan.row.library} is not installed; `make .venv-peers/.torch` installs it"
        )
    # an exception ends the script with this process
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options = {"seed": job.seeds[0], "episodes": RunOptions().evaluation_episodes}
    done = subprocess.run(
        [
            PEER_PYTHON,
            report.HERE / "peers/sb3_learning.py",
            json.dumps(job.plan.settings | options),
        ],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise InvalidInput(f"{job.plan.row.library} failed: {done.stderr[-2000:]}")
    result = json.loads(done.stdout.splitlines()[-1])
    returns = result["returns"]
    return {
        job.seeds[0]: {
            "mean": float(np.mean(returns)),
            "std": float(np.std(returns, ddof=1)),
            "success": None,
            "episodes": len(returns),
            "backend": job.plan.settings["backend"],
            "steps": result["steps"],
            "seconds": result["seconds"],
            "resumed": False,
            "measured": report.now(),
            "versions": report.format_versions(result["versions"]),
            "machine": machine_text(report.machine_info()),
            "reached": None,
        }
    }
