"""Parallel training of jobs: each trains in a worker process, pinned to a core."""

import multiprocessing
import os
import traceback
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, NamedTuple, cast

from etude.cores import usable_cores
from etude.errors import Diverged, EnvironmentFault, InvalidInput
from etude.runs.interrupt import Interrupted, InterruptHandler
from etude.runs.job import train_job
from etude.runs.job_checkpoints import TrainJob
from etude.runs.job_progress import ProgressEvent
from etude.runs.settings import Settings
from etude.runs.threads import start_with
from etude.storage.writer_lock import sole_writer

ERRORS: dict[str, type[Exception]] = {
    error.__name__: error for error in (InvalidInput, EnvironmentFault, Diverged, Interrupted)
}
ENDED = "ended"  # the kind of message that stands for the exit status of a process


class WorkerSlot(NamedTuple):
    """A process and the core it is pinned to, None where the system does not pin."""

    process: SpawnProcess
    core: int | None


def train_jobs(
    settings: Settings,
    jobs: list[TrainJob],
    interrupt: InterruptHandler,
    warn: Callable[[str], None],
) -> Iterator[ProgressEvent]:
    """Train jobs in parallel, one per core, and yield their events as they arrive.

    When one fails, the others are asked to save and stop, and its error is raised here.
    """
    queue, cores = list(reversed(jobs)), usable_cores()
    running: dict[Connection, WorkerSlot] = {}
    requested: set[SpawnProcess] = set()
    failure: Exception | None = None
    try:
        while queue or running:
            if interrupt.signal or failure is not None:
                queue.clear()
                request_stop(running.values(), requested)
            while queue and cores:
                core = cores.pop(0)
                pipe, process = start_process(settings, queue.pop(), core)
                running[pipe] = WorkerSlot(process, core)
            for pipe in ready_pipes(running):
                kind, payload = receive(pipe, running[pipe].process)
                if kind == "update":
                    yield payload
                elif kind == "warning":
                    warn(payload)
                elif kind == ENDED:
                    process, core = running.pop(pipe)
                    cores.append(core)
                    # a process that starts dies of the request
                    was_requested = interrupt.signal or process in requested
                    if payload and not was_requested and failure is None:
                        failure = RuntimeError(
                            f"the process of a seed died with exit status {payload}"
                        )
                else:
                    error = ERRORS.get(kind, RuntimeError)(payload)
                    failure = (
                        error if failure is None or isinstance(failure, Interrupted) else failure
                    )
    finally:
        request_stop(running.values(), requested)
        for process, _ in running.values():
            process.join(timeout=10)
            process.kill()
    if failure is not None:
        raise failure
    if interrupt.signal:
        raise Interrupted("stopped before every seed was trained, all saved")


def start_process(
    settings: Settings, job: TrainJob, core: int | None
) -> tuple[Connection, SpawnProcess]:
    """Start a process that trains a job; return the pipe of its messages and the process."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=process_main, args=(sender, settings, job, core))
    process.start()
    sender.close()
    return receiver, process


def ready_pipes(pipes: Iterable[Connection], seconds: float = 0.2) -> list[Connection]:
    """Return the pipes with a message, after waiting for one for at most `seconds`."""
    pipes = list(pipes)
    ready = wait(pipes, timeout=seconds)
    return [pipe for pipe in pipes if pipe in ready]


def receive(pipe: Connection, process: SpawnProcess) -> tuple[str, Any]:
    """Receive the kind and payload of the next message of a process."""
    try:
        return pipe.recv()
    except (EOFError, OSError):
        process.join()
        return ENDED, process.exitcode


def request_stop(slots: Iterable[WorkerSlot], requested: set[SpawnProcess]) -> None:
    """Ask each process once to save and stop; `requested` is the set of those asked before."""
    for process, _ in slots:
        if process.is_alive() and process not in requested:
            process.terminate()  # SIGTERM, which InterruptHandler takes as a request
            requested.add(process)


def process_main(pipe: Connection, settings: Settings, job: TrainJob, core: int | None) -> None:
    """The main function of a worker process: train the job and send its events."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    start_with(cast(int, settings.threads))
    # the parent handles Ctrl-C and sends SIGTERM
    with InterruptHandler(has_waiting_parent=True) as interrupt:
        try:
            job.directory.mkdir(exist_ok=True)
            # the process of a trainer that was killed may be about to end only
            with sole_writer(job.directory):
                for event in train_job(
                    settings, job, interrupt, lambda text: pipe.send(("warning", text))
                ):
                    pipe.send(("update", event))
        except BrokenPipeError:
            return  # the parent has ended
        except Exception as error:
            text = (
                str(error)
                if type(error).__name__ in ERRORS and not error.__cause__
                else f"{error}\n{traceback.format_exc()}"
            )
            pipe.send((type(error).__name__, f"seed {job.seeds[0]}: {text}"))
