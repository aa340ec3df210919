"""What can be doubted about one case, judged from its repeats alone."""

from __future__ import annotations

from collections.abc import Iterator

from common.core.stats import student_margin
from common.store.schema import Case, Check

AGREE_WITHIN = 0.10  # a first repeat further from the others' mean was not warmed up
STEADY_WITHIN = 0.05  # a throughput that rises or falls by more over the window was not steady
TOKENS_PER_CHUNK = 1.05  # above it gaps between chunks are not gaps between tokens
SERVER_COUNT_WITHIN = 0.02
RECOUNT_WITHIN = 0.05


def case_checks(case: Case) -> list[Check]:
    """Every check that the case has data for."""
    if not case.repeats:
        return []
    return [*_first_repeat(case), *_steady(case), *_server_count(case), *_lengths(case), *_chunks(case), *_text(case)]


def _first_repeat(case: Case) -> Iterator[Check]:
    """A first repeat that differs means that the engine was not warm: later averages would take it in."""
    series = [
        [repeat["output_throughput"] for repeat in case.repeats if repeat["start"] == start]
        for start in sorted({repeat["start"] for repeat in case.repeats})
        if all("output_throughput" in repeat for repeat in case.repeats)
    ]
    shares = [rates[0] / (sum(rates[1:]) / len(rates[1:])) - 1 for rates in series if len(rates) > 1]
    if shares:
        worst = max(shares, key=abs)
        detail = f"output throughput {worst:+.1%} from the mean of the later repeats (limit {AGREE_WITHIN:.0%})"
        yield Check("first repeat agrees", abs(worst) <= AGREE_WITHIN, detail)


def _steady(case: Case) -> Iterator[Check]:
    """Drift inside the window: its mean over the repeats, and only where their spread does not explain it."""
    drifts = [repeat["steady_drift"] for repeat in case.repeats if "steady_drift" in repeat]
    if drifts:
        mean = sum(drifts) / len(drifts)
        margin = student_margin(drifts) if len(drifts) > 1 else 0.0
        detail = f"throughput changes by {mean:+.1%} over the steady window (limit {STEADY_WITHIN:.0%})"
        yield Check("steady", not abs(mean) - margin > STEADY_WITHIN, detail)


def _server_count(case: Case) -> Iterator[Check]:
    """The server's own counter of generated tokens over the whole repeat: idle before and after, so it must be exact.

    Failed requests generate tokens that no answer accounts for, so it is asked only where none failed.
    """
    counted = [
        (repeat["total_output_tokens"], repeat["server_output_tokens"])
        for repeat in case.repeats
        if "server_output_tokens" in repeat and "total_output_tokens" in repeat and not repeat.get("failed")
    ]
    if counted:
        client, server = max(counted, key=lambda pair: abs(pair[0] - pair[1]))
        detail = f"the client counted {client:.0f} output tokens, the server {server:.0f}"
        yield Check("server counts the same tokens", client == server, detail)
    shares = [
        repeat["steady_output_throughput"] / repeat["steady_server_output_throughput"] - 1
        for repeat in case.repeats
        if repeat.get("steady_server_output_throughput") and repeat.get("steady_duration", 0) >= 30
    ]
    if shares:
        worst = max(shares, key=abs)
        detail = f"{worst:+.1%} from the server's counter over the same window (limit {SERVER_COUNT_WITHIN:.0%})"
        yield Check("server sees the same throughput", abs(worst) <= SERVER_COUNT_WITHIN, detail)


def _lengths(case: Case) -> Iterator[Check]:
    wrong = sum(repeat.get("token_count_mismatches", 0) for repeat in case.repeats)
    if wrong:
        detail = f"{wrong:.0f} answers are not as long as was asked for: plans may have done different work"
        yield Check("answers have the asked length", False, detail)


def _chunks(case: Case) -> Iterator[Check]:
    most = max((repeat.get("tokens_per_chunk", 0) for repeat in case.repeats), default=0)
    if most > TOKENS_PER_CHUNK:
        detail = f"{most:.2f} tokens a chunk: gaps between chunks (ITL) are not gaps between tokens; read TPOT"
        yield Check("one token a chunk", False, detail)


def _text(case: Case) -> Iterator[Check]:
    """A tokenizer's count of the text; undecided, not wrong, for text that no tokenizer would cut the same way."""
    shares = [repeat["recounted_share"] for repeat in case.repeats if "recounted_share" in repeat]
    if shares:
        worst = max(shares, key=lambda share: abs(share - 1))
        detail = f"the tokenizer finds {worst:.2f} of the reported tokens in the text"
        yield Check("text holds the reported tokens", True if abs(worst - 1) <= RECOUNT_WITHIN else None, detail)
