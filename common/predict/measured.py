"""A machine that was measured: its smallest plans calibrate the step model, the others are predicted beside what they
gave, and each plan's loss is told apart into four bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from common.core.arrivals import ClosedLoop
from common.core.beside import Before, Beside
from common.core.loss import TokenTime, four_bars
from common.core.model_shape import ModelShape
from common.core.plan import ParallelPlan
from common.core.stats import geometric_mean
from common.predict.calibrate import Prediction, Priors, Sample, predict
from common.predict.evaluate import LOW_WIDTH, RESIDUAL_LIMIT
from common.predict.hardware import Hardware, UnknownHardwareError, all_reduce_sizes, all_reduce_table, find
from common.predict.memory import expert_devices
from common.predict.step import CONSTANTS, Floats, Rows, mixed_step_s, passes, sequences
from common.predict.wanted import Ask, wanted_row
from common.store.schema import Case, Result

CURVES = ("fixed", "ladder", "saturated", "weak")
SLOWED = "slowed"  # the curve of cases whose communication was knocked out
THROUGHPUT = "output_throughput"
STEPS, TOKENS = "engine_steps", "total_output_tokens"
BEFORE = "before_"  # of a slowed case's repeats: what was measured by turns with it, before the delay
ALL_REDUCE, ALL_REDUCE_BEFORE = "all_reduce", "all_reduce_before"  # as an engine timed them, slowed and before
CALIBRATING_PLANS = 2
CPU_CENTRES = {
    "memory": 0.8,
    "compute": 1.0,
    "layer_us": 500.0,
    "step_ms": 4.0,
    "sequence_us": 500.0,
    "sync_us": 100.0,
    "links": 1.0,
    "reserve_gb": 1.5,
    "attention": 0.5,
    "sync_growth": 1.0,
    "links_growth": 1.0,
}
"""Where a CPU's constants are sought: launching a kernel costs what Python and oneDNN take, ranks wait for cores."""
CPU_WIDTH = 0.8  # of all of them: nothing was learnt over CPUs, so what is measured decides
UNSEEN_KIND = 0.34
"""Further deviation on a CPU of plans with several engines or stages where none calibrates: the root mean square of the
logarithms by which 17 cases of tp1x2 and tp1dp2, in four runs on two cores, were missed from tp1 and tp2."""
CPU_LINK_SHARE = 0.25  # of the memory's bandwidth: a rank's part is written, read, summed and read again


class NotPredictableError(ValueError):
    """The result lacks what a prediction needs; the message says what."""


