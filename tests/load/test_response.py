"""The parser on bytes made here, with expected values that come from how they were made."""

from __future__ import annotations

import itertools
import json
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.core.record import RequestRecord
from common.load.response import parse_response
from common.load.response_end import ResponseEnd
from common.load.stamped import StampedBytes

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
USAGE = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 9}}


def record() -> RequestRecord:
    return RequestRecord(0, "default", 9)


def completion(text: str, finish_reason: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "text": text, "finish_reason": finish_reason}], "usage": None}


def event(content: dict[str, Any], newline: str = "\n") -> bytes:
    return f"data: {json.dumps(content, ensure_ascii=False)}{newline}{newline}".encode()


def http_chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def cut(stream: bytes, places: list[int]) -> list[tuple[int, bytes]]:
    """Pieces of the stream, each stamped with the offset of its last byte."""
    bounds = sorted({0, len(stream), *(place % len(stream) for place in places)})
    return [(end, stream[begin:end]) for begin, end in itertools.pairwise(bounds)]


def body_of(texts: list[str], newline: str) -> tuple[bytes, list[int]]:
    """The events of an answer, and where each event with text ends."""
    body, ends = b"", []
    for text in texts:
        body += f": comment{newline}".encode() + event(completion(text), newline)
        ends += [len(body)] if text else []
    body += event(completion("", "length"), newline) + event(USAGE, newline)
    return body + f"data: [DONE]{newline}{newline}".encode(), ends


texts = st.lists(st.sampled_from(["", " a", "né😀", '\\n"' * 2]), min_size=1, max_size=6)
places = st.lists(st.integers(0, 10**6), max_size=40)


@settings(max_examples=150)
@given(texts=texts, places=places, newline=st.sampled_from(["\n", "\r\n"]), size=st.integers(1, 80))
def test_cuts_change_nothing(texts: list[str], places: list[int], newline: str, size: int) -> None:
    body, event_ends = body_of(texts, newline)
    stream, ends = HEAD + CHUNKED + b"\r\n", []
    for begin in range(0, len(body), size):
        part = body[begin : begin + size]
        data_at = len(stream) + len(b"%x\r\n" % len(part))
        ends += [data_at + end - begin for end in event_ends if begin < end <= begin + len(part)]
        stream += http_chunk(part)
    stream += b"0\r\n\r\n"
    pieces = cut(stream, places)
    parsed = record()
    parse_response(StampedBytes.of(pieces), parsed)
    assert parsed.chunk_ns == [next(stamp for stamp, _ in pieces if stamp >= end) for end in ends]
    assert (parsed.prompt_tokens, parsed.output_tokens, parsed.finish_reason) == (5, 9, "length")
    assert parsed.error_kind == (None if ends else "no_content")


@settings(max_examples=100)
@given(texts=texts, places=places, wbits=st.sampled_from([15, 31]))
def test_cuts_change_nothing_in_compressed_streams(texts: list[str], places: list[int], wbits: int) -> None:
    compress = zlib.compressobj(wbits=wbits)
    encoding = b"gzip" if wbits > 15 else b"deflate"
    stream, ends = HEAD + CHUNKED + b"Content-Encoding: " + encoding + b"\r\n\r\n", []
    for text in [*texts, None]:
        part = event(completion(text)) if text is not None else event(USAGE) + b"data: [DONE]\n\n"
        data = compress.compress(part) + compress.flush(zlib.Z_SYNC_FLUSH)
        stream += http_chunk(data)
        ends += [len(stream)] if text else []
    whole = record()
    parse_response(StampedBytes.of((at + 1, stream[at : at + 1]) for at in range(len(stream))), whole)
    pieces = cut(stream + b"0\r\n\r\n", places)
    parsed = record()
    parse_response(StampedBytes.of(pieces), parsed)
    assert len(parsed.chunk_ns) == len(ends) and parsed.output_tokens == 9
    assert parsed.chunk_ns == [next(stamp for stamp, _ in pieces if stamp >= true) for true in whole.chunk_ns]
    assert all(end - 10 <= seen <= end for seen, end in zip(whole.chunk_ns, ends, strict=True))


