"""The quick reader gives what the careful one gives, or leaves the answer to it."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from common.core.record import RequestRecord
from common.load import response
from common.load.plain_stream import plain_chunks
from common.load.response import parse_response
from common.load.stamped import StampedBytes
from tests.load.test_response import CHUNKED, DONE, HEAD, USAGE, completion, cut, event, http_chunk

TEXTS = ["", " a", "né😀", '\\n"', "error", "\r\n", "\n\n", "data: {", "}\n\ndata: {", "[DONE]", "\0"]


def answer(texts: Sequence[str]) -> bytes:
    events = [*(event(completion(text)) for text in texts), event(completion("", "length")), event(USAGE), DONE]
    return HEAD + CHUNKED + b"\r\n" + b"".join(map(http_chunk, events)) + b"0\r\n\r\n"


def carefully(stamped: StampedBytes) -> RequestRecord:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(response, "plain_chunks", lambda answer: None)
        return read(stamped)


def read(stamped: StampedBytes) -> RequestRecord:
    record = RequestRecord(0, "default", 9)
    parse_response(stamped, record, len)
    return record


@settings(max_examples=200)
@given(texts=st.lists(st.sampled_from(TEXTS), max_size=6), places=st.lists(st.integers(0, 10**6), max_size=40))
def test_it_reads_whole_answers_and_gives_the_same(texts: list[str], places: list[int]) -> None:
    stamped = StampedBytes.of(cut(answer(texts), places))
    assert (plain_chunks(stamped) is None) == ("error" in texts)  # a string "error" is looked at carefully
    assert read(stamped) == carefully(stamped)


@pytest.mark.slow
@settings(max_examples=600)
@given(
    texts=st.lists(st.sampled_from(TEXTS), max_size=4),
    place=st.integers(0, 10**6),
    removed=st.integers(0, 40),
    put=st.sampled_from(
        [b"", b"0", b" ", b"\r\n", b"\n\n", b"{}", b"}", b"\0", b"data: ", b": ping\n\n", b"},{", b"5\r\n", DONE]
    ),
    places=st.lists(st.integers(0, 10**6), max_size=5),
)
@example(texts=[" a"], place=0, removed=10**6, put=b"", places=[])
def test_a_spoiled_answer_is_judged_the_same(
    texts: list[str], place: int, removed: int, put: bytes, places: list[int]
) -> None:
    whole = answer(texts)
    place %= len(whole)
    stamped = StampedBytes.of(cut(whole[:place] + put + whole[place + removed :] or b" ", places))
    assert read(stamped) == carefully(stamped)


@pytest.mark.parametrize(
    "head",
    [
        HEAD.replace(b"200 OK", b"503 Busy") + CHUNKED,
        HEAD.replace(b"HTTP/1.1", b"HTTP/1.0") + CHUNKED,
        HEAD.replace(b"event-stream", b"plain") + CHUNKED,
        HEAD + b"Transfer-Encoding: gzip, chunked\r\n",
        HEAD + CHUNKED + b"Content-Encoding: gzip\r\n",
        HEAD + CHUNKED + b"content-length: 5\r\n",
        HEAD,
    ],
)
def test_other_heads_are_left_to_the_careful_reader(head: bytes) -> None:
    body = answer([" a"]).partition(b"\r\n\r\n")[2]
    assert plain_chunks(StampedBytes.of([(1, answer([" a"]))])) is not None
    assert plain_chunks(StampedBytes.of([(1, head + b"\r\n" + body)])) is None


@pytest.mark.parametrize(
    "events",
    [
        [b'data: {"a":{}\n\n', b'data: {"b":2}}\n\n'],  # two halves that would make one object
        [b"data: {},{}\n\n"],
        [b"data: {},7,{}\n\n", b'data: {"a":[{}\n\n', b"data: {}]}\n\n"],
        [b"data: {}\ndata: {}\n\n"],
        [b"data: {}\n\n: a comment\n\n"],
        [b"event: x\ndata: {}\n\n"],
        [b"data: {}\n\ndata: {}\n\n"],
        [json.dumps(completion("a")).encode() + b"\n\n"],
        [],
    ],
)
def test_what_is_not_one_object_an_event_is_left_to_the_careful_reader(events: list[bytes]) -> None:
    stream = HEAD + CHUNKED + b"\r\n" + b"".join(map(http_chunk, [*events, DONE])) + b"0\r\n\r\n"
    assert plain_chunks(StampedBytes.of([(1, stream)])) is None


@pytest.mark.parametrize("size", [b"9", b"0e", b"+e", b"E", b"e;x=1"])
def test_sizes_must_be_true(size: bytes) -> None:
    stated = answer([" a"]).replace(b"\r\ne\r\n", b"\r\n" + size + b"\r\n")
    assert stated != answer([" a"])
    assert plain_chunks(StampedBytes.of([(1, stated)])) is None
