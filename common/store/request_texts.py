"""The texts in per-request files: passed through a function on the way to a copy, or listed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pyarrow
import pyarrow.parquet

from common.store.requests import COLUMNS


def copy_requests(source: Path, target: Path, text: Callable[[str], str]) -> None:
    """Copy one repeat's file with every text passed through `text`; columns that are not the lab's stay behind.

    Raises:
        OSError, pyarrow.ArrowException: it cannot be read or written, or is no parquet file of the lab's.
    """
    known = [name for name in COLUMNS.names if name in pyarrow.parquet.read_schema(source).names]
    schema = pyarrow.schema([COLUMNS.field(name) for name in known])  # and so without anybody's metadata
    table = pyarrow.parquet.read_table(source, columns=known).cast(schema)
    for place, field in enumerate(schema):
        if field.type == pyarrow.string():
            words = table.column(place).to_pylist()
            passed = {word: text(word) for word in set(words) if word is not None}
            table = table.set_column(place, field, pyarrow.array([passed.get(word) for word in words], field.type))
    target.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, target, compression="zstd")


def texts_in(file: BinaryIO) -> set[str]:
    """Every text in a parquet file, whatever wrote it: values, column names and metadata.

    Raises:
        OSError, pyarrow.ArrowException: it is no parquet file.
    """
    table = pyarrow.parquet.read_table(file)
    found = set(table.column_names)
    for metadata in (table.schema.metadata, *(field.metadata for field in table.schema)):
        found |= {part.decode(errors="replace") for item in (metadata or {}).items() for part in item}
    for column in table.columns:
        kind = column.type.value_type if pyarrow.types.is_list(column.type) else column.type
        if not (pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind) or pyarrow.types.is_boolean(kind)):
            found |= {str(value) for value in column.to_pylist() if value is not None}
    return found
