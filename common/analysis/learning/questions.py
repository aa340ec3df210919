"""What each experiment asks before it runs, and which number of its result is the answer.

A guess that was made before the numbers came is the only one that can be wrong, and so the only one that teaches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console

from common.analysis.concurrency.rows import who
from common.analysis.scaling.rows import samples, scaling_rows
from common.analysis.scaling.table import stdout
from common.analysis.verification.judgement import WEIGHT_SHARE
from common.analysis.wording import streams
from common.core.arrivals import ClosedLoop
from common.core.plan import ParallelPlan
from common.core.stats import Estimate, geometric_mean, ratio
from common.store.schema import Case, Guess, Result

MOST_TELLING = ("saturated", "fixed", "weak")
MIX, SHORT_WAIT = "mix-", "short_p99_ttft_over_alone"  # curves of mixed load, and a number of their repeats


@dataclass(frozen=True)
class Asked:
    """A question about one case of a run."""

    text: str
    case: str


@dataclass(frozen=True)
class Question:
    """A kind of question: `ask` finds what it is about among cases to be, `answer` reads it from the result."""

    unit: str
    ask: Callable[[Sequence[Case]], Asked | None]
    answer: Callable[[Result, str], Estimate | None]


def print_guess(result: Result, console: Console | None = None) -> None:
    """Guess, prediction and measurement under each other, and one sentence; nothing where nobody guessed."""
    lines = guess_lines(result)
    if not lines or result.guess is None:
        return
    console = console or stdout()
    console.print(f"\n[bold]Your guess[/]  {result.guess.question}", soft_wrap=True)
    for line in lines:
        console.print(f"  {line}", soft_wrap=not console.is_terminal, markup=False)


def guess_lines(result: Result) -> list[str]:
    """What was guessed, predicted and measured, all in the guess's unit, and a sentence; empty where nobody guessed."""
    if result.guess is None or result.experiment not in QUESTIONS:
        return []
    guess = result.guess
    measured = QUESTIONS[result.experiment].answer(result, guess.case)
    predicted = prediction(result, guess, measured)
    lines = [f"you guessed  {guess.value:.4g}{guess.unit}"]
    lines += [] if predicted is None else [f"predicted    {predicted.value:.4g}{guess.unit}"]
    return [*lines, f"measured     {_with_interval(measured, guess.unit)}", judgement(guess, measured)]


def prediction(result: Result, guess: Guess, measured: Estimate | None) -> Estimate | None:
    """What was predicted of the same number, where something was."""
    if measured is None:
        return None
    case = next((case for case in result.cases if case.id == guess.case), None)
    found = case.predicted if case else []
    return next((estimate for estimate in found if estimate.metric == measured.metric), None)


def judgement(guess: Guess, measured: Estimate | None) -> str:
    """How far off the guess was, in one sentence."""
    if measured is None or measured.value <= 0:
        return "This run has no answer: what was asked about was not measured."
    off = guess.value / measured.value - 1
    where = f"{abs(off):.0%} {'above' if off > 0 else 'below'} what was measured"
    if measured.low is None or measured.high is None:
        return f"Your guess is {where}." if abs(off) >= 0.005 else "Your guess is what was measured."
    if measured.low <= guess.value <= measured.high:
        return "Your guess lies in the interval: this run does not tell it from the truth."
    return f"Your guess is {where}, outside the interval: what did you leave out?"


def _with_interval(measured: Estimate | None, unit: str) -> str:
    if measured is None:
        return "nothing"
    text = f"{measured.value:.4g}{unit}"
    if measured.low is None or measured.high is None:
        return text
    return f"{text} [{measured.low:.4g}, {measured.high:.4g}]"


def _ask_scaling(cases: Sequence[Case]) -> Asked | None:
    """About the largest plan that splits the model, where every slot is busy if that is measured."""
    for curve in MOST_TELLING:
        here = [case for case in cases if case.curve == curve and "oversubscribed" not in case.flags]
        base = min((case.plan for case in here), key=_size, default=ParallelPlan())
        split = [case for case in here if case.plan.tp > 1 and case.plan.devices > base.devices]
        if split:
            asked = max(split, key=lambda case: (case.plan.devices, case.plan.tp, _streams(case)))
            load = "with every slot busy"
            if curve == "fixed":
                load = "at 1 stream" if _streams(asked) == 1 else f"at {_streams(asked)} streams"
            if curve == "weak":
                load = "with as many streams on each device"
            return Asked(f"How many times faster will {asked.plan} be than {base} {load}?", asked.id)
    return None


def _ask_plans(cases: Sequence[Case]) -> Asked | None:
    """About splitting inside layers against splitting by layers (else copies), on as many devices."""
    rivals = _rival_plans(cases)
    if rivals is None:
        return None
    split, other = rivals
    load = "at 1 stream" if _streams(split) == 1 else f"at {_streams(split)} streams"
    return Asked(f"How many times the tokens per second of {other.plan} will {split.plan} give {load}?", split.id)


