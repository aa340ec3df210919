"""What people believe about splitting models, held against what a result says.

Every belief is a function from a result to a sentence. It is silent where the result does not speak: where nothing was
measured that bears on it, or where an interval leaves it open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rich.console import Console

from common.analysis.scaling.rivals import (
    against_replicas,
    batch_gain,
    beside_base,
    busy_share,
    gained_rows,
    loads,
    ratio_of,
)
from common.analysis.scaling.rows import ScalingRow, by_model, communication_share, where
from common.analysis.scaling.table import stdout
from common.analysis.wording import interval, streams
from common.core.stats import Estimate
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
    """The beliefs that the result speaks to of the run's own model, the most telling first."""
    own = by_model(result)[0]
    found = [(belief, says(own)) for belief, says in BELIEFS.items()]
    return [Confronted(belief, sentence) for belief, sentence in found if sentence]


def print_beliefs(result: Result, most: int | None = None, console: Console | None = None) -> None:
    """What the result says to the beliefs that it speaks to, for or against, at most so many."""
    console = console or stdout()
    found = sentences(result)[:most]
    if found:
        console.print("\n[bold]Often believed[/]")
    for line in found:
        console.print(f"- {line}", soft_wrap=not console.is_terminal, markup=False)


def sentences(result: Result) -> list[str]:
    """Each belief in quotes, and what the result says to it."""
    return [f'"{one.belief}": {one.sentence}' for one in confront(result)]


def n_devices_are_n_times(result: Result) -> str | None:
    """Where the interval of the largest plan's best speed-up ends below its devices."""
    rows = [row for row in gained_rows(result) if row.curve in ("fixed", "saturated") and row.case.plan.tp > 1]
    if not rows:
        return None
    row = max(rows, key=lambda row: (row.case.plan.devices, _value(row.speedup)))
    gained, ideal = row.speedup, row.ideal
    if gained is None or ideal is None or gained.high is None or gained.high >= ideal:
        return None
    return f"at its best {row.case.plan} gives {interval(gained)}x {where(row)}, not {ideal:g}x."


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
        f"under {split.plan} a device holds {weights:.0%} of the weights and still {held:.0%} of the memory: its KV"
        " cache fills what it is given, and the process itself is not split."
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
                f"{row.case.plan} wastes {lost:.0%} of its devices {where(row)}, and moving bytes explains {share:.1%}"
                " of a step (a lower bound): look elsewhere first."
            )
    return None


def links_never_matter(result: Result) -> str | None:
    """Where even their lower bound is a good part of a step."""
    for row, share in _with_communication(result):
        if share >= LINKS_MATTER:
            return f"all-reduces take at least {share:.0%} of a {row.case.plan} decoding step {where(row)}."
    return None


def tp_beats_replicas(result: Result) -> str | None:
    """Where independent replicas on the same devices give more; and where they do not, by how much."""
    won: list[str] = []
    lost: list[str] = []
    for split, copies, gained in against_replicas(result):
        if gained.unresolved:
            continue
        said = f"{where(split)} {copies.case.plan} gives {interval(gained)}x of {split.case.plan}"
        (won if gained.value > 1 else lost).append(said)
    if won:
        return f"{'; '.join(won[:2])}."
    return f"here it does ({lost[0]}), which need not hold on other links or loads." if lost else None


def tp_worsens_latency(result: Result) -> str | None:
    """Where a split model's tokens come faster at the same load, and whether they do so at the other loads."""
    faster: list[tuple[ScalingRow, ScalingRow, Estimate]] = []
    not_shown: list[ScalingRow] = []
    for row, base in beside_base(result, "fixed"):
        gap = ratio_of(row.case, base.case, "median_tpot_ms")
        if row.case.plan.tp == 1 or gap is None:
            continue
        if gap.high is not None and gap.high < 1:
            faster.append((row, base, gap))
        else:
            not_shown.append(row)
    if not faster:
        return None
    row, base, gap = faster[0]
    open_at = [where(other) for other in not_shown if other.case.plan == row.case.plan]
    but = f"; {' and '.join(open_at)} this run does not show it" if open_at else ""
    return (
        f"{where(row)} {row.case.plan} takes {interval(gap)} of the time per token of {base.case.plan}{but}: all"
        " devices work on the same token."
    )


def full_utilisation_means_work(result: Result) -> str | None:
    """Where devices are busy all the time and yet a good part of them is wasted: waiting counts as busy."""
    split = [row for row in gained_rows(result) if row.case.plan.tp > 1]
    for row in sorted(split, key=lambda row: _value(row.efficiency)):
        busy = busy_share(row.case)
        waiting = "waiting"
        if "host_shares_devices" in row.case.flags:
            waiting += ", and here serving,"
        if row.efficiency and busy is not None and busy >= BUSY and row.efficiency.value < 1 - WASTED:
            return (
                f"{row.case.plan}'s devices were {busy:.0%} busy {where(row)} and each did {row.efficiency.value:.0%}"
                f" of the work of one alone: {waiting} counts as busy."
            )
    return None


def a_batch_beats_concurrency(result: Result) -> str | None:
    """Prompts as one request, against the same prompts sent by many clients at once."""
    for case in result.cases:
        gained = batch_gain(case)
        if gained is None or gained.low is None or gained.high is None:
            continue
        if gained.low > 1:
            return f"here it does: {interval(gained)}x, so something beside the engine costs single requests time."
        verdict = "less" if gained.high < 1 else "no more, as far as this run can tell"
        return f"the same prompts as one request give {interval(gained)}x, {verdict}: the engine batches what comes."
    return None


def more_load_is_better(result: Result) -> str | None:
    """What the last step of load brought, and what it cost in waiting."""
    for plan in sorted({case.plan for case in result.cases}, key=lambda plan: (plan.devices, plan.replicas, plan)):
        measured = loads(result, plan)
        if not measured:
            continue
        (few, rate, wait_ms), (many, higher_rate, longer_ms) = measured[-2:]
        gained, waited = higher_rate / rate, longer_ms / wait_ms
        if waited > WAITS_LONGER and waited > 1.2 * gained:
            return (
                f"from {few} to {streams(many)} {plan} gives {gained:.2f}x the tokens per second and {waited:.1f}x the"
                " wait for the first token."
            )
    return None


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


def _with_communication(result: Result) -> Iterator[tuple[ScalingRow, float]]:
    for row in gained_rows(result):
        share = communication_share(row.case, result)
        if row.curve == "fixed" and share is not None:
            yield row, share


def _whole_and_split(result: Result) -> tuple[Case | None, Case | None]:
    """A plan on one device, and the one that splits the model most; `None` where either is missing."""
    known = [case for case in _started(result) if max(case.engine.get("weight_bytes_per_rank") or [0]) > 0]
    whole = next((case for case in known if case.plan.devices == 1), None)
    split = [case for case in known if case.plan.tp > 1 and case.plan.devices == case.plan.tp]
    return whole, max(split, key=lambda case: case.plan.tp, default=None)


def _started(result: Result) -> list[Case]:
    return [case for case in result.cases if max(case.engine.get("memory_bytes_per_rank") or [0]) > 0]


def _largest(case: Case, name: str) -> float:
    return float(max(case.engine[name]))


def _gigabytes(used: list[int]) -> str:
    low, high = min(used) / 1e9, max(used) / 1e9
    return f"{low:.2f} GB each" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f} to {high:.2f} GB each"


def _value(estimate: Estimate | None) -> float:
    return estimate.value if estimate else 0.0
