"""Vectorized Gymnasium environments in worker processes, for environments that are slow to step."""

import contextlib
import multiprocessing
import signal
import traceback
from collections.abc import Callable

import gymnasium
import numpy as np

from etude.environments.backends.in_process import InProcessEnvs, StepLayout
from etude.errors import EnvironmentFault

RESET, STEP, CLOSE = b"r", b"s", b"c"  # first byte of a request
RESULTS, FAULT = b"o", b"e"  # first byte of a response


class WorkerEnvs:
    """`InProcessEnvs` divided over `workers` processes that step at the same time.

    Only bytes cross: a request is a verb with its argument; a response, rows or an error.
    """

    def __init__(
        self, make_env: Callable[[], gymnasium.Env], count: int, layout: StepLayout, workers: int
    ):
        context = multiprocessing.get_context("spawn")
        self.layout = layout
        self.slices = [
            slice(int(indices[0]), int(indices[-1]) + 1)
            for indices in np.array_split(range(count), min(workers, count))
        ]
        self.pipes, self.processes = [], []
        for env_slice in self.slices:
            pipe, worker_pipe = context.Pipe()
            process = context.Process(
                target=serve_worker, args=(worker_pipe, make_env, env_slice, layout), daemon=True
            )
            process.start()
            worker_pipe.close()
            self.pipes.append(pipe)
            self.processes.append(process)

    def reset(self, seed: int) -> np.ndarray:
        return self._request([RESET + seed.to_bytes(8, "little")] * len(self.pipes))

    def step(self, actions: np.ndarray) -> np.ndarray:
        return self._request([STEP + actions[env_slice].tobytes() for env_slice in self.slices])

    def close(self) -> None:
        for pipe, process in zip(self.pipes, self.processes, strict=True):
            with contextlib.suppress(OSError):  # the process has ended already
                pipe.send_bytes(CLOSE)
            process.join(timeout=5)
            process.kill()

    def _request(self, requests):
        for i, request in enumerate(requests):
            try:
                self.pipes[i].send_bytes(request)
            except OSError:
                raise self._exit_fault(i) from None
        return np.concatenate([self._receive(i) for i in range(len(requests))])

    def _receive(self, i):
        try:
            response = self.pipes[i].recv_bytes()
        except (EOFError, OSError):
            raise self._exit_fault(i) from None
        if response[:1] == FAULT:
            raise EnvironmentFault(response[1:].decode())
        env_slice = self.slices[i]
        return np.frombuffer(response, np.uint8, offset=1).reshape(
            env_slice.stop - env_slice.start, self.layout.dtype.itemsize
        )

    def _exit_fault(self, i):
        self.processes[i].join(timeout=1)
        env_slice = self.slices[i]
        return EnvironmentFault(
            f"the process of copies {env_slice.start} to {env_slice.stop - 1} died "
            f"with exit status {self.processes[i].exitcode}"
        )


def serve_worker(
    pipe, make_env: Callable[[], gymnasium.Env], env_slice: slice, layout: StepLayout
) -> None:
    """Serve requests in a worker process until the request to close or the end of the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the training process handles Ctrl-C
    envs = None
    with contextlib.suppress(EOFError, OSError):
        while (request := pipe.recv_bytes())[:1] != CLOSE:
            try:
                envs = envs or InProcessEnvs(
                    make_env, env_slice.stop - env_slice.start, layout, env_slice.start
                )
                if request[:1] == RESET:
                    rows = envs.reset(int.from_bytes(request[1:], "little"))
                else:
                    rows = envs.step(
                        np.frombuffer(request, layout.action_dtype, offset=1).reshape(
                            -1, *layout.action_shape
                        )
                    )
                pipe.send_bytes(RESULTS + rows.tobytes())
            except Exception as error:
                cause = error.__cause__ or error
                pipe.send_bytes(
                    FAULT + f"{error}\n{''.join(traceback.format_exception(cause))}".encode()
                )
    if envs:
        envs.close()
