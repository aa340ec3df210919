"""Ending, and the proof of it. Nothing here believes that a machine is gone because it was told to go.

Verified means: the account that was asked is the one that rented, every list call was answered, nothing of ours stood
in any of them, each machine that we ever made is gone when asked for by its id; twice, ten seconds apart. A call that
failed means that nothing is known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Protocol, TypeVar

from common.cloud.cost import spent
from common.cloud.errors import BILLING, CLEAN, DeniedError, ProviderError, Refused
from common.cloud.ledger import RECEIPT
from common.cloud.provider import Leftover, Machine, Provider
from common.cloud.session import Session

LOOKS = 2
Answer = TypeVar("Answer")


class Asked(Protocol):
    """What collects answers: the calls that were answered, and a line for each that was not."""

    unanswered: list[str]
    calls: list[str]


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
    asked(found, "account", session.check_account)
    machines: list[Machine] = asked(found, "machines", session.provider.machines) or []
    found.machines = [one for one in machines if session.owns(one) and one.bills]
    found.others = [f"machine {one.id} {one.name}" for one in machines if one.bills and not session.owns(one)]
    leftovers: list[Leftover] = asked(found, "leftovers", session.provider.leftovers) or []
    found.leftovers = [one for one in leftovers if session.owns(one)]
    found.others += [f"{one.kind} {one.id} {one.name}" for one in leftovers if not session.owns(one)]
    for machine_id in session.ledger.machine_ids():
        one = asked(found, f"machine {machine_id}", lambda: session.provider.get(machine_id))  # noqa: B023  # at once
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


class _Looks:
    """One look after the other at a renting: what they prove together, and whether to go on."""

    def __init__(self, session: Session, event: str) -> None:
        self.session, self.all, self.proven = session, list[Look](), False
        self._began, self._empty_since = session.clock.now(), float("inf")
        _note(session, event, self._began)

    def again(self) -> Look:
        """One more."""
        found = look(self.session)
        self.all.append(found)
        self._empty_since = min(self._empty_since, found.at) if found.empty else float("inf")
        apart = found.at - self._empty_since >= self.session.pauses.between_s
        self.proven = apart and not _may_still_come(self.session, found.at)
        return found

    @property
    def over(self) -> bool:
        """Whether it is proven, or has been tried for long enough."""
        return self.proven or self.session.clock.now() - self._began > self.session.pauses.insist_s


def prove(session: Session) -> Verdict:
    """Look until it is proven that nothing of this renting is left; where something is, say so and end nothing."""
    looks = _Looks(session, "proving")
    while looks.again().empty and not looks.over:
        session.clock.sleep(session.pauses.between_s)
    return _close(looks, [])


def end(session: Session) -> Verdict:
    """End everything of this renting and prove it; insists for `insist_s`, then says what is left."""
    looks = _Looks(session, "ending")
    terminated: list[str] = []
    while True:
        found = looks.again()
        if not found.empty:
            terminated += _end_what_is_ours(session, found)
        if looks.over:
            return _close(looks, terminated)
        session.clock.sleep(session.pauses.between_s if found.empty else session.pauses.poll_s)


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
        by_hand = session.provider.by_hand(machine_id, intent.get("region"))
        lines.append(f"machine {machine_id} {still}, at {price}. End it: {by_hand}")
    for one in last.leftovers:
        lines.append(f"{one.kind} {one.id} ({one.name}) IS LEFT. Remove it: {session.provider.clear_by_hand(one)}")
    if not ids:
        lines.append(f"look for {session.marks.name}: {session.provider.by_hand('<its id>', intent.get('region'))}")
    return lines


def unknown(session: Session, reason: str) -> list[str]:
    """The same where not even a look was possible."""
    return alarm(session, Verdict(None, [Look(session.clock.now(), unanswered=[reason])], []))


def asked(found: Asked, name: str, call: Callable[[], Answer]) -> Answer | None:
    """The answer of one call, or a note that there was none; whatever goes wrong, the others are still asked."""
    try:
        answer = call()
    except ProviderError as error:
        found.unanswered.append(f"{name}: {error}")
        return None
    except Exception as error:  # noqa: BLE001  # an answer that nobody foresaw is none; its text may hold the key
        found.unanswered.append(f"{name}: {type(error).__name__}")
        return None
    found.calls.append(name)
    return answer


def _end_what_is_ours(session: Session, found: Look) -> list[str]:
    tried = Look(found.at)
    for machine in found.machines:
        session.say(f"ending {machine.id}")
        asked(tried, machine.id, lambda: session.provider.terminate(machine.id))  # noqa: B023  # at once
    for reason in tried.unanswered:
        session.say(f"could not be ended yet: {reason}")
    for leftover in found.leftovers:
        asked(Look(found.at), leftover.id, lambda: session.provider.clear(leftover))  # noqa: B023
    if found.unanswered:  # what is not listed may be there all the same
        for machine_id in set(session.ledger.machine_ids()) - {machine.id for machine in found.machines}:
            asked(Look(found.at), machine_id, lambda: session.provider.terminate(machine_id))  # noqa: B023
    return tried.calls


def _may_still_come(session: Session, now: float) -> bool:
    """Whether a create whose answer was lost may still show up in the lists."""
    asked = session.ledger.last("creating")
    return asked is not None and now - asked["at"] < session.pauses.found_s


def _note(session: Session, event: str, at: float, **facts: object) -> None:
    """A line of the ledger, where the disk takes it: an ending must not wait for room on a disk."""
    try:
        session.ledger.write(event, at, **facts)
    except OSError as error:
        session.say(f"'{event}' could not be written down: {error}")


def _close(looks: _Looks, terminated: list[str]) -> Verdict:
    """Write the receipt, then the ledger's line; a disk that takes neither changes nothing about the proof."""
    session, last = looks.session, looks.all[-1]
    verified = True if looks.proven else False if last.machines or last.leftovers else None
    verdict = Verdict(verified, looks.all, terminated)
    at = round(last.at, 3)  # as the ledger keeps it: the receipt and the ledger's line give the same cost
    usd = spent(session.ledger.events(), at)
    receipt = {
        "verified": verified,
        "lab_id": session.marks.lab_id,
        "name": session.marks.name,
        "provider": session.provider.kind,
        "account": (session.ledger.last("intent") or {}).get("account"),
        "machines": session.ledger.machine_ids(),
        "terminated": list(dict.fromkeys(terminated)),
        "looks": [asdict(one) | {"machines": [machine.id for machine in one.machines]} for one in looks.all[-LOOKS:]],
        "usd_estimate": None if usd is None else round(usd, 4),
        "left": [] if verified else alarm(session, verdict),
    }
    try:
        session.ledger.save(RECEIPT, receipt)
    except OSError as error:
        session.say(f"the receipt could not be written: {error}")
    _note(session, "ended", at, verified=verified)
    return verdict
