"""The dated table of prices, for estimates before anything is asked of a provider; a launch quotes live."""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from common.cloud.errors import Refused

DATA = Path(__file__).parent / "data"
HOURS_PER_MONTH = 730
TABLE_REGION = "us-east-1"  # the region whose AWS prices the table has


@dataclass(frozen=True)
class Listed:
    """A card, or a whole machine type, in the table; a price that was not found with a date is None."""

    gpu: str
    id: str
    vram_gb: int
    links: str
    usd_per_hour: float | None
    """Of one GPU where `gpus` is None, else of the machine."""
    read_on: str | None
    source: str
    gpus: int | None = None
    vcpus: int | None = None
    quota_code: str | None = None

    def usd(self, gpus: int) -> float | None:
        """Dollars per hour of a machine with so many GPUs, without its disk."""
        if self.usd_per_hour is None:
            return None
        return self.usd_per_hour if self.gpus is not None else self.usd_per_hour * gpus


def find(provider: str, name: str, tier: str = "SECURE") -> Listed:
    """The card or machine type that a person names.

    Raises:
        Refused: unknown, ambiguous or retired; the message names what to take.
    """
    entries = table()[provider]
    exact = [entry for entry in entries if name.lower() in (entry["id"].lower(), entry["gpu"].lower())]
    words = _words(name)
    near = exact or [entry for entry in entries if words <= _words(f"{entry['gpu']} {entry['id']}")]
    if re.match(r"p3(dn)?\.", name.lower()) or (len(near) == 1 and near[0].get("retired")):
        raise Refused(f"'{name}' is retired: AWS no longer offers p3 (V100); take g6.12xlarge (4 x L4), --profile 4xl4")
    if not words or not near:
        known = {text: entry for entry in entries for text in (entry["gpu"], entry["id"])}
        close = difflib.get_close_matches(name, list(known), 3, 0)
        raise Refused(f"GPU '{name[:60]}' is not known at {provider}; the nearest are {', '.join(close)}")
    if len(near) > 1:
        choices = "; ".join(f"'{entry['id']}' ({entry['gpu']}, {entry['links']})" for entry in near)
        raise Refused(f"'{name}' is ambiguous: {choices}. Name one of them")
    return _listed(near[0], tier)


def disk_usd_per_hour(provider: str, disk_gb: int) -> float:
    """Dollars per hour of a disk of this size while the machine runs, and of its public address."""
    storage = table()["storage"][provider]
    if provider == "runpod":
        return float(storage["container_disk_gb_month"]) * disk_gb / HOURS_PER_MONTH
    return float(storage["gp3_gb_month"]) * disk_gb / HOURS_PER_MONTH + float(storage["public_ipv4_hour"])


@cache
def table() -> dict[str, Any]:
    """The table as it lies in `data/prices.json`."""
    read: dict[str, Any] = json.loads((DATA / "prices.json").read_text(encoding="utf-8"))
    return read


def _listed(entry: dict[str, Any], tier: str) -> Listed:
    price = entry["usd_per_hour"] if "usd_per_hour" in entry else entry["usd_per_gpu_hour"][tier]
    about = entry["gpu"], entry["id"], entry["vram_gb"], entry["links"], price, entry["read_on"], entry["source"]
    return Listed(*about, entry.get("gpus"), entry.get("vcpus"), entry.get("quota_code"))


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", text.lower())) - {"nvidia", "rtx", "geforce"}
