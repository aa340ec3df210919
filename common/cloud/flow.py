"""A renting from intent to proof. Whatever happens after the intent is written, the end is looked for and proven."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from common.cloud import teardown
from common.cloud.caps import Caps, clock_time
from common.cloud.clock import Clock, Pauses
from common.cloud.cost import spent
from common.cloud.entered import enter_cost
from common.cloud.errors import BILLING, CLEAN, RUN_FAILED, CloudError, DeniedError, NotMadeError, OverCapError, Refused
from common.cloud.estimate import ENDING_S, LEAST_RUN_S, Estimate
from common.cloud.launch import Connect, Launched, dead_man, launch
from common.cloud.ledger import RECEIPT, new_ledger
from common.cloud.marks import Marks
from common.cloud.profiles import Profile
from common.cloud.provider import Order, Provider, Quote
from common.cloud.providers import check_lasts
from common.cloud.session import Say, Session
from common.cloud.start import start_script
from common.cloud.teardown import Verdict
from common.cloud.watchdog import Armed, arm, is_watched
from common.cloud.work import Job, Worker

MOST_SKEW_S = 60.0
MOST_ASKING_S = 300.0  # the deadline stands before the question is asked


@dataclass(frozen=True)
class Request:
    """What a person asked for, checked as far as that goes without a network."""

    profile: Profile
    caps: Caps
    purpose: str
    job: Job | None
    estimate: Estimate | None
    root: Path
    results: Path
    public_key: str
    hf_token: str | None = None

    def planned(self, usd_per_hour: float | None, wind_down_s: float) -> Estimate | None:
        """What it will take at this price; an experiment that fills its time takes what there is.

        Raises:
            OverCapError: the caps leave no ten minutes.
        """
        if self.estimate is None or self.job is None or not self.job.fills_its_time:
            return self.estimate
        return self.estimate.within(self.caps.seconds(usd_per_hour) - wind_down_s)


@dataclass(frozen=True)
class World:
    """Who is asked, how a machine is reached, who is told, and by which clock; tests have their own."""

    provider: Provider
    spec: Mapping[str, Any]
    """What the watchdog makes its provider of; holds the key."""
    connect: Callable[[Session], Connect]
    say: Say
    confirm: Callable[[str], bool]
    clock: Clock
    pauses: Pauses = field(default_factory=Pauses)
    arm: Callable[[Session, Mapping[str, Any]], Armed] = arm
    api: str = ""
    """Where a machine finds its provider."""


def quoted(request: Request, world: World) -> Quote:
    """The live price, held against both caps; and whether the end could be proven.

    Raises:
        CloudError: not to be had, too dear, the clocks differ so much that a deadline would lie, or a missing right.
    """
    try:
        quote = world.provider.quote(request.profile)
    except DeniedError as error:
        raise Refused(str(error)) from error
    if abs(quote.clock_skew_s) > MOST_SKEW_S:
        raise Refused(
            f"this machine's clock is {abs(quote.clock_skew_s):.0f} s off the provider's: set it, or deadlines lie"
        )
    dated = request.profile.dated_usd_per_hour
    then = "" if dated is None else f" (the table of {request.profile.dated_of} says ${dated:.2f})"
    world.say(f"{request.profile.name}: ${quote.usd_per_hour:.2f} per hour, {quote.tier}, {quote.detail}{then}")
    world.say(f"interconnect: {request.profile.links}")
    request.caps.seconds(quote.usd_per_hour)
    planned = request.planned(quote.usd_per_hour, world.pauses.wind_down_s)
    if planned is not None:
        world.say(planned.in_words(quote.usd_per_hour))
        request.caps.check(planned.seconds, quote.usd_per_hour, world.pauses.wind_down_s)
    if not quote.available:
        raise NotMadeError(f"{request.profile.name} has no capacity now ({quote.detail})")
    teardown.check_lists(world.provider)
    return quote


def go(request: Request, world: World) -> int:
    """Quote, confirm, launch, bootstrap, run, bring home, terminate, verify; the exit code.

    Raises:
        CloudError: before anything was rented.
    """
    quote = quoted(request, world)
    session = begin(request, world, quote)
    if session is None:
        return CLEAN
    armed: Armed | None = None
    failure: BaseException | None = None
    code = CLEAN
    try:
        armed = world.arm(session, world.spec)
        launched = bring_up(session, request, quote, world)
        code = work(session, request, launched)
    except BaseException as error:  # noqa: BLE001  # whatever it is, the machine is ended first
        failure = error
    return close(session, armed, code, failure)


def begin(request: Request, world: World, quote: Quote, seconds: float | None = None) -> Session | None:
    """Show the worst case, ask, and write the intent down; None where the person says no.

    The deadline is the nearer of the two caps, or `seconds` from now.
    """
    now = world.clock.now()
    deadline = request.caps.deadline(now, quote.usd_per_hour) if seconds is None else round(now + seconds)
    worst = quote.usd_per_hour * (deadline - now) / 3600
    world.say(describe_deadline(deadline, worst))
    if warning := check_lasts(world.spec, deadline + world.pauses.insist_s):
        world.say(warning)
    if not world.confirm(f"rent {request.profile.name} at ${quote.usd_per_hour:.2f} per hour?"):
        world.say("nothing was rented")
        return None
    if world.clock.now() - now > MOST_ASKING_S:
        raise Refused("the answer came late: price and deadline are no longer those that were shown. Begin again")
    account = world.provider.account()
    ledger, lab_id = new_ledger(request.results)
    marks = Marks(request.purpose, lab_id, deadline)
    session = Session(world.provider, ledger, marks, world.say, world.clock, world.pauses)
    profile = request.profile
    about = {"gpu": profile.listed.gpu, "gpus": profile.gpus, "links": profile.listed.links, "tier": quote.tier}
    about |= {"provider": world.provider.kind, "account": account, "profile": profile.name, "price_read_at": round(now)}
    caps = {"max_usd": request.caps.max_usd, "max_hours": request.caps.max_hours}
    why = {"purpose": request.purpose, "lab_id": lab_id, "deadline": deadline, "name": marks.name}
    region = {} if profile.region is None else {"region": profile.region}
    session.note("intent", **why, **about, **caps, **region, usd_per_hour=quote.usd_per_hour)
    world.say(f"written down in {ledger.folder}")
    return session


def bring_up(session: Session, request: Request, quote: Quote, world: World) -> Launched:
    """A machine that answers and is what was ordered."""
    dead = dead_man(session.marks.deadline, session.left_s)
    start = start_script(request.profile.provider, dead, world.api, request.public_key)
    order = Order(session.marks, request.profile, request.public_key, start, quote)
    needed = 0.0 if request.estimate is None else request.estimate.disk_bytes
    return launch(session, order, world.connect(session), needed)


def work(session: Session, request: Request, launched: Launched) -> int:
    """Set up, run, and bring home; the exit code if the end is clean."""
    assert request.job is not None
    job = request.job
    worker = Worker(session, launched.machine.id, launched.transport, request.results)
    worker.set_up(request.root, job, request.hf_token)
    try:
        code = worker.run(replace(job, arguments=arguments(session, job, launched.usd_per_hour)))
    finally:
        complete = worker.last_pull()
    if not complete:
        session.say("not all results could be brought home")
    return CLEAN if code == 0 and complete else RUN_FAILED


def arguments(session: Session, job: Job, usd_per_hour: float) -> tuple[str, ...]:
    """The experiment's arguments with the price that was read back; the evening also gets the time that is left now."""
    added = ["--usd-per-hour", f"{usd_per_hour:.4f}"]
    if job.fills_its_time:
        left_s = session.left_s - session.pauses.wind_down_s - ENDING_S
        added += ["--max-minutes", f"{max(LEAST_RUN_S, left_s) // 60:.0f}"]
    return (*job.arguments, *added)


