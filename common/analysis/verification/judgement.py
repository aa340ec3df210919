"""Does tensor parallelism work: evidence as checks of a case, and from them a verdict per case and per plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from common.core.greedy import Likeness
from common.core.plan import ParallelPlan
from common.core.plural import plural
from common.store.schema import Case, Check, Result

Word = Literal["PASS", "FAIL", "NOT TESTED"]
SERVED, OFFLINE = "verify-served", "verify-offline"  # curves
INFERENCE, WEIGHTS, LOAD_REPORT = "inference", "weights are split", "vLLM's load report"
LIKE_BASE, LIKE_SERVED = "same output as the base", "same output as served"
EXPECTED_WEIGHTS = "weight_bytes_per_rank"  # of `Case.predicted`
WEIGHT_SHARE = "weight_share"  # of the fullest rank, in percent of what TP=1 holds: predicted and measured

WEIGHTS_WITHIN = 0.02
"""Biases, which a model's shape does not tell, and padding make less than 1 % of the known models; whole weights, where
half of them belong, are 100 % off."""
REPORT_WITHIN = 0.10
"""vLLM reports what the device's memory shrank by: allocator blocks and buffers are in it."""
EXACT = "float32"
TOLERANCE_NATS = {EXACT: 0.01, "bfloat16": 0.5, "float16": 0.0625}
"""How far rounding may move a log-probability, and how unequal two tokens may be that change places.

Sums over ranks are taken in another order than on one device, so they round differently (Yuan et al., 2025,
https://arxiv.org/abs/2506.09501). bfloat16 has 8 significant bits: logits of 4 to 8 come in steps of 1/32, those
of 16 to 32 in steps of 1/8, and the tolerance is four of the latter. Measured on the 126M model, TP=2 against TP=1: 21
of 24 answers part, over gaps of 0.03 to 0.16 nats, and log-probabilities move by 0.03 (median) to 0.16; TP=1 in
bfloat16 is as far (0.14) from TP=1 in float32. float16 has 3 bits more. In float32 1.3e-5 was measured.
"""


@dataclass(frozen=True)
class Finding:
    """What the evidence says of a case or of a plan; PASS needs neither reason nor remedy."""

    word: Word
    reason: str = ""
    remedy: str = ""


def inference_check(answered: Sequence[int], asked: int) -> Check:
    """Whether every prompt got as many tokens as were asked for; `answered` counts the tokens of each answer."""
    wrong = sum(count != asked for count in answered)
    detail = f"{plural(len(answered), 'prompt')} answered with {plural(asked, 'token')} each"
    return Check(INFERENCE, not wrong, f"{wrong} of {detail.replace('answered', 'not answered')}" if wrong else detail)


def weights_check(
    plan: ParallelPlan, held: Sequence[int], expected: float, whole: int | None, name: str = WEIGHTS
) -> Check:
    """Whether every rank holds its share of the weights and no more.

    Args:
        plan: what the engine is said to run.
        held: bytes per rank.
        expected: bytes per rank of a model that is split.
        whole: bytes of all weights, where an engine of TP=1 has told.
        name: of the check; vLLM's load report is allowed more than a count is.
    """
    within = REPORT_WITHIN if name == LOAD_REPORT else WEIGHTS_WITHIN
    if not held:
        return Check(name, None, "the engine did not tell its ranks' weights")
    if len(held) != plan.devices:
        return Check(name, False, f"{len(held)} ranks told their weights where {plan} has {plan.devices}")
    worst = max(held, key=lambda size: abs(size - expected))
    detail = f"{_megabytes(held)} MB per rank, expected {expected / 1e6:.1f} MB (within {within:.0%})"
    if abs(worst / expected - 1) <= within:
        return Check(name, True, detail)
    if worst < expected and whole is None:
        return Check(name, None, f"{detail}: less than the model's shape explains; measure TP=1 in the same run")
    if plan.tp == 1:
        return Check(name, None, f"{detail}: the model's shape does not explain them, and nothing is split here")
    share = worst / (whole or expected * plan.tp)
    replicas = ": the whole model stands on every device, these are replicas" if share > 1 - within else ""
    return Check(name, False, f"{detail}: {share:.0%} of the weights on one device, not {1 / plan.tp:.0%}{replicas}")


