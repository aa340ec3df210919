"""Dry runs: what a verb would ask, and what it could cost by the dated table; nothing here touches a network."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from common.cloud.aws_leftovers import KINDS
from common.cloud.checks import check_tools, missing, ssh_key
from common.cloud.clock import Clock
from common.cloud.errors import CLEAN
from common.cloud.flow import Request, describe_deadline
from common.cloud.launch import dead_man
from common.cloud.ledger import open_ledgers
from common.cloud.marks import Marks
from common.cloud.options import OnMachine, Renting, Verb
from common.cloud.profiles import Profile, read_profiles
from common.cloud.provider import Order, Quote
from common.cloud.providers import check_key
from common.cloud.runpod import LISTS, URL, Runpod
from common.cloud.session import Say
from common.cloud.shown import shown
from common.cloud.start import start_script
from common.cloud.upkeep import LATE_S, SELFTEST_S, say_open

YOUR_KEY = "<your public key>"
AGAIN = "the account, the lists and the machine once more, ten seconds later"
Check = Callable[[], object]


def renting(provider: str, request: Request, options: Renting, say: Say) -> int:
    """The requests, and under them the worst cost and a note for everything that a real run would refuse for."""
    profile, caps = request.profile, request.caps
    usd = profile.dated_usd_per_hour
    seconds = caps.seconds(usd)
    deadline = int(Clock().now() + seconds)
    write(made(provider, profile, request.purpose, deadline, seconds))
    work = ["ssh: probe, code, environment, model, experiment; results home every minute, and once more at its end"]
    ends = [ending(provider), *lists(provider), one(provider), AGAIN]
    stays = ["ssh: probe; the machine stays until `down`, or its deadline"]
    write([f"{one(provider)}, until it runs: price and state are read back", *(work + ends if request.job else stays)])
    say(f"{profile.name}: {profile.gpus} x {profile.listed.gpu}; interconnect: {profile.links}")
    if usd is None:
        say("no dated price is known: a real run quotes live")
    else:
        say(f"${usd:.2f} per hour, disk included, by the table of {profile.dated_of}")
        say(f"(source: {profile.listed.source})")
        say(describe_deadline(deadline, caps.max_usd if profile.dated_elsewhere else usd * seconds / 3600))
    if request.estimate is not None:
        say(request.estimate.in_words(usd))
    return done(say, lambda: check_key(provider), lambda: ssh_key(options.ssh_key), check_tools)


def other(provider: str, verb: str, options: Verb, profiles: Path, say: Say) -> int:
    """The same for a verb that rents no machine of a person's choice."""
    if verb == "selftest":
        profile = read_profiles(profiles, provider)["selftest"]
        profile = replace(profile, region=options.region or profile.region)
        _selftest(provider, profile, say)
    else:
        write(asked(provider, verb))
        _open(provider, options, say)
    needs: list[Check] = [lambda: check_key(provider)]
    if isinstance(options, OnMachine) or verb == "doctor":
        needs += [lambda: ssh_key(getattr(options, "ssh_key", None)), check_tools]
    return done(say, *needs)


def made(
    provider: str, profile: Profile, purpose: str, deadline: int, seconds: float, key: str = YOUR_KEY
) -> list[str]:
    """The requests of a launch, up to the create."""
    start = start_script(provider, dead_man(deadline, seconds), URL, key)
    quote = Quote(profile.dated_usd_per_hour or 0.0, profile.tier, True, "not asked")
    order = Order(Marks(purpose, "000000", deadline), profile, key, start, quote)
    if provider == "aws":
        from common.cloud.aws import requests_of

        return requests_of(order)
    return Runpod("", url=URL).requests(order)


def asked(provider: str, verb: str) -> list[str]:
    """What any other verb asks the provider."""
    every, machine, end = lists(provider), one(provider), ending(provider)
    bill = f"GET {URL}/v2/billing/pods?podId={{id}}&bucketSize=hour"
    return {
        **{"verify": [*every, machine, AGAIN], "sweep": [*every, end, *every]},
        **{"down": ["ssh: results", end, *every, machine, AGAIN], "sync": [machine, "ssh: results"]},
        **{"run": [machine, "ssh: code, environment, model, experiment; results home every minute"]},
        **{"cost": [bill if provider == "runpod" else "nothing: Cost Explorer lags a day"], "doctor": every},
    }[verb]


def lists(provider: str) -> list[str]:
    """Every call that shows what the account holds."""
    if provider == "aws":
        operations = ["describe_instances", *(kind[0] for kind in KINDS.values())]
        return ["sts get_caller_identity", *(f"ec2 {operation}" for operation in operations)]
    return [f"GET {URL}{path}" for path in LISTS]


def one(provider: str) -> str:
    """The call that shows one machine."""
    return f"GET {URL}/v2/pods/{{id}}" if provider == "runpod" else "ec2 describe_instances InstanceIds=[id]"


def ending(provider: str) -> str:
    """The call that ends one machine."""
    return f"DELETE {URL}/v2/pods/{{id}}" if provider == "runpod" else "ec2 terminate_instances InstanceIds=[id]"


def write(requests: list[str]) -> None:
    """Requests, on stdout."""
    for request in requests:
        sys.stdout.write(f"{shown(request)}\n")
    sys.stdout.flush()


def done(say: Say, *needs: Check) -> int:
    """The last lines of every dry run."""
    for line in missing(*needs):
        say(f"missing for a real run: {line}")
    say("nothing was asked of any network")
    return CLEAN


def _selftest(provider: str, profile: Profile, say: Say) -> None:
    usd = profile.dated_usd_per_hour
    price, most = "no dated price", ""
    if usd is not None:
        price = f"${usd:.2f} per hour by the table of {profile.dated_of}"
        most = f", at most ${usd * (SELFTEST_S + LATE_S + 120) / 3600:.2f} if it does not and is ended from here"
    say(f"{profile.gpus} x {profile.listed.gpu}, {price}: ends itself after {SELFTEST_S / 60:.0f} minutes{most}")
    write(made(provider, profile, "selftest", int(Clock().now() + SELFTEST_S), SELFTEST_S, ""))
    write([f"{one(provider)}, until it is gone", *lists(provider), one(provider), AGAIN])


def _open(provider: str, options: Verb, say: Say) -> None:
    """What is known here to be up, and what it can still cost: the verb itself costs nothing."""
    say("this verb rents nothing and costs nothing")
    for ledger in open_ledgers(options.results_dir, provider):
        say_open(ledger, say, Clock().now())
