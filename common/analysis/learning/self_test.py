"""A short self-test whose right answers are computed from the learner's own results."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.analysis.learning.evidence import UNREADABLE, Measured
from common.analysis.scaling.rows import ScalingRow, samples, scaling_rows
from common.analysis.wording import streams
from common.core.capacity import usd_per_million_tokens
from common.core.model_shape import ModelShape
from common.core.plural import plural
from common.core.scaling import karp_flatt
from common.core.stats import geometric_mean
from common.store.schema import Result

RIGHT_WITHIN = 0.05  # of the answer: enough for rounding, not for another formula
ROUNDING = 0.05  # in the answer's unit, for answers near 0
NUMBER = re.compile(r"\s*\$?\s*(-?\d+(?:[.,]\d*)?|-?[.,]\d+)\s*(?:%|us|ms|MB|USD|\$)?\s*")


@dataclass(frozen=True)
class Quiz:
    """One question. The answer follows from the numbers in the text, rounded as they stand there."""

    key: str
    text: str
    unit: str
    right: float
    hint: str

    def is_right(self, answer: float) -> bool:
        """Whether an answer is the right one but for rounding."""
        return math.isclose(answer, self.right, rel_tol=RIGHT_WITHIN, abs_tol=ROUNDING)


def self_test(result: Result) -> list[Quiz]:
    """The questions that a result of the scaling benchmark has numbers for; none where no plan splits the model."""
    rows = scaling_rows(result)
    pairs = [(row, base) for row in rows for base in rows if _is_pair(row, base)]
    if not pairs:
        return []
    row, base = max(pairs, key=lambda pair: (pair[0].case.plan.devices, pair[0].load))
    found = [_efficiency(row, base), _serial_share(row, base), _all_reduce(row, result)]
    return [quiz for quiz in (*found, _weights(row, result), _price(row, result)) if quiz is not None]


def check(quizzes: Sequence[Quiz], answers: Mapping[str, float]) -> list[str]:
    """A line for every question: right, not yet with a hint, or open. Right answers are not given away."""
    lines = []
    for quiz in quizzes:
        if quiz.key not in answers:
            lines.append(f"{quiz.key}: open")
        elif quiz.is_right(answers[quiz.key]):
            lines.append(f"{quiz.key}: right")
        else:
            lines.append(f"{quiz.key}: {answers[quiz.key]:g} {quiz.unit} is not it. {quiz.hint}")
    return lines


def parse_answers(words: Sequence[str], quizzes: Sequence[Quiz]) -> tuple[dict[str, float], list[str]]:
    """`a=1.6 b=40% e=$0.74` as numbers by question, and why the other words are none."""
    keys = [quiz.key for quiz in quizzes]
    answers: dict[str, float] = {}
    refused = []
    for word in words:
        key, equals, text = word.partition("=")
        number = NUMBER.fullmatch(text)
        if not equals or key not in keys:
            refused.append(f"--answers {word}: write key=number, as in {keys[0]}=1.6; the keys are {', '.join(keys)}")
        elif number is None:  # a shell makes of $0.74 its own name and .74
            refused.append(f"--answers {word}: not a number; write {key}=0.74, or in quotes '{key}=$0.74'")
        elif key in answers:
            refused.append(f"--answers {word}: {key} is answered twice, the first counts")
        else:
            answers[key] = float(number[1].replace(",", "."))
    return answers, refused


def answers_file(results: Path) -> Path:
    """Where answers are kept."""
    return results / "checklist" / "answers.json"


def stored_answers(results: Path) -> tuple[str, dict[str, float]]:
    """The name of the result that was asked about, and the answers.

    Raises:
        ValueError: the file is not what `store_answers` writes.
        FileNotFoundError: nothing was answered yet.
    """
    try:
        content = json.loads(answers_file(results).read_text(encoding="utf-8"))
        name, answers = content["result"], content["answers"]
        return str(name), {str(key): float(value) for key, value in answers.items()}
    except FileNotFoundError:
        raise
    except (OSError, RecursionError, *UNREADABLE) as error:
        raise ValueError(f"{answers_file(results).name} cannot be read; answer again") from error


def store_answers(results: Path, about: Path, answers: Mapping[str, float]) -> None:
    """Keep answers, added to earlier ones about the same result."""
    try:
        name, earlier = stored_answers(results)
    except (ValueError, FileNotFoundError):
        name, earlier = "", {}
    kept = {**(earlier if name == about.name else {}), **answers}
    answers_file(results).parent.mkdir(parents=True, exist_ok=True)
    answers_file(results).write_text(json.dumps({"result": about.name, "answers": kept}, indent=1) + "\n")


def answered(measured: Measured, results: Path) -> tuple[str, Path | None, list[str]]:
    """What to say of the self-test, its file where everything is right, and what is wrong with it."""
    if not askable(measured):
        return "its questions come from a scaling result: measure one first", None, []
    try:
        name, answers = stored_answers(results)
    except FileNotFoundError:
        return "not tried yet", None, []
    except ValueError as error:
        return "", None, [str(error)]
    result = next((result for path, result in askable(measured) if path.name == name), None)
    if result is None:
        return "", None, ["the answers are about a result that is gone or not complete: answer again"]
    quizzes = self_test(result)
    wrong = [line for line in check(quizzes, answers) if not line.endswith(": right")]
    if wrong:
        return "", None, wrong
    return f"{len(quizzes)} of {len(quizzes)} right, about {name}", answers_file(results), []


def askable(measured: Measured) -> list[tuple[Path, Result]]:
    """The results that have questions in them, newest first."""
    found = []
    for path, result in measured:
        try:
            if self_test(result):
                found.append((path, result))
        except UNREADABLE:
            continue
    return found


def _is_pair(row: ScalingRow, base: ScalingRow) -> bool:
    return (
        row.curve == "fixed"
        and row.case.plan.tp > 1
        and row.efficiency is not None
        and base.is_base
        and (base.curve, base.load) == (row.curve, row.load)
    )


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


def _rate(row: ScalingRow) -> float:
    assert row.throughput is not None, "rows that are compared were measured"
    return _rounded(row.throughput.value)


def _efficiency(row: ScalingRow, base: ScalingRow) -> Quiz:
    plan, smaller = row.case.plan, base.case.plan
    text = (
        f"At {streams(row.load)} {smaller} ({plural(smaller.devices, 'device')}) gives {_rate(base):g} tok/s and {plan}"
        f" ({plural(plan.devices, 'device')}) {_rate(row):g}. What is the efficiency of {plan}, in percent?"
    )
    right = 100 * _rate(row) / _rate(base) * smaller.devices / plan.devices
    return Quiz("a", text, "%", right, "Efficiency is the speed-up over the ratio of the devices.")


def _serial_share(row: ScalingRow, base: ScalingRow) -> Quiz | None:
    gained = _rounded(_rate(row) / _rate(base))
    share = karp_flatt(gained, row.case.plan.devices)
    if share is None or base.case.plan.devices > 1:
        return None
    text = f"A speed-up of {gained:g} on {row.case.plan.devices} devices: which serial share is that, in percent?"
    return Quiz("b", text, "%", 100 * share, "Karp and Flatt: (1/S - 1/n) / (1 - 1/n).")


def _all_reduce(row: ScalingRow, result: Result) -> Quiz | None:
    times, tpot = row.case.engine.get("all_reduce") or [], samples(row.case, "median_tpot_ms")
    if not times or not tpot or min(tpot) <= 0:
        return None
    nearest = min(times, key=lambda timed: abs(timed["tokens"] - row.load))
    each_us, step_ms = _rounded(nearest["seconds"] * 1e6), _rounded(geometric_mean("", "ms", tpot).value)
    layers = ModelShape(**result.config["model_shape"]).num_hidden_layers
    text = (
        f"{row.case.plan} runs {layers} layers, each with two all-reduces, and one more for the embedding. One takes"
        f" {each_us:g} us, a step {step_ms:g} ms. What share of the step is that, in percent?"
    )
    right = 100 * (2 * layers + 1) * each_us / (step_ms * 1e3)
    return Quiz("c", text, "%", right, "Count the all-reduces, and mind us against ms.")


def _weights(row: ScalingRow, result: Result) -> Quiz:
    shape = ModelShape(**result.config["model_shape"])
    millions = _rounded(shape.parameters / 1e6)
    text = (
        f"The model has {millions:g} million weights of {shape.dtype_bytes} bytes. How many MB (10^6 bytes) of weights"
        f" does one device hold under {row.case.plan}?"
    )
    return Quiz("d", text, "MB", millions * shape.dtype_bytes / row.case.plan.tp, "TP splits weights evenly.")


def _price(row: ScalingRow, result: Result) -> Quiz:
    usd_per_hour = result.cost.get("usd_per_hour", 1.0)
    text = (
        f"At ${usd_per_hour:g} per hour for the whole machine and {_rate(row):g} output tok/s: how many dollars do a"
        " million output tokens cost?"
    )
    right = usd_per_million_tokens(usd_per_hour, _rate(row))
    return Quiz("e", text, "USD", right, "A million tokens take 10^6 / (tok/s) seconds.")
