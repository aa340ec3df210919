"""What was measured, as a person gives it on a command line: values by plan, or a result file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from common.core.legality import nearest_legal
from common.core.model_shape import ModelShape
from common.core.plan import ParallelPlan

MOST_TOKENS_S = 1e9


def result_file(measured: Sequence[str]) -> Path | None:
    """The result among what was measured; None where values were typed in.

    Raises:
        ValueError: a folder, several files, or a file beside values.
    """
    paths = [
        Path(one) for one in measured if one and (one.endswith((".json", ".zip")) or "/" in one or Path(one).exists())
    ]
    if not paths:
        return None
    if len(measured) > 1:
        raise ValueError(
            f"--measured {' '.join(measured)[:200]}: one result file by itself, or PLAN=TOKENS_PER_SECOND for each"
            " plan; two results are compared with: python -m common.analysis compare A.json B.json"
        )
    if not paths[0].exists():
        raise ValueError(f"--measured {paths[0]}: there is no such file; results/<experiment>/ holds results")
    if paths[0].is_dir():
        inside = sorted(path.name for path in paths[0].glob("*.json"))
        named = f", as in {paths[0] / inside[-1]}" if inside else "; it holds none, results/<experiment>/ does"
        raise ValueError(f"--measured {paths[0]}: that is a folder; name one result file in it{named}")
    return paths[0]


def all_measured(written: Sequence[str], most: int, shape: ModelShape) -> dict[ParallelPlan, float]:
    """What was measured by plan.

    Raises:
        ValueError: one that cannot be read, a plan twice, or one that needs more than the most devices.
    """
    measured: dict[ParallelPlan, float] = {}
    for text in written:
        plan, rate = read_measured(text)
        if plan in measured:
            raise ValueError(
                f"--measured {text}: {plan} is given twice; give it once, as the mean of what you measured"
            )
        if plan.devices > most:
            near = ", ".join(map(str, nearest_legal(plan, shape, most)))
            raise ValueError(
                f"--measured {text}: {plan} needs {plan.devices} devices, and the largest of --counts is {most}: add"
                f" {plan.devices} to --counts, or measure what is nearest on {most}: {near}"
            )
        measured[plan] = rate
    return measured


def read_measured(text: str) -> tuple[ParallelPlan, float]:
    """One PLAN=TOKENS_PER_SECOND.

    Raises:
        ValueError: it is none.
    """
    name, _, value = text.partition("=")
    try:
        rate = float(value)
    except ValueError:
        rate = 0.0
    if not 0 < rate < MOST_TOKENS_S:
        limits = f"above 0 and below {MOST_TOKENS_S:.0e}"
        raise ValueError(
            f"--measured {text}: write PLAN=TOKENS_PER_SECOND, {limits}, as in tp2=1390, or one result file"
        )
    return ParallelPlan.parse(name), rate