def predict_result(result: Result, priors: Priors, calibrating: Sequence[ParallelPlan] = ()) -> list[Beside]:
    """Every closed-loop case of a result, predicted from those of its smallest plans.

    Cases whose communication was knocked out calibrate nothing: they differ from the same plan's others by what their
    engine's all-reduces, timed alone, take longer.

    Args:
        result: A result with cases of several plans under the same loads.
        priors: What is believed before measuring; on CPUs wide ones by hand take their place.
        calibrating: Plans whose cases calibrate; by default the two smallest purely tensor-parallel ones.

    Raises:
        NotPredictableError: no cases, no figures of the devices, or nothing to calibrate with.
    """
    cases = [case for case in result.cases if _usable(case)]
    if not cases and (invalid := left_out(result)):
        named = ", ".join(invalid)
        raise NotPredictableError(f"the client is INVALID in all that was measured ({named}): measure again")
    if not cases:
        raise NotPredictableError(
            "the result has no measured case of fixed, weak, saturated or ladder curves; these measure them: python"
            " week5/benchmark_scaling.py, compare_parallel_plans.py and explain_loss.py"
        )
    plans = list(calibrating) or _smallest([case.plan for case in cases])
    rows = Rows.joined([_row(result, case, cases) for case in cases])
    calibrates = [case.plan in plans and case.curve != SLOWED for case in cases]
    known = [case for case, is_known in zip(cases, calibrates, strict=True) if is_known]
    if not known:
        raise NotPredictableError(
            f"no case of {', '.join(map(str, plans)) or 'tensor parallelism alone'} to calibrate with; measure the"
            " smallest plans too, as in python week5/compare_parallel_plans.py --plans tp1 tp2 pp2 tp1x2"
        )
    rates = np.array([_rate(case) for case in cases])
    loads = {load: number for number, load in enumerate(dict.fromkeys(_load(case) for case in cases))}
    sample = Sample(
        rows=rows,
        log_rates=np.log(rates),
        case=np.array([loads[_load(case)] for case in cases]),
        devices=np.array([float(case.plan.devices) for case in cases]),
        calibrates=np.array(calibrates),
        straight=np.full(len(cases), np.nan),
        reach=np.zeros(len(cases)),
    )
    on_cpu = result.environment.get("device_kind") == "cpu"
    found = predict(sample, cpu_priors(priors) if on_cpu else priors)
    delays = np.array([_delay_s(case, cases, ALL_REDUCE) for case in cases])
    shorter = np.array([_delay_s(case, cases, ALL_REDUCE_BEFORE) if _before(case) else 0.0 for case in cases])
    doubts = [_doubts(result, case, known, found.residual) for case in cases]
    wider = np.where([bool(said) for said in doubts], LOW_WIDTH, 1.0) * found.deviations
    unseen = np.array([UNSEEN_KIND if on_cpu and _unseen(case.plan, known) else 0.0 for case in cases])
    margins = np.exp(priors.interval * np.hypot(wider, unseen)).tolist()
    unsure = list(zip(margins, doubts, strict=True))
    times = token_times(found.constants, rows, delays, np.array([_steps_per_token(case, STEPS) for case in cases]))
    steps_before = np.array([_steps_per_token(case, f"{BEFORE}{STEPS}") for case in cases])
    before = token_times(found.constants, rows, shorter, steps_before)
    return _beside(cases, sample, found, list(zip(times, before, strict=True)), unsure)


def cpu_priors(priors: Priors) -> Priors:
    """The same priors with wide ones for a CPU's constants."""
    centres = np.log([CPU_CENTRES[name] for name in CONSTANTS])
    return replace(priors, centres=centres, widths=np.full(len(CONSTANTS), CPU_WIDTH), pcie_links=1.0, pcie_growth=0.0)


def token_times(
    constants: Floats, rows: Rows, delay_s: Floats | float = 0.0, steps_per_token: Floats | float = np.nan
) -> list[TokenTime]:
    """What one output token of each row takes by the step model, all devices together.

    `delay_s` is added to each of a pass' all-reduces where there is tensor parallelism: two per layer and one for the
    embedding. `steps_per_token` is how many passes the server counted for each output token; where it is nan, as many
    as the step model has.
    """
    running = sequences(constants, rows)
    parts = mixed_step_s(constants, rows, running)
    together = np.minimum(running * rows.dp, rows.concurrency)
    counted = np.where(np.isnan(steps_per_token), passes(rows, running) / together, steps_per_token)
    added = np.where(rows.tp > 1, (2 * rows.layers + 1) * counted * delay_s, 0.0)
    columns = (parts.work / together, parts.communication / together + added, parts.other / together)
    return [TokenTime(*(float(part) for part in row)) for row in zip(*columns, strict=True)]


def _beside(
    cases: Sequence[Case],
    sample: Sample,
    found: Prediction,
    times_and_before: Sequence[tuple[TokenTime, TokenTime]],
    unsure: Sequence[tuple[float, tuple[str, ...]]],
) -> list[Beside]:
    """`unsure` is the factor to each bound of a case's interval, and the doubts about it."""
    plain, times = token_times(found.constants, sample.rows), [time for time, _ in times_and_before]
    made = []
    for at, case in enumerate(cases):
        slower = _whole(plain[at]) / _whole(times[at])
        predicted = float(np.exp(found.log_rates[at])) * slower
        margin, doubts = unsure[at]
        base = _base(cases, case)
        bars = None
        if base is not None and cases[base].plan != case.plan:
            of_base, times_base = _rate(cases[base]), case.plan.devices / cases[base].plan.devices
            bars = four_bars(times[base], times[at], of_base, _rate(case), times_base)
        load, measured, known = _load(case), _rate(case), bool(sample.calibrates[at])
        limits = (predicted / margin, predicted * margin)
        rate = _before(case)
        before = None if rate is None else Before(rate, times_and_before[at][1])
        told = (predicted, *limits, bars, times[at], case.curve == SLOWED, before, doubts)
        made.append(Beside(case.id, case.plan, load, measured, known, *told))
    return made


