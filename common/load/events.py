"""Server-sent events out of a body that arrives in pieces (WHATWG HTML, section 9.2.6)."""

from __future__ import annotations

from collections.abc import Iterator


class EventSplitter:
    """Yields the data of each event as soon as its blank line is there, wherever the pieces were cut.

    Lines end in LF or CRLF; no server in use ends them in a bare CR. Comments, event names and ids are passed over.
    """

    def __init__(self) -> None:
        self._line = b""
        self._data: list[bytes] = []

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """The data of the events that this piece completes."""
        *lines, self._line = (self._line + piece).split(b"\n")
        for line in lines:
            yield from self._take(line)

    def rest(self) -> Iterator[bytes]:
        """At the end of the body: an event whose blank line was left out, as some servers do after [DONE]."""
        yield from self._take(self._line)
        self._line = b""
        yield from self._take(b"")

    def _take(self, line: bytes) -> Iterator[bytes]:
        line = line.removesuffix(b"\r")
        if line.startswith(b"data:"):
            self._data.append(line[5:].removeprefix(b" "))
        elif not line and self._data:
            event, self._data = b"\n".join(self._data), []
            yield event
