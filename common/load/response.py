"""From stamped bytes to a record: HTTP framing, server-sent events and JSON, all after the run."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import httptools
import msgspec

from common.core.record import RequestRecord
from common.load.completion_chunk import Chunk, decode_chunk
from common.load.events import EventSplitter
from common.load.plain_stream import plain_chunks
from common.load.stamped import StampedBytes

MESSAGE_LENGTH = 200

Recount = Callable[[str], int]


def parse_response(answer: StampedBytes, record: RequestRecord, recount: Recount | None = None) -> None:
    """Fill the record from the bytes of its answer.

    A chunk counts when it carries generated text; its time is the stamp of the piece that completed its event, so
    the record does not depend on where the stream was cut. Role-only and empty chunks are not tokens. Token counts
    come from the server's `usage`.

    `recount` says how many tokens the generated text has by itself; the text is then forgotten.

    A record that already has an error (timeout, reset, ...) keeps it unless the bytes say more: a complete answer
    clears it, an error that the server or its framing states replaces it.
    """
    reading = _Reading(record, keep_text=recount is not None)
    plain = plain_chunks(answer)
    if plain is not None:
        reading.take_all(*plain)
    else:
        reading.feed_all(answer.pieces())
    verdict = reading.verdict()
    if verdict is None:
        record.error_kind = record.error = None
    elif record.error_kind is None or verdict[0] != "truncated" or reading.broken:
        record.error_kind, record.error = verdict
    if recount is not None and record.chunk_ns:
        record.recounted_tokens = recount("".join(reading.text))


class _Reading:
    """The state of one parse; the `on_` methods are httptools' callbacks."""

    def __init__(self, record: RequestRecord, keep_text: bool) -> None:
        self.broken: str | None = None  # why the framing makes no sense
        self.text: list[str] = []
        self._keep_text = keep_text
        self._record = record
        self._parser = httptools.HttpResponseParser(self)
        self._events = EventSplitter()
        self._decoder: Any = None
        self._status: int | None = None
        self._stamp_ns = 0
        self._body = bytearray()  # kept only until it shows that it is an event stream
        self._is_stream = False
        self._complete = False
        self._done = False
        self._server_error: str | None = None

    def take_all(self, stamps_ns: Iterable[int], chunks: Iterable[Chunk]) -> None:
        """A complete answer whose events are known already."""
        for self._stamp_ns, chunk in zip(stamps_ns, chunks, strict=True):
            self._take_chunk(chunk)
        self._status, self._complete, self._done = 200, True, True

    def feed_all(self, pieces: Iterable[tuple[int, bytes]]) -> None:
        """Any answer, piece by piece, up to its end or to where it makes no sense."""
        for self._stamp_ns, data in pieces:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserError as failure:
                if not self._complete:
                    self.broken = str(failure.__context__ or failure)
            if self._complete or self.broken is not None:
                return

    def verdict(self) -> tuple[str, str] | None:
        """The error that the bytes show, as kind and message; `None` for a complete answer."""
        if self._status is not None and self._status != 200:
            return f"http_{self._status}", _one_line(_message_in(bytes(self._body)))
        if not self._done:
            for event in self._events.rest():
                self._take(event)
        if self._server_error is not None:
            return "server_error", _one_line(self._server_error)
        if not self._done:
            return "truncated", self._why_truncated()
        if not self._record.chunk_ns:
            return "no_content", "the answer ended without any generated text"
        return self._wrong_usage()

    def _wrong_usage(self) -> tuple[str, str] | None:
        """Without a token count that can be true an answer is worth nothing here: a chunk is one token or more."""
        tokens, chunks = self._record.output_tokens, len(self._record.chunk_ns)
        if tokens is None:
            return "no_usage", "the answer has no token count (stream_options.include_usage was asked for)"
        if tokens < chunks:
            return "wrong_usage", f"usage says {tokens} output tokens and {chunks} chunks with text came"
        return None

    def on_header(self, name: bytes, value: bytes) -> None:
        """httptools' callback."""
        name = name.lower()
        if name == b"content-type":
            self._is_stream = value.lower().startswith(b"text/event-stream")
        elif name == b"content-encoding" and value.lower() != b"identity":
            if value.lower() not in (b"gzip", b"deflate"):
                raise ValueError(f"content-encoding {value.decode(errors='replace')} is not supported")
            self._decoder = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # 32: gzip or zlib, by its first bytes

    def on_headers_complete(self) -> None:
        """httptools' callback."""
        self._status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        """httptools' callback for a part of the body, chunk framing removed."""
        if self._decoder is not None:
            body = self._decoder.decompress(body)
        if not self._is_stream or self._status != 200:
            self._body += body
            return
        for event in self._events.feed(body):
            self._take(event)

    def on_message_complete(self) -> None:
        """httptools' callback."""
        self._complete = True

    def _take(self, event: bytes) -> None:
        if self._done or self._server_error is not None:
            return
        if event == b"[DONE]":
            self._done = True
            return
        try:
            chunk = decode_chunk(event)
        except msgspec.ValidationError as failure:
            self._server_error = f"an event is not a chunk of OpenAI's form: {failure}"
            return
        except (msgspec.DecodeError, UnicodeDecodeError) as failure:
            self._server_error = f"an event is not JSON: {failure}"
            return
        if chunk.error or chunk.object == "error":
            self._server_error = _message_in(event)
            return
        self._take_chunk(chunk)

    def _take_chunk(self, chunk: Chunk) -> None:
        record = self._record
        if chunk.usage is not None:
            record.prompt_tokens = _count(chunk.usage.prompt_tokens)
            record.output_tokens = _count(chunk.usage.completion_tokens)
        text = ""
        for choice in chunk.choices or ():
            text += choice.generated
            record.finish_reason = choice.finish_reason or record.finish_reason
        if text:
            record.chunk_ns.append(self._stamp_ns)
            if self._keep_text:
                self.text.append(text)

    def _why_truncated(self) -> str:
        if self.broken:
            return f"broken framing: {_one_line(self.broken)}"
        if self._status is None:
            return "no answer"
        if self._body:
            return f"not an event stream: {_one_line(_message_in(bytes(self._body)))}"
        return f"the stream ended after {len(self._record.chunk_ns)} content chunks without [DONE]"


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None


def _message_in(body: bytes) -> str:
    """The message of an error in OpenAI's, vLLM's or FastAPI's form; else the body itself."""
    try:
        content = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return body.decode(errors="replace")
    for message in _candidates(content):
        if isinstance(message, str) and message:
            return message
    return body.decode(errors="replace")


def _candidates(content: object) -> Iterator[object]:
    if isinstance(content, dict):
        error = content.get("error")
        yield error.get("message") if isinstance(error, dict) else error
        yield content.get("message")
        yield content.get("detail")


def _one_line(text: str) -> str:
    return " ".join(text.split())[:MESSAGE_LENGTH]
