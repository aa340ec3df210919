"""From a command line to an exit code: `runpod/run.py` and `aws/run.py` are this with a name."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from common.cloud import account, dry, upkeep
from common.cloud.caps import plain_number
from common.cloud.checks import check_job, check_region, check_tools, profile_of, request_of, ssh_key
from common.cloud.clock import Clock, Pauses
from common.cloud.errors import BILLING, INTERRUPTED, NO_CAPACITY, CloudError, NotMadeError, Refused
from common.cloud.flow import World, go
from common.cloud.launch import Connect
from common.cloud.ledger import open_ledgers, spoiled_ledgers
from common.cloud.options import Cost, Go, Price, Renting, Run, Selftest, Up, Verb, parse
from common.cloud.profiles import Profile, read_profiles
from common.cloud.provider import Machine
from common.cloud.providers import provider_from, spec_of
from common.cloud.runpod import URL
from common.cloud.session import Session
from common.cloud.transport import Ssh, Transport
from common.machine.interrupts import none_lost

ABOUT = "Rent a machine, run an experiment on it, bring the results home, end it, and prove that it is gone."
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Setting:
    """What tests replace: where the checkout is, the provider's address, how a machine is reached, the waits."""

    root: Path = ROOT
    url: str | None = None
    connect: Callable[[Session], Connect] | None = None
    clock: Clock = field(default_factory=Clock)
    pauses: Pauses = field(default_factory=Pauses)


def main(provider: str, profiles: Path, arguments: list[str] | None = None, setting: Setting | None = None) -> int:
    """Run one verb; the exit code (0 clean, 2 bad input, 3 over cap, 4 no capacity, 5 run failed, 9 still bills)."""
    with none_lost():
        return _verb(provider, profiles, sys.argv[1:] if arguments is None else arguments, setting or Setting())


def _verb(provider: str, profiles: Path, words: list[str], setting: Setting) -> int:
    options: Verb | None = None
    try:
        verb, options = parse(words, f"{profiles.parent.name}/run.py", ABOUT)
        check_region(provider, options.region)
        if isinstance(options, Renting):
            return _rent(provider, profiles, options, setting)
        if not options.dry_run and not options.yes and verb in ("selftest", "sweep"):
            _check_someone_answers(options)
        return _other(provider, profiles, verb, options, setting)
    except CloudError as error:
        say(f"error: {error}")
        return error.code
    except KeyboardInterrupt:
        say("interrupted")
        return BILLING if options is None or _say_all_open(provider, options) else INTERRUPTED
    except Exception:
        if options is None or options.dry_run or not _say_all_open(provider, options):
            raise
        traceback.print_exc()
        return BILLING


def say(line: str) -> None:
    """One line of progress, on stderr; nobody may read it any more, and what is under way goes on."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)  # noqa: T201  # this is the command line


def progress(clock: Clock) -> Callable[[str], None]:
    """Lines of a long run, each with the seconds since it began."""
    began = clock.now()
    return lambda line: say(f"[{clock.now() - began:5.0f} s] {line}")


def confirm(question: str) -> bool:
    """Ask a person."""
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _rent(provider: str, profiles: Path, options: Renting, setting: Setting) -> int:
    purpose = options.exp or "" if isinstance(options, Go) else "up"
    profile = profile_of(options, profiles, provider)
    request = request_of(options, profile, setting.root, purpose)
    if options.dry_run:
        return dry.renting(provider, request, options, say)
    _check_someone_answers(options)
    check_tools()
    key, public = ssh_key(options.ssh_key)
    world = _world(provider, replace(options, region=profile.region), setting, key)
    request = replace(request, public_key=public, hf_token=account.hf_token())
    try:
        code = upkeep.up(request, world, key) if isinstance(options, Up) else go(request, world)
    except NotMadeError:
        _offer_smaller(profile, profiles, world)
        raise
    if code == NO_CAPACITY:  # found out by the launch itself
        _offer_smaller(profile, profiles, world)
    return code


def _world(provider: str, options: Verb, setting: Setting, key: Path | None) -> World:
    spec = spec_of(provider, options.region, setting.url)
    if provider == "aws":
        spec["all_regions"] = getattr(options, "all_regions", False)
        spec["regions"] = upkeep.open_regions(options.results_dir)
    connect = setting.connect or (lambda session: _ssh(session, provider, key))
    agreed: Callable[[str], bool] = (lambda _: True) if options.yes else confirm
    return World(
        provider_from(spec, setting.clock),
        spec,
        connect,
        progress(setting.clock),
        agreed,
        setting.clock,
        setting.pauses,
        api=setting.url or URL,
    )


def _ssh(session: Session, provider: str, key: Path | None) -> Connect:
    def connect(machine: Machine) -> Transport:
        private = key or ssh_key(None)[0]
        known = session.ledger.folder / "known_hosts"
        return Ssh(machine.host or "", machine.port, private, known, upkeep.USERS[provider])

    return connect


def _say_all_open(provider: str, options: Verb) -> bool:
    """Name each machine that may be up by what is written here; whether there is one."""
    known, lost = open_ledgers(options.results_dir, provider), spoiled_ledgers(options.results_dir)
    for line in lost:
        say(f"NOT KNOWN: {line}")
    for ledger in known:
        upkeep.say_open(ledger, say, Clock().now())
    if known:
        say("each ends itself, or by its watchdog, at that time at the latest; `down` ends it now, `verify` proves it")
    return bool(known or lost)


def _check_someone_answers(options: Verb) -> None:
    if not options.yes and not sys.stdin.isatty():
        raise Refused("nobody can be asked here: look at --dry-run, then say --yes")


def _offer_smaller(profile: Profile, profiles: Path, world: World) -> None:
    """Where there is no capacity: the next smaller profile that has some, with its price."""
    known = read_profiles(profiles, profile.provider)
    name = profile.smaller
    while name is not None:
        other = replace(known[name], region=profile.region)
        try:
            quote = world.provider.quote(other)
        except CloudError:
            quote = None
        if quote is not None and quote.available:
            say(f"smaller, and to be had now: --profile {name}, ${quote.usd_per_hour:.2f} per hour, {other.links}")
            return
        name = other.smaller


def _other(provider: str, profiles: Path, verb: str, options: Verb, setting: Setting) -> int:
    """Everything that rents no machine of the person's choice."""
    if isinstance(options, Price):
        return account.price(provider, profiles, options, setting.url, say)
    if isinstance(options, Run):
        check_job(options, setting.root)
    if isinstance(options, Cost) and options.mtok is not None:
        plain_number("--mtok", options.mtok)
    if options.dry_run:
        return dry.other(provider, verb, options, profiles, say)
    if verb == "doctor":
        return account.doctor(provider, options, setting.url, say)
    try:
        world = _world(provider, options, setting, getattr(options, "ssh_key", None))
    except Refused as error:  # without credentials nothing can be asked; what is known here is said all the same
        if verb not in ("verify", "down", "sweep", "sync") or not _say_all_open(provider, options):
            raise
        say(f"error: {error}")
        return BILLING
    handlers: Mapping[str, Callable[[Any, World, Path], int]] = upkeep.HANDLERS
    if isinstance(options, Selftest):
        profile = read_profiles(profiles, provider)["selftest"]
        return upkeep.selftest(options, world, replace(profile, region=options.region or profile.region))
    return handlers[verb](options, world, setting.root)
