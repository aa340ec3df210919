"""What people believe about splitting models, held against what a result says.

Every belief is a function from a result to a sentence. It is silent where the result does not speak: where nothing was
measured that bears on it, or where an interval leaves it open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rich.console import Console

from common.analysis.load_curves import load_curves
from common.analysis.reading import interval, streams
from common.analysis.scaling import ScalingRow, communication_share, samples, scaling_rows
from common.analysis.table import stdout
from common.core.arrivals import ClosedLoop
from common.core.stats import Estimate, ratio
from common.store.schema import Case, Result

ALIKE_WITHIN = 0.05
BUSY = 0.90
WASTED = 0.10
LINKS_MATTER, LINKS_DO_NOT = 0.10, 0.02
WAITS_LONGER = 1.5  # times, before more load is said to be paid for with waiting


@dataclass(frozen=True)
class Confronted:
    """A belief, and what this result says to it."""

    belief: str
    sentence: str


def confront(result: Result) -> list[Confronted]:
    """The beliefs that the result speaks to, the most telling first."""
    found = [(belief, says(result)) for belief, says in BELIEFS.items()]
    return [Confronted(belief, sentence) for belief, sentence in found if sentence]


def print_beliefs(result: Result, most: int | None = None, console: Console | None = None) -> None:
    """The beliefs that the result contradicts, at most so many."""
    console = console or stdout()
    found = confront(result)[:most]
    if found:
        console.print("\n[bold]Often believed[/]")
    for one in found:
        line = f'- "{one.belief}": {one.sentence}'
        console.print(line, soft_wrap=not console.is_terminal, markup=False)


def n_devices_are_n_times(result: Result) -> str | None:
    """Where the interval of the largest plan's best speed-up ends below its devices."""
    rows = [row for row in _compared(result) if row.curve in ("fixed", "saturated") and row.case.plan.tp > 1]
    if not rows:
        return None
    row = max(rows, key=lambda row: (row.case.plan.devices, _value(row.speedup)))
    gained, ideal = row.speedup, row.ideal
    if gained is None or ideal is None or gained.high is None or gained.high >= ideal:
        return None
    return f"at its best {row.case.plan} gives {interval(gained)}x {_where(row)}, not {ideal:g}x."


def memory_halves(result: Result) -> str | None:
    """Weights per device fall to 1/n; what a monitor shows of a device does not."""
    whole, split = _whole_and_split(result)
    if whole is None or split is None:
        return None
    held = _largest(split, "memory_bytes_per_rank") / _largest(whole, "memory_bytes_per_rank")
    weights = _largest(split, "weight_bytes_per_rank") / _largest(whole, "weight_bytes_per_rank")
    share = 1 / split.plan.tp
    if weights > share * 1.2 or held < share * 1.2:
        return None
    return (
        f"under {split.plan} a device holds {weights:.0%} of the weights and still {held:.0%} of the memory: KV cache"
        " and the process itself are not split."
    )


def equal_memory_proves_tp(result: Result) -> str | None:
    """Replicas, which split nothing, fill their devices as evenly as a split model does."""
    for case in _started(result):
        used = case.engine["memory_bytes_per_rank"]
        if case.plan.replicas < 2 or case.plan.tp > 1 or len(used) < 2:
            continue
        if max(used) <= min(used) * (1 + ALIKE_WITHIN):
            weights = case.engine.get("weight_bytes_per_rank") or [0]
            held = f", and each holds all {max(weights) / 1e6:.0f} MB of weights" if max(weights) else ""
            return (
                f"{case.plan} splits nothing, yet its devices hold {_gigabytes(used)}{held}. What proves TP is weight"
                " bytes per rank."
            )
    return None


def links_always_matter(result: Result) -> str | None:
    """Where all-reduces, timed alone, are a small part of what the split loses."""
    for row, share in _with_communication(result):
        lost = 1 - row.efficiency.value if row.efficiency else 0.0
        traced = row.case.engine.get("all_reduce_traced") or {}
        if lost > WASTED and share < LINKS_DO_NOT and traced.get("share", 0.0) <= LINKS_MATTER:
            return (
                f"{row.case.plan} wastes {lost:.0%} of its devices {_where(row)}, and moving bytes explains {share:.1%}"
                " of a step (a lower bound): look elsewhere first."
            )
    return None


