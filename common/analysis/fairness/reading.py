"""From a result of mixed load to sentences: what a class lost beside another, what an engine's setting gave back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from common.analysis.scaling.reading import client_words, left_out, of_intervals
from common.analysis.scaling.rows import samples
from common.analysis.wording import CARRIES_OVER, interval
from common.core.fairness import FEWEST_FOR_P99
from common.core.mix import MixedWorkload, RequestClass
from common.core.plan import ParallelPlan
from common.core.plural import plural
from common.core.stats import Estimate, geometric_mean, ratio
from common.store.schema import Case, Result

MIX = "mix-"
SHORT, LONG = "short", "long"
# (variant, what it is held against, what differs between the two)
COMPARISONS = (
    ("on", "off", "Chunked prefill"),
    ("on", "control", "Cutting prompts up, chunked prefill on in both"),
    ("control", "off", "The switch alone, no prompt cut up in either"),
    ("threshold", "on", "A cap on the part of one prompt in a step, beside chunked prefill"),
    ("priority", "on", "Priority for short requests, beside chunked prefill"),
)
# Figures of a class that variants are compared by, and their names in a sentence
FIGURES = {
    SHORT: (("p99_ttft", "p99 TTFT"), ("p99_e2el", "p99 E2EL"), ("max_itl", "longest standstill of an answer")),
    LONG: (("p50_ttft", "median TTFT"), ("p50_e2el", "median E2EL")),
}


@dataclass(frozen=True)
class Change:
    """A figure of a class under one variant over the same under another; below 1, it fell."""

    request_class: str
    name: str
    ratio: Estimate

    @property
    def unresolved(self) -> bool:
        """Whether the interval does not tell a change from none; one sample, without an interval, never does."""
        return self.ratio.unresolved


def mixes(result: Result, plan: ParallelPlan | None = None) -> list[Case]:
    """The measured cases of mixed load, of one plan if it is given, in the order of the result."""
    found = [case for case in result.cases if case.curve.startswith(MIX) and case.status == "ok" and case.repeats]
    return [case for case in found if plan is None or case.plan == plan]


def plans_of(result: Result) -> list[ParallelPlan]:
    """Plans that were measured, smallest first."""
    return sorted({case.plan for case in mixes(result)}, key=lambda plan: (plan.devices, plan))


def variant_of(case: Case) -> str:
    """`on`, `off`, ...: which engine it was."""
    return case.curve.removeprefix(MIX)


def classes_of(case: Case) -> Sequence[RequestClass]:
    """The classes of its requests."""
    return case.workload.classes if isinstance(case.workload, MixedWorkload) else ()


def estimate(case: Case, metric: str, unit: str = "ms") -> Estimate | None:
    """A number of the case with its interval, over starts where it has several and else over repeats.

    `None` where a repeat lacks it (a failed request stands at infinity in it) or has it at zero.
    """
    values = samples(case, metric) if all(metric in repeat for repeat in case.repeats) else []
    return geometric_mean(metric, unit, values) if values and min(values) > 0 else None


def total(case: Case, metric: str) -> int:
    """A count, summed over all repeats."""
    return round(sum(repeat.get(metric, 0.0) for repeat in case.repeats))


def changes(case: Case, against: Case) -> list[Change]:
    """What differs for each class between two variants, with Welch's interval; nothing where a client is INVALID."""
    if case.is_invalid or against.is_invalid:
        return []
    found = []
    for name in (one.name for one in classes_of(case)):
        for figure, words in FIGURES.get(name, ()):
            key = f"{name}_{figure}_ms"
            if estimate(case, key) and estimate(against, key):
                found.append(Change(name, words, ratio(key, "", samples(case, key), samples(against, key))))
    return found


def compared(result: Result) -> list[tuple[str, Case, Case, list[Change]]]:
    """(what differs, variant, what it is held against, changes) of every comparison the result has both sides of."""
    found = []
    for plan in plans_of(result):
        cases = {variant_of(case): case for case in mixes(result, plan)}
        for variant, against, words in COMPARISONS:
            if variant in cases and against in cases and (made := changes(cases[variant], cases[against])):
                found.append((words, cases[variant], cases[against], made))
    return found