def _gain_over_rival(result: Result, case: str) -> Estimate | None:
    asked = next((one for one in result.cases if one.id == case), None)
    rivals = _rival_plans([one for one in result.cases if asked and _streams(one) == _streams(asked)])
    if asked is None or rivals is None or rivals[0].id != case:
        return None
    pair = [samples(one, "output_throughput") for one in rivals]
    return ratio("gain_over_rival", "x", *pair) if all(pair) and min(map(min, pair)) > 0 else None


def _rival_plans(cases: Sequence[Case]) -> tuple[Case, Case] | None:
    """A plan that is tensor parallelism alone, at its highest fixed load, and its rival on as many devices."""
    own = [case for case in cases if case.curve == "fixed" and case.model is None and case.status != "skipped"]
    for split in sorted(own, key=lambda case: (-case.plan.devices, -_streams(case))):
        if split.plan != ParallelPlan(tp=split.plan.devices) or split.plan.devices == 1:
            continue
        alike = [case for case in own if case.plan.devices == split.plan.devices and _streams(case) == _streams(split)]
        others = sorted((case for case in alike if case.plan.tp == 1), key=lambda case: -case.plan.pp)
        if others:
            return split, others[0]
    return None


def _speedup(result: Result, case: str) -> Estimate | None:
    return next((row.speedup for row in scaling_rows(result) if row.case.id == case), None)


def _ask_concurrency(cases: Sequence[Case]) -> Asked | None:
    """About the steepest load of the smallest plan against its lightest."""
    rivals = _ladder(cases)
    if len(rivals) < 2:
        return None
    few, many = _streams(rivals[0]), _streams(rivals[-1])
    text = f"How many times the tokens per second of {streams(few)} will {streams(many)} give ({who(rivals[0])})?"
    return Asked(text, rivals[-1].id)


def _gain_from_load(result: Result, case: str) -> Estimate | None:
    rivals = [one for one in _ladder(result.cases) if samples(one, "output_throughput")]
    asked = next((one for one in rivals if one.id == case), None)
    if asked is None or rivals[0] is asked:
        return None
    pair = [samples(one, "output_throughput") for one in (asked, rivals[0])]
    if min(map(min, pair)) <= 0:
        return None
    return ratio("gain_from_load", "x", *pair)


def _ladder(cases: Sequence[Case]) -> list[Case]:
    """Closed loops of the smallest plan, lightest first, of one curve."""
    closed = [case for case in cases if isinstance(case.arrivals, ClosedLoop) and case.status != "skipped"]
    if not closed:
        return []
    least = min(closed, key=lambda case: (*_size(case.plan), _streams(case)))
    alike = [case for case in closed if (case.plan, case.curve) == (least.plan, least.curve)]
    return sorted(alike, key=_streams)


def _ask_mixed(cases: Sequence[Case]) -> Asked | None:
    """About the short class where a long prompt is not cut up, or else under whatever is measured first."""
    mixed = [case for case in cases if case.curve.startswith(MIX) and case.status != "skipped"]
    if not mixed:
        return None
    asked = next((case for case in mixed if case.curve == f"{MIX}off"), mixed[0])
    chunked = "Chunked prefill is off" if asked.curve == f"{MIX}off" else f"The engine is '{asked.curve[len(MIX) :]}'"
    text = "how many times their p99 TTFT alone will short requests have beside very long prompts?"
    return Asked(f"{chunked}: {text}", asked.id)


def _slowdown(result: Result, case: str) -> Estimate | None:
    found = next((samples(one, SHORT_WAIT) for one in result.cases if one.id == case), [])
    return geometric_mean(SHORT_WAIT, "x", found) if found and min(found) > 0 else None


def _ask_verification(cases: Sequence[Case]) -> Asked | None:
    split = [case for case in cases if case.plan.tp > 1 and case.status != "skipped"]
    if not split:
        return None
    asked = max(split, key=lambda case: case.plan.tp)
    return Asked(f"What share of the model's weights will one device hold under {asked.plan}, in percent?", asked.id)


def _weight_share(result: Result, case: str) -> Estimate | None:
    """As the verification left it beside its prediction, both in percent of the weights at TP=1."""
    asked = next((one for one in result.cases if one.id == case), None)
    found = asked.summary if asked else []
    return next((estimate for estimate in found if estimate.metric == WEIGHT_SHARE), None)


def _size(plan: ParallelPlan) -> tuple[int, int, ParallelPlan]:
    return plan.devices, plan.replicas, plan


def _streams(case: Case) -> int:
    return case.arrivals.concurrency if isinstance(case.arrivals, ClosedLoop) else 0


QUESTIONS = {
    "benchmark_scaling": Question("x", _ask_scaling, _speedup),
    "run_distributed_benchmark": Question("x", _ask_scaling, _speedup),
    "explain_loss": Question("x", _ask_scaling, _speedup),
    "compare_parallel_plans": Question("x", _ask_plans, _gain_over_rival),
    "simulate_concurrent_requests": Question("x", _ask_concurrency, _gain_from_load),
    "test_mixed_workload": Question("x", _ask_mixed, _slowdown),
    "test_tensor_parallel": Question("%", _ask_verification, _weight_share),
}
