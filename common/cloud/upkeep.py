"""Verbs on machines that are, or may be, up: up, run, sync, down, verify, sweep, cost, selftest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.cloud import account, cost, teardown
from common.cloud.caps import Caps, clock_time, plain_number
from common.cloud.checks import env
from common.cloud.errors import BILLING, CLEAN, RUN_FAILED, CloudError, MachineError, ProviderError, Refused
from common.cloud.estimate import model_of, script_of, split
from common.cloud.flow import MOST_SKEW_S, Request, World, arguments, begin, bring_up, close, quoted, settle
from common.cloud.launch import create, dead_man
from common.cloud.ledger import Ledger, ledgers
from common.cloud.options import Cost, Down, OnMachine, Run, Selftest, Sweep, Verify
from common.cloud.profiles import Profile
from common.cloud.provider import Machine, Order
from common.cloud.session import Session
from common.cloud.start import start_script
from common.cloud.survey import Survey, deadline_of, end_listed, open_here, still_there, survey
from common.cloud.watchdog import Armed
from common.cloud.work import Job, Worker
from common.engines.reference_models import REFERENCE_MODELS

USERS = {"runpod": "root", "aws": "ubuntu"}
SELFTEST_S = 180
LATE_S = 240  # a container that was still being fetched at the deadline ends as soon as it starts


def up(request: Request, world: World, key: Path) -> int:
    """Rent a machine and leave it to the watchdog, which ends it at the deadline."""
    quote = quoted(request, world)
    session = begin(request, world, quote)
    if session is None:
        return CLEAN
    armed: Armed | None = None
    try:
        armed = world.arm(session, world.spec)
        launched = bring_up(session, request, quote, world)
    except BaseException as error:  # noqa: BLE001  # whatever it is, the machine is ended first
        return close(session, armed, CLEAN, error)
    armed.tell("keep")
    machine = launched.machine
    user = USERS[world.provider.kind]
    session.say(f"up: ssh -i {key} -p {machine.port} {user}@{machine.host}; end it with `down`")
    return CLEAN


def run(options: Run, world: World, root: Path) -> int:
    """Run an experiment on the machine that is up."""
    script, words = script_of(root, options.experiment), split(options.exp_args)
    session, machine = _machine(options, world)
    intent = session.ledger.last("intent") or {}
    model = model_of(words, int(intent.get("gpus", 0)))
    job = Job(script, words, None if model in REFERENCE_MODELS else model, options.keep_venv, env(options.env))
    rate = machine.usd_per_hour or float(intent["usd_per_hour"])
    worker = _worker(session, machine, world, options)
    worker.set_up(root, job, account.hf_token())
    code = worker.run(replace(job, arguments=arguments(session, job, rate)))
    complete = worker.last_pull()
    session.say(f"the machine is still up, until {clock_time(session.marks.deadline)}: `down` ends it")
    return CLEAN if code == 0 and complete else RUN_FAILED


def sync(options: OnMachine, world: World, _: Path) -> int:
    """Bring home what is new."""
    session, machine = _machine(options, world)
    return CLEAN if _worker(session, machine, world, options).last_pull() else RUN_FAILED


def down(options: Down, world: World, _: Path) -> int:
    """Bring home, terminate, prove. Without the results only where the person says so, or the machine is gone."""
    return max([_down_or_say(session, options, world) for session in _sessions(options, world)])


def _down_or_say(session: Session, options: Down, world: World) -> int:
    """Whatever stands in the way of one: the next one is tried, and no other code than 9 may be read into it."""
    try:
        return _down(session, options, world)
    except CloudError as error:
        for line in teardown.unknown(session, str(error)):
            world.say(line)
        world.say("`down --discard` asks the machine for nothing and ends it without its results")
        return BILLING


def _down(session: Session, options: Down, world: World) -> int:
    session.check_account()
    machine = _living(session)
    if machine is not None and not options.discard:
        home = _worker(session, machine, world, options).last_pull()
        if not home and not world.confirm("results could not be brought home; terminate all the same?"):
            world.say(f"{machine.id} goes on until its deadline; --discard ends it without its results")
            say_open(session.ledger, world.say, session.clock.now())
            return BILLING
    return settle(session, teardown.end(session), CLEAN, None)


def verify(options: Verify, world: World, _: Path) -> int:
    """Look twice for anything that bears the lab's mark, in the whole account; ends nothing."""
    first = survey(world, options.results_dir)
    world.clock.sleep(world.pauses.between_s)
    last = survey(world, options.results_dir)
    _say_found(world, first, last)
    if not (first.empty and last.empty):
        return BILLING
    for session in open_here(world, options.results_dir):
        verdict = teardown.prove(session)
        if verdict.verified is not True:
            for line in teardown.alarm(session, verdict):
                world.say(line)
            return BILLING
    scope = f" ({world.provider.scope})" if world.provider.scope else ""
    world.say(f"proven: nothing of the lab is left in account {last.account}{scope}, looked for twice")
    return CLEAN


