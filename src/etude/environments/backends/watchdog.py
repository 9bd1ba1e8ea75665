"""A time limit on calls of Python environments, which may never return.

A thread looks whether the call of one environment has lasted longer than the limit. Then it raises
`CallTimeout` in the thread of the call: by a signal in the main thread, which also ends a wait in
the operating system (`time.sleep`, a socket), elsewhere between two lines of Python. A call that
does not end even so, in a library that never returns, ends with its process. A library that keeps
Python's own lock for ever is out of reach.
"""

import contextlib
import ctypes
import os
import signal
import sys
import threading
import traceback
import weakref
from collections.abc import Callable, Hashable
from typing import Any

from etude.errors import EnvironmentFault

TIMEOUT = 600  # seconds that one call may take by default
MAX_TIMEOUT = 10**9  # seconds; more is a mistake
GRACE = 10.0  # seconds after which a call that was interrupted counts as stuck
STUCK = 1  # exit status of a process that ends with a stuck call
_SIGNAL = getattr(signal, "SIGVTALRM", None)  # one that hardly anything else uses


class CallTimeout(BaseException):
    """A call lasted longer than the limit; no `except Exception` of an environment stops it."""


class Watchdog:
    """Watches the calls that its owner makes between `begin` and `end`.

    marker    returns a value that differs from one call to the next between `begin` and `end`
    limit     seconds that one call may take; 0 for no limit
    describe  says what call runs now, and that it takes too long
    on_stuck  what is done with a call that cannot be interrupted, given its description
    """

    def __init__(
        self,
        marker: Callable[[], Hashable],
        limit: float = TIMEOUT,
        describe: Callable[[], str] = lambda: "a call does not return",
        on_stuck: Callable[[str], None] | None = None,
    ):
        self.marker, self.limit, self.describe = marker, limit, describe
        self.on_stuck = on_stuck or self.end_process
        self.busy, self.thread, self.period = False, 0, 0
        self.lock = threading.Lock()  # held where a call ends, and where it is interrupted
        self.overdue: Hashable = None  # the marker of the call that is to be interrupted
        self.closed = threading.Event()
        self.started = False

    def begin(self) -> None:
        """Watch from now on, in this thread."""
        self.period += 1
        self.thread, self.busy = threading.get_ident(), True
        if not self.started and self.limit:
            self.started = True
            install_handler()
            _watched.add(self)
            looking = threading.Thread(target=look, args=(weakref.ref(self), self.closed))
            looking.daemon = True
            looking.start()

    def end(self) -> None:
        """Watch no longer, until `begin`.

        Raises CallTimeout where the call is interrupted in this instant.
        """
        with self.lock:
            self.busy = False

    def close(self) -> None:
        """End the thread."""
        self.closed.set()

    def running(self) -> Hashable:
        """What tells the call that runs now from every other; None where none runs."""
        return (self.period, self.marker()) if self.busy else None

    def is_overdue(self) -> bool:
        """Whether the call that runs now is the one to be interrupted."""
        return self.overdue is not None and self.overdue == self.running()

    def end_process(self, description: str) -> None:
        """End this process, with the place of the call, unless Python is interactive."""
        frame = sys._current_frames().get(self.thread)
        place = "".join(traceback.format_stack(frame)[-3:]) if frame else ""
        sys.stderr.write(f"\n{place}etude: {description}. The last checkpoint is kept\n")
        sys.stderr.flush()
        if not (hasattr(sys, "ps1") or "ipykernel" in sys.modules):
            os._exit(STUCK)

    def interrupt(self) -> None:
        """Raise CallTimeout in the call that is overdue, once."""
        is_main = self.thread == threading.main_thread().ident
        if is_main and _SIGNAL is not None and signal.getsignal(_SIGNAL) is raise_timeout:
            signal.pthread_kill(self.thread, _SIGNAL)
        else:
            with self.lock:
                if self.is_overdue():
                    thread, error = ctypes.c_ulong(self.thread), ctypes.py_object(CallTimeout)
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, error)


@contextlib.contextmanager
def time_limit(limit: float, what: str):
    """Raise EnvironmentFault, with `what` in its text, in a block longer than `limit` seconds."""
    watchdog = Watchdog(lambda: what, limit)
    watchdog.begin()
    try:
        yield
    except CallTimeout:
        raise EnvironmentFault(
            f"{what} took longer than {limit:g} seconds; allow more with environment_timeout"
        ) from None
    finally:
        watchdog.end()
        watchdog.close()


_watched: weakref.WeakSet[Watchdog] = weakref.WeakSet()


def raise_timeout(number: int, frame: Any) -> None:
    """The handler of the signal that interrupts a call: nothing where the call has ended."""
    if any(watchdog.is_overdue() for watchdog in list(_watched)):
        raise CallTimeout


def install_handler() -> None:
    """Handle the signal, where this is the main thread and nobody else does."""
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and _SIGNAL is not None and signal.getsignal(_SIGNAL) == signal.SIG_DFL:
        signal.signal(_SIGNAL, raise_timeout)


def look(reference: "weakref.ref[Watchdog]", closed: threading.Event) -> None:
    """Look at the calls of a watchdog until it is closed or gone."""
    seen, waited = None, 0.0
    while (watchdog := reference()) is not None:
        tick = min(1.0, watchdog.limit / 10)
        call = watchdog.running()
        # ticks are counted, since a clock also runs while the process is stopped
        seen, waited = call, waited + tick if call is not None and call == seen else 0.0
        if waited >= watchdog.limit + GRACE:
            watchdog.on_stuck(watchdog.describe())
            waited = 0.0
        elif waited >= watchdog.limit and watchdog.overdue != call:
            watchdog.overdue = call
            watchdog.interrupt()
        del watchdog
        if closed.wait(tick):
            return
