"""The scripts that a machine is born with: its own end first, then the shell that lets us in."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from common.cloud.prices import DATA

IDLE_S, GRACE_S, POLL_S = 900, 1200, 15


@dataclass(frozen=True)
class DeadMan:
    """When a machine ends itself: at `deadline`, after `seconds`, or idle for `idle_s` once `grace_s` are over."""

    deadline: int
    seconds: int
    idle_s: int = IDLE_S
    grace_s: int = GRACE_S
    poll_s: int = POLL_S
    home: str = "${HOME:-/root}/lab-run"

    def script(self, ending: str) -> str:
        """A bash script that arms the end in the background; `ending` defines `end_machine`."""
        numbers = {"LAB_DEADLINE": self.deadline, "LAB_SECONDS": self.seconds, "LAB_IDLE_S": self.idle_s}
        numbers |= {"LAB_GRACE_S": self.grace_s, "LAB_POLL_S": self.poll_s}
        lines = [f"{name}={value}" for name, value in numbers.items()]
        body = (DATA / "deadman.sh").read_text(encoding="utf-8")
        return "\n".join([*lines, f'LAB_HOME="{self.home}"', ending, body])


def runpod_start(dead_man: DeadMan, api: str) -> str:
    """The start command of a pod: arm the end, then do what the image does."""
    addresses = f"LAB_API={shlex.quote(api)}\nLAB_GRAPHQL={shlex.quote(api)}/graphql\n"
    ending = addresses + (DATA / "end_runpod.sh").read_text(encoding="utf-8")
    return dead_man.script(ending) + "lab_deadman </dev/null >/dev/null 2>&1 &\nexec /start.sh\n"