def links_never_matter(result: Result) -> str | None:
    """Where even their lower bound is a good part of a step."""
    for row, share in _with_communication(result):
        if share >= LINKS_MATTER:
            return f"all-reduces take at least {share:.0%} of a {row.case.plan} decoding step {_where(row)}."
    return None


def tp_beats_replicas(result: Result) -> str | None:
    """Where independent replicas on the same devices give more; and where they do not, by how much."""
    won, lost = [], []
    for split, copies, gained in _against_replicas(result):
        if gained.low is None or gained.high is None or gained.low <= 1 <= gained.high:
            continue
        said = f"{_where(split)} {copies.case.plan} gives {interval(gained)}x of {split.case.plan}"
        (won if gained.low > 1 else lost).append(said)
    if won:
        return f"{'; '.join(won[:2])}."
    return f"here it does ({lost[0]}), which need not hold on other links or loads." if lost else None


def tp_worsens_latency(result: Result) -> str | None:
    """Where a split model's tokens come faster at the same load."""
    for row, base in _beside_base(result, "fixed"):
        gap = _ratio(row.case, base.case, "median_tpot_ms")
        if row.case.plan.tp > 1 and gap is not None and gap.high is not None and gap.high < 1:
            return (
                f"{_where(row)} {row.case.plan} takes {interval(gap)} of the time per token of {base.case.plan}: all"
                " devices work on the same token."
            )
    return None


def full_utilisation_means_work(result: Result) -> str | None:
    """Where devices are busy all the time and yet a good part of them is wasted: waiting counts as busy."""
    split = [row for row in _compared(result) if row.case.plan.tp > 1]
    for row in sorted(split, key=lambda row: _value(row.efficiency)):
        busy = _busy(row.case)
        waiting = "waiting"
        if "host_shares_devices" in row.case.flags:
            waiting += ", and here serving,"
        if row.efficiency and busy is not None and busy >= BUSY and row.efficiency.value < 1 - WASTED:
            return (
                f"{row.case.plan}'s devices were {busy:.0%} busy {_where(row)} and each did {row.efficiency.value:.0%}"
                f" of the work of one alone: {waiting} counts as busy."
            )
    return None


def a_batch_beats_concurrency(result: Result) -> str | None:
    """Requests sent one by one at the same time against the same requests in one call."""
    batch = next((case for case in result.cases if case.curve == BATCH), None)
    single = next((case for case in result.cases if batch and _same_load(case, batch)), None)
    gained = _ratio(batch, single, "output_throughput") if batch and single else None
    if gained is None or gained.low is None or gained.high is None:
        return None
    if gained.low > 1:
        return f"here it does: {interval(gained)}x, so something other than the engine costs single requests time."
    verdict = "less" if gained.high < 1 else "no more, as far as this run can tell"
    return f"the same requests as one batch give {interval(gained)}x, {verdict}: the engine batches what comes."


def more_load_is_better(result: Result) -> str | None:
    """What the last doubling of load brought, and what it cost in waiting."""
    for curve in load_curves(result):
        if len(curve.loads) < 2:
            continue
        first, last = curve.loads[-2:]
        waits = [_ttft_ms(result, str(curve.plan), load.streams) for load in (first, last)]
        if waits[0] is None or waits[1] is None:
            continue
        gained, waited = last.throughput.value / first.throughput.value, waits[1] / waits[0]
        if waited > WAITS_LONGER and waited > 1.2 * gained:
            return (
                f"from {first.streams} to {streams(last.streams)} {curve.plan} gives {gained:.2f}x the tokens per"
                f" second and {waited:.1f}x the wait for the first token."
            )
    return None


BATCH = "batch"  # the curve whose requests are sent in one call
BELIEFS: dict[str, Callable[[Result], str | None]] = {
    "A batch beats concurrent requests": a_batch_beats_concurrency,
    "More load is better": more_load_is_better,
    "A busy device is a working device": full_utilisation_means_work,
    "n devices are n times as fast": n_devices_are_n_times,
    "TP makes latency worse": tp_worsens_latency,
    "TP beats replicas": tp_beats_replicas,
    "Links never matter": links_never_matter,
    "Links always matter": links_always_matter,
    "Equal memory on all devices proves TP": equal_memory_proves_tp,
    "Half the model on each device halves its memory": memory_halves,
}


