"""Whether the client can be believed: the rules, and the words for what they find.

A number is the client's own where the client was late: it stamps what arrives in one event loop, so whatever holds
the loop up is added to the times it reports. VALID means that nothing was found that could move a mean by more than
`BENT`; DOUBTFUL that something could have; INVALID that something must have, or that the load was not what it is said
to be.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

Word = Literal["VALID", "DOUBTFUL", "INVALID"]

BENT = 0.03
"""The share of a mean time that the client may add: what the calibration, too, calls right."""
TIMER_GRAIN_S = 0.001
"""uvloop's timers count whole milliseconds, so a lag of up to one may be rounding."""
DELAY_INVALID = 0.10
"""Of the mean TTFT: when the event loop's halts alone make one tenth of it, no correction saves the number."""
LAG_OF_TPOT_DOUBTFUL = 0.25
"""Mean TPOT hardly feels a late stamp, which is spread over an answer's tokens; the tail of single gaps does."""
CPU_DOUBTFUL, CPU_INVALID = 0.70, 0.95
"""Of one core, over the repeat: work waits 1/(1 - share) times its own length in a queue that random arrivals fill,
three times at 70 %; at 95 % something was waiting all the time."""
CEILING_DOUBTFUL = 0.70
"""Of a ceiling that was seen from above, for the same reason."""
LATE_DOUBTFUL_S, LATE_INVALID_S = 0.002, 0.010
"""Open loop, 99th percentile of sends behind schedule; 2 ms is what the client keeps at 500 requests per second."""
SLOTS_DOUBTFUL, SLOTS_INVALID = 0.97, 0.90
"""Closed loop: slots in flight over slots asked for; a share of 0.97 is 3 % less load than stated."""
FRONT_END_LIMIT = 0.90
"""Of one core: a Python API server that uses more is itself what the engine waits for."""

_MOVE_CLIENT = "leave the client a core that the server does not use, or run it from another machine"
_LESS_LOAD = "lower the load, or spread it over clients on several machines"
_LESS_NOISE = "close other programs on the client's machine and measure again"


@dataclass(frozen=True)
class Verdict:
    """What a case's numbers are worth as far as the client is concerned; `reasons` are empty where it is VALID."""

    word: Word
    reasons: list[str] = field(default_factory=list)
    remedy: str = ""


@dataclass(frozen=True)
class ClientCeiling:
    """What this client reached against a bare server on this machine.

    `streams` and `tokens_per_s` are the largest load at which it was right; `added_ttft_s` is what it added to the mean
    time to first token there; `flood_tokens_per_s` is what it takes in when the server never waits. With `at_least`
    nothing larger was shown to be too much. `load_average` is the machine's over the minute before.

    Raises:
        ValueError: numbers that no calibration gives.
    """

    streams: int
    tokens_per_s: float
    added_ttft_s: float
    flood_tokens_per_s: float | None = None
    at_least: bool = False
    load_average: float | None = None

    def __post_init__(self) -> None:
        if self.streams < 1 or not 0 < self.tokens_per_s < float("inf"):
            raise ValueError("a ceiling has one stream or more, and a finite positive number of tokens per second")


@dataclass(frozen=True)
class ClientEvidence:
    """What is known of the client over one repeat; `None` is unknown.

    `loop_delay_s` is what the event loop's halts add on average to the stamp of a random arrival.
    `client_cpu_share` and `front_end_cpu_share` (API server) are CPU seconds per second, so 1 is a whole core;
    `lateness_p99_s` belongs to an open loop, `slots_in_flight_share` to a closed one, over the time in which requests
    were left to send; `shares_cores` is whether devices and client use the same cores.
    """

    loop_delay_s: float | None = None
    loop_lag_p99_s: float | None = None
    client_cpu_share: float | None = None
    streams: int | None = None
    tokens_per_s: float | None = None
    lateness_p99_s: float | None = None
    slots_in_flight_share: float | None = None
    front_end_cpu_share: float | None = None
    shares_cores: bool | None = None
    mean_ttft_s: float | None = None
    mean_tpot_s: float | None = None


