"""The verification's tables, for a terminal of 80 columns, and the summary of the last line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from rich.console import Console

from common.analysis.scaling.reading import incomplete
from common.analysis.scaling.table import NOT_MEASURED, framed, say, stdout
from common.analysis.verification.judgement import (
    EXACT,
    EXPECTED_WEIGHTS,
    INFERENCE,
    LIKE_BASE,
    LIKE_SERVED,
    LOAD_REPORT,
    OFFLINE,
    SERVED,
    TOLERANCE_NATS,
    WEIGHTS,
    plan_findings,
    verified,
)
from common.analysis.wording import CARRIES_OVER, about
from common.core.model_shape import DTYPE_BYTES, ModelShape
from common.core.plan import ParallelPlan
from common.core.weight_split import rank_kv_bytes
from common.store.schema import Case, Result

LEFT = ("plan", "verdict")
COLUMNS = [*LEFT, "served start s", "offline start s", "answers", "weights", "output", "offline output"]
MEMORY = [
    *("plan", "weights MB/rank", "expected MB/rank", "of TP=1's weights"),
    *("KV MB/rank", "rest MB/rank", "total MB/device"),
]
ROUNDED = frozenset(TOLERANCE_NATS) - {EXACT}  # in which equal tokens are not asked for
WORDS = {True: "ok", False: "WRONG", None: "unknown"}


def print_verification(result: Result, console: Console | None = None, said: Sequence[str] = ()) -> None:
    """The verdicts, the memory beside them, and how to read both."""
    console = console or stdout()
    console.print(f"[bold]Does tensor parallelism work here?[/]  {about(result)}", soft_wrap=True)
    verdicts = verdicts_shown(result)
    console.print(framed(verdicts, left=LEFT) if len(verdicts) else NOT_MEASURED)
    memory = memory_shown(result)
    if len(memory):
        console.print("\n[bold]Memory[/]  of the fullest rank of each plan, served")
        console.print(framed(memory, left=LEFT))
    console.print()
    say(console, read_verification(result), said)


def verdicts_shown(result: Result) -> pd.DataFrame:
    """One row per plan: the verdict and what it stands on."""
    records = []
    for plan, finding in plan_findings(result).items():
        served, offline = _case(result, plan, SERVED), _case(result, plan, OFFLINE)
        tested = [case for case in (served, offline) if case]
        records.append(
            [
                str(plan),
                finding.word,
                *(_seconds(case) for case in (served, offline)),
                _word(tested, (INFERENCE,)),
                _word(tested, (WEIGHTS, LOAD_REPORT)),
                _word([served] if served else [], (LIKE_BASE,)) or ("base" if served and served.checks else ""),
                _word([offline] if offline else [], (LIKE_SERVED, LIKE_BASE)),
            ]
        )
    return pd.DataFrame(records, columns=COLUMNS, index=[""] * len(records))


def memory_shown(result: Result) -> pd.DataFrame:
    """One row per plan that started: weights per rank, which prove a split, beside total memory, which does not."""
    records = [
        [
            str(row["plan"]),
            *(_number(row[name], 1e6) for name in ("weights", "expected")),
            "" if row["share"] is None else f"{row['share']:.1%}",
            *(_number(row[name], 1e6) for name in ("kv", "rest", "total")),
        ]
        for row in memory_rows(result)
    ]
    return pd.DataFrame(records, columns=MEMORY, index=[""] * len(records))


def memory_rows(result: Result) -> list[dict[str, Any]]:
    """Bytes of the fullest rank of each served plan: `weights`, `expected`, `kv`, the `rest` and the `total`, and its
    `share` of TP=1's weights; None where unknown."""
    started = [case for case in verified(result) if case.curve == SERVED and case.engine]
    whole = next((_fullest(case, "weight_bytes_per_rank") for case in started if case.plan.tp == 1), None)
    rows = []
    for case in sorted(started, key=lambda case: case.plan.devices):
        weights = _fullest(case, "weight_bytes_per_rank")
        predicted = [one.value for one in case.predicted if one.metric == EXPECTED_WEIGHTS]
        kv, total = _kv_bytes(case, result), _fullest(case, "memory_bytes_per_rank")
        rows.append(
            {
                "plan": case.plan,
                "weights": weights,
                "expected": predicted[0] if predicted else None,
                "kv": kv,
                "rest": _rest(total, weights, kv),
                "total": total,
                "share": weights / whole if weights and whole else None,
            }
        )
    return rows


