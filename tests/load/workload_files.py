"""Workload files of every form, made on the spot."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def conversation(prompt: str, answer: str, *more: tuple[str, str]) -> dict[str, Any]:
    turns = [("human", prompt), ("gpt", answer), *more]
    return {"id": "x", "conversations": [{"from": who, "value": text} for who, text in turns]}


def sharegpt(path: Path, pairs: Iterable[tuple[str, str]], indent: int | None = None) -> Path:
    """A list of conversations of one question and one answer."""
    path.write_text(json.dumps([conversation(*pair) for pair in pairs], indent=indent))
    return path


def json_lines(path: Path, entries: Iterable[object]) -> Path:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


def trace(path: Path, rows: Iterable[tuple[float, int, int]], hash_ids: Sequence[Sequence[int]] = ()) -> Path:
    """Mooncake's form: milliseconds, tokens in, tokens out."""
    entries: list[dict[str, Any]] = [
        {"timestamp": at_ms, "input_length": tokens_in, "output_length": tokens_out}
        for at_ms, tokens_in, tokens_out in rows
    ]
    for entry, ids in zip(entries, hash_ids, strict=False):
        entry["hash_ids"] = list(ids)
    return json_lines(path, entries)


def table(path: Path, header: str, rows: Iterable[str]) -> Path:
    path.write_text("\n".join([header, *rows, ""]))
    return path


def packed(path: Path) -> Path:
    """The same file, gzip-compressed; its name does not say so."""
    target = path.with_name(f"packed-{path.name}")
    target.write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    return target
