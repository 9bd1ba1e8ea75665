"""Interrupts: on Ctrl-C or SIGTERM a run finishes its chunk, saves and says how to resume."""

import os
import signal
import threading
from typing import Any

from etude.environments.protocol import Environment


class Interrupted(Exception):
    """A run stopped on request of a signal."""

    def __init__(self, message: str, number: int | None = None):
        super().__init__(message)
        self.signal = number or signal.SIGINT


class InterruptHandler:
    """A context in which the first SIGINT or SIGTERM only sets `signal`.

    A second signal acts as it does without the context, except in a process that another one waits
    for: Ctrl-C is then ignored, since the other answers it, and SIGTERM may come twice, once for
    the whole group and once from the other, and means the same.

    The main thread may wait inside a compiled chunk, where Python runs no signal handler, so a
    thread listens for signals. A chunk that has not returned `cancel_after` seconds later is
    cancelled through the environment (`watch`).
    """

    def __init__(self, has_waiting_parent: bool = False):
        self.signal: int | None = None
        self.has_waiting_parent = has_waiting_parent
        self.environment: Environment | None = None
        self.cancel_after = 5.0
        self._previous_handlers: dict[int, Any] = {}
        self._writer: int | None = None

    def __enter__(self) -> "InterruptHandler":
        if threading.current_thread() is not threading.main_thread():
            return self  # only the main thread may set handlers
        self._reader, writer = os.pipe()
        self._writer = writer
        os.set_blocking(writer, False)
        self._previous_wakeup = signal.set_wakeup_fd(writer)
        for number in (signal.SIGINT, signal.SIGTERM):
            ignored = number == signal.SIGINT and self.has_waiting_parent
            self._previous_handlers[number] = signal.signal(
                number, signal.SIG_IGN if ignored else self._handle
            )
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._restore()
            signal.set_wakeup_fd(self._previous_wakeup)
            os.close(self._writer)  # ends the listening thread

    def watch(self, environment: Environment, cancel_after: float = 5.0) -> None:
        """Set the environment that is cancelled `cancel_after` seconds after a signal."""
        self.environment, self.cancel_after = environment, cancel_after
        if self.signal is not None:
            self._cancel()

    def _restore(self):
        for number, handler in self._previous_handlers.items():
            if handler is not None:  # None: it was not Python's
                signal.signal(number, handler)

    def _handle(self, number, frame):
        self.signal = number
        if not self.has_waiting_parent:
            self._restore()

    def _listen(self):
        while numbers := os.read(self._reader, 16):
            stop_signals = [
                number for number in numbers if number in (signal.SIGINT, signal.SIGTERM)
            ]
            if stop_signals:
                self.signal = self.signal or stop_signals[0]
                threading.Timer(self.cancel_after, self._cancel).start()
        os.close(self._reader)

    def _cancel(self):
        if self.environment is not None:
            self.environment.cancel()
