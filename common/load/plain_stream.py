"""The common answer, read whole: a complete event stream, one event in each chunk of the transfer coding.

Every server in use answers like this when nothing goes wrong. What differs in the least is not judged here: the caller
reads it piece by piece (`response`), several times slower, and finds out what it is.
"""

from __future__ import annotations

import re

import msgspec
import numpy as np

from common.load.completion_chunk import Chunk, decode_chunks
from common.load.stamped import StampedBytes

_HEAD = re.compile(rb"HTTP/1\.1 200 [ -~]*(?:\r\n[A-Za-z][A-Za-z-]*: [ -~]+)*")
_STREAM = re.compile(rb"\r\ncontent-type: text/event-stream", re.IGNORECASE)
_FRAMING = re.compile(
    rb"\r\n(?:content-encoding|content-length|transfer-encoding|connection|upgrade): ([ -~]*)", re.IGNORECASE
)
_LINE_END, _BLANK_LINE = b"\r\n", b"\r\n\r\n"
_FIRST, _LAST, _DONE = b"data: {", b"}\n\n", b"data: [DONE]\n\n"
_APART = b"\0"  # in no JSON, so it cannot be mistaken for a part of an event


def plain_chunks(answer: StampedBytes) -> tuple[list[int], list[Chunk]] | None:
    """Each event before [DONE] and the stamp of the piece that completed it; `None` for any other answer.

    Whatever is returned is what httptools and `EventSplitter` make of the same bytes (a test compares them).
    """
    head, _, body = answer.content.partition(_BLANK_LINE)
    if not (_HEAD.fullmatch(head) and _STREAM.search(head) and _FRAMING.findall(head) == [b"chunked"]):
        return None
    parts = body.split(_LINE_END)  # size, event, size, event, ..., 0, nothing, nothing
    if len(parts) % 2 == 0 or parts[-3:] != [b"0", b"", b""]:
        return None
    events = parts[1:-3:2]
    sizes = list(map(len, events))
    if any(b"%x" % size != stated for stated, size in set(zip(parts[:-3:2], sizes, strict=True))):
        return None
    chunks = _contents(events)
    if chunks is None:
        return None
    # An event is complete with its last byte: what precedes it are the head, and a line for its size.
    ends = len(head) + len(_BLANK_LINE) + np.cumsum([len(part) + len(_LINE_END) for part in parts])[1:-5:2]
    pieces = np.searchsorted(np.cumsum(answer.sizes), ends - len(_LINE_END))
    return np.asarray(answer.stamps_ns)[pieces].tolist(), chunks


def _contents(events: list[bytes]) -> list[Chunk] | None:
    """The events' JSON, parsed in one go; `None` unless each is one object and nothing went wrong at the server."""
    text = _APART.join(events)
    if not (text.startswith(_FIRST) and text.endswith(_LAST + _APART + _DONE)):
        return None
    objects = text[len(_FIRST) - 1 : -len(_LAST + _APART + _DONE) + 1].replace(_LAST + _APART + _FIRST, b"},{")
    if b"\n" in objects or b'"error"' in objects:
        return None
    try:
        chunks = decode_chunks(b"[%b]" % objects)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return chunks if len(chunks) == len(events) - 1 else None
