"""One renting under way: who is asked, where it is written down, by which clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from common.cloud.clock import Clock, Pauses
from common.cloud.errors import OtherAccountError
from common.cloud.ledger import Ledger
from common.cloud.marks import Marks
from common.cloud.provider import Leftover, Machine, Provider

Say = Callable[[str], None]


@dataclass(frozen=True)
class Session:
    """A renting: its marks tell its machines from everybody else's."""

    provider: Provider
    ledger: Ledger
    marks: Marks
    say: Say
    clock: Clock = field(default_factory=Clock)
    pauses: Pauses = field(default_factory=Pauses)

    def note(self, event: str, **facts: object) -> None:
        """Write a line into the ledger, on the disk before this returns."""
        self.ledger.write(event, self.clock.now(), **facts)

    def owns(self, thing: Machine | Leftover) -> bool:
        """Whether it bears this renting's mark."""
        return bool(thing.lab_id) and thing.lab_id == self.marks.lab_id

    def check_account(self) -> None:
        """Check that who is asked is the account that rented: in another one nothing of this renting is ever listed.

        Raises:
            OtherAccountError: it is another one.
            ProviderError: which one it is was not answered.
        """
        rented = (self.ledger.last("intent") or {}).get("account")
        if rented is not None and (here := self.provider.account()) != rented:
            raise OtherAccountError(
                f"{self.marks.name} was rented by account {rented}, and these credentials are of {here}: what is listed"
                " here proves nothing about it. Use the credentials that rented it"
            )

    @property
    def left_s(self) -> float:
        """Seconds to the deadline; negative after it."""
        return self.marks.deadline - self.clock.now()
