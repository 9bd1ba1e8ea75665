"""Wake-ups and messages arrive in their order, in time, and never after the end."""

import multiprocessing
import threading
import time

import pytest

from etude.environments.backends.wakeup_channel import (
    MAX_WAIT,
    WAKE_UP,
    ByteChannel,
    MessageChannel,
    make_channel,
    make_pipes,
)


@pytest.fixture(params=[MessageChannel, ByteChannel])
def ends(request):
    """Both ends of a channel."""
    made = tuple(request.param(pipes) for pipes in make_pipes(multiprocessing.get_context()))
    yield made
    for end in made:
        end.close()


def test_wake_ups_and_messages_keep_their_order_in_both_directions(ends):
    for one, other in (ends, ends[::-1]):
        one.wake()
        one.send(b"m")  # as the byte before a message
        one.send(bytes(range(256)) * 40)
        one.wake()
        one.wake()
        told = [other.receive(seconds) for seconds in (None, 5, None, 5, None)]
        assert told == [WAKE_UP, b"m", bytes(range(256)) * 40, WAKE_UP, WAKE_UP]


def test_a_wait_lasts_until_something_comes_or_its_time_is_over(ends):
    one, other = ends
    with pytest.raises(TimeoutError):
        other.receive(0.05)
    threading.Timer(0.05, one.wake).start()
    start, used = time.monotonic(), time.thread_time()
    assert other.receive(60) == WAKE_UP
    assert time.monotonic() - start < 30
    assert time.thread_time() - used < 0.03, "a wait takes no time of a processor"


def test_the_end_of_one_end_is_an_error_at_the_other_and_of_both(ends):
    one, other = ends
    one.send(b"last")
    one.close()
    assert other.receive() == b"last"
    for seconds in (None, 60):
        with pytest.raises((EOFError, OSError)) as raised:
            other.receive(seconds)
        assert not isinstance(raised.value, TimeoutError)
    for end in (one, other):
        with pytest.raises(OSError):
            end.wake()
        with pytest.raises(OSError):
            end.send(b"lost")
    with pytest.raises(OSError) as raised:
        one.receive(60)
    assert not isinstance(raised.value, TimeoutError)


def test_a_time_limit_holds_for_the_wait_that_has_it(ends):
    one, other = ends
    with pytest.raises(TimeoutError):
        other.receive(1e-9)  # which is not no limit
    threading.Timer(0.2, one.send, [b"late"]).start()
    with pytest.raises(TimeoutError):
        other.receive(0.01)
    assert other.receive() == b"late"


@pytest.mark.parametrize(
    ("system", "kind"), [("posix", ByteChannel), ("nt", MessageChannel)], ids=["posix", "windows"]
)
def test_a_single_byte_wakes_where_pipes_are_files(monkeypatch, system, kind):
    ends = make_pipes(multiprocessing.get_context())
    with monkeypatch.context() as patch:
        patch.setattr("os.name", system)
        assert type(make_channel(ends[0])) is kind
    for pipes in ends:
        pipes.close()


def test_the_longest_time_limit_is_one_that_the_operating_system_can_wait(ends):
    one, other = ends
    threading.Timer(0.05, one.wake).start()
    assert other.receive(MAX_WAIT) == WAKE_UP
