"""A concurrency result in plain sentences."""

from __future__ import annotations

from collections.abc import Sequence

from common.analysis.concurrency.rows import (
    GOOD_ENOUGH,
    BatchRow,
    Found,
    batch_rows,
    concurrency_cases,
    concurrency_rows,
    found,
    most_within_limits,
    slo_of,
)
from common.analysis.scaling.reading import client_words, left_out, of_intervals
from common.analysis.scaling.rows import sampling_unit
from common.analysis.scaling.windows import WHOLE
from common.analysis.wording import CARRIES_OVER, interval, milliseconds, streams
from common.core.knee import LEAST_GAIN, Saturation
from common.core.plural import plural
from common.store.schema import Result

LITTLE = 0.95  # Jain's index below which identical clients were not served alike


def read_concurrency(result: Result) -> list[str]:
    """Sentences for under the concurrency table."""
    return [*knees(result), *batches(result), *within_limits(result), *unevenness(result), *doubtful(result)]


def knees(result: Result) -> list[str]:
    """Where more load stops paying, for every plan."""
    return [f"{knee_words(one)}; {saturation_words(one)}." for one in found(result)]


def knee_words(one: Found) -> str:
    """The knee of one plan, or why it is not resolved."""
    if one.knee is None:
        return f"{one.who}: a knee needs three loads, this has {len(one.rows)}"
    at = next(row for row in one.rows if row.load == one.knee.load)
    numbers = f"{at.throughput.value:.0f} tok/s" + (
        f", p99 TTFT {milliseconds(at.ttft_p99_ms)}" if at.ttft_p99_ms else ""
    )
    if one.knee.resolved:
        return f"{one.who}: the knee is at {streams(one.knee.load)} ({numbers})"
    low, high = one.knee.between
    where = f"power is largest at {streams(one.knee.load)} ({numbers})"
    where += f", from {low:g} to {high:g} is possible" if low < high else ""
    return f"{one.who}: the knee is unresolved: {where}; {one.knee.why_not}"


def knee_finding(plans: Sequence[Found]) -> str:
    """The knees of all plans, short enough for a title."""
    found = []
    for one in plans:
        if one.knee is None:
            found.append(f"{one.who} was tried at too few loads for a knee")
        elif one.knee.resolved:
            found.append(f"{one.who}: more than {streams(one.knee.load)} cost more waiting than they bring")
        elif one.knee.between[0] < one.knee.between[1]:
            low, high = one.knee.between
            found.append(f"{one.who}: the knee is not resolved, it lies between {low:g} and {streams(high)}")
        else:
            found.append(f"{one.who}: the knee is not resolved, {streams(one.knee.load)} are best ({one.knee.why_not})")
    return "; ".join(found)


def saturation_words(one: Found) -> str:
    """Where doubling the load stops gaining, for one plan."""
    reached: Saturation = one.saturation
    if len(one.rows) == 1:
        return "what more load would gain was not tried"
    if reached.load is None or reached.gain is None:
        return f"doubling the load still gains {LEAST_GAIN:.0%} or more at {streams(one.rows[-1].load)}, the most tried"
    doubt = "" if reached.resolved else ", which the interval does not resolve"
    return f"beyond {streams(reached.load)} a doubling gains {reached.gain:+.1%}, under {LEAST_GAIN:.0%}{doubt}"


def batches(result: Result) -> list[str]:
    """A batch against singles, for every plan and both kinds of batch; and what the offline one's interval lacks."""
    rows = batch_rows(result)
    lines = [batch_words(row) for row in rows]
    if any(row.way == "offline batch" for row in rows) and sampling_unit(concurrency_cases(result)) == "within-start":
        lines.append("The offline batch has an engine start of its own: how starts differ is not in its interval.")
    return lines


def batch_words(row: BatchRow) -> str:
    """What a batch gains over as many singles."""
    doubt = ": not resolved from no difference" if row.unresolved else ""
    return (
        f"{row.who}: one {row.way.removeprefix('one ')} with {row.requests} prompts gives {interval(row.gain)}x the"
        f" output throughput of {row.requests} singles at once{doubt}."
    )


def batch_finding(rows: Sequence[BatchRow]) -> str:
    """What batches gain, short enough for a title."""
    if not rows:
        return ""
    if all(row.unresolved for row in rows):
        return "A batch gains nothing that this run resolves: the engine batches what comes"
    return "; ".join(f"{row.who}, {row.way}: {interval(row.gain)}x singles" for row in rows)


def within_limits(result: Result) -> list[str]:
    """Up to which load the limits are kept."""
    limits = " and ".join(f"{name} {limit:g} ms" for name, limit in slo_of(result).items())
    if not limits:
        return []
    lines = []
    for one in found(result):
        best = most_within_limits(one.rows)
        kept = f"up to {streams(best.load)}" if best else "at no load tried"
        lines.append(f"{one.who}: {GOOD_ENOUGH:.0%} of requests or more keep {limits} {kept}.")
    return lines


def unevenness(result: Result) -> list[str]:
    """Whether identical clients got the same."""
    rows = [row for row in concurrency_rows(result, "closed") if row.fairness is not None]
    uneven = [row for row in rows if row.fairness is not None and row.fairness < LITTLE]
    lines = [
        f"{row.who}: at {streams(row.load)} clients were not served alike: Jain {row.fairness:.3f}." for row in uneven
    ]
    return (
        lines if uneven or not rows else [f"Identical clients were served alike at every load (Jain {LITTLE} or more)."]
    )


def doubtful(result: Result) -> list[str]:
    """What the numbers do not show."""
    lines = [*_failures(result), *client_words(result)]
    rows = concurrency_rows(result, "closed")
    if any(row.thin for row in rows):
        lines.append("~ marks a p99 of fewer than 100 requests in a repeat: little more than the slowest of them.")
    if rows and not rows[0].steady:
        lines.append(f"Numbers are of {WHOLE}.")
    if rows:
        lines += of_intervals(concurrency_cases(result))
    if result.config.get("external"):
        lines += _prompts(result)
        lines.append("Which devices the server has, who else used it, and how it is set up is not known here.")
        if any("host_shares_devices" in case.flags for case in result.cases):
            lines.append("It answered on the client's own machine, so that it is taken to use the client's cores.")
    if result.environment.get("device_kind") == "cpu":
        lines.append(CARRIES_OVER)
    return [*lines, *left_out(result)]


def _prompts(result: Result) -> list[str]:
    """How long prompts truly were, where they were asked for in words."""
    repeats = [(case, repeat) for case in result.cases for repeat in case.repeats]
    tokens = sum(repeat.get("total_input_tokens", 0.0) for _, repeat in repeats)
    answered = sum(repeat.get("completed", 0.0) for _, repeat in repeats)
    if not tokens or not answered:
        return []
    words = repeats[0][0].workload.input_tokens
    return [f"Prompts had {plural(words, 'word')}, by the server's usage {tokens / answered:.4g} tokens on average."]


def _failures(result: Result) -> list[str]:
    """Requests that failed in cases that went on: what throughput says is of the others."""
    lines = []
    for case in result.cases:
        failed = sum(repeat.get("failed", 0.0) for repeat in case.repeats)
        if failed and case.status == "ok":
            sent = sum(repeat.get("num_prompts", 0.0) for repeat in case.repeats)
            lines.append(f"{case.id}: {failed:.0f} of {plural(sent, 'request')} failed; its numbers are of the others.")
    return lines
