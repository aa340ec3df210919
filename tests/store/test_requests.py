from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pyarrow.parquet

from common.core.record import RequestRecord
from common.store.requests import COLUMNS, load_requests, save_requests

NANOSECONDS = 9_007_199_254_740_993  # 2**53 + 1: a double would round it

RECORDS = [
    RequestRecord(
        0,
        "default",
        32,
        intended_ns=NANOSECONDS - 7,
        sent_ns=NANOSECONDS,
        chunk_ns=[NANOSECONDS + 2, NANOSECONDS + 4, NANOSECONDS + 9],
        prompt_tokens=64,
        output_tokens=3,
        finish_reason="length",
    ),
    RequestRecord(1, "chat", 32, error_kind="timeout", error="no answer within 600 s — é"),
]


def test_records_come_back_to_the_nanosecond(tmp_path: Path) -> None:
    path = tmp_path / "made" / "x.parquet"
    save_requests(RECORDS, path)
    assert load_requests(path) == RECORDS


def test_derived_latencies_survive(tmp_path: Path) -> None:
    save_requests(RECORDS, tmp_path / "x.parquet")
    (found, lost) = load_requests(tmp_path / "x.parquet")
    assert found.itl_s == [2e-9, 5e-9]
    assert lost.ttft_s is None
    assert not lost.ok


def test_no_requests_are_an_empty_table(tmp_path: Path) -> None:
    save_requests([], tmp_path / "x.parquet")
    assert load_requests(tmp_path / "x.parquet") == []


def test_every_field_has_its_column_and_none_holds_text_of_a_prompt(tmp_path: Path) -> None:
    save_requests(RECORDS, tmp_path / "x.parquet")
    columns = pyarrow.parquet.read_schema(tmp_path / "x.parquet").names
    assert columns == [field.name for field in fields(RequestRecord)] == COLUMNS.names
