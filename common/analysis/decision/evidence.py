"""Which results a decision rests on: of one machine, one model and one set of engine settings; the rest is named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.analysis.comparison.differences import Difference, differences
from common.analysis.decision.loads import Load, loads_of, not_believed, of_one_work
from common.analysis.frames import load_sound, results_under
from common.analysis.learning.evidence import gather, has_sound_numbers
from common.analysis.wording import machine
from common.core.plan import ParallelPlan
from common.store.files import StoreError
from common.store.schema import Result

EXPERIMENTS = (
    *("simulate_concurrent_requests", "compare_parallel_plans", "run_distributed_benchmark", "benchmark_scaling"),
)
Dated = tuple[Path, Result]
Objection = Callable[[Result], str]  # why a result does not count; nothing where it does


@dataclass(frozen=True)
class Evidence:
    """Results that agree with the newest of them, newest first; and what was left out, with the reason.

    `unusable` are those that agree too, and of which no load can be believed.
    """

    results: list[Dated]
    left_out: list[str]
    unusable: list[Dated] = field(default_factory=list)

    def loads(self, lengths: tuple[int | None, int | None]) -> tuple[list[Load], list[str]]:
        """The loads of one workload, and all that was left out; `lengths` in and out, None for whichever."""
        every = [load for dated in self.results for load in loads_of(*dated)]
        loads, others = of_one_work(every, lengths)
        return loads, [*self.left_out, *others, *(line for _, result in self.results for line in _doubted(result))]

    def dropped(self) -> list[str]:
        """The plans that were measured and of which no load counts, with the reason."""
        kept = {load.plan for dated in self.results for load in loads_of(*dated)}
        reasons: dict[ParallelPlan, str] = {}
        for _, result in (*self.results, *self.unusable):
            for case in result.cases:
                if case.plan not in kept and (why := not_believed(case)):
                    reasons.setdefault(case.plan, f"{case.plan} was measured and does not count: {why} ({case.id}).")
        return list(reasons.values())

    def behind(self, loads: Sequence[Load]) -> list[Dated]:
        """The results that these loads are from, newest first."""
        return [one for one in self.results if any(load.path == one[0] for load in loads)]


def own_evidence(folder: Path, objection: Objection) -> Evidence:
    """The newest of one's own results, and the older ones that agree with it; committed references stand elsewhere."""
    found = gather(folder)
    left_out = [line for path, line in found.unreadable if path.parent.name in EXPERIMENTS]
    mine = [(path, result) for path, result in found.results if result.experiment in EXPERIMENTS]
    whole = [one for one in mine if one[1].status == "complete"]
    left_out += [f"{path.name} is unfinished" for path, result in mine if result.status != "complete"]
    return _agreeing(whole, objection, left_out)


def given_evidence(places: Sequence[Path], objection: Objection) -> Evidence:
    """The results in these files and folders, newest first, as far as they agree.

    Raises:
        StoreError: one cannot be read, none holds a load, or they are of several machines or models.
    """
    paths = [path for place in places for path in (results_under(place) if place.is_dir() else [place])]
    results = [(path, load_sound(path)) for path in dict.fromkeys(paths)]
    wrong = [path for path, result in results if not has_sound_numbers(result)]
    if wrong:
        raise StoreError(f"{wrong[0]} holds numbers that the lab does not write; measure again")
    loaded = [one for one in results if one[1].experiment in EXPERIMENTS and loads_of(*one)]
    if not loaded:
        where = ", ".join(map(str, places))
        if doubted := [line for _, result in results for line in _doubted(result)]:
            raise StoreError(f"nothing under {where} counts ({doubted[0]}): measure again")
        raise StoreError(f"nothing under {where} was measured under load; give results of {', '.join(EXPERIMENTS)}")
    for what, name in {"machines": machine, "models": _model}.items():
        names = sorted({name(result) for _, result in loaded})
        if len(names) > 1:
            raise StoreError(f"results of {len(names)} {what} ({'; '.join(names)}): give --results of one of them")
    loaded.sort(key=lambda one: one[0].name, reverse=True)
    unusable = [(path, result) for path, result in results if not loads_of(path, result) and _doubted(result)]
    return _agreeing([*loaded, *unusable], objection, [])


def _agreeing(results: Sequence[Dated], objection: Objection, left_out: list[str]) -> Evidence:
    kept: list[Dated] = []
    unusable: list[Dated] = []
    for path, result in results:
        reason = objection(result)
        if not reason and not loads_of(path, result):
            reason = next(iter(_doubted(result)), "no load of it can be used")
            unusable.append((path, result))
        if not reason and kept:
            reason = _disagreement(kept[0][1], result)
        if reason:
            left_out.append(f"{path.name}: {reason}")
        else:
            kept.append((path, result))
    agree = [one for one in unusable if not kept or not _disagreement(kept[0][1], one[1])]
    return Evidence(kept, left_out, agree)


def _doubted(result: Result) -> list[str]:
    """The loads that were measured and do not count, each with the reason."""
    return [f"{case.id}: {why}" for case in result.cases if case.repeats and (why := not_believed(case))]


def _disagreement(first: Result, other: Result) -> str:
    """What keeps two results from speaking of the same engine on the same machine; nothing where they agree."""
    found = [one for one in differences(first, other) if _of_the_engine(one)]
    if not found:
        return ""
    more = f", and {len(found) - 1} more differences" if len(found) > 1 else ""
    name, newest, this = found[0].name, found[0].a, found[0].b
    if newest is None:
        words = f"{name} is {_short(this)}, which the newest result does not say"
    elif this is None:
        words = f"it does not say {name}, which is {_short(newest)} in the newest result"
    else:
        return f"{name} is {_short(this)}, in the newest result {_short(newest)}{more}"
    return f"{words}{more}: another version of the lab measured it; measure again to count both"


def _of_the_engine(difference: Difference) -> bool:
    """Not the loads that were asked for, which are told apart one by one, nor what is only shown."""
    measures_alike = ("option ", "workload.", "flag ")
    if difference.only_shown or difference.factor in ("workload", "method"):
        return False
    return not difference.name.startswith(measures_alike)


def _model(result: Result) -> str:
    return str(result.config.get("model", "unknown model"))


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
