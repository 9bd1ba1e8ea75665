"""Seeds over processes: for environments that cannot share one program, each seed trains in a process of its own."""
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait

from etude.errors import Diverged, EnvironmentFault, InvalidInput
from etude.experiment.interrupt import Interrupt, Interrupted
from etude.experiment.part import Part, Update, train_part
from etude.experiment.settings import Settings

ERRORS = {error.__name__: error for error in (InvalidInput, EnvironmentFault, Diverged, Interrupted)}


def train_parts(settings: Settings, parts: list[Part], interrupt: Interrupt, warn: Callable[[str], None]) -> Iterator[Update]:
    """Train the parts, as many at a time as there are cores, each pinned to its core; their Updates as they come.

    When one fails the others are asked to save and stop, and its error is raised here.
    """
    context = multiprocessing.get_context("spawn")
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [None] * (os.cpu_count() or 1)
    waiting, running, failure = list(reversed(parts)), {}, None
    try:
        while waiting or running:
            while waiting and cores and not interrupt.signal and failure is None:
                core, part = cores.pop(0), waiting.pop()
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(target=run_part, args=(theirs, settings, part, core))
                process.start()
                theirs.close()
                running[ours] = process, core
            if (interrupt.signal or failure is not None) and waiting:
                waiting.clear()
            for pipe in wait(list(running), timeout=0.2):
                process, core = running[pipe]
                try:
                    kind, news = pipe.recv()
                except (EOFError, OSError):
                    process.join()
                    cores.append(core)
                    del running[pipe]
                    if process.exitcode and failure is None:
                        failure = RuntimeError(f"the process of a seed died with exit status {process.exitcode}")
                    continue
                if kind == "update":
                    yield news
                elif kind == "warning":
                    warn(news)
                else:
                    failure = failure or ERRORS.get(kind, RuntimeError)(news)
            if interrupt.signal or failure is not None:
                stop(running)
    finally:
        stop(running)
        for process, _ in running.values():
            process.join(timeout=10)
            process.kill()
    if failure is not None:
        raise failure
    if interrupt.signal:
        raise Interrupted("stopped before every seed was trained, all saved")


def stop(running) -> None:
    """Ask the processes, once each, to save and stop."""
    for pipe, (process, core) in running.items():
        if process.is_alive() and not getattr(process, "asked", False):
            os.kill(process.pid, signal.SIGTERM)
            process.asked = True


def run_part(pipe, settings: Settings, part: Part, core: int | None) -> None:
    """The life of one process: train the part, tell of it."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    with Interrupt(ignore_ctrl_c=True) as interrupt:           # the parent hears Ctrl-C and asks by SIGTERM
        try:
            for update in train_part(settings, part, interrupt, lambda text: pipe.send(("warning", text))):
                pipe.send(("update", update))
        except BrokenPipeError:
            return                                              # nobody is there to hear it
        except Exception as error:
            text = str(error) if type(error).__name__ in ERRORS and not error.__cause__ else f"{error}\n{traceback.format_exc()}"
            pipe.send((type(error).__name__, f"seed {part.seeds[0]}: {text}"))
