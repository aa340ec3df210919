"""One socket of the bare server: bytes in, bytes out, and what the socket did not take waits."""

from __future__ import annotations

import contextlib
import selectors
import socket
import time

_READ_BYTES = 64 << 10
_MOST_WAITING_BYTES = 1 << 20  # of requests sent before the last answer has ended
_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class BareConnection:
    """Non-blocking; registered with the selector for as long as it is open, with itself as the data."""

    __slots__ = ("_selector", "_send", "_socket", "_unsent", "busy", "closed", "closing", "read_ns", "received")

    def __init__(self, accepted: socket.socket, selector: selectors.BaseSelector) -> None:
        accepted.setblocking(False)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = bytearray()
        self.read_ns = 0  # when the last of it was read
        self.busy = False  # an answer is on its way out
        self.closing = False  # no further request is read
        self.closed = False
        self._unsent = bytearray()
        self._socket = accepted
        self._send = accepted.send
        self._selector = selector
        selector.register(accepted, _READ, self)

    def read(self) -> bool:
        """Take in and stamp what is there; whether that was anything.

        Raises:
            OSError: the other side has gone, or sends without end.
        """
        try:
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return False
        if not data:
            raise ConnectionResetError
        if self.closing:
            return False
        if self.busy and len(self.received) > _MOST_WAITING_BYTES:
            raise ConnectionAbortedError
        self.read_ns = time.perf_counter_ns()
        self.received += data
        return True

    def write(self, data: bytes) -> bool:
        """Send; `False` where the socket did not take all of it.

        Raises:
            OSError: the other side has gone.
        """
        if self._unsent:
            self._unsent += data
            return False
        try:
            sent = self._send(data)
        except BlockingIOError:
            sent = 0
        if sent == len(data):
            return True
        self._unsent += memoryview(data)[sent:]
        self._selector.modify(self._socket, _READ | _WRITE, self)
        return False

    def flush(self) -> bool:
        """Send what waited; whether there was something and all of it is sent.

        Raises:
            OSError: the other side has gone.
        """
        if not self._unsent:
            return False
        try:
            del self._unsent[: self._send(self._unsent)]
        except BlockingIOError:
            return False
        if self._unsent:
            return False
        self._selector.modify(self._socket, _READ, self)
        return True

    def hang_up(self) -> None:
        """Say that nothing more comes; the socket is closed when the other side has closed its own."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close at once."""
        with contextlib.suppress(KeyError):
            self._selector.unregister(self._socket)
        self._socket.close()
        self.closed = self.closing = True
