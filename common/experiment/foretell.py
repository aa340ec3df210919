"""What plans that were not measured are predicted to carry within limits: the one place that asks `common.predict`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from common.analysis.decision.answer import Foretold
from common.analysis.decision.loads import Load
from common.analysis.decision.reading import PREDICTED
from common.analysis.wording import machine
from common.core.plan import ParallelPlan
from common.core.stats import Estimate
from common.predict.calibrate import stored_priors
from common.predict.card import Card, Line, make_card
from common.predict.choices import nothing_fits
from common.predict.hardware import UnknownHardwareError, find
from common.predict.wanted import Ask
from common.store.schema import Result

LADDER = (1, 2, 4, 8, 16, 32, 64, 128, 256)  # clients, where none were measured


@dataclass(frozen=True)
class Prediction:
    """What the plans that keep the limits carry, the others and why not, and what is doubtful in all of it.

    `next_plan` is the one whose measurement tells most about all.
    """

    foretold: list[Foretold]
    left_out: Sequence[str] = ()
    doubts: Sequence[str] = ()
    next_plan: ParallelPlan | None = None


def foretell(
    ask: Ask, plans: Sequence[ParallelPlan], limits_ms: Mapping[str, float], loads: Sequence[Load] = ()
) -> Prediction:
    """The largest rate within the limits of every plan of one engine, over all numbers of clients.

    Mean times stand for those of nine requests of ten: a lone request's time to the first token, and the time per
    token that Little's law leaves at the low end of the rate. Loads that were measured calibrate the predictions at as
    many clients, and none is made at other numbers then.

    Raises:
        ValueError: nothing was measured, and no plan holds the model: by how much not, and what would.
    """
    engines = [plan for plan in plans if plan.replicas == 1]
    best: dict[ParallelPlan, Foretold] = {}
    ladder = sorted({int(load.level) for load in loads if not load.by_clock}) or LADDER
    cards = [_card(replace(ask, concurrency=clients), engines, loads) for clients in ladder]
    if not loads and not cards[0].fits:
        raise ValueError(nothing_fits(ask, engines))
    for clients, card in zip(ladder, cards, strict=True):
        for fit, line in card.claimed:
            found = _foretold(fit.plan, line, clients, ask.output_tokens)
            if _keeps(found, ask.output_tokens, limits_ms) and _sure(found) > _sure(best.get(fit.plan)):
                best[fit.plan] = found
    named = [card.next_measurement for card in cards if card.next_measurement is not None]
    doubts = dict.fromkeys(doubt for card in cards for doubt in card.doubts)
    slow = ", ".join(str(fit.plan) for fit, _ in cards[0].claimed if fit.plan not in best)
    left_out = [f"{slow}: {PREDICTED} to keep the limits with no number of clients"] if slow else []
    left_out += [f"{plan} does not fit: {reason}" for plan, reason in cards[0].unfit.items()]
    said = [f"{PREDICTED} with low confidence, and wider intervals: {doubt}." for doubt in doubts]
    return Prediction(list(best.values()), left_out, said, max(named, key=named.count, default=None))


def measured_elsewhere(model: str | None, gpu: str | None) -> Callable[[Result], str]:
    """Says of a result why it is not of this model on this accelerator; nothing where it is, or none is named."""

    def objection(result: Result) -> str:
        if model is not None and _name(str(result.config.get("model"))) != _name(model):
            return f"it is of the model {result.config.get('model')}"
        names = {str(device["name"]) for device in result.environment.get("devices", [])}
        if gpu is not None and not (names and all(_same(name, gpu) for name in names)):
            return f"it was measured on {machine(result)}"
        return ""

    return objection


def _name(model: str) -> str:
    return model.rstrip("/").rpartition("/")[2].lower()


def _same(device: str, gpu: str) -> bool:
    try:
        return find(device).name == find(gpu).name
    except UnknownHardwareError:
        return False


def _card(ask: Ask, engines: Sequence[ParallelPlan], loads: Sequence[Load]) -> Card:
    alike = [load for load in loads if not load.by_clock and load.level == ask.concurrency and load.plan in engines]
    measured = {load.plan: load.rate.value * ask.output_tokens for load in alike}
    return make_card(ask, engines, stored_priors(), measured)


def _foretold(plan: ParallelPlan, line: Line, clients: int, output_tokens: int) -> Foretold:
    tokens = line.output_tokens_s.times(1 / output_tokens)
    rate = Estimate("request_rate", "1/s", tokens.value, tokens.low, tokens.high)
    rest_s = max(0.0, clients / tokens.low - line.ttft_s)
    return Foretold(plan, clients, rate, 1e3 * line.ttft_s, 1e3 * rest_s / max(1, output_tokens - 1))


def _keeps(found: Foretold, output_tokens: int, limits_ms: Mapping[str, float]) -> bool:
    whole_ms = found.ttft_ms + found.tpot_ms * (output_tokens - 1)
    times = {"ttft": found.ttft_ms, "tpot": found.tpot_ms, "e2el": whole_ms}
    return all(times[name] <= limit for name, limit in limits_ms.items())


def _sure(found: Foretold | None) -> float:
    return 0.0 if found is None else found.rate.low or found.rate.value
