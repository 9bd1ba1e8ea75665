"""A channel between two processes, over which one wakes the other within microseconds.

This module needs the standard library alone, so that worker processes start without JAX.
"""

import os
import socket
import struct
from multiprocessing.connection import Connection

WAKE_UP = b""  # what `receive` returns for a wake-up; no message is empty


class MessageChannel:
    """One end of a `multiprocessing` pipe that carries wake-ups and messages, in their order.

    What a wake-up stands for lies in memory that both processes share. Here it is an empty message,
    which every operating system can send.
    """

    def __init__(self, connection: Connection):
        self.connection = connection

    def wake(self) -> None:
        """Send a wake-up. Raises OSError where the other end is closed."""
        self.connection.send_bytes(WAKE_UP)

    def send(self, message: bytes) -> None:
        """Send a message. Raises OSError where the other end is closed."""
        self.connection.send_bytes(message)

    def receive(self, seconds: float | None = None) -> bytes:
        """Wait for the next wake-up or message without using the processor; None: for ever.

        Returns WAKE_UP or the message. Raises TimeoutError where nothing comes for `seconds`, and
        EOFError or another OSError where the other end, or this one, is closed.
        """
        if not self.connection.poll(seconds):
            raise TimeoutError
        return self.connection.recv_bytes()

    def close(self) -> None:
        self.connection.close()


class ByteChannel(MessageChannel):
    """A MessageChannel on which a wake-up is a single byte, which costs a third of a message.

    Its pipe has to be a pair of sockets, as that of POSIX systems. A socket keeps the time limit of
    its reads, so that a wait is one call of the operating system.
    """

    BYTE, MESSAGE_FOLLOWS = b"w", b"m"

    def __init__(self, connection: Connection):
        super().__init__(connection)
        self.descriptor = connection.fileno()
        self.seconds: float | None = None  # the time limit of a read

    def wake(self) -> None:
        os.write(self.descriptor, self.BYTE)

    def send(self, message: bytes) -> None:
        os.write(self.descriptor, self.MESSAGE_FOLLOWS)
        self.connection.send_bytes(message)

    def receive(self, seconds: float | None = None) -> bytes:
        if seconds != self.seconds:
            self._set_time_limit(seconds)
        try:
            byte = os.read(self.descriptor, 1)
            if byte == self.BYTE:
                return WAKE_UP
            if byte == self.MESSAGE_FOLLOWS:
                return self.connection.recv_bytes()
        except BlockingIOError:
            raise TimeoutError from None
        raise EOFError

    def close(self) -> None:
        self.descriptor = -1  # the number may soon be that of another file
        super().close()

    def _set_time_limit(self, seconds: float | None) -> None:
        # a `timeval` in C, of which 0 is no limit
        microseconds = 0 if seconds is None else max(1, round(1e6 * seconds))
        limit = struct.pack("ll", *divmod(microseconds, 10**6))
        # a second descriptor of the socket, since an object of Python closes its own
        with socket.socket(fileno=os.dup(self.descriptor)) as same_socket:
            same_socket.setblocking(True)  # whatever `socket.setdefaulttimeout` says
            same_socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        self.seconds = seconds


def channel_of(connection: Connection) -> MessageChannel:
    """The fastest channel over a duplex pipe that this operating system has."""
    return ByteChannel(connection) if os.name == "posix" else MessageChannel(connection)
