"""Ending, and the proof of it. Nothing here believes that a machine is gone because it was told to go.

Verified means: the account that was asked is the one that rented, every list call was answered, nothing of ours stood
in any of them, each machine that we ever made is gone when asked for by its id; twice, ten seconds apart. A call that
failed means that nothing is known.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TypeVar

from common.cloud.cost import spent
from common.cloud.errors import BILLING, CLEAN, DeniedError, ProviderError, Refused
from common.cloud.ledger import RECEIPT
from common.cloud.provider import Leftover, Machine, Provider
from common.cloud.session import Session

LOOKS = 2
Answer = TypeVar("Answer")


@dataclass
class Look:
    """One look at everything that could cost: what is ours, what is somebody else's, what was not answered."""

    at: float
    machines: list[Machine] = field(default_factory=list)
    leftovers: list[Leftover] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    unanswered: list[str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """Whether everything was answered and nothing of ours is there."""
        return not (self.machines or self.leftovers or self.unanswered)


@dataclass(frozen=True)
class Verdict:
    """How an ending went; `verified` is False where something is left, None where it is not known."""

    verified: bool | None
    looks: list[Look]
    terminated: list[str]

    @property
    def code(self) -> int:
        """0 only with proof."""
        return CLEAN if self.verified else BILLING


def look(session: Session) -> Look:
    """Ask for everything once."""
    found = Look(session.clock.now())
    _asked(found, "account", session.check_account)
    machines: list[Machine] = _asked(found, "machines", session.provider.machines) or []
    found.machines = [one for one in machines if session.owns(one) and one.bills]
    found.others = [f"machine {one.id} {one.name}" for one in machines if one.bills and not session.owns(one)]
    leftovers: list[Leftover] = _asked(found, "leftovers", session.provider.leftovers) or []
    found.leftovers = [one for one in leftovers if session.owns(one)]
    found.others += [f"{one.kind} {one.id} {one.name}" for one in leftovers if not session.owns(one)]
    for machine_id in session.ledger.machine_ids():
        one = _asked(found, f"machine {machine_id}", lambda: session.provider.get(machine_id))  # noqa: B023  # at once
        if one is not None and one.bills and one.id not in {known.id for known in found.machines}:
            found.machines.append(one)
    return found


def check_lists(provider: Provider) -> None:
    """Ask for every list that a look will ask for: what cannot be listed can never be proven gone.

    Raises:
        Refused: the credentials may not list something; the call is named.
        ProviderError: no answer.
    """
    try:
        provider.account()
        provider.machines()
        provider.leftovers()
    except DeniedError as error:
        raise Refused(f"{error}. Without this list nothing could be proven gone, so nothing is rented") from error


def prove(session: Session) -> Verdict:
    """Look until it is proven that nothing of this renting is left; where something is, say so and end nothing."""
    return end(session, ends=False)


def end(session: Session, *, ends: bool = True) -> Verdict:
    """End everything of this renting and prove it; insists for `insist_s`, then says what is left."""
    pauses, clock = session.pauses, session.clock
    began = clock.now()
    looks: list[Look] = []
    terminated: list[str] = []
    empty_since: float | None = None
    session.note("ending" if ends else "proving")
    while True:
        found = look(session)
        looks.append(found)
        if found.empty:
            empty_since = found.at if empty_since is None else empty_since
            if found.at - empty_since >= pauses.between_s and not _may_still_come(session, found.at):
                return _close(session, True, looks, terminated)
        else:
            empty_since = None
            if not ends:
                return _close(session, False if found.machines or found.leftovers else None, looks, terminated)
            terminated += _end_what_is_ours(session, found)
        if clock.now() - began > pauses.insist_s:
            left = found.machines or found.leftovers
            return _close(session, False if left else None, looks, terminated)
        clock.sleep(pauses.between_s if found.empty else pauses.poll_s)


def alarm(session: Session, verdict: Verdict) -> list[str]:
    """What a person must know and do where something bills, or may."""
    last = verdict.looks[-1]
    lines = [f"NOT PROVEN GONE: {reason}" for reason in last.unanswered]
    ids = list(dict.fromkeys([*(one.id for one in last.machines), *session.ledger.machine_ids()]))
    rates = {one.id: one.usd_per_hour for one in last.machines}
    intent = session.ledger.last("intent") or {}
    for machine_id in ids:
        rate = rates.get(machine_id) or intent.get("usd_per_hour")
        price = "an unknown price" if rate is None else f"${rate:.2f} per hour"
        still = "STILL BILLS" if machine_id in rates else "may still bill"
        lines.append(f"machine {machine_id} {still}, at {price}. End it: {session.provider.by_hand(machine_id)}")
    lines += [f"{one.kind} {one.id} ({one.name}) IS LEFT: remove it on the provider's page" for one in last.leftovers]
    if not ids:
        lines.append(f"look for {session.marks.name}: {session.provider.by_hand('<its id>')}")
    return lines


def _asked(found: Look, name: str, call: Callable[[], Answer]) -> Answer | None:
    """The answer of one call, or a note that there was none."""
    try:
        answer = call()
    except ProviderError as error:
        found.unanswered.append(f"{name}: {error}")
        return None
    found.calls.append(name)
    return answer


def _end_what_is_ours(session: Session, found: Look) -> list[str]:
    ended = []
    for machine in found.machines:
        session.say(f"ending {machine.id}")
        try:
            session.provider.terminate(machine.id)
            ended.append(machine.id)
        except ProviderError as error:
            session.say(f"{machine.id} could not be ended yet: {error}")
    for leftover in found.leftovers:
        with contextlib.suppress(ProviderError):
            session.provider.clear(leftover)
    if found.unanswered:  # what is not listed may be there all the same
        for machine_id in set(session.ledger.machine_ids()) - {machine.id for machine in found.machines}:
            with contextlib.suppress(ProviderError):
                session.provider.terminate(machine_id)
    return ended


def _may_still_come(session: Session, now: float) -> bool:
    """Whether a create whose answer was lost may still show up in the lists."""
    asked = session.ledger.last("creating")
    return asked is not None and now - asked["at"] < session.pauses.found_s


def _close(session: Session, verified: bool | None, looks: list[Look], terminated: list[str]) -> Verdict:
    """Write the receipt, then the ledger's line."""
    verdict = Verdict(verified, looks, terminated)
    at = round(looks[-1].at, 3)  # as the ledger keeps it: the receipt and the ledger's line give the same cost
    usd = spent(session.ledger.events(), at)
    receipt = {
        "verified": verified,
        "lab_id": session.marks.lab_id,
        "name": session.marks.name,
        "provider": session.provider.kind,
        "account": (session.ledger.last("intent") or {}).get("account"),
        "machines": session.ledger.machine_ids(),
        "terminated": list(dict.fromkeys(terminated)),
        "looks": [asdict(one) | {"machines": [machine.id for machine in one.machines]} for one in looks[-LOOKS:]],
        "usd_estimate": None if usd is None else round(usd, 4),
        "left": [] if verified else alarm(session, verdict),
    }
    session.ledger.save(RECEIPT, receipt)
    session.ledger.write("ended", at, verified=verified)
    return verdict
