"""The card, and predictions beside measurements, as lines of text."""

from __future__ import annotations

from collections.abc import Sequence

from common.core.beside import Beside
from common.core.plural import plural
from common.predict.calibrate import stored_priors
from common.predict.card import Card, Fit, Range, usd_per_million
from common.predict.measured import THROUGHPUT, NotPredictableError, predict_result
from common.predict.wanted import Ask
from common.store.schema import Result

STEADY = f"steady_{THROUGHPUT}"
WHOLE = "Measured rates here are of whole repeats, start and end included; a scaling table's may be of steady windows."
FEW = 10  # below that a whole number says too little
FEWER = 100  # measured tokens per second: below that a whole number may stand at a bound, in or out
NO_CLAIM = "no throughput claim: nothing was measured with experts over devices"


def card_lines(card: Card, ask: Ask, usd_per_device_hour: float | None) -> list[str]:
    """The table, what does not fit, and below it what to doubt and what to measure next."""
    lines = [
        f"{ask.hardware.name} (figures: {ask.hardware.confidence}), weights of {ask.bytes_per_weight:g} bytes:"
        f" {ask.input_tokens} tokens in,"
        f" {ask.output_tokens} out, {plural(ask.concurrency, 'request')} in flight;"
        " TTFT is a lone request's, without a queue",
        f"{'plan':<10} {'GB/dev':>7} {'KV tokens':>10} {'most req.':>10} {'KB/token':>9} {'output tok/s':>24}"
        f" {'TTFT':>9} {'speed-up':>20} {'eff.':>6}" + (f" {'$/M tokens':>22}" if usd_per_device_hour else ""),
    ]
    lines += [_line(fit, usd_per_device_hour) for fit in card.fits]
    lines += [f"{plan!s:<10} left out: {reason}" for plan, reason in card.unfit.items()]
    lines += [
        f"{fit.plan}: the KV cache holds {fit.largest_concurrency:,} of {plural(ask.concurrency, 'request')} at once"
        for fit in card.fits
        if fit.largest_concurrency < ask.concurrency
    ]
    lines += [f"Low confidence, wider intervals: {doubt}." for doubt in card.doubts]
    if card.next_measurement is not None:
        lines.append(f"Measure {card.next_measurement} next: it narrows the intervals most for its devices.")
    return lines


def predicted_beside(result: Result) -> tuple[list[Beside], list[str]]:
    """A result's cases beside what its smallest plans predict, and that as lines; or none, and a line that says why."""
    try:
        found = predict_result(result, stored_priors())
    except NotPredictableError as error:
        return [], [f"Nothing is predicted: {error}."]
    return found, beside_lines(found, result)


def beside_lines(found: Sequence[Beside], result: Result) -> list[str]:
    """Measured cases beside what their smallest plans predict, each plan's loss in four bars, and how good that is."""
    return [*beside_table(found), *beside_sentences(found, result)]


def beside_table(found: Sequence[Beside]) -> list[str]:
    """A line of names, and one for each case: measured, predicted, and the loss in four bars."""
    lines = [
        f"{'case':<24} {'measured':>8} {'predicted tok/s':>24} {'error':>7} {'conf.':>5}"
        f" {'n x base':>9} {'memory+batch':>13} {'communic.':>10} {'other':>8} {'unexplained':>12}"
    ]
    for one in found:
        digits = int(one.measured < FEWER)
        predicted = _range(Range(one.predicted, one.low, one.high), digits)
        told = "calibrates" if one.calibrates else predicted
        error = "" if one.calibrates else f"{one.error:+.0%}"
        bars = ""
        if one.bars is not None:
            parts = (one.bars.ideal, -one.bars.memory_and_batch, -one.bars.communication, -one.bars.other)
            bars = " {:>9.0f} {:>+13.0f} {:>+10.0f} {:>+8.0f} {:>+12.0f}".format(*parts, -one.bars.unexplained)
        lines.append(
            f"{one.case:<24} {one.measured:>8.{digits}f} {told:>24} {error:>7} {'low' if one.doubts else '':>5}{bars}"
        )
    return lines


def beside_sentences(found: Sequence[Beside], result: Result) -> list[str]:
    """How far off the predictions were, and why some are uncertain."""
    held = [one for one in found if not one.calibrates]
    calibrating = ", ".join(_calibrating(found))
    if not held:
        said = f"Nothing is left to predict: only {calibrating} gave rates, and predictions start there."
        return [f"{said} {_what_to_measure(len(result.environment.get('devices', [])))}"]
    inside = sum(one.inside for one in held)
    errors = sorted(abs(one.error) for one in held)
    lines = [
        f"{len(held)} cases predicted from {calibrating}: median error {errors[len(errors) // 2]:.0%}, {inside} inside"
        " their interval."
    ]
    if any(STEADY in repeat for case in result.cases for repeat in case.repeats):
        lines.append(WHOLE)
    for doubt in dict.fromkeys(doubt for one in held for doubt in one.doubts):
        of = [one.case for one in held if doubt in one.doubts]
        whose = "all of them" if len(of) == len(held) else ", ".join(of)
        lines.append(f"Low confidence, wider intervals ({whose}): {doubt}.")
    return lines


def _what_to_measure(devices: int) -> str:
    """How a plan beyond the two smallest is measured on a machine with so many devices."""
    if devices < 2:
        return "Measure on a machine with two devices or more: this one has no other plans"
    sizes = " ".join(str(size) for size in (1, 2, 4) if size <= devices)
    return (
        f"Measure a plan beyond the two smallest: python week5/benchmark_scaling.py --tp {sizes} --replicas, or python"
        " week5/compare_parallel_plans.py --plans tp1 tp2 pp2 tp1x2"
    )


def _calibrating(found: Sequence[Beside]) -> list[str]:
    return list(dict.fromkeys(str(one.plan) for one in found if one.calibrates))


def _line(fit: Fit, usd_per_device_hour: float | None) -> str:
    used = (fit.memory.weight_bytes + fit.memory.other_bytes) / 1e9
    start = (
        f"{fit.plan!s:<10} {used:>7.1f} {fit.memory.kv_tokens:>10} {fit.largest_concurrency:>10}"
        f" {fit.bytes_per_token / 1e3:>9.0f}"
    )
    speed = fit.speed
    if speed is None:
        return f"{start}  {NO_CLAIM}"
    line = (
        f"{start} {_range(speed.output_tokens_s, 0):>24} {speed.ttft_s * 1e3:>6.0f} ms {_range(speed.speedup, 2):>20}"
        f" {speed.efficiency.value:>6.0%}"
    )
    if usd_per_device_hour:
        line += f" {_range(usd_per_million(fit.plan, speed, usd_per_device_hour), 2):>22}"
    if speed.measured is not None and speed.foretold is not None:
        line += f"  measured {speed.measured:.0f}, predicted from the others {speed.foretold:.0f}"
    return line


def _range(found: Range, digits: int) -> str:
    digits += 2 * (found.value < FEW and digits == 0)
    return f"{found.value:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"
