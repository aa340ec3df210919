"""Dry runs: what a verb could cost by the dated table, then what it would ask; nothing here touches a network.

What a person must know comes first, on stderr, and its shortest form once more as the last line; between them stand, on
stdout, the very requests.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from common.cloud.aws_leftovers import KINDS
from common.cloud.caps import clock_time
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
from common.cloud.shown import lines, shown, wrapped
from common.cloud.start import start_script
from common.cloud.upkeep import LATE_S, SELFTEST_S, say_open

YOUR_KEY = "<your public key>"
AGAIN = "the account, the lists and the machine once more, ten seconds later"
Check = Callable[[], object]


def renting(provider: str, request: Request, options: Renting, say: Say) -> int:
    """The worst case, the estimate, everything that a real run would refuse for; then the requests."""
    profile, caps, usd = request.profile, request.caps, request.profile.dated_usd_per_hour
    seconds = caps.seconds(usd)
    deadline = int(Clock().now() + seconds)
    worst_usd = caps.max_usd if usd is None or profile.dated_elsewhere else usd * seconds / 3600
    price = "no dated price is known" if usd is None else f"${usd:.2f} per hour, disk included, by the table of"
    price += "" if usd is None else f" {profile.dated_of}"
    say = wrapped(say)
    say(describe_deadline(deadline, worst_usd))
    say(f"caps: ${caps.max_usd:g} and {caps.max_hours:g} hours; the nearer one at the live price is the deadline")
    if request.estimate is not None:
        say(request.estimate.in_words(usd, profile.dated_elsewhere))
    say(f"{profile.name}: {profile.gpus} x {profile.listed.gpu}; interconnect: {profile.links}")
    say(f"price: {price}; a real run quotes live (source: {profile.listed.source})")
    requests = made(provider, profile, request.purpose, deadline, seconds)
    requests.append(f"{one(provider)}, until it runs: price and state are read back")
    if request.job is None:
        requests.append("ssh: probe; the machine stays until `down`, or its deadline")
    else:
        requests.append("ssh: probe, code, environment, model, experiment; results home every minute, and at its end")
        requests += [ending(provider), *lists(provider), one(provider), AGAIN]
    short = f"at most ${worst_usd:.2f}, gone by {clock_time(deadline)} if it began now"
    needs = (lambda: check_key(provider), lambda: ssh_key(options.ssh_key), check_tools)
    return _shown(say, short, requests, *needs)


def other(provider: str, verb: str, options: Verb, profiles: Path, say: Say) -> int:
    """The same for a verb that rents no machine of a person's choice."""
    say = wrapped(say)
    if verb == "selftest":
        profile = read_profiles(profiles, provider)["selftest"]
        profile = replace(profile, region=options.region or profile.region)
        short, requests = _selftest(provider, profile)
    else:
        short, requests = "this verb rents nothing and costs nothing", asked(provider, verb)
    say(short)
    for ledger in open_ledgers(options.results_dir, provider):  # what is up, and what it can still cost
        say_open(ledger, say, Clock().now())
    needs: list[Check] = [lambda: check_key(provider)]
    if isinstance(options, OnMachine) or verb == "doctor":
        needs += [lambda: ssh_key(getattr(options, "ssh_key", None)), check_tools]
    return _shown(say, short, requests, *needs)


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
    """Requests, on stdout: what can be sent as it stands is left whole, what is described is wrapped."""
    for request in requests:
        whole = "\n" in request or len(request.split()) <= 2
        sys.stdout.write(f"{shown(request) if whole else chr(10).join(lines(request))}\n")
    sys.stdout.flush()


def _shown(say: Say, short: str, requests: list[str], *needs: Check) -> int:
    """What is missing, the requests, and the shortest form of what was said before them."""
    for line in missing(*needs):
        say(f"missing for a real run: {line}")
    say("what would be asked:")
    write(requests)
    say(f"in short: {short}; nothing was asked of any network")
    return CLEAN


def _selftest(provider: str, profile: Profile) -> tuple[str, list[str]]:
    usd = profile.dated_usd_per_hour
    price, most = "no dated price", ""
    if usd is not None:
        price = f"${usd:.2f} per hour by the table of {profile.dated_of}"
        most = f", at most ${usd * (SELFTEST_S + LATE_S + 120) / 3600:.2f} if it does not and is ended from here"
    short = f"{profile.gpus} x {profile.listed.gpu}, {price}: ends itself after {SELFTEST_S / 60:.0f} minutes{most}"
    requests = made(provider, profile, "selftest", int(Clock().now() + SELFTEST_S), SELFTEST_S, "")
    return short, [*requests, f"{one(provider)}, until it is gone", *lists(provider), one(provider), AGAIN]