def _say_found(world: World, first: Survey, last: Survey) -> None:
    for line in last.others:
        world.say(f"somebody else's, left alone: {line}")
    for one in last.ours:
        world.say(still_there(world.provider, one))
    for one in first.ours:
        if one.id not in {still.id for still in last.ours}:
            world.say(f"{one.id} ({one.name}) was there ten seconds ago and is not now: `verify` again proves it")
    for reason in dict.fromkeys((*first.unanswered, *last.unanswered)):
        world.say(f"NOT KNOWN: {reason}. {world.provider.by_hand('<its id>')}")
    for line in last.elsewhere:
        world.say(line)


def sweep(options: Sweep, world: World, root: Path) -> int:
    """End what is past its deadline, whoever rented it; what is not is shown and left."""
    found = survey(world, options.results_dir)
    now = world.clock.now()
    alive = {one.lab_id for one in found.ours if isinstance(one, Machine) and deadline_of(one) > now}
    over = [one for one in found.ours if one.lab_id not in alive]
    for one in found.ours:
        until = f"may live until {clock_time(deadline_of(one))}"
        world.say(f"{one.id} ({one.name}) {'is past its deadline' if one in over else until}")
    unknown = [f"NOT KNOWN: {reason}" for reason in found.unanswered] + found.elsewhere
    for line in unknown:
        world.say(line)
    if not over:
        world.say("nothing is past its deadline" if not unknown else "not everything could be checked")
        return BILLING if unknown else CLEAN
    if not world.confirm(f"end {len(over)}?"):
        return BILLING
    code = end_listed(world, options.results_dir, over, alive)
    return BILLING if found.elsewhere else code


def show_cost(options: Cost, world: World, _: Path) -> int:
    """Estimated here beside billed there, for every renting of this provider."""
    mtok = None if options.mtok is None else plain_number("--mtok", options.mtok)
    kind = world.provider.kind
    rented = [one for one in ledgers(options.results_dir) if (one.last("intent") or {}).get("provider") == kind]
    if not rented:
        world.say(f"no renting is written down in {options.results_dir}")
    for ledger in rented:
        usd = cost.spent(ledger.events(), world.clock.now())
        billed, note = 0.0, ""
        for machine_id in ledger.machine_ids():
            try:
                amount = world.provider.bill(machine_id)
            except ProviderError as error:
                amount, note = None, f" ({error})"
            if amount is None:
                note = note or " (not yet billed)"
            billed += amount or 0.0
        said = "unknown" if usd is None else f"${usd:.2f}"
        per = "" if mtok is None or usd is None else f", ${usd / mtok:.2f} per million tokens, all in"
        known = f"${billed:.2f}" if not note else "-"
        world.say(f"{ledger.folder.name}: estimated {said}, billed {known}{note}{per}")
    return CLEAN


