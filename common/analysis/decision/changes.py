"""What would change a decision, in plain sentences: rate, limits, price, and measuring more."""

from __future__ import annotations

from common.analysis.decision.answer import Carried, Decision, LimitTurn, by_bracket, by_means, limit_turns
from common.analysis.decision.reading import (
    SECONDS_PER_MONTH,
    dollars,
    engines_words,
    number,
    rented_usd,
    within_words,
)
from common.core.capacity import REACH, Need, other_plan_above, other_plan_below
from common.core.plural import plural


def changes(decision: Decision) -> list[str]:
    """What would change the answer, or give one where there is none."""
    chosen, limits = decision.chosen, _limit_changes(decision) if decision.loads else []
    if chosen is None:
        return limits
    return [
        *_rate_changes(decision, chosen),
        *limits,
        *_price_changes(decision, chosen),
        *_evidence_changes(decision, chosen),
    ]


def _limit_changes(decision: Decision) -> list[str]:
    turns = limit_turns(decision.loads, decision.question)
    lines = [_limit_turn(turn) for turn in turns]
    laxer = {turn.name for turn in turns if not turn.stricter}
    fixed = " or ".join(name.upper() for name in decision.question.limits_ms if name not in laxer)
    if fixed:
        lines.append(f"Limit: a laxer {fixed} alone changes nothing, by the loads that were tried.")
    return lines


def _rate_changes(decision: Decision, chosen: Need) -> list[str]:
    question, capacity = decision.question, chosen.capacity
    lines = [f"Rate: up to {number(capacity.rate(chosen.engines))}/s the same engines do; beyond it, one more."]
    if chosen.engines > 1:
        lines[0] += f" At {number(capacity.rate(chosen.engines - 1))}/s or less, one fewer."
    rivals = [one for one in decision.capacities if one.predicted == capacity.predicted]
    above = other_plan_above(rivals, question.rate, question.machine_devices)
    below = other_plan_below(rivals, question.rate, question.machine_devices)
    lines += [f"Rate: above {number(above.rate)}/s {_replaced(above.need, chosen)}."] if above else []
    lines += [f"Rate: at {number(below.rate)}/s or less {_replaced(below.need, chosen)}."] if below else []
    if not above and not below and len(rivals) > 1:
        lines.append(f"Rate: no other plan needs less from a tenth of the rate to {REACH:.0f} times it.")
    return lines


def _replaced(other: Need, chosen: Need) -> str:
    return (
        f"{other.capacity.engine} takes the place of {chosen.capacity.engine}: {engines_words(other)} on"
        f" {plural(other.machines, 'machine')}"
    )


def _limit_turn(turn: LimitTurn) -> str:
    side = "below" if turn.stricter else "at"
    more = "" if turn.stricter else " or more"
    begin = f"Limit: with {turn.name.upper()} {side} {turn.limit_ms:.3g} ms{more}"
    if turn.need is None:
        return f"{begin} no load tried keeps the limits on any plan."
    return f"{begin} it is {engines_words(turn.need)} on {plural(turn.need.machines, 'machine')}."


def _price_changes(decision: Decision, chosen: Need) -> list[str]:
    prices, whole = decision.question.prices, rented_usd(decision, chosen)
    lines = []
    if whole is not None:
        tokens = decision.question.rate * decision.work.output_tokens * SECONDS_PER_MONTH
        lines.append(
            "Price: the hourly price moves every plan alike. Somebody who serves this model for less than"
            f" {dollars(whole / tokens * 1e6)} per million output tokens is cheaper than renting, at this rate."
        )
    if prices.even_usd_per_hour is not None:
        lines.append(f"Price: renting is cheaper than buying below {dollars(prices.even_usd_per_hour)} an hour.")
    if prices.buy_usd is not None and prices.rented_usd is not None:
        after = prices.even_months
        lines.append(
            "Price: electricity alone costs more than the rent: buying never pays."
            if after is None
            else f"Price: buying pays after {after:.3g} months of use; if the need ends earlier, renting was cheaper."
        )
    return lines


def _evidence_changes(decision: Decision, chosen: Need) -> list[str]:
    """What more measuring could save; nothing where the answer is a prediction."""
    if chosen.capacity.predicted:
        return []
    rate, lines = decision.question.rate, []
    certain = by_means(decision.plans, chosen, rate)
    if certain.engines < chosen.engines:
        lines.append(
            f"Measuring: by the measured means {plural(certain.engines, 'engine')} and a spare would do; the width of"
            f" the intervals costs {plural(chosen.engines - certain.engines, 'engine')}."
        )
    own = [one for one in decision.plans if one.plan == chosen.capacity.engine]
    for one in own:
        lines += _bracket(one, decision, chosen)
    return lines


def _bracket(one: Carried, decision: Decision, chosen: Need) -> list[str]:
    most = by_bracket(decision.plans, chosen, decision.question.rate)
    if one.best is None or most is None:
        return []
    once = (
        f" It was within at {one.once.words} too ({number(one.once.rate.value)}/s), measured once, so not counted."
        if one.once is not None
        else ""
    )
    if one.failed is None:
        return [
            f"Measuring: {one.plan} was still within the limits at {one.loads[-1].words}, the most tried: its limit was"
            f" not seen, and it may carry more.{once}"
        ]
    saved = chosen.engines - most.engines
    gain = f"at most {plural(saved, 'engine')} could be saved" if saved > 0 else "no engine could be saved"
    return [
        f"Measuring: {one.plan} was within at {one.best.words} and not at {one.failed.words}"
        f" ({number(one.failed.rate.value)}/s, {within_words(one.failed, decision.question.limits_ms)}); the truth lies"
        f" between, and {gain} by looking there.{once}"
    ]
