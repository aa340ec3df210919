"""Cost and machine, written into every result that came home: dollars per run and per million tokens."""

from __future__ import annotations

from pathlib import Path

from common.cloud.cost import split
from common.cloud.ledger import Ledger
from common.store import files
from common.store.schema import Result


def enter_cost(ledger: Ledger, end: float) -> list[Path]:
    """Write cost and machine into every result that came home from this renting; the files that were written."""
    intent = ledger.last("intent") or {}
    reached = ledger.last("reachable") or {}
    rate = reached.get("usd_per_hour") or intent.get("usd_per_hour")
    if rate is None:
        return []
    written = []
    events = ledger.events()
    for path, result in _results(ledger):
        load_s, run_s, tokens = _measured(result)
        parts = split(events, end, load_s, run_s)
        if parts is None:
            continue
        result.cost |= {"usd_per_hour": rate, "usd_run": rate * run_s / 3600, "usd_all_in": rate * parts.total_s / 3600}
        names = ("boot_s", "download_s", "load_s", "run_s", "idle_s")
        result.cost |= {name: round(getattr(parts, name), 1) for name in names}
        if tokens:
            result.cost["usd_per_million_output_tokens_run"] = result.cost["usd_run"] / tokens * 1e6
            result.cost["usd_per_million_output_tokens_all_in"] = result.cost["usd_all_in"] / tokens * 1e6
        kept = ("provider", "profile", "gpu", "gpus", "tier", "links", "price_read_at")
        result.environment["rented"] = {key: intent[key] for key in kept if key in intent}
        files.save(result, path)
        written.append(path)
    return written


def _results(ledger: Ledger) -> list[tuple[Path, Result]]:
    found = []
    for entry in (ledger.load("manifest.json") or {}).values():
        path = Path(entry["at"])
        if files.RESULT_NAME.fullmatch(path.name):
            try:
                found.append((path, files.load(path)))
            except files.StoreError:
                continue  # cut off by the deadline: what came home stays as it is
    return found


def _measured(result: Result) -> tuple[float, float, float]:
    """Seconds of engine starts and of measured repeats, and output tokens."""
    repeats = [repeat for case in result.cases for repeat in case.repeats]
    starts = {(str(case.plan), case.engine.get("startup_s")) for case in result.cases if case.engine.get("startup_s")}
    load_s = float(sum(startup_s or 0.0 for _, startup_s in starts))
    tokens = sum(repeat.get("total_output_tokens", 0.0) for repeat in repeats)
    return load_s, float(sum(repeat.get("duration", 0.0) for repeat in repeats)), tokens
