"""What a renting cost: its seconds by what they went to, dollars per run and per million tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.cloud.ledger import Ledger
from common.store import files
from common.store.schema import Result


@dataclass(frozen=True)
class Split:
    """Seconds of a machine's life; they add up to `total_s`."""

    boot_s: float
    """From create to a shell."""
    download_s: float
    """Code, environment, model."""
    load_s: float
    """Engine starts."""
    run_s: float
    """Measured repeats."""
    idle_s: float
    """Everything else: between cases, fetching, ending."""

    @property
    def total_s(self) -> float:
        """From create to gone."""
        return self.boot_s + self.download_s + self.load_s + self.run_s + self.idle_s


def split(events: Sequence[Mapping[str, Any]], end: float, load_s: float, run_s: float) -> Split | None:
    """The split of the last machine of a ledger; None where none was made."""
    made = max((number for number, one in enumerate(events) if one["event"] == "creating"), default=None)
    if made is None or not any(one["event"] == "created" for one in events[made:]):
        return None
    own = events[made:]
    began = float(own[0]["at"])
    up = _first(own, "reachable", end)
    begins = next(
        (one["at"] for one in own if one["event"] == "stage" and str(one.get("name")).startswith("experiment")), end
    )
    boot_s, download_s = up - began, max(0.0, float(begins) - up)
    idle_s = max(0.0, end - began - boot_s - download_s - load_s - run_s)
    return Split(boot_s, download_s, load_s, run_s, idle_s)


def spent(events: Sequence[Mapping[str, Any]], end: float) -> float | None:
    """Dollars of all machines of a ledger at the prices that were read back from them; None without a price."""
    usd, open_since, rate = 0.0, None, None
    quoted = next((one.get("usd_per_hour") for one in events if one["event"] == "intent"), None)
    for one in events:
        if one["event"] == "creating":
            open_since, rate = one["at"], quoted
        elif one["event"] in ("created", "reachable") and one.get("usd_per_hour"):
            rate = one["usd_per_hour"]
        elif one["event"] == "not_made":
            open_since = None
        elif one["event"] == "ended" and open_since is not None and one.get("verified"):
            usd, open_since = usd + _usd(rate, one["at"] - open_since), None
    if open_since is not None:
        usd += _usd(rate, end - open_since)
    return None if quoted is None else usd


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


def _first(events: Sequence[Mapping[str, Any]], name: str, otherwise: float) -> float:
    return float(next((one["at"] for one in events if one["event"] == name), otherwise))


def _usd(rate: float | None, seconds: float) -> float:
    return 0.0 if rate is None else rate * seconds / 3600
