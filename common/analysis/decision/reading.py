"""A decision in plain sentences: the answer, and what to doubt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from common.analysis.concurrency.rows import GOOD_ENOUGH
from common.analysis.decision.answer import Decision, measured_alike
from common.analysis.decision.loads import Load
from common.analysis.wording import milliseconds
from common.core.capacity import HOURS_PER_MONTH, Need, need
from common.core.limits import Share
from common.core.plural import plural
from common.core.verdict import Verdict

PREDICTED = "PREDICTED"
SECONDS_PER_MONTH = 3600 * HOURS_PER_MONTH


def headline(decision: Decision) -> str:
    """The answer in one line."""
    asked, chosen = rate_words(decision.question.rate), decision.chosen
    if chosen is None:
        return f"{asked}: no plan was {'seen' if decision.loads else 'predicted'} to keep the limits at any load tried"
    usd = rented_usd(decision, chosen)
    price = "" if usd is None else f", {dollars(usd)} a month rented"
    source = ""
    if chosen.capacity.predicted:
        source = f"{PREDICTED}, not measured: "
    elif chosen.shares_unseen:
        source = f"if {chosen.together} engines on one machine add up (ASSUMED, and it decides): "
    return (
        f"{asked}: {source}{plural(chosen.machines, 'machine')} with {engines_words(chosen)}, one of them spare{price}"
    )


def answer_lines(decision: Decision) -> list[str]:
    """What to take, why so many, and what it costs."""
    question, chosen = decision.question, decision.chosen
    if chosen is None:
        return [*_nearest(decision), *_tempting(decision)]
    each = chosen.capacity.rate(chosen.engines)
    several, predicted = chosen.engines > 1, chosen.capacity.predicted
    carry = ("are" if several else "is") + " predicted to carry" if predicted else "carry" if several else "carries"
    lines = [
        f"{engines_words(chosen, spare=False)} {carry} {number(each)}/s within"
        f" {limits_words(question.limits_ms)} (the low end of the interval); one more is spare, so that the answer"
        " survives the loss of one.",
        f"An engine of {chosen.capacity.engine} is one copy of the model on"
        f" {plural(chosen.capacity.engine.devices, 'device')}: {plural(chosen.devices, 'device')} in all, on"
        f" {plural(chosen.machines, 'machine')} of {question.machine_devices}.{_same_machine(chosen)}",
        *_rented(decision, chosen),
        *_bought(decision, chosen),
    ]
    return [*lines, *_assumed(chosen), *_singly(decision, chosen), *_tempting(decision)]


def side_by_side(decision: Decision) -> list[str]:
    """How engines count that were measured together on one machine: seldom as many times one of them."""
    lines = []
    for capacity in decision.capacities:
        most = max(capacity.carried)
        if most == 1:
            continue
        seen, counted = capacity.carried[most], capacity.rate(most)
        line = f"{most} engines of {capacity.engine} side by side were seen to carry {number(seen)}/s together"
        if counted > seen:
            line += f", fewer of them {number(counted)}/s, so the rest may as well idle"
        lines.append(f"{line}. Every {most} of them on the list above count for {number(counted)}/s.")
    return lines


def doubts(decision: Decision) -> list[str]:
    """What the numbers behind the answer do not show."""
    counted = [one.best for one in decision.plans if one.best is not None]
    lines = []
    if decision.foretold:
        lines.append(
            f"{PREDICTED} rows were not measured. Their times are means, not those of nine requests of ten: the time to"
            " the first token is that of 1 client, the time per token that of the row's clients at the rate that is"
            " counted on (Little's law), so it is longer than at the rate that is expected. The rates that are counted"
            " on are the low ends of intervals in which at least four of five held-out measurements lay."
        )
    bursts = [load for load in counted if load.is_burst]
    if any(not load.by_clock for load in counted if load not in bursts):
        lines.append(
            "Clients waited for each answer before the next request. Requests of many independent people come in"
            " bunches, so the same rate waits longer: measure it by the clock (--rate) before you sign."
        )
    lines += [
        f"{load.plan} at {load.words}: one request of each, all at once: a burst, not a steady load." for load in bursts
    ]
    for one in decision.plans:
        for alike in measured_alike(one.loads):
            if len({load.within(decision.question.limits_ms) for load in alike}) > 1:
                lines.append(
                    f"{one.plan} at {alike[0].words} was measured {len(alike)} times and was not always within the"
                    " limits: the worst counts."
                )
    if any(not load.is_exact for load in decision.loads):
        lines.append(
            "Times of single requests were not beside every result: for other limits than those held while measuring,"
            " shares are bounds from percentiles, and a load counts only where the lower bound does."
        )
    if any(_starts(load) == 1 for load in counted):
        lines.append(
            "Some intervals are over repeats inside one engine start; another start may differ by more (--preset lab)."
        )
    if any(load.rate.low is None for load in counted):
        lines.append("Some loads were measured once and have no interval: their value is counted on.")
    if any("host_shares_devices" in load.case.flags for load in counted):
        lines.append("The client and the API server took part of the devices (host_shares_devices): rates are low.")
    lines += [
        f"{load.plan} at {load.words}: the client is {verdict.word}: {verdict.reasons[0]}."
        for load in counted
        if (verdict := _doubtful(load)) is not None
    ]
    return lines


def within_words(load: Load, limits_ms: Mapping[str, float]) -> str:
    """The share of requests within the limits, or its bounds."""
    share: Share = load.share(limits_ms)
    if share.high - share.low < 1e-9:
        return f"{share.low:.0%} of {share.requests}"
    verdict = "" if share.high < GOOD_ENOUGH or share.low >= GOOD_ENOUGH else ", not shown"
    return f"{share.low:.0%} to {share.high:.0%} of {share.requests}{verdict}"


def limits_words(limits_ms: Mapping[str, float]) -> str:
    """`TTFT 1000 ms and TPOT 100 ms`."""
    return " and ".join(f"{name.upper()} {limit:g} ms" for name, limit in limits_ms.items())


def rented_usd(decision: Decision, taken: Need) -> float | None:
    """Dollars a month for the whole machines."""
    each = decision.question.prices.rented_usd
    return None if each is None else each * taken.machines


def dollars(usd: float) -> str:
    """Whole dollars where they are many; of small sums, what is left of them."""
    return f"${usd:,.0f}" if usd >= 100 else f"${usd:,.2f}" if usd >= 1 else f"${usd:.2g}"


def number(value: float) -> str:
    """Three digits that mean something."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def rate_words(rate: float) -> str:
    """`1 request per second`, `20 requests per second`."""
    return f"{number(rate)} request{'' if rate == 1 else 's'} per second"


