"""What plans should do, before any is measured or from the few that are: memory, rates, speed-up, cost, intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from common.core.model_shape import ModelShape
from common.core.plan import ParallelPlan
from common.predict.calibrate import Priors, Sample, predict
from common.predict.evaluate import LOW_WIDTH, RESIDUAL_LIMIT
from common.predict.hardware import Hardware, all_reduce_sizes, all_reduce_table
from common.predict.memory import MemoryFit, check_divides, fit
from common.predict.step import CONTINUOUS, PASS_TOKENS, Floats, Rows, pass_s

BASE_SEQUENCES = 16


@dataclass(frozen=True)
class Ask:
    """What is to be served on what: a model, one kind of device, and a load in all."""

    shape: ModelShape
    hardware: Hardware
    weight_bytes: float
    input_tokens: int
    output_tokens: int
    concurrency: int

    def __post_init__(self) -> None:
        for name in ("input_tokens", "output_tokens", "concurrency"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name.replace('_', ' ')}: {getattr(self, name)}, and 1 is the least")


@dataclass(frozen=True)
class Range:
    """A predicted value and the interval in which four of five held-out measurements lay."""

    value: float
    low: float
    high: float

    def times(self, factor: float) -> Range:
        """Value and bounds times a factor."""
        return Range(self.value * factor, self.low * factor, self.high * factor)


@dataclass(frozen=True)
class Line:
    """One plan of the card."""

    plan: ParallelPlan
    memory: MemoryFit
    output_tokens_s: Range
    ttft_s: float
    """Time to the first token of a lone request."""
    speedup: Range
    efficiency: Range
    measured: float | None
    foretold: float | None
    """Where it is measured: what the other measurements predict for it."""


@dataclass(frozen=True)
class Card:
    """Lines of the plans that fit, those that do not, and what to measure next."""

    lines: tuple[Line, ...]
    unfit: Mapping[ParallelPlan, str]
    next_measurement: ParallelPlan | None
    """The plan whose measurement narrows the intervals most per device; None where all are measured."""
    doubts: tuple[str, ...]
    """Why all of it is of low confidence, and its intervals wider."""


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
    fitting: list[tuple[ParallelPlan, MemoryFit]] = []
    for plan in plans:
        reason, memory = _obstacle(ask, plan)
        if reason or memory is None:
            unfit[plan] = reason
        else:
            fitting.append((plan, memory))
    if not fitting:
        return Card((), unfit, None, ())
    chosen = [plan for plan, _ in fitting]
    sample = _sample(ask, chosen, measured)
    found = predict(sample, priors)
    doubts = _doubts(ask, found.residual)
    width = priors.interval * (LOW_WIDTH if doubts else 1)
    base = _base(ask, [memory for _, memory in fitting])
    ratios = _given(sample, found.log_rates, (base,), priors)
    waiting = _ttft_s(found.constants, sample.rows)
    lines = []
    for at, (plan, memory) in enumerate(fitting):
        margin = width * float(found.deviations[at])
        rate = float(np.exp(found.log_rates[at]))
        gained = float(np.exp(found.log_rates[at] - found.log_rates[base]))
        spread = 0.0 if at == base else width * float(ratios[at])
        speedup = Range(gained, gained * float(np.exp(-spread)), gained * float(np.exp(spread)))
        throughput = Range(rate, rate * float(np.exp(-margin)), rate * float(np.exp(margin)))
        share = chosen[base].devices / plan.devices
        foretold = _foretold(sample, at, priors) if plan in measured else None
        ttft_s, known = float(waiting[at]), measured.get(plan)
        lines.append(Line(plan, memory, throughput, ttft_s, speedup, speedup.times(share), known, foretold))
    return Card(tuple(lines), unfit, _next(sample, found.log_rates, priors, chosen), doubts)


def usd_per_million(line: Line, usd_per_device_hour: float) -> Range:
    """Dollars per million output tokens on the plan's devices, fully loaded."""
    cost = usd_per_device_hour * line.plan.devices / 3600 * 1e6
    rate = line.output_tokens_s
    return Range(cost / rate.value, cost / rate.high, cost / rate.low)


def recommend(card: Card) -> Line:
    """The plan with the most tokens per device; of those that the intervals cannot tell apart, the fastest.

    Raises:
        ValueError: no plan fits.
    """
    if not card.lines:
        raise ValueError("no plan fits")
    best = max(line.output_tokens_s.value / line.plan.devices for line in card.lines)
    alike = [line for line in card.lines if line.output_tokens_s.high / line.plan.devices >= best]
    close = [line for line in alike if line.output_tokens_s.value / line.plan.devices >= 0.9 * best]
    return max(close or alike, key=lambda line: line.output_tokens_s.value)