def read_fairness(result: Result) -> list[str]:
    """Sentences for under the table."""
    return [*losses(result), *verdicts(result), *caveats(result), *left_out(result)]


def losses(result: Result) -> list[str]:
    """What short requests lose beside long ones, under each variant, against the same requests alone."""
    lines = []
    for case in mixes(result):
        first = estimate(case, f"{SHORT}_p99_ttft_over_alone", "")
        if first is None or case.is_invalid:
            continue
        still = estimate(case, f"{SHORT}_max_itl_over_alone", "")
        text = f"{case.plan}, {setting(case)}: beside long requests the short ones' p99 TTFT is {_times(first)}"
        text += f", and an answer stands still for up to {_times(still)}" if still else ""
        lines.append(f"{text}.")
    return lines


def verdicts(result: Result) -> list[str]:
    """What the short class gained from each variant, and what the long one paid."""
    lines = []
    for words, case, against, made in compared(result):
        parts = []
        for name, verb in ((SHORT, "short requests"), (LONG, "long requests")):
            own = [_in_words(change) for change in made if change.request_class == name]
            parts += [f"{verb}: {', '.join(own)}"] if own else []
        lines.append(f"{words} ({case.plan}, {variant_of(case)} against {variant_of(against)}): {'; '.join(parts)}.")
    return lines


def finding(result: Result) -> str:
    """The first comparison in one sentence: the title of the figures."""
    found = compared(result)
    if not found:
        return "No two engines were compared under mixed load"
    words, _, _, made = found[0]
    short = [change for change in made if change.request_class == SHORT]
    resolved = [f"{change.name} {change.ratio.value:.2f}×" for change in short if not change.unresolved]
    same = [change.name for change in short if change.unresolved]
    text = f"{words} changes short requests' {', '.join(resolved)}" if resolved else f"{words} changes nothing resolved"
    return text + (f"; not resolved: {', '.join(same)}" if same else "")


def caveats(result: Result) -> list[str]:
    """What the numbers do not show."""
    cases = mixes(result)
    lines = [*client_words(result), *of_intervals(cases)]
    if any(fewest_requests(case, one) < FEWEST_FOR_P99 for case in cases for one in classes_of(case)):
        lines.append(
            f"Classes with fewer than {FEWEST_FOR_P99} requests in a repeat: their p99 (marked ^) is the slowest or"
            " nearly the slowest request."
        )
    failed = sum(total(case, f"{one.name}_failed") for case in cases for one in classes_of(case))
    if failed:
        lines.append(
            f"{plural(failed, 'request')} failed and count as infinitely slow: a figure with part in one is absent."
        )
    if result.environment.get("device_kind") == "cpu":
        lines.append(CARRIES_OVER)
    return lines


def fewest_requests(case: Case, one: RequestClass) -> float:
    """Requests of a class in a repeat."""
    return min((repeat.get(f"{one.name}_requests", math.inf) for repeat in case.repeats), default=math.inf)


def setting(case: Case) -> str:
    """What an engine says of its prefill, in words: `off (no chunked prefill, budget 2304)`."""
    settings = case.engine.get("settings", {})
    if "enable_chunked_prefill" not in settings:
        return variant_of(case)
    parts = ["chunked prefill" if settings["enable_chunked_prefill"] else "no chunked prefill"]
    parts += [f"budget {settings['max_num_batched_tokens']}"]
    threshold = settings.get("long_prefill_token_threshold")
    parts += [f"at most {threshold} of one prompt"] if threshold else []
    parts += ["by priority"] if settings.get("scheduling_policy") == "priority" else []
    return f"{variant_of(case)} ({', '.join(parts)})"


def _times(found: Estimate) -> str:
    unresolved = " (not resolved from no loss)" if found.unresolved else ""
    return f"{_span(found)} times what it is alone{unresolved}"


def _span(found: Estimate) -> str:
    """Three digits that mean something: `0.27 [0.25, 0.29]`, `83 [71, 96]`."""
    return interval(found, 2 if found.value < 10 else 1 if found.value < 100 else 0)


def _in_words(change: Change) -> str:
    unresolved = " (not resolved from unchanged)" if change.unresolved else ""
    return f"{change.name} {_span(change.ratio)}x{unresolved}"
