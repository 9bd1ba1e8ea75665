"""Vectorized Gymnasium environments in worker processes, for environments that are slow to step."""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker, util
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from typing import Any

import gymnasium
import numpy as np

from etude.environments.backends.episode_log import EpisodeLog, join_logs, split_log
from etude.environments.backends.in_process import NO_LIMITS, HostLimits, InProcessEnvs, StepLayout
from etude.environments.backends.wakeup_channel import (
    MAX_WAIT,
    WAKE_UP,
    PipeEnds,
    make_channel,
    make_pipes,
)
from etude.environments.backends.watchdog import GRACE, STUCK
from etude.errors import EnvironmentFault

CLOSE_SECONDS = 5.0  # that a process has to close its environments
# first byte of a request; a wake-up alone asks for a step
RESET, LOG, REPLAY, NOTICES, CLOSE = b"r", b"l", b"p", b"n", b"c"
RESULTS, FAULT = b"o", b"e"  # first byte of a response; a wake-up alone says that the rows are done
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)  # which the trainer answers
ROWS_ALIGNMENT = 64  # bytes, a line of a processor's cache


class WorkerEnvs:
    """`InProcessEnvs` divided over `workers` processes that step at the same time.

    Actions and rows lie in memory that the processes share, and each process reads and writes the
    part of its own copies. A step is a wake-up to each process and one back. The other requests are
    messages: a verb with its argument. So are the other responses: bytes, or an error.

    A process writes rows only between a request and its response, and they are copied when all have
    responded. So nothing that was returned changes later.
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
        # anonymous, and freed when the last of the processes ends
        memory = context.RawArray(ctypes.c_ubyte, shared_size(layout, count))
        self.actions, self.rows = shared_arrays(memory, layout, count)
        self.channels, self.processes = [], []
        # seconds that each process may take to respond: twice the limit for each copy, for a step
        # and a reset, and so much more that the worker's own watchdog, which names it, comes first
        self.deadlines = [
            min(2 * (env_slice.stop - env_slice.start) * limits.timeout + 2 * GRACE, MAX_WAIT)
            if limits.timeout
            else None
            for env_slice in self.slices
        ]
        self.are_started = False  # the processes, which have told so
        self.is_waiting = False  # for the responses to a request
        self.notice_given = False
        util.Finalize(None, kill_workers, exitpriority=0)  # as this process ends
        for env_slice in self.slices:
            pipes, worker_pipes = make_pipes(context)
            process = context.Process(
                target=serve_worker,
                args=(worker_pipes, memory, count, make_env, env_slice, layout, limits),
                daemon=True,
            )
            with blocked_stop_signals():
                process.start()
            worker_pipes.close()
            _workers_of_this_process.add(process)
            self.channels.append(make_channel(pipes))
            self.processes.append(process)

    def reset(self, seed: int) -> np.ndarray:
        self._request([RESET + seed.to_bytes(8, "little")] * len(self.channels))
        return self.rows.copy()

    def step(self, actions: np.ndarray) -> np.ndarray:
        self._begin_request()
        self.actions[...] = actions
        for channel in self.channels:
            try:
                channel.wake()
            except OSError:  # it has ended, which its response tells
                continue
        self._responses()
        return self.rows.copy()

    def episode_log(self) -> EpisodeLog:
        """The running episodes of all environments."""
        responses = self._request([LOG] * len(self.channels))
        return join_logs([EpisodeLog.from_bytes(response) for response in responses])

    def replay(self, log: EpisodeLog) -> tuple[np.ndarray, list[str]]:
        """Bring each environment to where its episode was; see `InProcessEnvs.replay`."""
        logs = split_log(log, self.slices, self.layout.action_bytes)
        # a replay takes many calls, each within its time limit
        responses = self._request([REPLAY + part.to_bytes() for part in logs], has_deadline=False)
        reasons = [reason for part in responses for reason in part.decode().split("\0")]
        return self.rows.copy(), reasons

    def notices(self) -> list[str]:
        """What a person should know of these environments, once."""
        if self.notice_given or self.is_waiting:
            return []
        try:
            notices = [part.decode() for part in self._request([NOTICES] * len(self.channels))]
        except EnvironmentFault:  # which the next step tells
            return []
        notices = [notice for notice in notices if notice]
        self.notice_given = bool(notices)
        return notices[:1]  # that of one process tells enough

    def close(self) -> None:
        for channel in self.channels:
            with contextlib.suppress(OSError):  # the process has ended already
                channel.send(CLOSE)
        deadline = time.monotonic() + CLOSE_SECONDS  # of all: they close side by side
        for channel, process in zip(self.channels, self.processes, strict=True):
            with contextlib.suppress(EOFError, OSError):
                while (seconds := deadline - time.monotonic()) > 0:
                    channel.receive(seconds)  # a response that nobody has read
            process.join(timeout=max(0.1, deadline - time.monotonic()))
            process.kill()
            channel.close()

    def _request(self, messages: list[bytes], has_deadline: bool = True) -> list[bytes]:
        """Send a message to each process, and return what they respond."""
        self._begin_request()
        for channel, message in zip(self.channels, messages, strict=True):
            with contextlib.suppress(OSError):  # it has ended, which its response tells
                channel.send(message)
        return self._responses(has_deadline)

    def _begin_request(self) -> None:
        if self.is_waiting:
            raise EnvironmentFault("a request to the processes was interrupted; make them anew")
        self.is_waiting = True
        if not self.are_started:
            self._await_start()

    def _await_start(self) -> None:
        """Wait until each process has started, which takes time of no environment."""
        for channel in self.channels:
            with contextlib.suppress(EOFError, OSError):  # it has ended, which its response tells
                channel.receive()
        self.are_started = True

    def _responses(self, has_deadline: bool = True) -> list[bytes]:
        """The responses of all processes to a request; the next request begins anew.

        Those that were woken last respond last most often. They are awaited first, so that this
        process wakes once.
        """
        responses: list[bytes] = []
        faults: list[EnvironmentFault] = []
        for i in reversed(range(len(self.channels))):
            try:
                response = self.channels[i].receive(self.deadlines[i] if has_deadline else None)
                if response[:1] == FAULT:
                    faults.append(EnvironmentFault(response[1:].decode()))
                responses.append(response[1:])
            except (EOFError, OSError) as error:
                faults.append(self._process_fault(i, error))
        self.is_waiting = False
        if faults:
            raise faults[-1]
        return responses[::-1]

    def _process_fault(self, i: int, error: Exception) -> EnvironmentFault:
        """The fault of a process that does not respond in time, or has ended."""
        env_slice, process = self.slices[i], self.processes[i]
        what = f"the process of copies {env_slice.start} to {env_slice.stop - 1}"
        if isinstance(error, TimeoutError):
            process.kill()
            return EnvironmentFault(
                f"{what} has not answered for {self.deadlines[i]:g} seconds; allow more with "
                "environment_timeout"
            )
        process.join(timeout=1)
        return EnvironmentFault(f"{what} died with exit status {process.exitcode}")


_workers_of_this_process: weakref.WeakSet[SpawnProcess] = weakref.WeakSet()


def kill_workers() -> None:
    """Kill the workers that nobody has closed.

    At its end, Python would send SIGTERM to them, which they ignore, and wait for their end.
    """
    for process in multiprocessing.active_children():
        if process in _workers_of_this_process:
            process.kill()


@contextlib.contextmanager
def blocked_stop_signals() -> Iterator[None]:
    """Block Ctrl-C and SIGTERM in the block, where the operating system can.

    They reach this process at the end of the block. A process that starts in it has them blocked
    from its first moment.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # to start it within the block would unblock them
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def leave_stop_signals_to_trainer() -> None:
    """Do nothing on Ctrl-C and on SIGTERM, which a terminal or a scheduler sends to all processes.

    A program that an environment starts gets the default of SIGTERM again, so that the environment
    can end it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def serve_worker(
    pipes: PipeEnds,
    memory: Any,
    count: int,
    make_env: Callable[[], gymnasium.Env],
    env_slice: slice,
    layout: StepLayout,
    limits: HostLimits,
) -> None:
    """Serve requests in a worker process until the request to close or the end of the pipes."""
    leave_stop_signals_to_trainer()
    end_with_parent()
    channel, envs = make_channel(pipes), None
    actions, rows = (array[env_slice] for array in shared_arrays(memory, layout, count))

    def report_stuck(description: str) -> None:
        channel.send(FAULT + description.encode())
        os._exit(STUCK)

    with contextlib.suppress(EOFError, OSError):
        channel.wake()  # it has started
        while (request := channel.receive()) != CLOSE:
            try:
                envs = envs or InProcessEnvs(
                    make_env,
                    env_slice.stop - env_slice.start,
                    layout,
                    env_slice.start,
                    limits,
                    report_stuck,
                )
                if request == WAKE_UP:
                    rows[...] = envs.step(actions)
                    channel.wake()
                else:
                    channel.send(RESULTS + answer(envs, request[:1], request[1:], rows))
            except Exception as error:
                cause = error.__cause__ or error
                text = f"{error}\n{''.join(traceback.format_exception(cause))}"
                channel.send(FAULT + text.encode(errors="backslashreplace"))
    if envs:
        envs.close()


def answer(envs: InProcessEnvs, verb: bytes, argument: bytes, rows: np.ndarray) -> bytes:
    """The response to a request; rows of steps that it asks for are written to `rows`."""
    if verb == RESET:
        rows[...] = envs.reset(int.from_bytes(argument, "little"))
        return b""
    if verb == LOG:
        return envs.episode_log().to_bytes()
    if verb == NOTICES:
        return "".join(envs.notices()).encode()
    assert verb == REPLAY
    rows[...], reasons = envs.replay(EpisodeLog.from_bytes(argument))
    return "\0".join(reasons).encode()


def shared_size(layout: StepLayout, count: int) -> int:
    """The size in bytes of the memory for `shared_arrays`."""
    return rows_start(layout, count) + count * layout.dtype.itemsize


def shared_arrays(memory: Any, layout: StepLayout, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The actions [copy, *action_shape] and the rows [copy, byte] in shared memory."""
    start = rows_start(layout, count)
    actions, rows = memoryview(memory)[: count * layout.action_bytes], memoryview(memory)[start:]
    return (
        np.frombuffer(actions, layout.action_dtype).reshape(count, *layout.action_shape),
        np.frombuffer(rows, np.uint8).reshape(count, layout.dtype.itemsize),
    )


def rows_start(layout: StepLayout, count: int) -> int:
    """The byte of the shared memory at which the rows begin, after the actions."""
    return -(-count * layout.action_bytes // ROWS_ALIGNMENT) * ROWS_ALIGNMENT


def end_with_parent() -> None:
    """End this process when the one that started it ends, whatever this one is doing."""
    parent = multiprocessing.parent_process()

    def wait_for_end() -> None:
        if parent is not None:
            wait([parent.sentinel])
            os._exit(1)

    threading.Thread(target=wait_for_end, daemon=True).start()
