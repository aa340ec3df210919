"""The whole account by the lab's mark, anybody's: what `verify` and `sweep` look at."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path

from common.cloud.errors import BILLING, CLEAN, ProviderError
from common.cloud.flow import World
from common.cloud.ledger import ledgers
from common.cloud.marks import read_name
from common.cloud.provider import Leftover, Machine


@dataclass
class Survey:
    """What bears the mark, what does not, and which calls were not answered."""

    ours: list[Machine | Leftover] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    unanswered: list[str] = field(default_factory=list)


def survey(world: World, results: Path) -> Survey:
    """One look, at the lists and at every machine that an open ledger here knows by its id."""
    found = Survey()
    things: list[Machine | Leftover] = []
    try:
        things += [machine for machine in world.provider.machines() if machine.bills]
    except ProviderError as error:
        found.unanswered.append(str(error))
    try:
        things += world.provider.leftovers()
    except ProviderError as error:
        found.unanswered.append(str(error))
    found.ours = [thing for thing in things if thing.lab_id is not None]
    found.others = [f"{thing.id} {thing.name}" for thing in things if thing.lab_id is None]
    for machine_id in sorted(_remembered(world, results) - {one.id for one in found.ours}):
        try:
            machine = world.provider.get(machine_id)
        except ProviderError as error:
            found.unanswered.append(str(error))
            continue
        if machine is not None and machine.bills:
            found.ours.append(machine)
    return found


def end_listed(world: World, results: Path, over: Sequence[Machine | Leftover], alive: AbstractSet[str | None]) -> int:
    """End these, and look until they are gone; the exit code."""
    began = world.clock.now()
    left = list(over)
    while True:
        for one in left:
            try:
                world.provider.terminate(one.id) if isinstance(one, Machine) else world.provider.clear(one)
            except ProviderError as error:
                world.say(f"{one.id}: {error}")
        world.clock.sleep(world.pauses.between_s)
        found = survey(world, results)
        left = [one for one in found.ours if one.lab_id not in alive]
        if not left and not found.unanswered:
            world.say("ended, and no longer listed")
            return CLEAN
        if world.clock.now() - began > world.pauses.insist_s:
            for one in left:
                world.say(f"{one.id} STILL BILLS. End it: {world.provider.by_hand(one.id)}")
            return BILLING


def deadline_of(thing: Machine | Leftover) -> float:
    """The deadline in its name; 0 where it has none."""
    marks = read_name(thing.name)
    return 0.0 if marks is None else marks.deadline


def _remembered(world: World, results: Path) -> set[str]:
    """Ids of machines whose end no receipt here proves."""
    kind = world.provider.kind
    mine = [one for one in ledgers(results) if (one.last("intent") or {}).get("provider") == kind]
    return {machine_id for ledger in mine if not ledger.closed for machine_id in ledger.machine_ids()}
