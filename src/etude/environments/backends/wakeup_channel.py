"""A channel between two processes, over which one wakes the other within microseconds.

This module needs the standard library alone, so that worker processes start without JAX.
"""

import os
import select
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from typing import NamedTuple

WAKE_UP = b""  # what `receive` returns for a wake-up; no message is empty
MAX_WAIT = 2e6  # seconds, 23 days; operating systems count milliseconds in 31 bits


class PipeEnds(NamedTuple):
    """What one end of a channel reads and writes. A process that starts can be given it."""

    incoming: Connection
    outgoing: Connection

    def close(self) -> None:
        self.incoming.close()
        self.outgoing.close()


def make_pipes(context: BaseContext) -> tuple[PipeEnds, PipeEnds]:
    """The ends of two pipes, one in each direction.

    A pair of sockets would be slower: whom a socket wakes, Linux puts on the core of the waker, and
    of two processes that are woken the second waits for the first while the other core rests.
    """
    incoming, other_outgoing = context.Pipe(duplex=False)
    other_incoming, outgoing = context.Pipe(duplex=False)
    return PipeEnds(incoming, outgoing), PipeEnds(other_incoming, other_outgoing)


class MessageChannel:
    """One end of a channel that carries wake-ups and messages, in their order.

    What a wake-up stands for lies in memory that both processes share. Here it is an empty message,
    which every operating system can send.
    """

    def __init__(self, pipes: PipeEnds):
        self.pipes, (self.incoming, self.outgoing) = pipes, pipes

    def wake(self) -> None:
        """Send a wake-up. Raises OSError where the other end is closed."""
        self.outgoing.send_bytes(WAKE_UP)

    def send(self, message: bytes) -> None:
        """Send a message. Raises OSError where the other end is closed."""
        self.outgoing.send_bytes(message)

    def receive(self, seconds: float | None = None) -> bytes:
        """Wait for the next wake-up or message without using the processor; None: for ever.

        A time limit is at most MAX_WAIT. Returns WAKE_UP or the message. Raises TimeoutError where
        nothing comes for `seconds`, and EOFError or another OSError where the other end, or this
        one, is closed.
        """
        if not self.incoming.poll(seconds):
            raise TimeoutError
        return self.incoming.recv_bytes()

    def close(self) -> None:
        self.pipes.close()


class ByteChannel(MessageChannel):
    """A MessageChannel on which a wake-up is a single byte, which costs a third of a message.

    Its pipes have to be files, as those of POSIX systems.
    """

    BYTE, MESSAGE_FOLLOWS = b"w", b"m"

    def __init__(self, pipes: PipeEnds):
        super().__init__(pipes)
        self.poller = select.poll()
        self.poller.register(self.incoming, select.POLLIN)

    def wake(self) -> None:
        os.write(self.outgoing.fileno(), self.BYTE)

    def send(self, message: bytes) -> None:
        os.write(self.outgoing.fileno(), self.MESSAGE_FOLLOWS)
        self.outgoing.send_bytes(message)

    def receive(self, seconds: float | None = None) -> bytes:
        descriptor = self.incoming.fileno()  # an error where this end is closed
        if seconds is not None and not self.poller.poll(1000 * seconds):
            raise TimeoutError
        byte = os.read(descriptor, 1)
        if byte == self.BYTE:
            return WAKE_UP
        if byte == self.MESSAGE_FOLLOWS:
            return self.incoming.recv_bytes()
        raise EOFError


def make_channel(pipes: PipeEnds) -> MessageChannel:
    """The fastest channel over pipes that this operating system has."""
    return ByteChannel(pipes) if os.name == "posix" else MessageChannel(pipes)
