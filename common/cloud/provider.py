"""The seam to a provider: a few calls. What it lists is the truth; nothing kept here ever outranks it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from common.cloud.marks import Marks
from common.cloud.profiles import Profile

State = Literal["starting", "running", "stopped", "gone"]
Finding = tuple[bool | None, str]
"""Whether something is as a renting needs it, None where nobody here can tell, and a line."""


@dataclass(frozen=True)
class Quote:
    """What the provider asks for now: dollars per hour of the whole machine, disk included."""

    usd_per_hour: float
    tier: str
    available: bool
    detail: str
    clock_skew_s: float = 0.0
    """The provider's clock minus ours."""


@dataclass(frozen=True)
class Order:
    """A machine to be made. `start` is the script that arms its end, run before anything else on it."""

    marks: Marks
    profile: Profile
    public_key: str
    start: str
    quote: Quote
    attempt: int = 0


@dataclass(frozen=True)
class Machine:
    """A machine as the provider describes it; an unknown price is None."""

    id: str
    name: str
    state: State
    usd_per_hour: float | None = None
    host: str | None = None
    port: int = 22
    lab_id: str | None = None
    ends_itself: bool | None = None
    """Whether its shutdown is its end, disks included; None where the provider has no such setting."""

    @property
    def bills(self) -> bool:
        """Whether it costs, or may: everything that is not gone, stopped ones with their disks included."""
        return self.state != "gone"


@dataclass(frozen=True)
class Leftover:
    """Anything else that costs: a volume, an address, a cluster. `lab_id` is None for somebody else's."""

    kind: str
    id: str
    name: str
    lab_id: str | None = None
    usd_per_hour: float | None = None


class Provider(Protocol):
    """One account at one provider. Every call may raise `ProviderError`; reads are repeated before they do."""

    kind: str

    def account(self) -> str:
        """Which account the credentials are of: a name without secrets; asked once."""

    def quote(self, profile: Profile) -> Quote:
        """Price and stock now."""

    def create(self, order: Order) -> Machine:
        """Make a machine; sent once, whatever comes back."""

    def get(self, machine_id: str) -> Machine | None:
        """One machine; None where the provider says that it does not exist (any more)."""

    def machines(self) -> list[Machine]:
        """All machines of the account, other people's too."""

    def terminate(self, machine_id: str) -> None:
        """Ask for a machine's end, with what hangs on it; no error if it is gone already."""

    def leftovers(self) -> list[Leftover]:
        """Everything else in the account that costs; each kind is asked for, or the call fails."""

    def clear(self, leftover: Leftover) -> None:
        """Remove a leftover of ours."""

    def bill(self, machine_id: str) -> float | None:
        """Dollars that were billed for a machine so far; None where nothing is billed yet."""

    def by_hand(self, machine_id: str, region: str | None = None) -> str:
        """The command that ends a machine, and the page where a person does; `region` where it was ordered."""

    def clear_by_hand(self, leftover: Leftover) -> str:
        """The command that removes a leftover, and the page where a person does."""

    @property
    def scope(self) -> str:
        """Where in the account it looks, in words; nothing where that is all of it."""

    def state_of_account(self) -> list[Finding]:
        """What may stand in the way of a renting."""

    def requests(self, order: Order) -> list[str]:
        """What quote and create would send, in order, as text without secrets."""
