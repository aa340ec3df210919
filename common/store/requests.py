"""Per-request data beside a result file: one parquet file per repeat. Never a prompt or an answer."""

from __future__ import annotations

from collections.abc import Sequence
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
        ("ended_ns", pyarrow.int64()),
        ("prompt_tokens", pyarrow.int64()),
        ("output_tokens", pyarrow.int64()),
        ("recounted_tokens", pyarrow.int64()),
        ("finish_reason", pyarrow.string()),
        ("error_kind", pyarrow.string()),
        ("error", pyarrow.string()),
        ("slot", pyarrow.int64()),
    ]
)


def requests_file(folder: Path, case_id: str, start: int, repeat: int, part: str = "") -> Path:
    """Where the records of one repeat, or of a part of it, lie in a result's folder of requests."""
    return folder / f"{case_id.replace('/', '-')}{part}-start{start}-repeat{repeat}.parquet"


def save_requests(records: Sequence[RequestRecord], path: Path) -> None:
    """Write one repeat's records; stamps are nanoseconds of one monotonic clock."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {name: [getattr(record, name) for record in records] for name in COLUMNS.names}
    table = pyarrow.Table.from_pydict(columns, schema=COLUMNS)
    pyarrow.parquet.write_table(table, path, compression="zstd")


def load_requests(path: Path) -> list[RequestRecord]:
    """Read one repeat's records back."""
    return [RequestRecord(**row) for row in pyarrow.parquet.read_table(path).to_pylist()]
