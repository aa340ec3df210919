"""Copies of per-request files with every text passed through, and nothing of anybody else's."""

from __future__ import annotations

from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from common.core.record import RequestRecord
from common.store.request_texts import copy_requests, texts_in
from common.store.requests import load_requests, save_requests

RECORDS = [
    RequestRecord(0, "default", 32, sent_ns=2**53 + 1, chunk_ns=[2**53 + 3], prompt_tokens=64, finish_reason="length"),
    RequestRecord(1, "chat", 32, error_kind="timeout", error="no answer within 600 s — é"),
]


def test_a_copy_has_every_text_passed_through_and_nothing_else_changed(tmp_path: Path) -> None:
    save_requests(RECORDS, tmp_path / "x.parquet")
    copy_requests(tmp_path / "x.parquet", tmp_path / "made" / "y.parquet", str.upper)
    first, second = load_requests(tmp_path / "made" / "y.parquet")
    assert (first.request_class, first.finish_reason, first.error) == ("DEFAULT", "LENGTH", None)
    assert (second.error_kind, second.error) == ("TIMEOUT", "NO ANSWER WITHIN 600 S — É")
    assert (first.chunk_ns, first.sent_ns, first.prompt_tokens) == ([2**53 + 3], 2**53 + 1, 64)


def test_a_copy_of_nothing_is_nothing(tmp_path: Path) -> None:
    save_requests([], tmp_path / "x.parquet")
    copy_requests(tmp_path / "x.parquet", tmp_path / "y.parquet", str.upper)
    assert load_requests(tmp_path / "y.parquet") == []


def test_what_others_added_to_a_file_is_not_copied_and_its_texts_are_found(tmp_path: Path) -> None:
    table = pyarrow.table(
        {"error": ["a"], "prompt": ["b"], "list": [["c"]], "bytes": [b"d"], "index": [1], "dict": [{"e": "f"}]}
    ).replace_schema_metadata({"g": "h"})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    with (tmp_path / "x.parquet").open("rb") as file:
        found = "".join(texts_in(file))
    assert all(letter in found for letter in "abcdefgh")
    copy_requests(tmp_path / "x.parquet", tmp_path / "y.parquet", str.upper)
    copied = pyarrow.parquet.read_table(tmp_path / "y.parquet")
    assert copied.to_pydict() == {"index": [1], "error": ["A"]}
    with (tmp_path / "y.parquet").open("rb") as file:
        assert texts_in(file) == {"index", "error", "A"}


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no parquet at all"])
def test_a_broken_file_cannot_be_copied(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.parquet").write_bytes(content)
    with pytest.raises((OSError, pyarrow.ArrowException)):
        copy_requests(tmp_path / "x.parquet", tmp_path / "y.parquet", str.upper)
    assert not (tmp_path / "y.parquet").exists()


def test_a_column_of_another_kind_cannot_be_copied(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"index": ["not a number"]}), tmp_path / "x.parquet")
    with pytest.raises(pyarrow.ArrowException):
        copy_requests(tmp_path / "x.parquet", tmp_path / "y.parquet", str.upper)