def engines_words(taken: Need, spare: bool = True) -> str:
    """`3 engines of tp1`."""
    many = taken.engines + (taken.spares if spare else 0)
    return f"{plural(many, 'engine')} of {taken.capacity.engine}"


def _same_machine(chosen: Need) -> str:
    if chosen.machines == 1:
        return " All of it stands on one machine: its loss is the loss of everything."
    if chosen.machines < chosen.engines + chosen.spares:
        return " Machines hold several engines: one spare engine does not cover the loss of a whole machine."
    return ""


def _assumed(chosen: Need) -> list[str]:
    """That engines add up, where so many of them were not measured together."""
    if chosen.engines == 1 or not chosen.capacity.is_assumed(chosen.engines):
        return []
    most = max(chosen.capacity.carried)
    what = "The prediction is of" if chosen.capacity.predicted else "What was measured is"
    seen = f"{most} side by side" if most > 1 else "one engine"
    share = "" if chosen.machine_devices < 2 * chosen.capacity.engine.devices else " Those on one machine share it"
    share += (", and how many machines it takes rests on that." if chosen.shares_unseen else ".") if share else ""
    return [
        f"ASSUMED: engines add up. {what} {seen}; that {chosen.engines} carry {number(chosen.engines / most)} times as"
        f" much, behind something that spreads requests evenly, is arithmetic.{share}"
    ]


