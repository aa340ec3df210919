"""The whole account by the lab's mark, anybody's: what `verify` and `sweep` look at."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path

from common.cloud import teardown
from common.cloud.errors import BILLING, CLEAN, OtherAccountError, ProviderError
from common.cloud.flow import World
from common.cloud.ledger import open_ledgers, spoiled_ledgers
from common.cloud.marks import read_name
from common.cloud.provider import Leftover, Machine, Provider
from common.cloud.session import Session


@dataclass
class Survey:
    """What bears the mark, what does not, which calls were not answered, and what cannot be seen from this account."""

    account: str = ""
    ours: list[Machine | Leftover] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    unanswered: list[str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """Whether everything could be asked and nothing of the lab is there."""
        return not (self.ours or self.unanswered or self.elsewhere)


def survey(world: World, results: Path) -> Survey:
    """One look, at the lists and at every machine that an open ledger here knows by its id."""
    found = Survey()
    found.account = teardown.asked(found, "account", world.provider.account) or ""
    if found.unanswered:
        return found
    things: list[Machine | Leftover] = [
        *(one for one in teardown.asked(found, "machines", world.provider.machines) or [] if one.bills),
        *(teardown.asked(found, "leftovers", world.provider.leftovers) or []),
    ]
    found.ours = [thing for thing in things if thing.lab_id is not None]
    found.others = [f"{thing.id} {thing.name}" for thing in things if thing.lab_id is None]
    found.unanswered += spoiled_ledgers(results)
    own = [session for session in open_here(world, results) if not _elsewhere(session, found)]
    remembered = {machine_id for session in own for machine_id in session.ledger.machine_ids()}
    for machine_id in sorted(remembered - {one.id for one in found.ours}):
        machine = teardown.asked(found, f"machine {machine_id}", lambda: world.provider.get(machine_id))  # noqa: B023
        if machine is not None and machine.bills:
            found.ours.append(machine)
    return found


def end_listed(world: World, results: Path, over: Sequence[Machine | Leftover], alive: AbstractSet[str | None]) -> int:
    """End these, and look until they are gone; the exit code."""
    began = world.clock.now()
    left = list(over)
    empty = 0
    while True:
        for one in left:
            try:
                world.provider.terminate(one.id) if isinstance(one, Machine) else world.provider.clear(one)
            except ProviderError as error:
                world.say(f"{one.id}: {error}")
        world.clock.sleep(world.pauses.between_s)
        found = survey(world, results)
        left = [one for one in found.ours if one.lab_id not in alive]
        empty = 0 if left or found.unanswered else empty + 1
        if empty == teardown.LOOKS:
            world.say("ended, and no longer listed, twice")
            return CLEAN
        if world.clock.now() - began > world.pauses.insist_s:
            for one in left:
                world.say(still_there(world.provider, one))
            for reason in found.unanswered:
                world.say(f"NOT KNOWN: {reason}")
            return BILLING


def still_there(provider: Provider, one: Machine | Leftover) -> str:
    """What a person must know about something of the lab that is there, and do."""
    if isinstance(one, Leftover):
        return f"{one.kind} {one.id} ({one.name}) IS LEFT. `sweep` removes it, or: {provider.clear_by_hand(one)}"
    rate = "an unknown price" if one.usd_per_hour is None else f"${one.usd_per_hour:.2f} per hour"
    return f"{one.id} ({one.name}) BILLS at {rate}. End it: {provider.by_hand(one.id)}"


def deadline_of(thing: Machine | Leftover) -> float:
    """The deadline in its name; 0 where it has none."""
    marks = read_name(thing.name)
    return 0.0 if marks is None else marks.deadline


def open_here(world: World, results: Path) -> list[Session]:
    """Rentings of this provider whose end no receipt here proves, oldest first."""
    found = []
    for ledger in open_ledgers(results, world.provider.kind):
        if (marks := ledger.marks()) is not None:
            found.append(Session(world.provider, ledger, marks, world.say, world.clock, world.pauses))
    return found


def _elsewhere(session: Session, found: Survey) -> bool:
    """Whether another account rented it; then what a person must know is in `found.elsewhere`."""
    try:
        session.check_account()
    except OtherAccountError as error:
        found.elsewhere += teardown.unknown(session, str(error))
        return True
    return False