def _doubts(result: Result, case: Case, known: Sequence[Case], residual: float | None) -> tuple[str, ...]:
    """Why a prediction deserves low confidence; empty where nothing speaks against it, or the case calibrates."""
    if any(case is one for one in known):
        return ()
    plan, said = case.plan, list[str]()
    if result.environment.get("device_kind") == "cpu":
        said.append("the priors were learnt over GPUs, and this is a CPU")
    elif plan.tp > 1 and devices_of(result.environment, plan.devices).nvlink is None and not _timed(case):
        said.append("devices talk over PCIe, and its all-reduces were not timed")
    if residual is not None and residual > RESIDUAL_LIMIT:
        said.append(f"the model misses the calibrating cases by {residual:.0%}")
    shared = ", and what serves them takes part of the devices" if "host_shares_devices" in case.flags else ""
    said += [f"no case of several {what} calibrates{shared}" for what in _unseen(plan, known)]
    if plan.ep and not any(one.plan.ep for one in known):
        said.append("no case with experts over devices calibrates")
    if all(_load(one) != _load(case) for one in known):
        said.append("no calibrating case has this load")
    if len(_rates(case)) == 1:
        said.append("it was measured once")
    return tuple(said)


def _unseen(plan: ParallelPlan, known: Sequence[Case]) -> list[str]:
    """What there are several of under a plan and under no calibrating one: the model knows their cost by form alone."""
    engines = plan.dp * plan.replicas > 1 and all(one.plan.dp * one.plan.replicas == 1 for one in known)
    stages = plan.pp > 1 and all(one.plan.pp == 1 for one in known)
    return ["engines"] * engines + ["stages"] * stages


def _whole(time: TokenTime) -> float:
    return time.work_s + time.communication_s + time.other_s


def _base(cases: Sequence[Case], case: Case) -> int | None:
    """The case of the smallest plan under the same load, on the same curve where there is one."""
    alike = [at for at, other in enumerate(cases) if _load(other) == _load(case)]
    least = min(cases, key=lambda other: (other.plan.devices, other.plan)).plan
    of_base = [at for at in alike if cases[at].plan == least]
    same = [at for at in of_base if cases[at].curve == case.curve]
    return next(iter(same or of_base), None)


def left_out(result: Result) -> list[str]:
    """Cases that are neither predicted nor calibrate because their client is INVALID, by id."""
    return [case.id for case in result.cases if _fair(case) and case.is_invalid]


def _usable(case: Case) -> bool:
    return _fair(case) and not case.is_invalid


def _fair(case: Case) -> bool:
    measured = case.status == "ok" and bool(_rates(case))
    fair = case.curve in (*CURVES, SLOWED) and "oversubscribed" not in case.flags
    fair = fair and getattr(case, "model", None) is None  # cases of another model than the run's say which
    return measured and fair and isinstance(case.arrivals, ClosedLoop)


def _smallest(plans: Sequence[ParallelPlan]) -> list[ParallelPlan]:
    tensor = {plan for plan in plans if plan == ParallelPlan(tp=plan.tp)}
    return sorted(tensor)[:CALIBRATING_PLANS]


def _rates(case: Case) -> list[float]:
    return [repeat[THROUGHPUT] for repeat in case.repeats if repeat.get(THROUGHPUT, 0) > 0]


def _rate(case: Case) -> float:
    return geometric_mean(THROUGHPUT, "tok/s", _rates(case)).value


def _before(case: Case) -> float | None:
    name = f"{BEFORE}{THROUGHPUT}"
    rates = [repeat[name] for repeat in case.repeats if repeat.get(name, 0) > 0]
    return geometric_mean(name, "tok/s", rates).value if rates else None


