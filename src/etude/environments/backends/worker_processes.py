"""Copies shared out over processes, for environments slow enough to be worth the crossing."""

import contextlib
import multiprocessing
import signal
import traceback
from collections.abc import Callable

import gymnasium
import numpy as np

from etude.environments.backends.in_process import InProcessEnvs, StepLayout
from etude.errors import EnvironmentFault

RESET, STEP, CLOSE = b"r", b"s", b"c"  # what is asked
RESULTS, FAULT = b"o", b"e"  # what is answered


class WorkerEnvs:
    """`Copies` with the same verbs, shared out over `workers` processes that step at the same time.

    Only bytes cross: a verb and its argument there; rows, or the text of an error, back.
    """

    def __init__(
        self, make: Callable[[], gymnasium.Env], count: int, layout: StepLayout, workers: int
    ):
        context = multiprocessing.get_context("spawn")
        self.layout = layout
        self.shares = [
            slice(int(part[0]), int(part[-1]) + 1)
            for part in np.array_split(range(count), min(workers, count))
        ]
        self.pipes, self.processes = [], []
        for share in self.shares:
            ours, theirs = context.Pipe()
            process = context.Process(
                target=serve_worker, args=(theirs, make, share, layout), daemon=True
            )
            process.start()
            theirs.close()
            self.pipes.append(ours)
            self.processes.append(process)

    def reset(self, seed: int) -> np.ndarray:
        return self._ask([RESET + seed.to_bytes(8, "little")] * len(self.pipes))

    def step(self, actions: np.ndarray) -> np.ndarray:
        return self._ask([STEP + actions[share].tobytes() for share in self.shares])

    def close(self) -> None:
        for pipe, process in zip(self.pipes, self.processes, strict=True):
            with contextlib.suppress(OSError):  # a process that is gone already is what we want
                pipe.send_bytes(CLOSE)
            process.join(timeout=5)
            process.kill()

    def _ask(self, messages):
        for i, message in enumerate(messages):
            try:
                self.pipes[i].send_bytes(message)
            except OSError:
                raise self._died(i) from None
        return np.concatenate([self._answer(i) for i in range(len(messages))])

    def _answer(self, i):
        try:
            answer = self.pipes[i].recv_bytes()
        except (EOFError, OSError):
            raise self._died(i) from None
        if answer[:1] == FAULT:
            raise EnvironmentFault(answer[1:].decode())
        share = self.shares[i]
        return np.frombuffer(answer, np.uint8, offset=1).reshape(
            share.stop - share.start, self.layout.dtype.itemsize
        )

    def _died(self, i):
        self.processes[i].join(timeout=1)
        share = self.shares[i]
        return EnvironmentFault(
            f"the process of copies {share.start} to {share.stop - 1} died "
            f"with exit status {self.processes[i].exitcode}"
        )


def serve_worker(pipe, make: Callable[[], gymnasium.Env], share: slice, layout: StepLayout) -> None:
    """The life of one process: answer until told to close, or until the other end is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the trainer's to answer
    copies = None
    with contextlib.suppress(EOFError, OSError):
        while (message := pipe.recv_bytes())[:1] != CLOSE:
            try:
                copies = copies or InProcessEnvs(
                    make, share.stop - share.start, layout, share.start
                )
                if message[:1] == RESET:
                    rows = copies.reset(int.from_bytes(message[1:], "little"))
                else:
                    rows = copies.step(
                        np.frombuffer(message, layout.action_dtype, offset=1).reshape(
                            -1, *layout.action_shape
                        )
                    )
                pipe.send_bytes(RESULTS + rows.tobytes())
            except Exception as error:
                cause = error.__cause__ or error
                pipe.send_bytes(
                    FAULT + f"{error}\n{''.join(traceback.format_exception(cause))}".encode()
                )
    if copies:
        copies.close()
