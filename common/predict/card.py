"""What plans should do, before any is measured or from the few that are: memory, rates, speed-up, cost, intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from common.core.capacity import usd_per_million_tokens
from common.core.legality import why_not_divided
from common.core.plan import ParallelPlan
from common.core.traffic import bytes_per_token
from common.predict.calibrate import Priors, Sample, predict
from common.predict.evaluate import LOW_WIDTH, RESIDUAL_LIMIT
from common.predict.memory import MemoryFit, fit
from common.predict.step import PASS_TOKENS, Floats, Rows, pass_s
from common.predict.wanted import Ask, wanted_row

BASE_SEQUENCES = 16
FAR_APART = 4  # times the ratio of their devices, or less than its inverse: two measured rates are doubted
ALIKE = 0.9  # plans with this share of the best one's tokens per device are as efficient


@dataclass(frozen=True)
class Range:
    """A predicted value and the interval in which at least four of five held-out measurements lay."""

    value: float
    low: float
    high: float

    def times(self, factor: float) -> Range:
        """Value and bounds times a factor."""
        return Range(self.value * factor, self.low * factor, self.high * factor)


@dataclass(frozen=True)
class Line:
    """What is claimed of one plan's speed."""

    output_tokens_s: Range
    ttft_s: float
    """Time to the first token of a lone request."""
    speedup: Range
    efficiency: Range
    measured: float | None
    foretold: float | None
    """Where it is measured: what the other measurements predict for it."""


@dataclass(frozen=True)
class Fit:
    """One plan that fits: what it keeps and sends, and what it should do, where that can be said."""

    plan: ParallelPlan
    memory: MemoryFit
    largest_concurrency: int
    """Requests whose KV cache fits at once, over all replicas."""
    bytes_per_token: float
    """Bytes that one token puts on the links of its engine."""
    speed: Line | None
    """None for expert parallelism that nothing was measured of: no throughput claim."""


@dataclass(frozen=True)
class Card:
    """Plans that fit, those that do not, and what to measure next."""

    fits: tuple[Fit, ...]
    unfit: Mapping[ParallelPlan, str]
    next_measurement: ParallelPlan | None
    """The plan whose measurement narrows the intervals most per device; None where all are measured."""
    doubts: tuple[str, ...]
    """Why all of it is of low confidence, and its intervals wider."""

    @property
    def claimed(self) -> list[tuple[Fit, Line]]:
        """Plans with a claim about their speed."""
        return [(one, one.speed) for one in self.fits if one.speed is not None]


def make_card(
    ask: Ask, plans: Sequence[ParallelPlan], priors: Priors, measured: Mapping[ParallelPlan, float] | None = None
) -> Card:
    """Predict every plan that fits; speed-up is against the first of them that holds 16 sequences, or all there are.

    Args:
        ask: Model, devices and load.
        plans: Plans, the base first.
        priors: What is believed before measuring.
        measured: Output tokens/s of plans that were measured under this load; they calibrate the others.
    """
    measured = measured or {}
    unfit: dict[ParallelPlan, str] = {}
    fitting: dict[ParallelPlan, MemoryFit] = {}
    for plan in plans:
        reason, memory = _obstacle(ask, plan)
        if reason or memory is None:
            unfit[plan] = reason
        else:
            fitting[plan] = memory
    calibrated = any(plan.ep for plan in fitting if plan in measured)
    chosen = [plan for plan in fitting if calibrated or not plan.ep]
    lines: dict[ParallelPlan, Line] = {}
    doubts: tuple[str, ...] = ()
    following = None
    if chosen:
        held = [_held(ask, plan, fitting[plan]) for plan in chosen]
        lines, doubts, following = _speeds(ask, chosen, _base(ask, held), priors, measured)
    fits = [
        Fit(plan, memory, _held(ask, plan, memory), bytes_per_token(plan, ask.shape), lines.get(plan))
        for plan, memory in fitting.items()
    ]
    return Card(tuple(fits), unfit, following, doubts)


def _speeds(
    ask: Ask, plans: Sequence[ParallelPlan], base: int, priors: Priors, measured: Mapping[ParallelPlan, float]
) -> tuple[dict[ParallelPlan, Line], tuple[str, ...], ParallelPlan | None]:
    """Speeds of these plans, the doubts about all of them, and what to measure next."""
    sample = _sample(ask, plans, measured)
    found = predict(sample, priors)
    doubts = _doubts(ask, found.residual, measured)
    width = priors.interval * (LOW_WIDTH if doubts else 1)
    ratios = _given(sample, found.log_rates, (base,), priors)
    waiting = _ttft_s(found.constants, sample.rows)
    lines = {}
    for at, plan in enumerate(plans):
        rate, gained = np.exp(found.log_rates[at]), np.exp(found.log_rates[at] - found.log_rates[base])
        speedup = _range(gained, 0.0 if at == base else width * ratios[at])
        lines[plan] = Line(
            output_tokens_s=_range(rate, width * found.deviations[at]),
            ttft_s=float(waiting[at]),
            speedup=speedup,
            efficiency=speedup.times(plans[base].devices / plan.devices),
            measured=measured.get(plan),
            foretold=_foretold(sample, at, priors) if plan in measured else None,
        )
    return lines, doubts, _next(sample, found.log_rates, priors, plans)


def _range(value: float, margin: float) -> Range:
    return Range(float(value), float(value * np.exp(-margin)), float(value * np.exp(margin)))


def usd_per_million(plan: ParallelPlan, line: Line, usd_per_device_hour: float) -> Range:
    """Dollars per million output tokens on the plan's devices, fully loaded."""
    usd_per_hour, rate = usd_per_device_hour * plan.devices, line.output_tokens_s
    value, low, high = (usd_per_million_tokens(usd_per_hour, one) for one in (rate.value, rate.high, rate.low))
    return Range(value, low, high)