def selftest(options: Selftest, world: World, profile: Profile) -> int:
    """A machine with a three-minute deadline that nobody here ends: it must be gone by itself."""
    root = Path(__file__).resolve().parents[2]
    caps = Caps(1.0, 1.0)
    results = options.results_dir.expanduser().absolute()
    request = Request(profile, caps, "selftest", None, None, root, results, "")
    quote = quoted(request, world)
    session = begin(request, world, quote, SELFTEST_S)
    if session is None:
        return CLEAN
    armed: Armed | None = None
    failure: BaseException | None = None
    seen_s, ended_itself = float("inf"), False  # seconds to the deadline when it was last seen
    try:
        armed = world.arm(session, world.spec)
        start = start_script(profile.provider, dead_man(session.marks.deadline, session.left_s), world.api, "")
        machine = create(session, Order(session.marks, profile, "", start, quote))
        while session.left_s > -LATE_S:
            world.clock.sleep(world.pauses.poll_s)
            now = world.provider.get(machine.id)
            if now is not None and now.bills:
                seen_s = session.left_s
            elif seen_s < float("inf"):  # what was made a second ago may not be known yet
                ended_itself = seen_s < MOST_SKEW_S  # sooner, somebody else has ended it
                break
        session.note("selftest", passed=ended_itself)
        early = "" if ended_itself or session.left_s < 0 else f" It went away {session.left_s:.0f} s too early."
        verdict = f"THE MACHINE DID NOT END ITSELF: it is ended from here.{early}"
        session.say("the machine ended itself" if ended_itself else verdict)
    except BaseException as error:  # noqa: BLE001  # whatever it is, the machine is ended first
        failure = error
    return close(session, armed, CLEAN if ended_itself else RUN_FAILED, failure)


HANDLERS: dict[str, Callable[[Any, World, Path], int]] = {
    **{"run": run, "sync": sync, "down": down, "verify": verify, "sweep": sweep, "cost": show_cost},
}


def say_open(ledger: Ledger, say: Callable[[str], None], now: float) -> None:
    """What an open renting can still cost, by what is written here; silent about one that was spoiled."""
    intent, marks = ledger.last("intent") or {}, ledger.marks()
    if marks is None:
        return
    read_back = ledger.last("reachable") or ledger.last("created") or {}
    rates = [one.get("usd_per_hour") for one in (intent, read_back)]  # what is read back may leave out the disk
    usd = max((rate for rate in rates if isinstance(rate, int | float)), default=None)
    ids = ", ".join(ledger.machine_ids()) or "no machine made"
    price = "an unknown price"
    if usd is not None:
        price = f"${usd:.2f} per hour, at most ${usd * max(0.0, marks.deadline - now) / 3600:.2f} more"
    say(f"open here: {intent.get('name', marks.name)} ({ids}) at {price} until {clock_time(marks.deadline)}")


def open_regions(results: Path) -> list[str]:
    """AWS regions of all rentings whose end is not proven: a machine is looked for where it was made."""
    intents = [ledger.last("intent") or {} for ledger in ledgers(results) if not ledger.closed]
    return sorted({str(one["region"]) for one in intents if one.get("region")})


def _sessions(options: OnMachine, world: World) -> list[Session]:
    found = open_here(world, options.results_dir)
    chosen = [session for session in found if options.id in (None, session.marks.lab_id)]
    if not chosen:
        raise Refused("no renting is open here" + (f" with id {options.id}" if options.id else "") + "; `verify` looks")
    return chosen


def _machine(options: OnMachine, world: World) -> tuple[Session, Machine]:
    sessions = _sessions(options, world)
    if len(sessions) > 1:
        raise Refused(f"several are open: --id {' or '.join(one.marks.lab_id for one in sessions)}")
    sessions[0].check_account()
    machine = _living(sessions[0])
    if machine is None:
        raise MachineError("the machine is gone; `verify` proves it")
    if machine.state != "running":
        raise MachineError(f"{machine.id} is {machine.state}, and bills: `down` ends it")
    return sessions[0], machine


def _living(session: Session) -> Machine | None:
    for machine_id in reversed(session.ledger.machine_ids()):
        machine = session.provider.get(machine_id)
        if machine is not None and machine.bills:
            return machine
    return None


def _worker(session: Session, machine: Machine, world: World, options: OnMachine) -> Worker:
    return Worker(session, machine.id, world.connect(session)(machine), options.results_dir.expanduser().absolute())
