"""Profiles: named machines, read from `<provider>/profiles.toml`, or made from a card and a count."""

from __future__ import annotations

import difflib
import re
import tomllib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from common.cloud.errors import Refused
from common.cloud.prices import TABLE_REGION, Listed, disk_usd_per_hour, find

MOST_GPUS = 8
LEAST_DISK_GB, MOST_DISK_GB = 60, 4000
IMAGE = re.compile(r"[\w./-]+(:[\w.-]+|@sha256:[0-9a-f]{64})")
LINKS_SAY = {
    "NVLink": "NVLink between all GPUs",
    "PCIe": "PCIe only, no NVLink: tensor parallelism teaches something else here than on an SXM machine",
    "none": "one GPU",
}


@dataclass(frozen=True)
class Profile:
    """A machine that can be ordered."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    provider: str
    name: str
    gpu: str
    """A card (Runpod) or a machine type (AWS), by its exact id."""
    gpus: int
    disk_gb: int
    image: str = ""
    tier: str = "SECURE"
    smaller: str | None = None
    """The profile that is offered where this one has no capacity."""
    instead: str | None = None
    """This profile cannot be had here; the reason and what to take."""
    region: str | None = None
    """Of AWS, where it always has one."""

    @cached_property
    def listed(self) -> Listed:
        """Its line in the dated table."""
        return find(self.provider, self.gpu, self.tier)

    @property
    def links(self) -> str:
        """The interconnect, in words."""
        return LINKS_SAY[self.listed.links if self.gpus > 1 else "none"]

    @property
    def dated_usd_per_hour(self) -> float | None:
        """Dollars per hour by the dated table, disk included."""
        price = self.listed.usd(self.gpus)
        return None if price is None else price + disk_usd_per_hour(self.provider, self.disk_gb)

    @property
    def dated_elsewhere(self) -> str:
        """Where the dated price is of another region than the machine: which, in words; else nothing."""
        return "" if self.region in (None, TABLE_REGION) else f"price of {TABLE_REGION}, not of {self.region}"

    @property
    def dated_of(self) -> str:
        """What the dated price is of: the day, and the region where it is another."""
        return ", ".join(filter(None, (self.listed.read_on or "no date", self.dated_elsewhere)))

    @property
    def vram_bytes(self) -> float:
        """Of all GPUs together."""
        return self.listed.vram_gb * 1e9 * self.gpus


def read_profiles(path: Path, provider: str) -> dict[str, Profile]:
    """All profiles of a file.

    Raises:
        Refused: unreadable, or a key that is none; the nearest is named.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Refused(f"{path} cannot be read: {error}") from error
    return {name: _profile(path, provider, name, table) for name, table in tables.items()}


def choose(profiles: dict[str, Profile], name: str | None, gpu: str | None, count: str | None) -> Profile:
    """The profile of this name, or one of `count` cards.

    Raises:
        Refused: unknown, not to be had here, or not a machine.
    """
    if (name is None) == (gpu is None):
        offered = [one.name for one in profiles.values() if one.instead is None]
        raise Refused(f"name a machine: --profile ({', '.join(offered)}), or --gpu with --count")
    if name is not None:
        if name not in profiles:
            near = difflib.get_close_matches(name, list(profiles), 1, 0)
            raise Refused(f"unknown profile '{name}'; did you mean {near[0]}? There are {', '.join(profiles)}")
        chosen = profiles[name]
        if chosen.instead:
            raise Refused(f"--profile {name}: {chosen.instead}")
        return checked(chosen)
    template = next(iter(profiles.values()))
    listed = find(template.provider, gpu or "", template.tier)
    gpus = _count(count, listed)
    size = f"{gpus}x{listed.gpu.split()[0].lower()}"
    return checked(replace(template, name=size, gpu=listed.id, gpus=gpus, smaller=None, instead=None))


def checked(profile: Profile) -> Profile:
    """The profile, if a machine can be made of it.

    Raises:
        Refused: it cannot.
    """
    if profile.provider == "runpod" and not IMAGE.fullmatch(profile.image):
        raise Refused(f"image '{profile.image}' has no tag: name one, as in runpod/pytorch:1.0.7-cu1300-...")
    if not LEAST_DISK_GB <= profile.disk_gb <= MOST_DISK_GB:
        raise Refused(f"a disk of {profile.disk_gb} GB: take {LEAST_DISK_GB} to {MOST_DISK_GB}")
    _ = profile.listed
    return profile


def _count(text: str | None, listed: Listed) -> int:
    if listed.gpus is not None:
        if text is not None and text != str(listed.gpus):
            raise Refused(f"--count {text}: a {listed.id} has {listed.gpus} GPUs; leave --count out")
        return listed.gpus
    if text is None or not re.fullmatch(r"\d{1,4}", text) or not 1 <= int(text) <= MOST_GPUS:
        raise Refused(f"--count {text}: a whole number of GPUs from 1 to {MOST_GPUS}")
    return int(text)


def _profile(path: Path, provider: str, name: str, table: object) -> Profile:
    from pydantic import TypeAdapter, ValidationError  # the watchdog, which reads no profiles, starts without it

    fields = dict(table) if isinstance(table, dict) else {}
    born = {"provider": provider, "name": name, "region": TABLE_REGION if provider == "aws" else None}
    known = [field for field in Profile.__dataclass_fields__ if field not in ("provider", "name")]
    for key in fields:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1, 0)
            raise Refused(f"{path}: [{name}] has an unknown key '{key}'; did you mean {near[0]}?")
    try:
        return TypeAdapter(Profile).validate_python(born | fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise Refused(f"{path}: [{name}] {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
