"""The last line on stdout: one JSON document, for scripts."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from common.analysis.scaling.rows import scaling_rows, standing
from common.analysis.verification.judgement import verified
from common.machine.folders import WEEK, from_here, typed
from common.store.schema import Result


def print_last_line(path: Path | None, status: str, summary: dict[str, Any], client: str = "") -> None:
    """Write `{"result": <absolute path>, "status": ..., "summary": {...}}`; `"client"` is in it where it is named."""
    judged = {"client": client} if client else {}
    document = {"result": None if path is None else str(path), "status": status, **judged, "summary": summary}
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


def nothing_came(result: Result) -> bool:
    """Whether a run to its end left nothing but failures: the file is complete, and there is nothing to read in it."""
    tried = [case for case in result.cases if case.status != "skipped"]
    return result.status == "complete" and bool(tried) and all(case.status == "failed" for case in tried)


def nothing_comparable(result: Result) -> str:
    """A line where every row that was measured is INVALID, else nothing; what is verified needs no rates."""
    measured = [case for case in result.cases if case.repeats]
    if not measured or verified(result) or not all(case.is_invalid for case in measured):
        return ""
    client = measured[0].client
    assert client is not None, "it is INVALID"
    why = "; ".join(client.reasons[:1])
    return (
        f"nothing comparable was measured: the client is INVALID in every row ({why})."
        f" {client.remedy[:1].upper()}{client.remedy[1:]}, and give the same command again."
    )


def print_next_step(result: Result) -> None:
    """After a complete run: what to do where nothing can be compared; its exercises, and what is left of the week."""
    if result.status != "complete":
        return
    if line := nothing_comparable(result):
        sys.stdout.write(f"{line}\n")
        return
    exercises = WEEK / "exercises" / f"{result.experiment}.md"
    if exercises.is_file():
        sys.stdout.write(
            f"next: change one thing, three times: {from_here(exercises)};"
            f" what is left of the week: {typed('python week5/checklist.py')}\n"
        )


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
        summary[row.case.id] = standing(row.case) | {
            name: round(value, 4) for name, value in numbers.items() if value is not None
        }
    return summary
