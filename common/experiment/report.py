"""The last line on stdout: one JSON document, for scripts."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from common.analysis.scaling import scaling_rows
from common.store.schema import Result


def print_last_line(path: Path | None, status: str, summary: dict[str, Any]) -> None:
    """Write `{"result": <absolute path>, "status": ..., "summary": {...}}`."""
    document = {"result": None if path is None else str(path), "status": status, "summary": summary}
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


def scaling_summary(result: Result) -> dict[str, Any]:
    """Throughput of every measured case by its id (of a replay, latency too), and its speed-up with interval."""
    summary: dict[str, Any] = {}
    for row in scaling_rows(result):
        gained = row.speedup
        numbers = {
            "output_throughput": row.throughput.value if row.throughput else None,
            "median_e2el_ms": row.e2el_ms if row.curve == "replay" else None,
            "speedup": gained.value if gained else None,
            "low": gained.low if gained else None,
            "high": gained.high if gained else None,
        }
        summary[row.case.id] = {"status": row.case.status} | {
            name: round(value, 4) for name, value in numbers.items() if value is not None
        }
    return summary