def test_a_cut_at_every_single_place_changes_nothing() -> None:
    body, event_ends = body_of([" a", "", "né😀", '\\n"'], "\r\n")
    stream = HEAD + CHUNKED + b"\r\n" + http_chunk(body) + b"0\r\n\r\n"
    data_at = stream.index(body)
    for place in range(1, len(stream)):
        pieces = [(place, stream[:place]), (len(stream), stream[place:])]
        parsed, end = record(), ResponseEnd()
        parse_response(StampedBytes.of(pieces), parsed)
        assert parsed.ok and (parsed.prompt_tokens, parsed.output_tokens, parsed.finish_reason) == (5, 9, "length")
        assert parsed.chunk_ns == [place if data_at + at <= place else len(stream) for at in event_ends]
        assert [end.reached_by(piece) for _, piece in pieces] == [False, True]


@settings(max_examples=150)
@given(texts=texts, places=places, trailer=st.sampled_from([b"", b"Server-Timing: x\r\n"]), chunked=st.booleans())
def test_the_end_is_seen_at_its_last_byte(texts: list[str], places: list[int], trailer: bytes, chunked: bool) -> None:
    body, _ = body_of(texts, "\r\n")
    if chunked:
        stream = HEAD + CHUNKED + b"\r\n" + http_chunk(body) + b"0\r\n" + trailer + b"\r\n"
    else:
        stream = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    end = ResponseEnd()
    seen = [end.reached_by(piece) for _, piece in cut(stream, places)]
    assert seen == [False] * (len(seen) - 1) + [True]
    assert end.keep_alive


@pytest.mark.parametrize(
    ("head", "ended", "keep_alive"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", True, True),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nConnection: Close\r\n\r\n", True, False),
        (b"HTTP/1.0 200 OK\r\nContent-Length:0\r\n\r\n", True, False),
        (b"HTTP/1.1 200 OK\r\n\r\n", False, True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", True, True),
    ],
)
def test_heads(head: bytes, ended: bool, keep_alive: bool) -> None:
    end = ResponseEnd()
    assert (end.reached_by(head), end.keep_alive) == (ended, keep_alive)


def parse(*bodies: bytes, head: bytes = HEAD, before: str | None = None) -> RequestRecord:
    """Each body an HTTP chunk and a piece, stamped 1, 2, ...; the head is stamped 0."""
    parsed = record()
    parsed.error_kind = before
    pieces = [(0, head + CHUNKED + b"\r\n"), *((at, http_chunk(body)) for at, body in enumerate(bodies, 1))]
    parse_response(StampedBytes.of([*pieces, (99, b"0\r\n\r\n")]), parsed)
    return parsed


DONE = b"data: [DONE]\n\n"


@pytest.mark.parametrize("name", ["content", "reasoning", "reasoning_content"])
def test_chat_chunks_with_content_or_reasoning_count_and_the_role_does_not(name: str) -> None:
    def chat(delta: dict[str, Any]) -> bytes:
        return event({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})

    parsed = parse(
        chat({"role": "assistant", "content": ""}), chat({name: "x"}), chat({}), chat({name: "y"}), event(USAGE), DONE
    )
    assert parsed.ok and parsed.chunk_ns == [2, 4]


def test_many_events_in_one_piece_share_its_stamp() -> None:
    parsed = parse(event(completion("a")) + event(completion("b")), event(USAGE) + DONE)
    assert parsed.ok and parsed.chunk_ns == [1, 1]


def test_usage_may_come_with_every_chunk_and_the_last_counts() -> None:
    with_usage = completion("a") | {"usage": {"prompt_tokens": 5, "completion_tokens": 1}}
    assert parse(event(with_usage), event(USAGE), DONE).output_tokens == 9
    assert parse(event(with_usage), DONE).output_tokens == 1
    assert parse(event(completion("a")), DONE).error_kind == "no_usage"


