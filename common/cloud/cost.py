"""What a renting cost by its ledger: dollars, and seconds by what they went to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


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


def _first(events: Sequence[Mapping[str, Any]], name: str, otherwise: float) -> float:
    return float(next((one["at"] for one in events if one["event"] == name), otherwise))


def _usd(rate: float | None, seconds: float) -> float:
    return 0.0 if rate is None else rate * seconds / 3600