def output_check(name: str, other: str, likeness: Likeness, dtype: str) -> Check:
    """Whether two engines' greedy answers are the same, as far as the precision allows.

    In float32 every token must be; in 16 bits answers may part where the two tokens are as good as equally likely, and
    each engine listed the other's among its likeliest, which is what vLLM's own tests ask for (`check_logprobs_close`).
    """
    tolerance = TOLERANCE_NATS.get(dtype, TOLERANCE_NATS[EXACT])
    exact = tolerance == TOLERANCE_NATS[EXACT]
    precision = dtype if exact else f"{dtype}, in which rounding lets answers part"
    alike = f"{likeness.identical} of {likeness.prompts} answers token-identical to {other}'s ({precision})"
    noise = "" if likeness.noise_nats is None else f"; log-probabilities within {likeness.noise_nats:.2g} nats"
    parted = _parted(likeness)
    if likeness.distinct_tokens < 2:
        return Check(name, None, f"{alike}, but they repeat a single token: choose another model or --seed")
    identical = likeness.identical == likeness.prompts
    explained = not likeness.unlisted and max(likeness.gap_nats or 0.0, likeness.noise_nats or 0.0) <= tolerance
    return Check(name, explained and (identical or not exact), f"{alike}{parted}{noise} (tolerance {tolerance:g})")


def _parted(likeness: Likeness) -> str:
    if likeness.first_divergence is None:
        return ""
    text = f"; the earliest parts after {plural(likeness.first_divergence, 'token')}"
    if likeness.gap_nats is not None:
        text += f", the largest gap there is {likeness.gap_nats:.2g} nats"
    if likeness.unlisted:
        text += f", {likeness.unlisted} part to a token that the other did not list"
    return text


def merged(checks: Sequence[Check]) -> list[Check]:
    """One check of each name, the worst of several engine starts: failed before unknown before passed."""
    worst: dict[str, Check] = {}
    for check in checks:
        known = worst.get(check.name)
        if known is None or _badness(check) >= _badness(known):
            worst[check.name] = check
    return list(worst.values())


def _badness(check: Check) -> int:
    return {True: 0, None: 1, False: 2}[check.passed]


def verdict_of(case: Case) -> Finding:
    """PASS: everything that can be shown of it was. FAIL: something is wrong. NOT TESTED: it could not be shown."""
    error = case.error
    if case.status == "skipped" and error:
        return Finding("NOT TESTED", error.message, error.remedy)
    if case.status == "failed" and error:
        started = bool(case.engine)
        return Finding(
            "FAIL" if started else "NOT TESTED", f"{'' if started else 'did not start: '}{error.message}", error.remedy
        )
    failed = [check.detail for check in case.checks if check.passed is False]
    if failed:
        return Finding("FAIL", "; ".join(failed), "Read the engine's log, and do not use this size before it passes")
    if not case.repeats:
        return Finding("NOT TESTED", "not measured", "Run the same command again")
    unknown = [check.detail for check in case.checks if check.passed is None and _counts(check, case.plan)]
    return Finding("NOT TESTED", "; ".join(unknown), "Measure TP=1 in the same run") if unknown else Finding("PASS")


def _counts(check: Check, plan: ParallelPlan) -> bool:
    """Where nothing is split, weights that the shape does not explain say nothing about splitting."""
    return plan.tp > 1 or check.name not in (WEIGHTS, LOAD_REPORT)


def plan_findings(result: Result) -> dict[ParallelPlan, Finding]:
    """The worst of each plan's cases, smallest plan first; FAIL before NOT TESTED before PASS."""
    found: dict[ParallelPlan, list[Finding]] = {}
    for case in verified(result):
        found.setdefault(case.plan, []).append(_named(case))
    worst_first = ("FAIL", "NOT TESTED", "PASS")
    return {
        plan: min(found[plan], key=lambda one: worst_first.index(one.word))
        for plan in sorted(found, key=lambda plan: (plan.devices, plan))
    }


def _named(case: Case) -> Finding:
    finding = verdict_of(case)
    if finding.word == "PASS" or case.status == "skipped":
        return finding
    return Finding(finding.word, f"{engine_of(case)}: {finding.reason}", finding.remedy)


def verified(result: Result) -> list[Case]:
    """The cases that ask whether a plan works."""
    return [case for case in result.cases if case.curve in (SERVED, OFFLINE)]


def engine_of(case: Case) -> str:
    """Which of vLLM's two ways in the case went."""
    return "offline" if case.curve == OFFLINE else "served"


def any_fails(result: Result) -> bool:
    """Whether something is wrong; a size that could not be tested is not."""
    return any(finding.word == "FAIL" for finding in plan_findings(result).values())


def _megabytes(sizes: Sequence[int]) -> str:
    return " + ".join(f"{size / 1e6:.1f}" for size in sizes)
