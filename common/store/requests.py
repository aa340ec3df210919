"""Per-request data beside a result file: one parquet file per repeat. Never a prompt or an answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import pyarrow
import pyarrow.parquet

from common.core.record import RequestRecord

COLUMNS = pyarrow.schema(
    [
        ("index", pyarrow.int64()),
        ("request_class", pyarrow.string()),
        ("requested_tokens", pyarrow.int64()),
        ("intended_ns", pyarrow.int64()),
        ("sent_ns", pyarrow.int64()),
        ("chunk_ns", pyarrow.list_(pyarrow.int64())),
        ("prompt_tokens", pyarrow.int64()),
        ("output_tokens", pyarrow.int64()),
        ("finish_reason", pyarrow.string()),
        ("error_kind", pyarrow.string()),
        ("error", pyarrow.string()),
    ]
)


def save_requests(records: Sequence[RequestRecord], path: Path) -> None:
    """Write one repeat's records; stamps are nanoseconds of one monotonic clock."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.Table.from_pylist([asdict(record) for record in records], schema=COLUMNS)
    pyarrow.parquet.write_table(table, path, compression="zstd")


def load_requests(path: Path) -> list[RequestRecord]:
    """Read one repeat's records back."""
    return [RequestRecord(**row) for row in pyarrow.parquet.read_table(path).to_pylist()]


def copy_requests(source: Path, target: Path, text: Callable[[str], str]) -> None:
    """Copy one repeat's file with every text passed through `text`; columns that are not the lab's stay behind.

    Raises:
        OSError, pyarrow.ArrowException: it cannot be read or written, or is no parquet file.
    """
    known = [name for name in pyarrow.parquet.read_schema(source).names if name in COLUMNS.names]
    table = pyarrow.parquet.read_table(source, columns=known).replace_schema_metadata(None)
    for place, column in enumerate(known):
        if table.schema.field(column).type == pyarrow.string():
            words = table.column(column).to_pylist()
            passed = {word: text(word) for word in set(words) if word is not None}
            table = table.set_column(place, column, pyarrow.array([passed.get(word) for word in words], "string"))
    target.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, target, compression="zstd")


def texts_in(path: Path) -> set[str]:
    """Every text in a parquet file, whatever wrote it: values, column names and metadata."""
    table = pyarrow.parquet.read_table(path)
    found = {str(name) for name in table.column_names}
    found |= {str(part, "utf-8", "replace") for item in (table.schema.metadata or {}).items() for part in item}
    for column in table.columns:
        if pyarrow.types.is_string(column.type) or pyarrow.types.is_large_string(column.type):
            found |= {word for word in column.to_pylist() if word is not None}
    return found
