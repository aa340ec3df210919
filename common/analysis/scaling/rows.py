"""From a result to speed-up and efficiency, each with its interval and what the interval is worth."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from common.core.arrivals import ClosedLoop, OpenLoop, Replay
from common.core.model_shape import ModelShape
from common.core.plan import ParallelPlan
from common.core.plural import plural
from common.core.scaling import efficiency, karp_flatt, speedup
from common.core.stats import Estimate, geometric_mean
from common.store.schema import Case, Result

CURVES = ("fixed", "saturated", "pinned", "weak", "replay")
LIKE_ALONE = ("fixed", "saturated", "weak")  # curves whose engines are as the plan alone would have them
BASE_FROM = {"pinned": "saturated"}  # plans with the base's KV cache stand beside the base as it saturates
THROUGHPUT, LATENCY = "output_throughput", "median_e2el_ms"
HOLDS_SEQUENCES = 16  # a base with room for fewer is starved of KV cache, and everything looks fast beside it
Unit = Literal["within-start", "between-starts"]
OVER: dict[Unit, str] = {"between-starts": "engine starts", "within-start": "repeats inside one engine start"}


@dataclass(frozen=True)
class ScalingRow:
    """One line of the scaling table; estimates are absent where they would mean nothing.

    `load` is requests in flight; of a replay, where they are whatever they turn out to be, the scale of its times.
    A replay's speed-up is that of the median request's end-to-end latency: its throughput is what was offered.
    """

    curve: str
    case: Case
    load: float
    throughput: Estimate | None = None  # output tokens per second
    ttft_ms: float | None = None
    tpot_ms: float | None = None
    e2el_ms: float | None = None
    speedup: Estimate | None = None
    efficiency: Estimate | None = None
    serial_share: float | None = None  # Karp-Flatt; strong scaling from one device only
    is_base: bool = False
    steady: bool = False  # over the steady windows; else over whole repeats, ramp and drain included

    @property
    def ideal(self) -> float | None:
        """The speed-up at which no device is wasted: devices over the base's devices."""
        if self.speedup is None or self.efficiency is None:
            return None
        return self.speedup.value / self.efficiency.value

    @property
    def unresolved(self) -> bool:
        """Whether there is a speed-up that its interval does not tell from none."""
        return self.speedup is not None and self.speedup.unresolved


def sampling_unit(cases: Iterable[Case]) -> Unit:
    """What counts as one sample: engine starts where every measured one of the compared cases has several.

    Else repeats inside a start: one row of one start, and the less is promised. A rung of the search for saturation is
    in the first start alone and compared with nothing: it does not belong among the cases.
    """
    several = [
        len({repeat["start"] for repeat in case.repeats}) > 1 for case in cases if case.status == "ok" and case.repeats
    ]
    return "between-starts" if several and all(several) else "within-start"


def scaling_cases(result: Result) -> list[Case]:
    """The cases that the scaling table compares."""
    return [case for case in result.cases if case.curve in CURVES]


def where(row: ScalingRow) -> str:
    """At which load a row's plans were compared, for a sentence."""
    match row.curve:
        case "saturated":
            return "saturated"
        case "pinned":
            return "with the base's KV cache"
        case "weak":
            return f"at {plural(group(row.case), 'stream')} per device"
        case "replay":
            return f"in the latency of a replay (times ×{row.load:g})"
    return f"at {plural(row.load, 'stream')}"


def samples(case: Case, metric: str) -> list[float]:
    """A metric's samples: one per start where there are several (means of their repeats), else one per repeat."""
    series: dict[float, list[float]] = {}
    for repeat in case.repeats:
        if metric in repeat:
            series.setdefault(repeat["start"], []).append(repeat[metric])
    if len(series) > 1:
        return [sum(values) / len(values) for values in series.values()]
    return [value for values in series.values() for value in values]


def typical(case: Case, metric: str) -> float | None:
    """A metric's geometric mean over the samples; None where it was not measured."""
    values = [value for value in samples(case, metric) if value > 0]
    return geometric_mean(metric, "ms", values).value if values else None


@dataclass(frozen=True)
class Compared:
    """The cases of a curve that are compared with each other: one model, one load.

    `base` is the case of `base_plan` under this load; None where that cannot be one, whoever else could: speed-ups of
    one curve are against one plan, or they are not stated.
    """

    curve: str
    cases: list[Case]
    rivals: list[Case]  # among which the base is
    base_plan: ParallelPlan | None

    @property
    def base(self) -> Case | None:
        """What the others are compared with."""
        return next((case for case in self.rivals if case.plan == self.base_plan and _can_be_base(case)), None)

    @property
    def rows(self) -> list[ScalingRow]:
        """One row per case, the smallest plan first."""
        steady = all(is_steady(case) for case in {case.id: case for case in (*self.cases, *self.rivals)}.values())
        base = self.base
        return [_row(self.curve, case, base, steady) for case in self.cases]


def scaling_rows(result: Result) -> list[ScalingRow]:
    """The scaling table: per curve and load, the base first, every plan against it."""
    return [row for one in compared(result) for row in one.rows]


def compared(result: Result) -> list[Compared]:
    """The groups of the scaling table, in its order."""
    found: list[Compared] = []
    for curve in CURVES:
        groups, rivals = _groups(result, curve), _groups(result, BASE_FROM.get(curve, curve))
        plans: dict[str, ParallelPlan] = {}
        for case in sorted((case for cases in rivals.values() for case in cases), key=_by_size):
            if _can_be_base(case):
                plans.setdefault(case.model or "", case.plan)
        for key in sorted(groups):
            ordered = sorted(groups[key], key=_by_size)
            found.append(Compared(curve, ordered, rivals.get(key, []), plans.get(key[0])))
    return found


