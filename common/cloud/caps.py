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
NUMBER = re.compile(r"\d{1,6}(\.\d{1,6})?", re.ASCII)


@dataclass(frozen=True)
class Caps:
    """What a renting may cost and how long it may last; both always stand."""

    max_usd: float
    max_hours: float

    def seconds(self, usd_per_hour: float | None) -> float:
        """How long a machine at this price may exist; at one that is not known, by the cap in hours alone.

        Raises:
            OverCapError: under ten minutes.
        """
        hours = self.max_hours if usd_per_hour is None else min(self.max_hours, self.max_usd / usd_per_hour)
        seconds = hours * 3600 - ENDING_S
        if seconds < LEAST_S:
            price = "" if usd_per_hour is None else f" at ${usd_per_hour:.2f} per hour"
            raise OverCapError(
                f"${self.max_usd:g} and {self.max_hours:g} hours are {max(seconds, 0) / 60:.1f} minutes of a machine"
                f"{price}; under {LEAST_S / 60:.0f} nothing gets done: raise the cap, or take a smaller profile"
            )
        return seconds

    def deadline(self, now: float, usd_per_hour: float) -> int:
        """The epoch second at which the machine must be gone: the nearer of the two caps.

        Raises:
            OverCapError: under ten minutes.
        """
        return math.floor(now + self.seconds(usd_per_hour))

    def check(self, seconds: float, usd_per_hour: float | None, wind_down_s: float) -> None:
        """Check that so many seconds of a machine are over before the deadline's winding down begins.

        Raises:
            OverCapError: they are not; the message names the minutes, those there are, and the caps that would do.
        """
        exists_s = self.seconds(usd_per_hour)
        if seconds < exists_s - wind_down_s + 1:  # a plan that fills its time may be a rounding over it
            return
        hours = (seconds + wind_down_s + ENDING_S) / 3600
        wanted = [] if hours <= self.max_hours else [f"--max-hours {_up(hours)}"]
        price = ""
        if usd_per_hour is not None:
            price = f" (${usd_per_hour * seconds / 3600:.2f})"
            wanted += [] if hours * usd_per_hour <= self.max_usd else [f"--max-usd {_up(hours * usd_per_hour)}"]
        raise OverCapError(
            f"the estimate needs {math.ceil(seconds / 60)} minutes{price} and there are"
            f" {max(0, math.floor((exists_s - wind_down_s) / 60))}: ${self.max_usd:g} and {self.max_hours:g} hours put"
            f" the deadline {exists_s / 60:.0f} minutes after the launch, and the last {wind_down_s / 60:.0f} are kept"
            f" for bringing results home. Take {' '.join(wanted)}, or fewer cases (--exp-args)"
        )


def read_caps(max_usd: str | None, max_hours: str | None, really: bool) -> Caps:
    """Both caps as a person writes them; there is no default.

    Raises:
        Refused: missing, not a plain number, or out of range.
    """
    if max_usd is None or max_hours is None:
        raise Refused("both caps are needed and have no default: --max-usd 15 --max-hours 1.5")
    usd, hours = plain_number("--max-usd", max_usd), plain_number("--max-hours", max_hours)
    if usd > MOST_USD:
        raise Refused(f"--max-usd {max_usd}: at most {MOST_USD:g}")
    if hours > MOST_HOURS and not really:
        raise Refused(f"--max-hours {max_hours}: more than {MOST_HOURS:g} hours want --i-mean-it")
    return Caps(usd, hours)


def clock_time(epoch_s: float) -> str:
    """A moment by this machine's clock, with the name of its time zone."""
    return time.strftime("%H:%M:%S %Z on %Y-%m-%d", time.localtime(epoch_s))


def plain_number(option: str, text: str) -> float:
    """A number as a person writes it.

    Raises:
        Refused: not one above 0, or none at all (nan and inf are none).
    """
    if not NUMBER.fullmatch(text) or float(text) <= 0:
        raise Refused(f"{option} {text[:40]}: a plain number above 0, as in {option} 1.5")
    return float(text)


def _up(amount: float) -> str:
    """Rounded up, so that taking it at its word is enough."""
    return f"{math.ceil(amount * 100) / 100:g}"
