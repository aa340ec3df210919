"""Two results side by side: which cases can be compared, by how much they differ, and what the intervals cover."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from common.analysis.comparison.differences import Difference, paired
from common.analysis.scaling.rows import samples
from common.core.stats import Estimate, ratio
from common.store.schema import Case, Result

METRICS = ("output_throughput", "median_ttft_ms", "median_tpot_ms")
STEADY = "steady_"
LADDER = "ladder"  # rungs of the search for saturation, measured once each


@dataclass(frozen=True)
class ComparedCase:
    """One case of both results.

    `ratios`: B over A, by the metric they are of, as named in `vllm bench serve` (with `steady_` before it where both
    sides have a steady window in every repeat); throughput alone where each side found a load of its own, because times
    to a token grow with the load. `why_not`: why there are none. `doubts`: why not to trust them.
    """

    a: Case
    b: Case
    ratios: dict[str, Estimate] = field(default_factory=dict)
    why_not: str = ""
    doubts: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """The case's name in both results."""
        return self.a.id

    def ratio_of(self, metric: str) -> Estimate | None:
        """The ratio of a metric, over the steady window where there is one."""
        return self.ratios.get(STEADY + metric) or self.ratios.get(metric)


def compared_cases(a: Result, b: Result) -> list[ComparedCase]:
    """Every case that is in both, rungs of the search for saturation left out."""
    return [_compared(left, right) for left, right in paired(a, b) if not left.curve.startswith(LADDER)]


def coverage(compared: Sequence[ComparedCase], found: Sequence[Difference]) -> list[str]:
    """What the intervals hold and what they do not, in sentences."""
    shown = [case for case in compared if case.ratios]
    if not shown:
        return []
    lines = [_of_starts(shown)]
    differing = list(dict.fromkeys(one.factor for one in found if not one.only_shown))
    if "machine" in differing:
        lines.append("One machine on each side: how much machines of one kind differ is not covered.")
    else:
        lines.append(
            "Nothing recorded tells the two machines apart: the same one, or one just like it. The runs were not"
            " interleaved: drift of the machine between them is not covered."
        )
    if len(differing) > 1:
        lines.append(f"Several things differ ({', '.join(differing)}): the ratios do not tell which of them it is.")
    lines += _of_chance(shown)
    return lines


def _compared(a: Case, b: Case) -> ComparedCase:
    if reasons := _of_both(a, b, _not_measured) or _of_both(a, b, _not_valid):
        return ComparedCase(a, b, why_not="; ".join(reasons))
    ratios = {}
    for plain in METRICS if a.arrivals == b.arrivals else METRICS[:1]:
        metric = STEADY + plain if _is_everywhere(STEADY + plain, a, b) else plain
        upper, lower = samples(b, metric), samples(a, metric)
        if upper and lower and min(upper) > 0 and min(lower) > 0:
            ratios[metric] = ratio(metric, "", upper, lower)
    return ComparedCase(a, b, ratios, "" if ratios else "no metric is in both", _of_both(a, b, _doubts))


def _not_measured(case: Case) -> list[str]:
    """Why a side has no numbers; empty where it has."""
    if case.status != "ok":
        return [f"{case.status}: {case.error.message.rstrip('.')}" if case.error else case.status]
    return [] if case.repeats else ["not measured"]


def _not_valid(case: Case) -> list[str]:
    """Why the client of a side is not to be believed at all; empty where it is."""
    if case.client is None or not case.is_invalid:
        return []
    return [f"client INVALID: {', '.join(case.client.reasons) or 'no reason given'}. {case.client.remedy}".rstrip(". ")]


def _doubts(case: Case) -> list[str]:
    found = [f"{check.name}: {check.detail}" for check in case.checks if check.passed is False]
    if case.client is not None and case.client.word == "DOUBTFUL":
        found.insert(0, f"client DOUBTFUL: {', '.join(case.client.reasons) or 'no reason given'}")
    return [*found, "requests failed"] if "failed_requests" in case.flags else found


def _of_both(a: Case, b: Case, reasons: Callable[[Case], list[str]]) -> tuple[str, ...]:
    """The reasons of each side, with the side before them."""
    left, right = reasons(a), reasons(b)
    both = [f"in A and B: {reason}" for reason in left if reason in right]
    only = [f"in A: {reason}" for reason in left if reason not in right]
    return (*both, *only, *(f"in B: {reason}" for reason in right if reason not in left))


def _is_everywhere(metric: str, *cases: Case) -> bool:
    return all(metric in repeat for case in cases for repeat in case.repeats)


def _starts(case: Case) -> int:
    return len({repeat["start"] for repeat in case.repeats})


def _of_starts(shown: Sequence[ComparedCase]) -> str:
    """Whether a sample is an engine start or a repeat, on each side."""
    sides = [[_starts(case.a) for case in shown], [_starts(case.b) for case in shown]]
    few, most = [min(starts) for starts in sides], [max(starts) for starts in sides]
    if min(few) > 1:
        counts = " and ".join(_range(low, high) for low, high in zip(few, most, strict=True))
        return f"Intervals are 95 % over several engine starts on each side ({counts} of A and B)."
    within = "another start may differ by more (--preset lab)"
    if max(most) == 1:
        return f"Intervals are 95 % over repeats inside one engine start on each side: {within}."
    units = ["repeats inside one start" if starts == 1 else f"{starts} or more starts" for starts in few]
    return f"Intervals are 95 %; samples of A are {units[0]}, of B {units[1]}: {within}."


def _range(low: int, high: int) -> str:
    return f"{low}" if low == high else f"{low} to {high}"


def _of_chance(shown: Sequence[ComparedCase]) -> list[str]:
    intervals = sum(estimate.low is not None for case in shown for estimate in case.ratios.values())
    if intervals < 20:
        return []
    return [f"Of {intervals} intervals of 95 % about {intervals / 20:.0f} miss the truth by chance alone."]