def close(session: Session, armed: Armed | None, code: int, failure: BaseException | None) -> int:
    """End, prove, tell the watchdog and the person; the exit code.

    Raises:
        BaseException: `failure`, where nobody expected it; but that something bills outranks it.
    """
    if failure is not None:
        session.say(f"stopped: {str(failure) or type(failure).__name__}")
    verdict = teardown.end(session)
    if armed is not None:
        armed.tell("done") if verdict.verified else armed.close()
    ended = settle(session, verdict, code, failure)
    if failure is not None and not isinstance(failure, (CloudError, OSError, KeyboardInterrupt)) and ended != BILLING:
        raise failure
    return ended


def settle(session: Session, verdict: Verdict, code: int, failure: BaseException | None) -> int:
    """Say how it ended; proof outranks everything."""
    usd = spent(session.ledger.events(), session.clock.now())
    try:
        for path in enter_cost(session.ledger, session.clock.now()):
            session.say(f"result: {path}")
        session.ledger.save("cost.json", {"usd_estimate": None if usd is None else round(usd, 4)})
    except Exception as error:  # noqa: BLE001  # results are what a machine sent, the disk may be full: proof comes first
        session.say(f"the cost could not be entered into every result: {type(error).__name__}: {error}")
    if not verdict.verified:
        for line in teardown.alarm(session, verdict):
            session.say(line)
        session.say(
            "the watchdog goes on trying; look at the provider's page until nothing is listed"
            if is_watched(session.ledger)
            else "NO WATCHDOG IS LEFT: nothing here tries again. Use the command above now, then `verify` until it is 0"
        )
        return BILLING
    price = "" if usd is None else f", about ${usd:.2f}"
    receipt = f"receipt: {session.ledger.folder / RECEIPT}" if session.ledger.closed else "no receipt: see above"
    session.say(f"proven gone{price}; {receipt}")
    if isinstance(failure, CloudError):
        return failure.code if isinstance(failure, (NotMadeError, OverCapError)) else RUN_FAILED
    return RUN_FAILED if failure is not None else code


def describe_deadline(deadline: int, worst_usd: float) -> str:
    """The deadline as a clock time, and what happens then."""
    return (
        f"at most ${worst_usd:.2f}: at {clock_time(deadline)} the machine ends itself; five minutes before, the"
        " experiment is stopped and its results are fetched"
    )
