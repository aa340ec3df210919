"""Verbs about the account: doctor and price."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from common.cloud.checks import check_tools, missing, profile_of, ssh_key
from common.cloud.errors import BAD_INPUT, CLEAN, CloudError
from common.cloud.options import Doctor, Price, Verb
from common.cloud.prices import table
from common.cloud.profiles import Profile, read_profiles
from common.cloud.provider import Finding, Provider
from common.cloud.providers import provider_from, spec_of
from common.cloud.runpod import Runpod
from common.cloud.session import Say
from common.cloud.shown import wrapped

STATES = {True: "ok", False: "MISSING", None: "note"}


def hf_token() -> str | None:
    """The token for gated models, sent to the machine through a pipe; None where none is set."""
    return os.environ.get("HF_TOKEN", "").strip() or None


def price(provider: str, profiles: Path, options: Price, url: str | None, say: Say) -> int:
    """Every profile, or the one that is named: dated price, live price, stock."""
    named = options.profile is not None or options.gpu is not None
    chosen = [profile_of(options, profiles, provider)] if named else list(read_profiles(profiles, provider).values())
    chosen = [replace(one, region=options.region or one.region) for one in chosen]
    say = wrapped(say)
    elsewhere = next((f"; {one.dated_elsewhere}" for one in chosen if one.dated_elsewhere), "")
    say(f"dated table compiled {table()['compiled']}{elsewhere}")
    client = None if options.dry_run else provider_from(spec_of(provider, options.region, url))
    code = CLEAN
    for profile in (one for one in chosen if one.instead is None):
        dated = profile.dated_usd_per_hour
        then = "no dated price" if dated is None else f"${dated:.2f} ({profile.listed.read_on or 'no date'})"
        live, failed = ("not asked", False) if client is None else _live(client, profile)
        code = BAD_INPUT if failed and named else code
        links = profile.listed.links if profile.gpus > 1 else "-"
        say(f"{profile.name:8} {profile.gpus} x {profile.listed.gpu:14} {links:6} {then}; live: {live}")
    say("over PCIe tensor parallelism looks worse than over NVLink")
    return code


def doctor(provider: str, options: Verb, url: str | None, say: Say) -> int:
    """Each thing that a renting needs: there, or how to get it."""
    found: list[Finding] = [(False, line) for line in missing(check_tools, lambda: ssh_key(None))]
    if not found:
        found.append((True, "ssh, git and an ssh key are here; files travel by tar over ssh, rsync is not needed"))
    try:
        spec = spec_of(provider, options.region, url)
        client = provider_from(spec)
    except CloudError as error:
        found.append((False, str(error)))
    else:
        found += list(_asked(client))
        found += client.state_of_account()
        found.append((None, "the right to make and end machines: not told by the API; `selftest` shows it"))
        if isinstance(client, Runpod) and isinstance(options, Doctor) and options.check_api:
            found += [(False, line) for line in client.changed_fields()] or [(True, "the API knows every field sent")]
    for fine, line in found:
        say(f"{STATES[fine]:7} {line}")
    return BAD_INPUT if any(fine is False for fine, _ in found) else CLEAN


def _live(client: Provider, profile: Profile) -> tuple[str, bool]:
    try:
        quote = client.quote(profile)
    except CloudError as error:
        return str(error), True
    return f"${quote.usd_per_hour:.2f} ({quote.detail})", False


def _asked(client: Provider) -> Iterator[Finding]:
    """Rights, by asking for what will be asked."""
    calls: dict[str, Callable[[], object]] = {"machines": client.machines, "what else bills": client.leftovers}
    for name, call in calls.items():
        try:
            answer = call()
        except CloudError as error:
            yield False, f"{name}: {error}"
        else:
            assert isinstance(answer, list)
            yield True, f"the account lists its {name}: {len(answer)}"
            yield from ((False, f"{one.id} ({one.name}) is of the lab: `verify`") for one in answer if one.lab_id)
