"""Training of the seeds of `learning.py`: runs side by side, a process each, pinned to a core.

Seeds on the jax backend train in one program, so they are one run; others are a run each.
"""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from datetime import datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import families
import numpy as np
import report
from learning_results import digest_of
from learning_rows import Row
from workloads import PEER_PYTHON

import etude
from etude.errors import Diverged, EnvironmentFault, InvalidInput
from etude.runs.interrupt import Interrupted, InterruptHandler
from etude.runs.options import RunOptions
from etude.runs.processes import ENDED, WorkerSlot, ready_pipes, receive, request_stop
from etude.runs.run import Run
from etude.runs.settings import to_json
from etude.runs.torsos import torso_of
from etude.runs.train import resolve_settings
from etude.storage import files
from etude.struct import replace

RESUMED = "resumed.json"  # marks a resumed run, whose seconds are those of its last session
RESULT, STOPPED, FAILED = "result", "stopped", "failed"  # what a process says at its end
SECONDS_TO_STOP = 60
SeedResults = dict[int, dict[str, Any]]  # by seed; see learning_results.py


class Plan(NamedTuple):
    """How the seeds of a row are trained."""

    row: Row
    algorithm: Any
    steps: int
    settings: dict[str, Any]  # all that determines the training of a seed, but versions and machine
    in_one_program: bool


class Job(NamedTuple):
    """A run: seeds of a row that follow each other."""

    plan: Plan
    seeds: range
    directory: Path

    @property
    def title(self) -> str:
        seeds = " to ".join(map(str, sorted({self.seeds[0], self.seeds[-1]})))
        return f"{self.plan.row.name}, seed{'s' * (len(self.seeds) > 1)} {seeds}"


Train = Callable[[Job], SeedResults]


def plan_row(row: Row, steps: int | None = None) -> Plan:
    """Return how a row is trained; `steps` is another budget. It has no goal: goals stay here."""
    preset = etude.preset(row.algorithm, row.environment)
    algorithm = replace(preset.algorithm, **dict(row.fields))
    options = RunOptions(steps=steps or row.steps or preset.steps, num_envs=preset.num_envs)
    settings = resolve_settings(algorithm, row.environment, options)
    recorded = {
        **({"library": row.library} if row.library else {}),
        "algorithm": row.algorithm,
        "environment": row.environment,
        "backend": "gymnasium" if row.library else settings.backend,
        "num_envs": settings.num_envs,
        "steps": settings.trained_steps,
        "hyperparameters": to_json(settings)["hyperparameters"],
    }
    in_one_program = settings.in_one_program and not row.library
    return Plan(row._replace(goal=None), algorithm, options.steps, recorded, in_one_program)


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


def run_jobs(
    jobs: list[Job], train: Train, cores: list[int | None]
) -> Iterator[tuple[Job, str, Any]]:
    """Train jobs side by side, one for each core.

    Yields each job at its end with what became of it: RESULT with its `SeedResults`, STOPPED with
    words, FAILED with words. On Ctrl-C or SIGTERM, running jobs are asked to save and stop, and
    Interrupted is raised when they have.
    """
    queue, cores = list(reversed(jobs)), list(cores)
    running: dict[Connection, tuple[Job, WorkerSlot]] = {}
    requested: set[Any] = set()
    try:
        with InterruptHandler() as interrupt:
            while queue or running:
                if interrupt.signal:
                    queue.clear()
                    request_stop([slot for _, slot in running.values()], requested)
                while queue and cores:
                    job, core = queue.pop(), cores.pop(0)
                    pipe, process = start_process(train, job, core)
                    running[pipe] = job, WorkerSlot(process, core)
                for pipe in ready_pipes(running):
                    job, slot = running[pipe]
                    kind, payload = receive(pipe, slot.process)
                    if kind != ENDED:
                        yield job, kind, payload
                        continue
                    del running[pipe]
                    cores.append(slot.core)
                    if payload and slot.process not in requested:
                        yield job, FAILED, f"its process died with exit status {payload}"
    finally:
        processes = [slot for _, slot in running.values()]
        request_stop(processes, requested)
        for process, _ in processes:
            process.join(timeout=SECONDS_TO_STOP)
            process.kill()
    if interrupt.signal:
        raise Interrupted("stopped, all saved", interrupt.signal)


def start_process(train: Train, job: Job, core: int | None) -> tuple[Connection, Any]:
    """Start a process that trains a job; return the pipe of its message and the process."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=process_main, args=(sender, train, job, core))
    process.start()
    sender.close()
    return receiver, process


def process_main(pipe: Connection, train: Train, job: Job, core: int | None) -> None:
    """The main function of a process: train a job and send what became of it."""
    if hasattr(os, "setsid"):
        os.setsid()  # a Ctrl-C is the parent's, which sends SIGTERM once
    if core is not None:
        os.sched_setaffinity(0, {core})
    threading.Thread(target=stop_with_parent, daemon=True).start()
    try:
        pipe.send((RESULT, train(job)))
    except Interrupted as stopped:
        pipe.send((STOPPED, str(stopped)))
    except (InvalidInput, EnvironmentFault, Diverged) as error:
        pipe.send((FAILED, str(error)))
    except Exception:
        pipe.send((FAILED, traceback.format_exc()))


def stop_with_parent() -> None:
    """Save and stop when the parent has ended, whatever ended it."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # this is a process that it started
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def train_seeds(job: Job) -> SeedResults:
    """Train the seeds of a job, resume its run where it has begun, and evaluate them."""
    if job.plan.row.library:
        return train_peer(job)
    directory, torso = job.directory, torso_of(job.plan.algorithm)
    if (directory / "summary.json").exists():
        run = etude.load(directory, torso=torso)
    elif (directory / "config.json").exists():
        files.write_json(directory / RESUMED, {"resumed": report.now()})
        run = etude.resume(directory, torso=torso, progress=False)
    else:
        run = etude.train(
            job.plan.algorithm,
            job.plan.row.environment,
            out=directory,
            progress=False,
            steps=job.plan.steps,
            num_envs=job.plan.settings["num_envs"],
            seed=job.seeds[0],
            seeds=len(job.seeds),
        )
    return results_of(run)


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
    return {
        run.settings.seed + i: {
            "mean": evaluation["per_seed"][i],
            "std": float(np.std(evaluation["returns"][i], ddof=1)),
            "success": success[i],
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