def _steps_per_token(case: Case, name: str) -> float:
    """Passes for each output token by the server's own count; nan where it keeps none."""
    steps, tokens = (sum(repeat.get(key, 0.0) for repeat in case.repeats) for key in (name, TOKENS))
    return steps / tokens if steps and tokens else float("nan")


def _load(case: Case) -> int:
    return case.arrivals.concurrency if isinstance(case.arrivals, ClosedLoop) else 0


def _row(result: Result, case: Case, cases: Sequence[Case]) -> Rows:
    try:
        shape = ModelShape(**result.config["model_shape"])
    except (KeyError, TypeError) as error:
        raise NotPredictableError(f"the result does not say the model's shape ({error})") from error
    hardware = devices_of(result.environment, case.plan.devices)
    ask = Ask(shape, hardware, shape.dtype_bytes, case.workload.input_tokens, case.workload.output_tokens, _load(case))
    return wanted_row(ask, case.plan, _table(hardware, expert_devices(shape, case.plan), cases))


def devices_of(environment: Mapping[str, Any], active: int) -> Hardware:
    """One device of a measured machine while so many are active: slices of a CPU share its memory's bandwidth.

    Raises:
        NotPredictableError: the environment says neither a known GPU nor a CPU's ceilings.
    """
    names = [str(one.get("name", "")) for one in environment.get("devices", []) if isinstance(one, dict)]
    if environment.get("device_kind") != "cpu":
        links = "NVLink" if "NV" in str(environment.get("links", "")) else "PCIe"
        try:
            return find(names[0] if names else "", links)
        except UnknownHardwareError as error:
            raise NotPredictableError(str(error)) from error
    ceilings = environment.get("ceilings") or {}
    try:
        count, flops = max(int(ceilings["devices"]), 1), float(ceilings["matrix_flops_one"])
        one, together = float(ceilings["memory_bytes_per_s_one"]), float(ceilings["memory_bytes_per_s_all"])
        memory = float(environment["devices"][0]["memory_bytes"])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise NotPredictableError(f"the result does not say the CPU's ceilings ({error})") from error
    beyond = (min(active, count) - 1) / max(count - 1, 1)
    bandwidth = (one + (together - one) * beyond) / max(active, 1)
    link = bandwidth * CPU_LINK_SHARE
    source = "ceilings measured on this machine"
    return Hardware(names[0] if names else "CPU", flops, None, memory, bandwidth, None, link, "measured", (source,))


def _delay_s(case: Case, cases: Sequence[Case], timed: str) -> float:
    """How much longer the engine's all-reduces take than those of the same plan that was left alone; 0 for others."""
    if case.curve != SLOWED:
        return 0.0
    alone = next((other for other in cases if other.plan == case.plan and other.curve != SLOWED), None)
    pairs = [(_timed(one), _timed(case, timed)) for one in [alone] if one is not None]
    gaps = [after - usual[size] for usual, slow in pairs for size, after in slow.items() if size in usual]
    if not gaps:
        raise NotPredictableError(f"{case.id}: its all-reduces were not timed, slowed and as they are")
    return float(np.median(gaps))


def _timed(case: Case, when: str = ALL_REDUCE) -> dict[float, float]:
    """Seconds of an all-reduce by its bytes, as the case's engine timed it."""
    return {float(point["bytes"]): float(point["seconds"]) for point in case.engine.get(when) or ()}


def _table(hardware: Hardware, ranks: int, cases: Sequence[Case]) -> Floats:
    """Seconds of an all-reduce over so many ranks: timed by the engines of the run, else what is kept."""
    timed = [_timed(case) for case in cases if case.plan.tp == ranks and case.curve != SLOWED]
    points = next((points for points in timed if points), None)
    if not points or ranks < 2:
        return all_reduce_table(hardware, ranks)
    sizes, seconds = (np.log(column) for column in zip(*sorted(points.items()), strict=True))
    wanted = np.log(all_reduce_sizes())
    logs = np.interp(wanted, sizes, seconds) + np.maximum(wanted - sizes[-1], 0)  # beyond the largest, as bytes
    result: Floats = np.exp(logs)
    return result