def _base(ask: Ask, memories: Sequence[MemoryFit]) -> int:
    """A base short of memory would make every larger plan look better than its devices."""
    wanted = min(BASE_SEQUENCES, ask.concurrency)
    held = [memory.largest_concurrency(ask.input_tokens, ask.output_tokens) for memory in memories]
    return next((at for at, count in enumerate(held) if count >= wanted), 0)


def _doubts(ask: Ask, residual: float | None) -> tuple[str, ...]:
    said = []
    if ask.hardware.nvlink is None:
        said.append("devices talk over PCIe, whose bandwidth differs between machines and was not measured")
    if ask.shape.num_experts:
        said.append("experts: the model errs more on them")
    if residual is not None and residual > RESIDUAL_LIMIT:
        said.append(f"the model misses what was measured by {residual:.0%}")
    return tuple(said)


def _foretold(sample: Sample, at: int, priors: Priors) -> float:
    known = sample.calibrates.copy()
    known[at] = False
    found = predict(Sample(sample.rows, sample.log_rates, sample.case, sample.devices, known), priors)
    return float(np.exp(found.log_rates[at]))


def _obstacle(ask: Ask, plan: ParallelPlan) -> tuple[str, MemoryFit | None]:
    try:
        check_divides(ask.shape, plan)
    except ValueError as error:
        return str(error), None
    memory = fit(ask.shape, ask.hardware, plan, ask.weight_bytes)
    if not memory.fits:
        return f"{memory.missing_bytes / 1e9:.1f} GB short on each device", None
    if memory.largest_concurrency(ask.input_tokens, ask.output_tokens) < 1:
        return (
            f"KV cache for {memory.kv_tokens} tokens, and one request needs {ask.input_tokens + ask.output_tokens}",
            None,
        )
    return "", memory


def _sample(ask: Ask, plans: Sequence[ParallelPlan], measured: Mapping[ParallelPlan, float]) -> Sample:
    shape, hardware = ask.shape, ask.hardware
    same: dict[str, float] = {
        "layers": shape.num_hidden_layers,
        "hidden": shape.hidden_size,
        "heads": shape.num_attention_heads,
        "kv_heads": shape.num_key_value_heads,
        "head_dim": shape.head_dim,
        "intermediate": shape.intermediate_size,
        "vocabulary": shape.vocab_size,
        "experts": shape.num_experts,
        "experts_per_token": shape.num_experts_per_tok,
        "weight_bytes": ask.weight_bytes,
        "kv_bytes": 2.0,
        "flops": hardware.flops(ask.weight_bytes),
        "bandwidth": hardware.bandwidth,
        "memory": hardware.memory_bytes,
        "link": hardware.link,
        "input_tokens": ask.input_tokens,
        "output_tokens": ask.output_tokens,
        "concurrency": ask.concurrency,
        "compiled": 0.0,
        "young": float(hardware.name.startswith("MI")),
        "unit": 1.0,
    }
    rows = Rows(
        **{name: np.full(len(plans), float(value)) for name, value in same.items()},
        all_reduce_bytes=all_reduce_sizes(),
        all_reduce_s=np.stack([all_reduce_table(hardware, plan.tp) for plan in plans]),
        tp=np.array([float(plan.tp) for plan in plans]),
        pp=np.array([float(plan.pp) for plan in plans]),
        dp=np.array([float(plan.dp * plan.replicas) for plan in plans]),
        kind=np.full(len(plans), CONTINUOUS),
    )
    known = np.array([plan in measured for plan in plans])
    logs = np.log([measured.get(plan, 1.0) for plan in plans])
    return Sample(rows, logs, np.zeros(len(plans), dtype=np.int64), np.array([float(p.devices) for p in plans]), known)


def _given(sample: Sample, log_rates: Floats, positions: Sequence[int], priors: Priors) -> Floats:
    """Standard deviations that remain if the rows at these positions were measured as predicted."""
    known = sample.calibrates.copy()
    known[list(positions)] = True
    return predict(Sample(sample.rows, log_rates, sample.case, sample.devices, known), priors).deviations


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
        pass_s(constants, rows, nothing, rows.input_tokens / passes, nothing) + np.exp(constants[3]) * 1e-3
    )
    return waiting