def recommend(card: Card) -> tuple[ParallelPlan, str]:
    """The plan with the most tokens per device, and why; of those within a tenth of it, the fastest.

    Raises:
        ValueError: nothing is claimed of any plan.
    """
    if not card.claimed:
        raise ValueError("no plan fits")

    def per_device(fit: Fit, line: Line) -> float:
        return line.output_tokens_s.value / fit.plan.devices

    best = max(per_device(*one) for one in card.claimed)
    close = [one for one in card.claimed if per_device(*one) >= ALIKE * best]
    fit, line = max(close, key=lambda one: one[1].output_tokens_s.value)
    rate = per_device(fit, line)
    reason = f"{rate:.0f} tok/s per device, " if rate >= 1 else f"{rate:.2g} tok/s per device, "
    reason += "the most of all plans" if len(close) == 1 else f"and the fastest of {len(close)} that are as efficient"
    faster, other = max(card.claimed, key=lambda one: one[1].output_tokens_s.value)
    if other.output_tokens_s.value > line.output_tokens_s.value:
        gain = other.output_tokens_s.value / line.output_tokens_s.value
        reason += f"; {faster.plan} gives {gain:.2f} times as much from {faster.plan.devices} devices"
    return fit.plan, reason


def _held(ask: Ask, plan: ParallelPlan, memory: MemoryFit) -> int:
    return memory.largest_concurrency(ask.input_tokens, ask.output_tokens) * plan.replicas * plan.dp


def _base(ask: Ask, held: Sequence[int]) -> int:
    """A base short of memory would make every larger plan look better than its devices."""
    wanted = min(BASE_SEQUENCES, ask.concurrency)
    return next((at for at, count in enumerate(held) if count >= wanted), 0)


def _doubts(ask: Ask, residual: float | None, measured: Mapping[ParallelPlan, float]) -> tuple[str, ...]:
    said = []
    if ask.hardware.nvlink is None:
        said.append("devices talk over PCIe, whose bandwidth differs between machines and was not measured")
    if ask.shape.num_experts:
        said.append("experts: the model errs more on them")
    if residual is not None and residual > RESIDUAL_LIMIT:
        said.append(f"the model misses what was measured by {residual:.0%}")
    return (*said, *_far_apart(measured))


def _far_apart(measured: Mapping[ParallelPlan, float]) -> list[str]:
    """The first two plans whose rates are hardly of one load: one per line would say the same of all."""
    for less, more in combinations(sorted(measured, key=lambda plan: plan.devices), 2):
        gained, most = measured[more] / measured[less], FAR_APART * more.devices / less.devices
        if not 1 / most <= gained <= most:
            rates = f"{less} gives {measured[less]:,.12g} and {more} {measured[more]:,.12g}"
            return [f"{rates}, far apart for their devices: check that both are output tokens/s under this load"]
    return []


def _foretold(sample: Sample, at: int, priors: Priors) -> float:
    known = sample.calibrates.copy()
    known[at] = False
    return float(np.exp(predict(replace(sample, calibrates=known), priors).log_rates[at]))


def _obstacle(ask: Ask, plan: ParallelPlan) -> tuple[str, MemoryFit | None]:
    reason = why_not_divided(plan, ask.shape)
    if reason is not None:
        return reason, None
    memory = fit(ask.shape, ask.hardware, plan, ask.bytes_per_weight)
    if not memory.fits:
        return f"{memory.missing_bytes / 1e9:.1f} GB short on each device", None
    length = ask.input_tokens + ask.output_tokens
    if memory.largest_concurrency(ask.input_tokens, ask.output_tokens) < 1:
        return f"KV cache for {memory.kv_tokens} tokens, and one request needs {length}", None
    return "", memory


def _sample(ask: Ask, plans: Sequence[ParallelPlan], measured: Mapping[ParallelPlan, float]) -> Sample:
    return Sample(
        rows=Rows.joined([wanted_row(ask, plan) for plan in plans]),
        log_rates=np.log([measured.get(plan, 1.0) for plan in plans]),
        case=np.zeros(len(plans), dtype=np.int64),
        devices=np.array([float(plan.devices) for plan in plans]),
        calibrates=np.array([plan in measured for plan in plans]),
        straight=np.full(len(plans), np.nan),
        reach=np.zeros(len(plans)),
    )


def _given(sample: Sample, log_rates: Floats, positions: Sequence[int], priors: Priors) -> Floats:
    """Standard deviations that remain if the rows at these positions were measured as predicted."""
    known = sample.calibrates.copy()
    known[list(positions)] = True
    return predict(replace(sample, log_rates=log_rates, calibrates=known), priors).deviations


def _next(sample: Sample, log_rates: Floats, priors: Priors, plans: Sequence[ParallelPlan]) -> ParallelPlan | None:
    open_plans = [at for at in range(len(plans)) if not sample.calibrates[at]]
    if not open_plans:
        return None
    before = float(np.mean(predict(sample, priors).deviations))

    def gain(at: int) -> float:
        return (before - float(np.mean(_given(sample, log_rates, (at,), priors)))) / plans[at].devices

    return plans[max(open_plans, key=gain)]


def _ttft_s(constants: Floats, rows: Rows) -> Floats:
    """A lone request's prompt through all stages, one engine step per pass."""
    nothing = np.zeros_like(rows.input_tokens)
    passes = np.ceil(rows.input_tokens / PASS_TOKENS)
    waiting: Floats = passes * (
        pass_s(constants, rows, nothing, rows.input_tokens / passes, nothing).whole + np.exp(constants[3]) * 1e-3
    )
    return waiting
