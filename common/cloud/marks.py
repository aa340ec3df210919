"""What a machine carries in its name and tags, so that whoever finds it knows whose it is and when it must be gone."""

from __future__ import annotations

import re
from dataclasses import dataclass

PREFIX = "llmlab"
TAG_ID, TAG_DEADLINE = "lab-id", "lab-deadline"
NAME = re.compile(rf"{PREFIX}-([a-z0-9-]+)-([0-9a-f]{{6}})-dl(\d{{10}})")


@dataclass(frozen=True)
class Marks:
    """One renting: what for, its id (six hexadecimal digits), and the epoch second at which it must be gone."""

    purpose: str
    lab_id: str
    deadline: int

    @property
    def name(self) -> str:
        """The machine's name."""
        purpose = re.sub(r"[^a-z0-9]+", "-", self.purpose.lower()).strip("-")[:40] or "up"
        return f"{PREFIX}-{purpose}-{self.lab_id}-dl{self.deadline}"


def read_name(name: str) -> Marks | None:
    """The marks in a name; None where it is not one of the lab's."""
    found = NAME.fullmatch(name)
    return Marks(found[1], found[2], int(found[3])) if found else None
