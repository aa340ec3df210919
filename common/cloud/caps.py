"""The two caps, and the deadline that follows from them."""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass

from common.cloud.errors import OverCapError, Refused

MOST_USD, MOST_HOURS = 1000.0, 24.0
LEAST_S = 600.0  # less than ten minutes of a machine are over before an experiment begins
ENDING_S = 120.0  # kept back: a machine goes on billing while it is being ended
NUMBER = re.compile(r"\d{1,6}(\.\d{1,6})?")


@dataclass(frozen=True)
class Caps:
    """What a renting may cost and how long it may last; both always stand."""

    max_usd: float
    max_hours: float

    def seconds(self, usd_per_hour: float) -> float:
        """How long a machine at this price may exist.

        Raises:
            OverCapError: under ten minutes.
        """
        seconds = min(self.max_hours * 3600, self.max_usd / usd_per_hour * 3600) - ENDING_S
        if seconds < LEAST_S:
            raise OverCapError(
                f"${self.max_usd:g} and {self.max_hours:g} hours are {max(seconds, 0) / 60:.1f} minutes of a machine at"
                f" ${usd_per_hour:.2f} per hour; under {LEAST_S / 60:.0f} nothing gets done: raise the cap, or take a"
                " smaller profile"
            )
        return seconds

    def deadline(self, now: float, usd_per_hour: float) -> int:
        """The epoch second at which the machine must be gone: the nearer of the two caps.

        Raises:
            OverCapError: under ten minutes.
        """
        return math.floor(now + self.seconds(usd_per_hour))

    def check(self, usd: float, seconds: float) -> None:
        """Check an estimate against the caps.

        Raises:
            OverCapError: it is over one of them.
        """
        if usd > self.max_usd or seconds + ENDING_S > self.max_hours * 3600:
            raise OverCapError(
                f"the estimate, ${usd:.2f} and {seconds / 3600:.2f} hours, is over the cap of ${self.max_usd:g} and"
                f" {self.max_hours:g} hours: raise it, or take fewer cases (--exp-args)"
            )


def read_caps(max_usd: str | None, max_hours: str | None, really: bool) -> Caps:
    """Both caps as a person writes them; there is no default.

    Raises:
        Refused: missing, not a plain number, or out of range.
    """
    if max_usd is None or max_hours is None:
        raise Refused("both caps are needed and have no default: --max-usd 15 --max-hours 1.5")
    usd, hours = _number("--max-usd", max_usd), _number("--max-hours", max_hours)
    if usd > MOST_USD:
        raise Refused(f"--max-usd {max_usd}: at most {MOST_USD:g}")
    if hours > MOST_HOURS and not really:
        raise Refused(f"--max-hours {max_hours}: more than {MOST_HOURS:g} hours want --i-mean-it")
    return Caps(usd, hours)


def clock_time(epoch_s: float) -> str:
    """A moment in this machine's time zone."""
    return time.strftime("%H:%M:%S on %Y-%m-%d", time.localtime(epoch_s))


def _number(option: str, text: str) -> float:
    if not NUMBER.fullmatch(text) or float(text) <= 0:
        raise Refused(f"{option} {text[:40]}: a plain number above 0, as in {option} 1.5")
    return float(text)
