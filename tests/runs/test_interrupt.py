"""The first signal asks to stop; the second acts as ever, where no other process waits for this."""

import os
import signal

import pytest

from etude.runs.interrupt import InterruptHandler


@pytest.fixture
def default_sigterm():
    """SIGTERM as an exception, in place of the end of the process."""

    def end(number, frame):
        raise SystemExit(number)

    previous = signal.signal(signal.SIGTERM, end)
    yield
    signal.signal(signal.SIGTERM, previous)


def test_the_second_signal_acts_as_without_a_handler(default_sigterm):
    with InterruptHandler() as interrupt:
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupt.signal == signal.SIGTERM
        with pytest.raises(SystemExit):
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_process_that_another_waits_for_takes_each_signal_as_the_same_request(default_sigterm):
    """That of the whole group, and that of the other."""
    with InterruptHandler(has_waiting_parent=True) as interrupt:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.signal is None
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
            assert interrupt.signal == signal.SIGTERM
    with pytest.raises(SystemExit):
        os.kill(os.getpid(), signal.SIGTERM)