def read_verification(result: Result) -> list[str]:
    """Sentences for under the tables."""
    lines = []
    for plan, finding in plan_findings(result).items():
        if finding.word != "PASS":
            reason = f"{finding.reason.rstrip('.')}. {finding.remedy}".strip()
            lines.append(f"{plan} {finding.word}: {reason.rstrip('.')}.")
    lines += _outputs(result) + _trap(result)
    if result.environment.get("device_kind") == "cpu":
        lines.append(CARRIES_OVER)
    return list(dict.fromkeys([*lines, *incomplete(result), *result.warnings]))


def verification_summary(result: Result) -> dict[str, Any]:
    """Verdict and reason of every plan, and the bytes that one rank holds."""
    held = {row["plan"]: row for row in memory_rows(result)}
    summary: dict[str, Any] = {}
    for plan, finding in plan_findings(result).items():
        row = held.get(plan, {})
        known = {"weight_bytes_per_rank": row.get("weights"), "expected_weight_bytes_per_rank": row.get("expected")}
        known |= {"reason": finding.reason or None}
        summary[str(plan)] = {"verdict": finding.word} | {
            name: round(value) if isinstance(value, float) else value for name, value in known.items() if value
        }
    return summary


def _outputs(result: Result) -> list[str]:
    """What each comparison of answers found, and what it is worth in 16 bits."""
    found = [
        (case, check)
        for case in verified(result)
        for check in case.checks
        if check.name in (LIKE_BASE, LIKE_SERVED) and check.passed
    ]
    lines = [
        f"{case.plan} {'offline' if case.curve == OFFLINE else 'served'}: {check.detail}." for case, check in found
    ]
    rounded = {dtype for case, _ in found if (dtype := case.engine.get("settings", {}).get("dtype")) in ROUNDED}
    return lines + [
        f"In {dtype} answers are expected to part: sums over ranks round differently, and where two tokens are nearly"
        " equally likely either may come. So not tokens but log-probabilities are checked here, against the tolerance;"
        " that tokens are identical is checked in float32 (--dtype float32)."
        for dtype in sorted(rounded)
    ]


def _trap(result: Result) -> list[str]:
    """Equal memory proves nothing: whole replicas fill their devices as well."""
    rows = [row for row in memory_rows(result) if row["total"] and row["weights"]]
    if len(rows) < 2:
        return []
    first, last = rows[0], rows[-1]
    why = (
        "each rank sets the same room aside for the KV cache and loads the same programs at any TP"
        if result.environment.get("device_kind") == "cpu"
        else "vLLM fills the same share of every device at any TP, and replicas of the whole model look just the same"
    )
    return [
        f"Total memory is no proof: a device holds {first['total'] / 1e6:.0f} MB under {first['plan']} and"
        f" {last['total'] / 1e6:.0f} MB ({last['total'] / first['total']:.0%}) under {last['plan']}: {why}. Weights are"
        f" one: {first['weights'] / 1e6:.1f} and {last['weights'] / 1e6:.1f} MB"
        f" ({last['weights'] / first['weights']:.0%}) per rank."
    ]


def _case(result: Result, plan: ParallelPlan, curve: str) -> Case | None:
    return next((case for case in verified(result) if (case.plan, case.curve) == (plan, curve)), None)


def _word(cases: Sequence[Case], names: Sequence[str]) -> str:
    """The worst of these checks in a word; nothing where there is none."""
    found = [check.passed for case in cases for check in case.checks if check.name in names]
    if not found:
        return ""
    return WORDS[False if False in found else None if None in found else True]


def _seconds(case: Case | None) -> str:
    startup_s = case.engine.get("startup_s") if case else None
    return "" if startup_s is None else f"{startup_s:.1f}"


def _kv_bytes(case: Case, result: Result) -> float | None:
    """Room for keys and values on one rank."""
    tokens = case.engine.get("kv_cache_tokens")
    width = DTYPE_BYTES.get(str(case.engine.get("settings", {}).get("dtype")))
    if not tokens or width is None or "model_shape" not in result.config:
        return None
    return rank_kv_bytes(ModelShape(**result.config["model_shape"]), case.plan.tp, tokens, width)


def _rest(total: float | None, weights: float | None, kv: float | None) -> float | None:
    """None where a part is unknown, or memory that was set aside is not yet in use."""
    if total is None or weights is None or kv is None or total < weights + kv:
        return None
    return total - weights - kv


def _fullest(case: Case, name: str) -> float | None:
    return max(case.engine.get(name) or [], default=None)


def _number(value: float | None, unit: float) -> str:
    return "" if value is None else f"{value / unit:.1f}"