def _compared(result: Result) -> list[ScalingRow]:
    """Rows with a speed-up over a smaller plan, on devices of their own."""
    return [row for row in scaling_rows(result) if row.speedup is not None and row.efficiency is not None]


def _beside_base(result: Result, curve: str) -> Iterator[tuple[ScalingRow, ScalingRow]]:
    rows = [row for row in scaling_rows(result) if row.curve == curve]
    for row in rows:
        base = next((one for one in rows if one.is_base and one.load == row.load), None)
        if row.speedup is not None and base is not None:
            yield row, base


def _against_replicas(result: Result) -> Iterator[tuple[ScalingRow, ScalingRow, Estimate]]:
    """Split model, replicas on as many devices under the same load, and the replicas' throughput over the split's."""
    rows = _compared(result)
    for split in (row for row in rows if row.case.plan.tp > 1 and row.case.plan.replicas == 1):
        for copies in rows:
            plan = copies.case.plan
            alike = (plan.devices, copies.curve, copies.load) == (split.case.plan.devices, split.curve, split.load)
            gained = _ratio(copies.case, split.case, "output_throughput") if alike and plan.replicas > 1 else None
            if gained is not None and plan.tp == 1:
                yield split, copies, gained


def _with_communication(result: Result) -> Iterator[tuple[ScalingRow, float]]:
    for row in _compared(result):
        share = communication_share(row.case, result)
        if row.curve == "fixed" and share is not None:
            yield row, share


def _whole_and_split(result: Result) -> tuple[Case | None, Case | None]:
    """A plan on one device, and the one that splits the model most; `None` where either is missing."""
    known = [case for case in _started(result) if case.engine.get("weight_bytes_per_rank")]
    whole = next((case for case in known if case.plan.devices == 1), None)
    split = [case for case in known if case.plan.tp > 1 and case.plan.devices == case.plan.tp]
    return whole, max(split, key=lambda case: case.plan.tp, default=None)


def _started(result: Result) -> list[Case]:
    return [case for case in result.cases if case.engine.get("memory_bytes_per_rank")]


def _ratio(case: Case, base: Case, metric: str) -> Estimate | None:
    upper, lower = samples(case, metric), samples(base, metric)
    return ratio(metric, "x", upper, lower) if upper and lower and min(*upper, *lower) > 0 else None


def _same_load(case: Case, batch: Case) -> bool:
    alike = (case.plan, case.workload.requests) == (batch.plan, batch.workload.requests)
    return alike and case.curve != BATCH and isinstance(case.arrivals, ClosedLoop)


def _ttft_ms(result: Result, plan: str, load: int) -> float | None:
    """Median time to first token of a plan at a concurrency."""
    for case in result.cases:
        if str(case.plan) == plan and isinstance(case.arrivals, ClosedLoop) and case.arrivals.concurrency == load:
            found = [value for value in samples(case, "median_ttft_ms") if value > 0]
            if found:
                return sum(found) / len(found)
    return None


def _busy(case: Case) -> float | None:
    """Mean utilisation of the plan's devices; `None` where nobody watched."""
    kinds = ("gpu", "cpu")
    for kind in kinds:
        found = [share for name, share in case.monitor.items() if _is_device(name, kind)]
        if found:
            return sum(found) / len(found)
    return None


def _is_device(name: str, kind: str) -> bool:
    digits = name.removeprefix(kind).removesuffix("_utilisation_mean")
    return name == f"{kind}{digits}_utilisation_mean" and digits.isdecimal()


def _largest(case: Case, name: str) -> float:
    return float(max(case.engine[name]))


def _gigabytes(used: list[int]) -> str:
    low, high = min(used) / 1e9, max(used) / 1e9
    return f"{low:.2f} GB each" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f} to {high:.2f} GB each"


def _value(estimate: Estimate | None) -> float:
    return estimate.value if estimate else 0.0


def _where(row: ScalingRow) -> str:
    words = {"saturated": "saturated", "pinned": "with the base's KV cache", "weak": "with as many streams per device"}
    return words.get(row.curve, f"at {streams(row.load)}")
