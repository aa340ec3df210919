"""Tells, while the run is on, that a response has ended, without parsing its body."""

from __future__ import annotations

import re

_LAST_CHUNK = b"\r\n0\r\n"
_END_OF_HEAD = b"\r\n\r\n"
_TAIL_BYTES = 128  # the last chunk and its trailers, wherever they are cut
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)")
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[^\r]*chunked")
_CLOSE = re.compile(rb"\r\nconnection:[^\r]*close")


class ResponseEnd:
    """The end of one HTTP/1.1 response in bytes that arrive in pieces cut anywhere.

    It looks at each piece's last bytes only, so that a token costs well under a microsecond. It decides when the
    connection may carry the next request, and nothing else: whether the answer was right is judged after the run
    by `response.parse_response`. JSON holds no raw carriage return, so no body can look like its own last chunk.
    """

    __slots__ = ("_chunked", "_head", "_remaining", "_tail", "keep_alive")

    def __init__(self) -> None:
        self.keep_alive = True
        self._head: bytes | None = b""  # None once it is complete
        self._chunked = False
        self._remaining: int | None = None  # None: the body lasts until the connection is closed
        self._tail = b""

    def reached_by(self, piece: bytes) -> bool:
        """Whether the response ends with this piece, the next one in order."""
        if self._head is not None:
            body = self._body_after_head(piece)
            if body is None:
                return False
            piece = body
        if self._chunked:
            if len(piece) < _TAIL_BYTES:
                piece = self._tail[-_TAIL_BYTES:] + piece
            self._tail = piece  # whole: keeping it costs nothing, cutting it would
            return piece[-4:] == _END_OF_HEAD and _LAST_CHUNK in piece
        if self._remaining is None:
            return False
        self._remaining -= len(piece)
        return self._remaining <= 0

    def _body_after_head(self, piece: bytes) -> bytes | None:
        """What follows the head in all the bytes so far; `None` while the head is incomplete."""
        self._head = (self._head or b"") + piece
        head, blank_line, body = self._head.partition(_END_OF_HEAD)
        if not blank_line:
            return None
        self._head = None
        head = head.lower()
        self.keep_alive = head.startswith(b"http/1.1") and not _CLOSE.search(head)
        self._chunked = _CHUNKED.search(head) is not None
        length = _LENGTH.search(head)
        if length is not None:
            self._remaining = int(length.group(1))
        elif head[8:12] == b" 204":
            self._remaining = 0
        self._tail = b"\r\n"  # an empty body's last chunk follows the head's own line end
        return body
