"""Wall-clock time and pauses, which tests replace by their own."""

from __future__ import annotations

import time
from dataclasses import dataclass


class Clock:
    """The clock of this machine. Deadlines are epoch seconds, because three machines must agree on them."""

    def now(self) -> float:
        """Seconds since 1970."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


@dataclass(frozen=True)
class Pauses:
    """Every wait of a renting, in seconds."""

    poll_s: float = 5.0
    """Between two looks at something that is on its way."""
    found_s: float = 60.0
    """How long a machine is looked for by name after a create whose answer was lost: longer than an answer is waited
    for, because a create may still be under way when nobody waits for it any more."""
    between_s: float = 10.0
    """Between the two looks that prove that nothing is left."""
    insist_s: float = 600.0
    """How long ending is tried before it is reported as not done (the watchdog goes on)."""
    reachable_s: float = 600.0
    """From create to a shell; a machine that takes longer is ended."""
    pull_s: float = 60.0
    """Between two fetches of results."""
    wind_down_s: float = 300.0
    """Before the deadline: the experiment is stopped and fetched."""
    silent_s: float = 180.0
    """How long a machine may not answer while it works, before the provider is asked whether it still exists."""
    stage_poll_s: float = 5.0
    """Between two looks at a running stage."""
    watch_s: float = 10.0
    """Between two looks of the watchdog."""
    grace_s: float = 60.0
    """After the deadline, before the watchdog ends what should have ended itself."""