@dataclass(frozen=True)
class _Finding:
    word: Word
    reason: str
    remedy: str


def judge(evidence: ClientEvidence, ceiling: ClientCeiling | None) -> Verdict:
    """The verdict on one repeat: the worst word of all that was found, every reason, and one remedy.

    Args:
        evidence: of the repeat; what is unknown and needed for a VALID is itself a reason to doubt.
        ceiling: of this client on this machine; `None` where it was not calibrated.
    """
    rules = (_delay, _lag, _cpu, _sends, _slots, _front_end, _cores, _unknown)
    found = [finding for rule in rules for finding in rule(evidence)]
    found += _distance(evidence, ceiling)
    for word in ("INVALID", "DOUBTFUL"):
        worst = [finding for finding in found if finding.word == word]
        if worst:
            ordered = worst + [finding for finding in found if finding.word != word]
            return Verdict(worst[0].word, [finding.reason for finding in ordered], worst[0].remedy)
    return Verdict("VALID")


def held_up(evidence: ClientEvidence) -> bool:
    """Whether the event loop stood still so long that the repeat is worth nothing: something that may pass.

    By the clock it also shows in requests that were sent too late, whatever the mean TTFT they are held against.
    """
    return any(finding.word == "INVALID" for finding in (*_delay(evidence), *_sends(evidence)))


def _delay(evidence: ClientEvidence) -> Iterator[_Finding]:
    """What the event loop's halts add to the time of a random arrival, against the mean TTFT."""
    delay_s, ttft_s = evidence.loop_delay_s, evidence.mean_ttft_s
    if delay_s is None or not ttft_s or delay_s <= BENT * ttft_s:
        return
    word: Word = "INVALID" if delay_s > DELAY_INVALID * ttft_s else "DOUBTFUL"
    limit = DELAY_INVALID if word == "INVALID" else BENT
    added = f"halts of the event loop add {_ms(delay_s)}, {delay_s / ttft_s:.0%} of the mean TTFT of {_ms(ttft_s)}"
    yield _Finding(word, f"{added} (limit {limit:.0%})", _elsewhere(evidence))


def _lag(evidence: ClientEvidence) -> Iterator[_Finding]:
    """How late the loop was at its 99th percentile, against the gaps between tokens."""
    if evidence.loop_lag_p99_s is None or not evidence.mean_tpot_s:
        return
    lag_s = max(0.0, evidence.loop_lag_p99_s - TIMER_GRAIN_S)
    if lag_s > LAG_OF_TPOT_DOUBTFUL * evidence.mean_tpot_s:
        lag = f"p99 event-loop lag, less the timer's {_ms(TIMER_GRAIN_S)}, is {_ms(lag_s)}"
        of = f"{lag_s / evidence.mean_tpot_s:.0%} of the mean TPOT of {_ms(evidence.mean_tpot_s)}"
        reason = f"{lag}, {of} (limit {LAG_OF_TPOT_DOUBTFUL:.0%})"
        yield _Finding(
            "DOUBTFUL", f"{reason}: the tail of the gaps between tokens is the client's", _elsewhere(evidence)
        )


def _elsewhere(evidence: ClientEvidence) -> str:
    """What helps a client whose loop stands still: where devices share its cores they may be the cause as well."""
    return f"{_LESS_NOISE}; if that does not help, {_MOVE_CLIENT}" if evidence.shares_cores else _LESS_NOISE


def _cpu(evidence: ClientEvidence) -> Iterator[_Finding]:
    share = evidence.client_cpu_share
    if share is not None and share > CPU_DOUBTFUL:
        word: Word = "INVALID" if share >= CPU_INVALID else "DOUBTFUL"
        limit = CPU_INVALID if word == "INVALID" else CPU_DOUBTFUL
        yield _Finding(word, f"the client used {share:.0%} of a core (limit {limit:.0%})", _LESS_LOAD)


