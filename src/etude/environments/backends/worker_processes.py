"""Vectorized Gymnasium environments in worker processes, for environments that are slow to step."""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait

import gymnasium
import numpy as np

from etude.environments.backends.episode_log import EpisodeLog, join_logs, split_log
from etude.environments.backends.in_process import NO_LIMITS, HostLimits, InProcessEnvs, StepLayout
from etude.environments.backends.watchdog import GRACE, STUCK
from etude.errors import EnvironmentFault

CLOSE_SECONDS = 5.0  # that a process has to close its environments
RESET, STEP, LOG, REPLAY, CLOSE = b"r", b"s", b"l", b"p", b"c"  # first byte of a request
# first byte of a response; a notice precedes another response
RESULTS, FAULT, NOTICE = b"o", b"e", b"n"


class WorkerEnvs:
    """`InProcessEnvs` divided over `workers` processes that step at the same time.

    Only bytes cross: a request is a verb with its argument; a response, rows or an error.
    """

    def __init__(
        self,
        make_env: Callable[[], gymnasium.Env],
        count: int,
        layout: StepLayout,
        workers: int,
        limits: HostLimits = NO_LIMITS,
    ):
        context = multiprocessing.get_context("spawn")
        self.layout, self.limits = layout, limits
        self.slices = [
            slice(int(indices[0]), int(indices[-1]) + 1)
            for indices in np.array_split(range(count), min(workers, count))
        ]
        self.pipes, self.processes = [], []
        self.is_waiting = False  # for the responses to a request
        self.is_noticed = False
        self.pending_notices: list[str] = []
        for env_slice in self.slices:
            pipe, worker_pipe = context.Pipe()
            process = context.Process(
                target=serve_worker,
                args=(worker_pipe, make_env, env_slice, layout, limits),
                daemon=True,
            )
            with ignored_ctrl_c():
                process.start()
            worker_pipe.close()
            self.pipes.append(pipe)
            self.processes.append(process)

    def reset(self, seed: int) -> np.ndarray:
        return self._rows(self._request([RESET + seed.to_bytes(8, "little")] * len(self.pipes)))

    def step(self, actions: np.ndarray) -> np.ndarray:
        requests = [STEP + actions[env_slice].tobytes() for env_slice in self.slices]
        return self._rows(self._request(requests))

    def episode_log(self) -> EpisodeLog:
        """The running episodes of all environments."""
        responses = self._request([LOG] * len(self.pipes))
        return join_logs([EpisodeLog.from_bytes(response) for response in responses])

    def replay(self, log: EpisodeLog) -> tuple[np.ndarray, list[str]]:
        """Bring each environment to where its episode was; see `InProcessEnvs.replay`."""
        logs = split_log(log, self.slices, self.layout.action_bytes)
        # a replay takes many calls, each within its time limit
        responses = self._request([REPLAY + part.to_bytes() for part in logs], has_deadline=False)
        sizes = [(env_slice.stop - env_slice.start) for env_slice in self.slices]
        ends = [size * self.layout.dtype.itemsize for size in sizes]
        rows = [response[:end] for response, end in zip(responses, ends, strict=True)]
        reasons = [
            response[end:].decode().split("\0")
            for response, end in zip(responses, ends, strict=True)
        ]
        return self._rows(rows), [reason for part in reasons for reason in part]

    def notices(self) -> list[str]:
        """What a person should know of these environments, once."""
        notices, self.pending_notices = self.pending_notices, []
        if self.is_noticed or not notices:
            return []
        self.is_noticed = True
        return notices[:1]  # that of one process tells enough

    def close(self) -> None:
        for pipe in self.pipes:
            with contextlib.suppress(OSError):  # the process has ended already
                pipe.send_bytes(CLOSE)
        for pipe, process in zip(self.pipes, self.processes, strict=True):
            deadline = time.monotonic() + CLOSE_SECONDS
            with contextlib.suppress(EOFError, OSError):
                while time.monotonic() < deadline:
                    if pipe.poll(0.1):  # a response that nobody has read
                        pipe.recv_bytes()
            process.join(timeout=1)
            process.kill()
            pipe.close()

    def _rows(self, responses: list[bytes]) -> np.ndarray:
        rows = np.frombuffer(b"".join(responses), np.uint8)
        return rows.reshape(-1, self.layout.dtype.itemsize)

    def _request(self, requests: list[bytes], has_deadline: bool = True) -> list[bytes]:
        """Send a request to each process, and return what they respond.

        With a deadline, a process may take the time limit of a call for each of its copies.
        """
        if self.is_waiting:
            raise EnvironmentFault("a request to the processes was interrupted; make them anew")
        self.is_waiting = True
        for i, request in enumerate(requests):
            with contextlib.suppress(OSError):  # it has ended, which its response tells
                self.pipes[i].send_bytes(request)
        responses, faults = [], []
        for i in range(len(requests)):  # all of them, since the next request begins anew
            try:
                responses.append(self._receive(i, has_deadline))
            except EnvironmentFault as fault:
                faults.append(fault)
        self.is_waiting = False
        if faults:
            raise faults[0]
        return responses

    def _receive(self, i: int, has_deadline: bool) -> bytes:
        env_slice, seconds = self.slices[i], None
        if has_deadline and self.limits.timeout:
            # the worker's own watchdog is sooner, and names the copy: a step and a reset of each
            copies = env_slice.stop - env_slice.start
            seconds = 2 * copies * self.limits.timeout + 2 * GRACE
        while True:
            try:
                if not self.pipes[i].poll(seconds):
                    self.processes[i].kill()
                    raise EnvironmentFault(
                        f"the process of copies {env_slice.start} to {env_slice.stop - 1} has not "
                        f"answered for {seconds:g} seconds; allow more with environment_timeout"
                    )
                response = self.pipes[i].recv_bytes()
            except (EOFError, OSError):
                raise self._exit_fault(i) from None
            if response[:1] == FAULT:
                raise EnvironmentFault(response[1:].decode())
            if response[:1] == RESULTS:
                return response[1:]
            self.pending_notices.append(response[1:].decode())

    def _exit_fault(self, i: int) -> EnvironmentFault:
        self.processes[i].join(timeout=1)
        env_slice = self.slices[i]
        return EnvironmentFault(
            f"the process of copies {env_slice.start} to {env_slice.stop - 1} died "
            f"with exit status {self.processes[i].exitcode}"
        )


