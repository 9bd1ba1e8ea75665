"""The processes in which `learning.py` trains: one for each core, each with a run of its own."""

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from learning_runs import Job, SeedResults

from etude.errors import Diverged, EnvironmentFault, InvalidInput
from etude.runs.interrupt import Interrupted, InterruptHandler
from etude.runs.processes import ENDED, WorkerSlot, ready_pipes, receive, request_stop

RESULT, STOPPED, FAILED = "result", "stopped", "failed"  # what a process says at its end
SECONDS_TO_STOP = 60
Train = Callable[[Job], SeedResults]


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
        raise Interrupted("stopped, and what ran is saved", interrupt.signal)


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
    outcome = outcome_of(train, job)
    with suppress(BrokenPipeError):  # the parent has ended
        pipe.send(outcome)


def outcome_of(train: Train, job: Job) -> tuple[str, Any]:
    """Train a job; return what became of it, as `run_jobs` yields it."""
    try:
        return RESULT, train(job)
    except Interrupted as stopped:
        return STOPPED, str(stopped)
    except (InvalidInput, EnvironmentFault, Diverged) as error:
        return FAILED, str(error)
    except Exception:
        return FAILED, traceback.format_exc()


def stop_with_parent() -> None:
    """Save and stop when the parent has ended, whatever ended it."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # this is a process that it started
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
