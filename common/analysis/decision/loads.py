"""Every load that a result says something about: its rate in requests per second, and who was served in time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from common.analysis.concurrency.rows import GOOD_ENOUGH, who
from common.analysis.scaling.rows import THROUGHPUT, is_steady, samples
from common.core.arrivals import ClosedLoop, OpenLoop
from common.core.limits import LIMITED, RepeatTimes, RequestTimes, Share, least_limit_ms, pooled
from common.core.metrics import PERCENTILES
from common.core.plan import ParallelPlan
from common.core.stats import Estimate, geometric_mean
from common.core.workload import RecordedWorkload, Workload
from common.store.files import ResultPaths
from common.store.requests import load_requests, requests_file
from common.store.schema import Case, Result

# Engines as the plan alone would have them, under load that does not end: not batches, replays or other settings
CURVES = ("closed", "open", "fixed", "weak", "saturated", "ladder")


@dataclass(frozen=True)
class Work:
    """What a request is: mean tokens in and out; of recorded ones, which recording."""

    input_tokens: int
    output_tokens: int
    recording: str = ""

    def __str__(self) -> str:
        mean = " on average (recorded)" if self.recording else ""
        return f"{self.input_tokens} tokens in, {self.output_tokens} out{mean}"


@dataclass(frozen=True)
class Load:
    """One case under load.

    `level` is clients of a closed loop, or requests per second of an open one (`by_clock`).
    """

    case: Case
    path: Path
    work: Work
    level: float
    by_clock: bool
    rate: Estimate  # requests per second

    @property
    def plan(self) -> ParallelPlan:
        """The plan that was measured."""
        return self.case.plan

    @property
    def sized(self) -> float:
        """Requests per second to count on: the interval's lower bound, or the value where there is no interval."""
        return self.rate.value if self.rate.low is None else min(self.rate.low, self.rate.value)

    @property
    def words(self) -> str:
        """The load, for a person."""
        if self.by_clock:
            return f"{self.level:g}/s by the clock"
        return f"{self.level:g} client{'' if self.level == 1 else 's'}"

    @property
    def is_burst(self) -> bool:
        """Whether every client sent one request, all at once: none waited for an answer."""
        return not self.by_clock and self.case.workload.requests <= self.level

    @property
    def is_exact(self) -> bool:
        """Whether every request's times are known."""
        return all(isinstance(part, RequestTimes) for part in self.times)

    @cached_property
    def times(self) -> list[RequestTimes | RepeatTimes]:
        """One per repeat: every request's times where they lie beside the result, else what the repeat kept of them."""
        folder = ResultPaths(self.path).requests
        return [_requests(folder, self.case, repeat) or _kept(repeat) for repeat in self.case.repeats]

    def share(self, limits_ms: Mapping[str, float]) -> Share:
        """The share of requests, over all repeats, that met every limit; failed ones met none."""
        return pooled(self.times, limits_ms)

    def within(self, limits_ms: Mapping[str, float]) -> bool:
        """Whether at least nine requests of ten can be shown to have met every limit."""
        return self.share(limits_ms).low >= GOOD_ENOUGH

    def least_limit_ms(self, limits_ms: Mapping[str, float], name: str) -> float | None:
        """The strictest limit of this name that nine requests of ten met, the others as they are; None: none."""
        return least_limit_ms(self.times, limits_ms, name, GOOD_ENOUGH)


def loads_of(path: Path, result: Result) -> list[Load]:
    """The loads of a result that can be believed, of its own model on devices of its own."""
    counted = [case for case in result.cases if _counts(case) and not not_believed(case)]
    return [load for case in counted for load in _load(path, case)]


def of_one_work(loads: Sequence[Load], lengths: tuple[int | None, int | None]) -> tuple[list[Load], list[str]]:
    """The loads of one workload, and what was left out: rates of different requests are not comparable.

    `lengths` are the tokens in and out that are wanted; by default those of most loads of the newest result, which
    comes first.
    """
    fits = [load for load in loads if _fits(load.work, lengths)]
    if not fits:
        return [], [f"loads of {work}" for work in dict.fromkeys(load.work for load in loads)]
    newest = Counter(load.work for load in fits if load.path == fits[0].path)
    chosen = newest.most_common(1)[0][0]
    others = dict.fromkeys(load.work for load in loads if load.work != chosen)
    return [load for load in fits if load.work == chosen], [f"loads of {work}" for work in others]


def _fits(work: Work, lengths: tuple[int | None, int | None]) -> bool:
    return all(
        wanted in (None, had) for wanted, had in zip(lengths, (work.input_tokens, work.output_tokens), strict=True)
    )


def not_believed(case: Case) -> str:
    """Why a load that was measured does not count; nothing where it does, or where it is no such load."""
    if not _counts(case):
        return ""
    if case.is_invalid:
        return "its client is INVALID"
    if any(repeat.get("token_count_mismatches") for repeat in case.repeats):
        return "its answers were not as long as was asked for"
    return "it had fewer devices than its plan (oversubscribed)" if "oversubscribed" in case.flags else ""


def _counts(case: Case) -> bool:
    """Whether it is a steady load of the run's own model: ids of another's, or of a server's, begin with its name."""
    steady = isinstance(case.arrivals, ClosedLoop)
    if isinstance(case.arrivals, OpenLoop):
        steady = case.arrivals.final_rate_per_s is None
    steady = steady and isinstance(case.workload, Workload | RecordedWorkload) and case.curve in CURVES
    return steady and case.status == "ok" and bool(case.repeats) and who(case) == str(case.plan)


def _load(path: Path, case: Case) -> list[Load]:
    metric = f"steady_{THROUGHPUT}" if is_steady(case) else THROUGHPUT
    rates = samples(case, metric)
    if not rates or min(rates) <= 0:
        return []
    assert isinstance(case.workload, Workload | RecordedWorkload), "others are left out"
    recording = case.workload.sha256 if isinstance(case.workload, RecordedWorkload) else ""
    work = Work(case.workload.input_tokens, case.workload.output_tokens, recording)
    rate = geometric_mean("request_rate", "1/s", [value / case.workload.output_tokens for value in rates])
    if isinstance(case.arrivals, OpenLoop):
        return [Load(case, path, work, case.arrivals.rate_per_s, True, rate)]
    assert isinstance(case.arrivals, ClosedLoop), "others are left out"
    return [Load(case, path, work, case.arrivals.concurrency, False, rate)]


def _requests(folder: Path, case: Case, repeat: Mapping[str, float]) -> RequestTimes | None:
    """Every request of a repeat; None where the file is not there, or is not whole."""
    file = requests_file(folder, case.id, int(repeat["start"]), int(repeat.get("repeat", 0)))
    try:
        records = load_requests(file)
    except (OSError, ValueError, TypeError, KeyError):  # pyarrow's errors are ValueErrors
        return None
    return RequestTimes.of(records) if len(records) == repeat.get("num_prompts") and records else None


def _kept(repeat: Mapping[str, float]) -> RepeatTimes:
    """What a repeat says of its requests; percentiles of nobody knows how many show nothing."""
    held = {name: repeat[key] for name in LIMITED if (key := f"slo_{name}_ms") in repeat}
    good = repeat.get("good_fraction")
    if "completed" not in repeat:
        return RepeatTimes(1, 1, {}, held, good)
    percentiles = {
        name: {p: repeat[key] for p in PERCENTILES if (key := f"p{p}_{name}_ms") in repeat} for name in LIMITED
    }
    completed = max(int(repeat["completed"]), 0)
    return RepeatTimes(max(int(repeat.get("num_prompts", 1)), completed, 1), completed, percentiles, held, good)
