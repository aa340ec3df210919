"""From an order to a machine that answers, and is what was ordered. One machine at a time, each create sent once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from common.cloud.caps import ENDING_S
from common.cloud.deadman import POLL_S, DeadMan
from common.cloud.errors import DeniedError, MachineError, NotMadeError, OverCapError, ProviderError, UnansweredError
from common.cloud.ledger import RECEIPT
from common.cloud.probe import probe
from common.cloud.provider import Machine, Order, Quote
from common.cloud.session import Session
from common.cloud.teardown import end
from common.cloud.transport import Transport

DEARER = 1.05  # what a machine may cost over its quote: rounding, and the disk
ROUNDING = 1.001  # of prices, and of a deadline in whole seconds
CANDIDATES = 2
Connect = Callable[[Machine], Transport]


@dataclass(frozen=True)
class Launched:
    """A machine that was probed, the way to it, and the price that was read back from it."""

    machine: Machine
    transport: Transport
    usd_per_hour: float


def launch(session: Session, order: Order, connect: Connect, needed_disk_bytes: float) -> Launched:
    """Try so many candidates, one after the other; the one before is proven gone before the next is made.

    Raises:
        CloudError: none came up; nothing more is promised about what is left, so end and prove.
    """
    last: Exception = NotMadeError("no candidate")
    for attempt in range(CANDIDATES):
        if attempt and end(session).verified is not True:
            raise UnansweredError("the machine before is not proven gone, so no other is made")
        try:
            machine = create(session, replace(order, attempt=attempt))
            return _take_over(session, order.quote, machine, connect, needed_disk_bytes)
        except (DeniedError, UnansweredError):
            raise
        except (NotMadeError, MachineError, OverCapError) as error:
            session.say(f"candidate {attempt + 1} of {CANDIDATES}: {error}")
            session.note("refused", attempt=attempt, reason=str(error))
            last = error
    raise last


def dead_man(deadline: int, left_s: float) -> DeadMan:
    """The machine's own end: at the renting's deadline, and by its own clock after what is left until then."""
    seconds = max(1, int(left_s))
    return DeadMan(deadline, seconds, poll_s=max(1, min(POLL_S, seconds // 20)))


def create(session: Session, order: Order) -> Machine:
    """Send the create once, after the ledger has it; whatever comes back, look who bears our name."""
    session.ledger.withdraw(RECEIPT)  # of the candidate before: it says nothing of this one
    session.note("creating", name=order.marks.name, attempt=order.attempt)
    try:
        made = session.provider.create(order)
    except UnansweredError as error:
        session.say(f"{error}: looking for {order.marks.name}")
        found = _find(session, session.pauses.found_s)
        if found is None:
            raise UnansweredError(f"{error}, and no machine of that name came up") from error
        made = found
    except NotMadeError:
        if found := _find(session, 0.0):
            session.say(f"the provider refused, and yet {found.id} is there")
            session.note("created", id=found.id, usd_per_hour=found.usd_per_hour)
        else:
            session.note("not_made", attempt=order.attempt)
        raise
    session.note("created", id=made.id, usd_per_hour=made.usd_per_hour)
    session.say(f"{made.id} made")
    _end_doubles(session, made)
    return made


def _find(session: Session, seconds: float) -> Machine | None:
    """A living machine with our mark, looked for until it shows up or the time is over."""
    began = session.clock.now()
    while True:
        try:
            ours = [one for one in session.provider.machines() if session.owns(one) and one.bills]
        except ProviderError as error:
            session.say(str(error))
            ours = []
        if ours:
            return ours[0]
        if session.clock.now() - began >= seconds:
            return None
        session.clock.sleep(session.pauses.poll_s)


def _end_doubles(session: Session, made: Machine) -> None:
    """One create may have been carried out twice: only one machine is kept."""
    for other in session.provider.machines():
        if session.owns(other) and other.bills and other.id != made.id:
            session.say(f"{other.id} bears the same name and is ended")
            session.note("created", id=other.id, usd_per_hour=other.usd_per_hour)
            session.provider.terminate(other.id)
            session.note("created", id=made.id, usd_per_hour=made.usd_per_hour)


def _take_over(session: Session, quote: Quote, machine: Machine, connect: Connect, disk_bytes: float) -> Launched:
    """Wait for a shell, holding the price against the quote all the while, then probe."""
    began = session.clock.now()
    transport: Transport | None = None
    while True:
        now = session.provider.get(machine.id)
        if now is None and session.clock.now() - began < session.pauses.found_s:
            session.clock.sleep(session.pauses.poll_s)  # what was made a second ago may not be known yet
            continue
        if now is None or not now.bills:
            raise MachineError(f"{machine.id} went away while it was starting")
        if now.ends_itself is False:
            raise MachineError(f"{machine.id} would outlive its own shutdown, or leave a disk")
        if now.usd_per_hour is not None and now.usd_per_hour > quote.usd_per_hour * DEARER:
            raise OverCapError(
                f"{machine.id} costs ${now.usd_per_hour:.2f} per hour where ${quote.usd_per_hour:.2f} was quoted"
            )
        _check_cap(session, now)
        if now.state == "running" and now.host:
            if now.usd_per_hour is None:
                raise OverCapError(f"{machine.id} runs and the provider does not say what it costs")
            transport = _answers(connect(now))
            if transport is not None:
                break
        if session.clock.now() - began > min(session.pauses.reachable_s, session.left_s):
            raise MachineError(f"{machine.id} did not answer within {session.pauses.reachable_s / 60:.0f} minutes")
        session.clock.sleep(session.pauses.poll_s)
    session.note("reachable", id=machine.id, usd_per_hour=now.usd_per_hour)
    found = probe(transport, session.ledger.last("intent") or {}, disk_bytes)
    session.note("probed", **found)
    session.say(", ".join(f"{key} {value}" for key, value in found.items()))
    return Launched(now, transport, now.usd_per_hour)


def _check_cap(session: Session, machine: Machine) -> None:
    """Hold the price that was read back, a little over the quote perhaps, against the cap in dollars.

    Raises:
        OverCapError: up to the deadline, and while it is being ended, it would cost more.
    """
    most_usd = (session.ledger.last("intent") or {}).get("max_usd")
    if machine.usd_per_hour is None or most_usd is None:
        return
    usd = machine.usd_per_hour * (session.left_s + ENDING_S) / 3600
    if usd > most_usd * ROUNDING:
        raise OverCapError(
            f"{machine.id} costs ${machine.usd_per_hour:.2f} per hour, up to ${usd:.2f} where the cap is ${most_usd:g}"
        )


def _answers(transport: Transport) -> Transport | None:
    try:
        return transport if transport.run("true", timeout_s=20).code == 0 else None
    except MachineError:
        return None