@contextlib.contextmanager
def ignored_ctrl_c() -> Iterator[None]:
    """Ignore Ctrl-C in the block; a process that starts in it does so from its first moment."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def serve_worker(
    pipe: Connection,
    make_env: Callable[[], gymnasium.Env],
    env_slice: slice,
    layout: StepLayout,
    limits: HostLimits,
) -> None:
    """Serve requests in a worker process until the request to close or the end of the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the training process handles Ctrl-C
    end_with_parent()
    envs = None

    def report_stuck(description: str) -> None:
        pipe.send_bytes(FAULT + description.encode())
        os._exit(STUCK)

    with contextlib.suppress(EOFError, OSError):
        while (request := pipe.recv_bytes())[:1] != CLOSE:
            try:
                envs = envs or InProcessEnvs(
                    make_env,
                    env_slice.stop - env_slice.start,
                    layout,
                    env_slice.start,
                    limits,
                    report_stuck,
                )
                response = answer(envs, request[:1], request[1:])
                for notice in envs.notices():
                    pipe.send_bytes(NOTICE + notice.encode())
                pipe.send_bytes(RESULTS + response)
            except Exception as error:
                cause = error.__cause__ or error
                text = f"{error}\n{''.join(traceback.format_exception(cause))}"
                pipe.send_bytes(FAULT + text.encode(errors="backslashreplace"))
    if envs:
        envs.close()


def answer(envs: InProcessEnvs, verb: bytes, argument: bytes) -> bytes:
    """The response to a request."""
    layout = envs.layout
    if verb == STEP:
        actions = np.frombuffer(argument, layout.action_dtype).reshape(-1, *layout.action_shape)
        return envs.step(actions).tobytes()
    if verb == RESET:
        return envs.reset(int.from_bytes(argument, "little")).tobytes()
    if verb == LOG:
        return envs.episode_log().to_bytes()
    assert verb == REPLAY
    rows, reasons = envs.replay(EpisodeLog.from_bytes(argument))
    return rows.tobytes() + "\0".join(reasons).encode()


def end_with_parent() -> None:
    """End this process when the one that started it ends, whatever this one is doing."""
    parent = multiprocessing.parent_process()

    def wait_for_end() -> None:
        if parent is not None:
            wait([parent.sentinel])
            os._exit(1)

    threading.Thread(target=wait_for_end, daemon=True).start()
