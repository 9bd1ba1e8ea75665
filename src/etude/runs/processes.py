"""Seeds over processes: for environments that cannot share one program, each seed trains in a
process of its own."""

import multiprocessing
import os
import traceback
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, NamedTuple

from etude.errors import Diverged, EnvironmentFault, InvalidInput
from etude.runs.interrupt import InterruptHandler, Interrupted
from etude.runs.job import ProgressEvent, TrainJob, train_job
from etude.runs.settings import Settings

ERRORS: dict[str, type[Exception]] = {
    error.__name__: error for error in (InvalidInput, EnvironmentFault, Diverged, Interrupted)
}
ENDED = "ended"  # what is heard of a process that is gone, with its exit status


class WorkerSlot(NamedTuple):
    """A process and the core it is pinned to, None where it cannot be."""

    process: SpawnProcess
    core: int | None


def train_jobs(
    settings: Settings,
    parts: list[TrainJob],
    interrupt: InterruptHandler,
    warn: Callable[[str], None],
) -> Iterator[ProgressEvent]:
    """Train the parts, as many at a time as there are cores, each pinned to its core; their Updates
    as they come.

    When one fails the others are asked to save and stop, and its error is raised here.
    """
    waiting, cores = list(reversed(parts)), usable_cores()
    running: dict[Connection, WorkerSlot] = {}
    asked: set[SpawnProcess] = set()
    failure: Exception | None = None
    try:
        while waiting or running:
            if interrupt.signal or failure is not None:
                waiting.clear()
                request_stop(running.values(), asked)
            while waiting and cores:
                core = cores.pop(0)
                pipe, process = start_process(settings, waiting.pop(), core)
                running[pipe] = WorkerSlot(process, core)
            for pipe in ready_pipes(running):
                kind, news = receive(pipe, running[pipe].process)
                if kind == "update":
                    yield news
                elif kind == "warning":
                    warn(news)
                elif kind == ENDED:
                    process, core = running.pop(pipe)
                    cores.append(core)
                    # one asked as it started dies of it
                    asked_to = interrupt.signal or process in asked
                    if news and not asked_to and failure is None:
                        failure = RuntimeError(
                            f"the process of a seed died with exit status {news}"
                        )
                else:
                    told = ERRORS.get(kind, RuntimeError)(news)
                    failure = (
                        told if failure is None or isinstance(failure, Interrupted) else failure
                    )
    finally:
        request_stop(running.values(), asked)
        for process, _ in running.values():
            process.join(timeout=10)
            process.kill()
    if failure is not None:
        raise failure
    if interrupt.signal:
        raise Interrupted("stopped before every seed was trained, all saved")


def usable_cores() -> list[int | None]:
    """The cores to pin processes to; as many None where the system does not pin."""
    if hasattr(os, "sched_getaffinity"):
        return [*sorted(os.sched_getaffinity(0))]
    return [None] * (os.cpu_count() or 1)


def start_process(
    settings: Settings, part: TrainJob, core: int | None
) -> tuple[Connection, SpawnProcess]:
    """A process that trains the part, and the pipe it tells of it through."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=process_main, args=(theirs, settings, part, core))
    process.start()
    theirs.close()
    return ours, process


def ready_pipes(pipes: Iterable[Connection], seconds: float = 0.2) -> list[Connection]:
    """Those pipes with something to hear, after waiting for it a moment."""
    pipes = list(pipes)
    found = wait(pipes, timeout=seconds)
    return [pipe for pipe in pipes if pipe in found]


def receive(pipe: Connection, process: SpawnProcess) -> tuple[str, Any]:
    """The kind and the content of what a process tells next."""
    try:
        return pipe.recv()
    except (EOFError, OSError):
        process.join()
        return ENDED, process.exitcode


def request_stop(seats: Iterable[WorkerSlot], asked: set[SpawnProcess]) -> None:
    """Ask the processes, once each, to save and stop; `asked` keeps those that were."""
    for process, _ in seats:
        if process.is_alive() and process not in asked:
            process.terminate()  # SIGTERM, which `Interrupt` takes as a request
            asked.add(process)


def process_main(pipe: Connection, settings: Settings, part: TrainJob, core: int | None) -> None:
    """The life of one process: train the part, tell of it."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    # the parent hears Ctrl-C and asks by SIGTERM
    with InterruptHandler(ignore_ctrl_c=True) as interrupt:
        try:
            for update in train_job(
                settings, part, interrupt, lambda text: pipe.send(("warning", text))
            ):
                pipe.send(("update", update))
        except BrokenPipeError:
            return  # nobody is there to hear it
        except Exception as error:
            text = (
                str(error)
                if type(error).__name__ in ERRORS and not error.__cause__
                else f"{error}\n{traceback.format_exc()}"
            )
            pipe.send((type(error).__name__, f"seed {part.seeds[0]}: {text}"))