@pytest.mark.parametrize("tokens", [None, -1, "9", 9.5, 1])
def test_a_count_that_cannot_be_true_is_an_error(tokens: object) -> None:
    usage = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": tokens}}
    parsed = parse(event(completion("a")), event(completion("b")), event(usage), DONE)
    assert parsed.error_kind == ("wrong_usage" if tokens == 1 else "no_usage")


def test_the_text_is_counted_and_forgotten() -> None:
    parsed = record()
    answer = event(completion("né")) + event(completion("")) + event(completion("😀 x")) + event(USAGE) + DONE
    seen: list[str] = []

    def count(text: str) -> int:
        seen.append(text)
        return 7

    parse_response(StampedBytes.of([(1, HEAD + b"\r\n" + answer)]), parsed, count)
    assert seen == ["né😀 x"]
    assert (parsed.recounted_tokens, parsed.output_tokens) == (7, 9)
    assert "😀" not in repr(parsed)


def test_done_without_a_blank_line_is_an_end() -> None:
    assert parse(event(completion("a")), event(USAGE), b"data: [DONE]").ok


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        (b"data: {oops\n\n", "server_error", "an event is not JSON"),
        (b'data: {"object":"error","message":"too long"}\n\n', "server_error", "too long"),
        (b'data: {"error":"plain text"}\n\n', "server_error", "plain text"),
        (b"data: 7\n\n", "server_error", "not a chunk"),
        (b'data: {"choices": 7}\n\n', "server_error", "not a chunk"),
        (b'data: {"choices": ["x"]}\n\n', "server_error", "not a chunk"),
        (b'data: {"choices": [{"text": 7}]}\n\n', "server_error", "not a chunk"),
        (b'data: {"choices": [{"delta": {"content": ["x"]}}]}\n\n', "server_error", "not a chunk"),
        (b'data: {"usage": 7}\n\n', "server_error", "not a chunk"),
    ],
)
def test_events_that_are_errors(body: bytes, kind: str, message: str) -> None:
    parsed = parse(event(completion("a")), body, DONE)
    assert parsed.error_kind == kind and message in str(parsed.error) and parsed.chunk_ns == [1]


def test_answers_that_are_no_event_stream() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    parsed = parse(b'{"choices": []}', head=head)
    assert parsed.error_kind == "truncated" and "not an event stream" in str(parsed.error)
    parsed = parse(DONE, head=HEAD + b"Content-Encoding: br\r\n")
    assert parsed.error_kind == "truncated" and "content-encoding br is not supported" in str(parsed.error)
    parsed = parse(b"not gzip", head=HEAD + b"Content-Encoding: gzip\r\n")
    assert parsed.error_kind == "truncated" and "broken framing" in str(parsed.error)


def test_an_earlier_error_stays_unless_the_bytes_say_more() -> None:
    assert parse(event(completion("a")), before="timeout").error_kind == "timeout"
    assert parse(event(completion("a")), event(USAGE), DONE, before="timeout").error_kind is None
    assert parse(b"data: {oops\n\n", before="timeout").error_kind == "server_error"
    nothing = record()
    nothing.error_kind = "refused"
    parse_response(StampedBytes.of([]), nothing)
    assert nothing.error_kind == "refused"


def test_an_answer_that_ends_with_the_connection() -> None:
    parsed = record()
    parse_response(StampedBytes.of([(1, HEAD + b"\r\n" + event(completion("a")) + event(USAGE) + DONE)]), parsed)
    assert parsed.ok and parsed.chunk_ns == [1]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error": {"message": "no such model"}}', "no such model"),
        (b'{"message": "too long"}', "too long"),
        (b'{"detail": "Not Found"}', "Not Found"),
        (b'{"detail": [{"loc": 1}]}', '{"detail": [{"loc": 1}]}'),
        (b"x" * 900, "x" * 200),
        (b"", ""),
    ],
)
def test_http_errors_say_why(body: bytes, message: str) -> None:
    parsed = record()
    head = b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\n\r\n" % len(body)
    parse_response(StampedBytes.of([(1, head + body)]), parsed)
    assert (parsed.error_kind, parsed.error) == ("http_404", message)