def _by_size(case: Case) -> tuple[int, int, ParallelPlan]:
    return case.plan.devices, case.plan.replicas, case.plan


def fair_rows(result: Result) -> list[ScalingRow]:
    """Measured rows on devices of their own, with an engine as the plan alone would have it."""
    rows = [row for row in scaling_rows(result) if row.throughput is not None and not row.case.is_invalid]
    return [row for row in rows if row.curve in LIKE_ALONE and "oversubscribed" not in row.case.flags]


def is_steady(case: Case) -> bool:
    """Whether every repeat of the case has a steady window; cases without repeats do not stand in the way."""
    return all("steady_output_throughput" in repeat for repeat in case.repeats)


def standing(case: Case) -> dict[str, str]:
    """For the last line: the case's status and, where that is not VALID, `client`, the word of the client's verdict."""
    verdict = case.client
    return {"status": case.status} | ({} if verdict is None or verdict.word == "VALID" else {"client": verdict.word})


def group(case: Case) -> float:
    """Cases of a curve with the same number are compared: same load, own best load (0), or same load per device."""
    if case.curve in ("saturated", "pinned"):
        return 0.0
    return _load(case) / (case.plan.devices if case.curve == "weak" else 1)


def _groups(result: Result, curve: str) -> dict[tuple[str, float], list[Case]]:
    groups: dict[tuple[str, float], list[Case]] = {}
    for case in result.cases:
        if case.curve == curve:
            groups.setdefault((case.model or "", group(case)), []).append(case)
    return groups


def shape_of(case: Case, result: Result) -> ModelShape | None:
    """The dimensions of the case's model; None where a result from elsewhere does not tell them."""
    own = result.config.get("model_shape")
    shape = (
        own
        if case.model in (None, result.config.get("model"))
        else result.config.get("other_models", {}).get(case.model)
    )
    return ModelShape(**shape) if shape else None


def by_model(result: Result) -> list[Result]:
    """The result as one per model that has cases, the run's own first: different models are not compared."""
    others = dict.fromkeys(case.model for case in result.cases if case.model is not None)
    shapes = result.config.get("other_models", {})
    parts = [replace(result, cases=[case for case in result.cases if case.model is None])]
    for name in others:
        config = result.config | {"model": name, "model_shape": shapes.get(name)}
        parts.append(replace(result, config=config, cases=[case for case in result.cases if case.model == name]))
    return [part for part in parts if part.cases] or parts


def kv_cache_tokens(case: Case) -> int | None:
    """Tokens of KV cache the case's engine had."""
    tokens = case.engine.get("kv_cache_tokens")
    return int(tokens) if tokens else None


def communication_share(case: Case, result: Result) -> float | None:
    """At least this share of a decoding step went into all-reduces: their time alone, over the measured TPOT.

    A lower bound: it was timed with nothing else running and with all ranks arriving together.
    """
    tpot_ms = samples(case, "median_tpot_ms")
    times = case.engine.get("all_reduce") or []
    if not times or not tpot_ms or not isinstance(case.arrivals, ClosedLoop):
        return None
    shape = shape_of(case, result)
    if shape is None:
        return None
    in_batch = case.arrivals.concurrency / (case.plan.replicas * case.plan.dp)
    nearest = min(times, key=lambda timed: abs(timed["tokens"] - in_batch))
    step_s = geometric_mean("tpot", "ms", tpot_ms).value / 1e3
    return float(nearest["seconds"]) * shape.all_reduces_per_step / step_s


def _load(case: Case) -> float:
    match case.arrivals:
        case ClosedLoop(concurrency):
            return concurrency
        case Replay(time_scale):
            return time_scale
        case OpenLoop(rate_per_s):
            return rate_per_s


def _can_be_base(case: Case) -> bool:
    kv_tokens = kv_cache_tokens(case)
    length = case.workload.input_tokens + case.workload.output_tokens
    roomy = kv_tokens is None or kv_tokens >= HOLDS_SEQUENCES * length
    return (
        case.status == "ok"
        and roomy
        and "oversubscribed" not in case.flags
        and not case.is_invalid
        and bool(samples(case, THROUGHPUT))
        and bool(_compared(case))
    )


def _row(curve: str, case: Case, base: Case | None, steady: bool) -> ScalingRow:
    prefix = "steady_" if steady else ""
    load = _load(case)
    rates = samples(case, prefix + THROUGHPUT)
    if case.status != "ok" or not rates:
        return ScalingRow(curve, case, load)
    comparable = base is not None and base is not case and bool(_compared(case, prefix)) and not case.is_invalid
    gained = speedup(_compared(case, prefix), _compared(base, prefix)) if base and comparable else None
    fair = gained is not None and "oversubscribed" not in case.flags and curve != "replay"
    strong = curve == "fixed" and base is not None and base.plan.devices == 1
    return ScalingRow(
        curve,
        case,
        load,
        throughput=geometric_mean(THROUGHPUT, "tok/s", rates),
        ttft_ms=typical(case, f"{prefix}median_ttft_ms"),
        tpot_ms=typical(case, f"{prefix}median_tpot_ms"),
        e2el_ms=typical(case, prefix + LATENCY),
        speedup=gained,
        efficiency=efficiency(gained, case.plan, base.plan) if gained and base and fair else None,
        serial_share=karp_flatt(gained.value, case.plan.devices) if gained and fair and strong else None,
        is_base=case is base,
        steady=steady,
    )


def _compared(case: Case, prefix: str = "") -> list[float]:
    """What a plan is judged by, more is better: tokens per second; in a replay, requests per second of one user."""
    if case.curve == "replay":
        return [1e3 / value for value in samples(case, prefix + LATENCY) if value > 0]
    return samples(case, prefix + THROUGHPUT)
