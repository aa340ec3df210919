"""Why a speed-up is not more: all-reduces, memory, and what the machine itself allows."""

from __future__ import annotations

from common.analysis.scaling.rows import ScalingRow, communication_share, scaling_rows, where
from common.analysis.wording import interval, streams
from common.store.schema import Result

DISTURBED = 1.25  # a ratio of rounds that is so much above the number of devices was not the devices' own


def limits(result: Result) -> list[str]:
    """Why it is not more: communication, and what the machine itself allows."""
    measured = [row for row in scaling_rows(result) if row.throughput is not None]
    rows = [row for row in measured if row.speedup is not None]
    several = any(row.case.plan.devices > 1 for row in measured)
    return [*_memory(rows), *_communication(rows, result), *(_ceilings(result, rows) if several else [])]


def _communication(rows: list[ScalingRow], result: Result) -> list[str]:
    fixed = [row for row in rows if row.curve == "fixed" and row.case.plan.tp > 1]
    if not fixed:
        return []
    row = max(fixed, key=lambda row: (row.load, row.case.plan.tp))
    share = communication_share(row.case, result)
    if share is None:
        return []
    path = row.case.engine["all_reduce"][0]["path"]
    traced = row.case.engine.get("all_reduce_traced")
    most = f" and at most {traced['share']:.0%} (profiled at {traced['streams']} streams, waiting" if traced else ""
    return [
        f"All-reduces explain at least {share:.1%} of a {row.case.plan} decoding step at {streams(row.load)}"
        f" (timed alone, through {path}){most}{' for the slower rank included)' if traced else ''}."
    ]


def _memory(rows: list[ScalingRow]) -> list[str]:
    """How much of a saturated gain the larger KV cache explains: the same plan with the base's."""
    own = {row.case.plan: row for row in rows if row.curve == "saturated"}
    lines = []
    for row in rows:
        rival = own.get(row.case.plan)
        if row.curve != "pinned" or rival is None or row.speedup is None or rival.speedup is None:
            continue
        memory = rival.speedup.value / row.speedup.value
        lines.append(
            f"With no more KV cache than the base {row.case.plan} is {interval(row.speedup)}x, with its own"
            f" {interval(rival.speedup)}x: parallelism gives the first, memory a factor of {memory:.2f}."
        )
    return lines


def _ceilings(result: Result, rows: list[ScalingRow]) -> list[str]:
    found = result.environment.get("ceilings") or {}
    memory, matrix = found.get("memory_scaling"), found.get("matrix_scaling")
    if not memory or not matrix:
        return []
    count = found["devices"]
    line = (
        f"The machine itself: {count} devices together have {memory:.2f}x{_range(found, 'memory')} one device's memory"
        f" bandwidth and {matrix:.2f}x{_range(found, 'matrix')} its matrix rate: the first"
        " bounds decoding for few streams, the second that for many, and prompts."
    )
    ratios = (*found.get("memory_scaling_range", ()), *found.get("matrix_scaling_range", ()), memory, matrix)
    if max(ratios) > DISTURBED * count:
        line += f" More than {count}x cannot be: something else ran in some rounds. Measure again on a quiet machine."
    for row in rows:
        gained = row.speedup
        alike = row.curve in ("fixed", "saturated") and row.case.plan.devices == count
        if alike and gained is not None and gained.low is not None and gained.low > max(ratios):
            more = f"{row.case.plan} gained more, {interval(gained)}x {where(row)}"
            return [f"{line} {more}: the machine was measured in a worse moment, and neither number is a limit here."]
    return [line]


def _range(ceilings: dict[str, list[float]], name: str) -> str:
    """The rounds' own ratios: wide when neighbours disturbed the measurement."""
    bounds = ceilings.get(f"{name}_scaling_range")
    return f" (rounds {bounds[0]:.2f} to {bounds[1]:.2f})" if bounds else ""