def _sends(evidence: ClientEvidence) -> Iterator[_Finding]:
    late_s = evidence.lateness_p99_s
    if late_s is None:
        return
    ttft_s = evidence.mean_ttft_s or 0.0
    doubtful_s, invalid_s = max(LATE_DOUBTFUL_S, BENT * ttft_s), max(LATE_INVALID_S, DELAY_INVALID * ttft_s)
    if late_s > doubtful_s:
        word: Word = "INVALID" if late_s > invalid_s else "DOUBTFUL"
        limit_s = invalid_s if word == "INVALID" else doubtful_s
        reason = f"p99 of sends is {_ms(late_s)} behind the schedule (limit {_ms(limit_s)})"
        yield _Finding(word, reason, _LESS_LOAD)


def _slots(evidence: ClientEvidence) -> Iterator[_Finding]:
    share = evidence.slots_in_flight_share
    if share is not None and share < SLOTS_DOUBTFUL:
        word: Word = "INVALID" if share < SLOTS_INVALID else "DOUBTFUL"
        limit = SLOTS_INVALID if word == "INVALID" else SLOTS_DOUBTFUL
        reason = f"slots were in flight {share:.0%} of the time (limit {limit:.0%}): less load than stated"
        yield _Finding(word, reason, _LESS_LOAD)


def _front_end(evidence: ClientEvidence) -> Iterator[_Finding]:
    share = evidence.front_end_cpu_share
    if share is not None and share >= FRONT_END_LIMIT:
        reason = f"the API server used {share:.0%} of a core (limit {FRONT_END_LIMIT:.0%})"
        remedy = "give vLLM more API servers (--api-server-count), or read this as the front end's limit"
        yield _Finding("DOUBTFUL", f"{reason}: the front end is the limit, not the devices", remedy)


def _cores(evidence: ClientEvidence) -> Iterator[_Finding]:
    if evidence.shares_cores:
        yield _Finding("DOUBTFUL", "client and devices share cores: each slows the other", _MOVE_CLIENT)


def _unknown(evidence: ClientEvidence) -> Iterator[_Finding]:
    needed = {
        "event-loop lag": evidence.loop_delay_s,
        "mean TTFT": evidence.mean_ttft_s,
        "streams": evidence.streams,
        "tokens per second": evidence.tokens_per_s,
    }
    missing = [name for name, value in needed.items() if value is None]
    if missing:
        yield _Finding(
            "DOUBTFUL", f"not known of the client: {', '.join(missing)}", "measure again and look for errors"
        )


def _distance(evidence: ClientEvidence, ceiling: ClientCeiling | None) -> Iterator[_Finding]:
    """Against the calibrated ceiling; one that nothing was shown to exceed is not itself a limit, only unproven above.

    Tokens per second are what costs the client. More streams than were calibrated, at a rate well below the ceiling's,
    only make the waves of sends longer: doubtful, not wrong.
    """
    if ceiling is None:
        remedy = "calibrate it while the machine is idle"
        yield _Finding("DOUBTFUL", "the client is not calibrated on this machine", remedy)
        return
    if evidence.tokens_per_s is None or evidence.streams is None:
        return
    rate, streams = evidence.tokens_per_s / ceiling.tokens_per_s, evidence.streams / ceiling.streams
    beyond: Word = "DOUBTFUL" if ceiling.at_least else "INVALID"
    limit = 1.0 if ceiling.at_least else CEILING_DOUBTFUL
    of = f"of the client's {'largest calibrated load' if ceiling.at_least else 'ceiling'} of"
    if rate > limit:
        reason = f"{evidence.tokens_per_s:,.0f} tokens/s is {rate:.0%} {of} {ceiling.tokens_per_s:,.0f}"
        yield _Finding(beyond if rate > 1 else "DOUBTFUL", f"{reason} (limit {limit:.0%})", _LESS_LOAD)
    if streams > limit:
        word = beyond if streams > 1 and rate > CEILING_DOUBTFUL else "DOUBTFUL"
        reason = f"{evidence.streams:,} streams are {streams:.0%} {of} {ceiling.streams:,}"
        yield _Finding(word, f"{reason} (limit {limit:.0%})", _LESS_LOAD)


def _ms(seconds: float) -> str:
    value_ms = 1e3 * seconds
    return f"{value_ms:.0f} ms" if value_ms >= 100 else f"{value_ms:.3g} ms"