def _singly(decision: Decision, chosen: Need) -> list[str]:
    """Where whole machines hide that another plan takes fewer devices."""
    alike = [one for one in decision.capacities if one.predicted == chosen.capacity.predicted]
    question = decision.question
    taken = [need(one, question.rate, question.machine_devices) for one in alike]
    fewest = min(taken, key=lambda one: one.devices, default=chosen)
    if fewest.devices >= chosen.devices:
        return []
    return [
        f"If devices can be rented singly, {fewest.capacity.engine} takes fewer of them: {fewest.devices} against"
        f" {chosen.devices}."
    ]


def _rented(decision: Decision, chosen: Need) -> list[str]:
    prices, whole = decision.question.prices, rented_usd(decision, chosen)
    if whole is None or prices.usd_per_hour is None:
        return ["Rented: left out, because no price was given (--usd-per-hour, of a whole machine)."]
    used = chosen.devices / (chosen.machines * decision.question.machine_devices)
    tokens = decision.question.rate * decision.work.output_tokens * SECONDS_PER_MONTH
    share = "" if used >= 1 else f" If devices can be rented singly: {dollars(whole * used)} ({used:.0%} of them used)."
    return [
        f"Rented: {dollars(whole)} a month at {dollars(prices.usd_per_hour)} an hour for each machine"
        f" ({HOURS_PER_MONTH:.0f} h).{share}",
        f"Kept busy at this rate all month, that is {dollars(whole / tokens * 1e6)} per million output tokens; at half"
        " the rate, twice as much.",
    ]


def _bought(decision: Decision, chosen: Need) -> list[str]:
    prices = decision.question.prices
    if prices.bought_usd is None or prices.buy_usd is None or prices.months is None:
        return ["Bought: left out, because no price was given (--buy-usd, --months, --watts, --usd-per-kwh)."]
    words = f"Bought: {dollars(prices.bought_usd * chosen.machines)} a month, written off over {prices.months:g} months"
    words += f" ({dollars(prices.buy_usd * chosen.machines)} at once)"
    if prices.power_usd is None:
        return [f"{words}. Electricity is left out (--watts, --usd-per-kwh), as are space, network and people."]
    power = dollars(prices.power_usd * chosen.machines)
    return [f"{words}, {power} of it electricity. Space, network and people are left out."]


def _tempting(decision: Decision) -> list[str]:
    best = decision.tempting
    if best is None:
        return []
    on = f"{plural(best.machines, 'machine')} ({plural(best.devices, 'device')})"
    return [
        f"{PREDICTED}: {best.capacity.engine} would need less, {engines_words(best)} on {on}. It was not measured, and"
        " is not the answer until it is."
    ]


def _nearest(decision: Decision) -> list[str]:
    """What could be promised instead, at the lightest load tried."""
    lines = []
    for one in decision.plans:
        alike = measured_alike(one.loads)[0]
        kept = {name: _worst_ms(alike, name) for name in decision.question.limits_ms}
        alone = ", ".join(f"{name.upper()} {milliseconds(limit)}" for name, limit in kept.items() if limit is not None)
        of = f" (the worst of {len(alike)} measurements of it)" if len(alike) > 1 else ""
        if alone:
            lines.append(
                f"{one.plan} at {alike[0].words}, the lightest load tried{of}: nine requests of ten kept {alone}, each"
                " by itself."
            )
    return lines or ["Larger limits, shorter answers or faster devices are needed."]


def _worst_ms(alike: Sequence[Load], name: str) -> float | None:
    """The strictest limit that nine requests of ten met by itself, in the worst of the measurements that met one."""
    met = (load.least_limit_ms({name: 0.0}, name) for load in alike)
    return max((limit for limit in met if limit is not None), default=None)


def _starts(load: Load) -> int:
    return len({repeat["start"] for repeat in load.case.repeats})


def _doubtful(load: Load) -> Verdict | None:
    client = load.case.client
    return client if client is not None and client.word != "VALID" and client.reasons else None


def left_out_lines(left_out: Sequence[str]) -> list[str]:
    """What was there and does not count, with the reason."""
    return [f"Left out: {reason.rstrip('.')}." for reason in left_out]
