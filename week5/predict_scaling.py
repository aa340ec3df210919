"""What would more devices give, before you rent them?

Question.    Does the model fit, how fast will each plan be, and what will a million tokens cost?
Prediction.  This is one. Memory is arithmetic; speed is a roofline per engine step with communication from measured
             all-reduce tables, and constants learnt over published measurements; no engine is started.
Method.      For each device count: tensor parallel, pipeline, and replicas of the smallest plan that fits, all under
             the same total load. What you have measured (--measured tp1=812 tp2=1390, output tokens/s under this
             load) calibrates the rest.
Reading.     Brackets hold four of five measurements that the model had not seen; without --measured the rates are
             uncertain by design, and speed-up is surer than rates. $ are per million output tokens, fully loaded.
             Over PCIe, and for experts, believe the intervals rather than the values. The last line is JSON.

Examples:
  python predict_scaling.py --model Qwen/Qwen3-32B --gpu H100 --counts 1 2 4 8 --usd-per-hour 2.69
  python predict_scaling.py --model ./config.json --gpu L40S --concurrency 64 --measured tp1=812 tp2=1390
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import tyro

from common.core.model_shape import ModelShape
from common.core.plan import ParallelPlan
from common.predict.calibrate import stored_priors
from common.predict.card import Ask, Card, Line, Range, make_card, recommend, usd_per_million
from common.predict.hardware import find
from common.predict.memory import smallest_that_fits
from common.predict.shapes import find_shape, weight_bytes

BAD_INPUT = 2


@dataclass(frozen=True)
class Options:
    """Options of the prediction."""

    model: str
    """A model's name (Qwen/Qwen3-32B), or a config.json or the folder that holds one."""
    gpu: str
    """The accelerator, as in H100, "A100 PCIe", L40S, "RTX 4090"."""
    counts: tuple[int, ...] = (1, 2, 4, 8)
    """Device counts to predict."""
    input_tokens: int = 512
    """Prompt length."""
    output_tokens: int = 128
    """Generated tokens per request."""
    concurrency: int = 32
    """Requests in flight, in all."""
    dtype: str = "bfloat16"
    """Precision of the weights: bfloat16, fp8, int4 ...; a model's name may say it too."""
    usd_per_hour: float | None = None
    """Price of one device; adds dollars per million output tokens."""
    measured: tuple[str, ...] = ()
    """What was measured, as PLAN=TOKENS_PER_SECOND."""


def main() -> int:
    """Parse, predict, print; 2 where the input is wrong or nothing fits."""
    options = tyro.cli(Options, description="\n".join(f" {line}" for line in (__doc__ or "").splitlines()))
    try:
        ask, plans, measured = read(options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    card = make_card(ask, plans, stored_priors(), measured)
    for plan, reason in card.unfit.items():
        print(f"{plan!s:<10} does not fit: {reason}")
    if not card.lines:
        least = smallest_that_fits(ask.shape, ask.hardware, ask.weight_bytes)
        remedy = f"{least} would hold it" if least else "no tensor-parallel plan up to 64 devices holds it"
        print(f"error: no plan fits on {ask.hardware.name}: {remedy}; or use fewer bytes per weight", file=sys.stderr)
        return BAD_INPUT
    show(card, options)
    return 0


def read(options: Options) -> tuple[Ask, list[ParallelPlan], dict[ParallelPlan, float]]:
    """The question in the lab's words.

    Raises:
        ValueError: something in the options is wrong; the message says what.
    """
    if not options.counts or min(options.counts) < 1:
        raise ValueError("--counts: device counts are 1 or more, as in --counts 1 2 4 8")
    if options.usd_per_hour is not None and options.usd_per_hour <= 0:
        raise ValueError(f"--usd-per-hour {options.usd_per_hour}: the price of one device, as in 2.69")
    path = Path(options.model)
    config = path / "config.json" if path.is_dir() else path
    if config.is_file():
        shape = ModelShape.from_config(json.loads(config.read_text(encoding="utf-8")))
    else:
        shape, guessed = find_shape(options.model)
        if guessed:
            print(f"{options.model}: shape guessed from the size in the name; a config.json would be surer")
    hardware = find(options.gpu)
    per_weight = weight_bytes(options.model, options.dtype)
    ask = Ask(shape, hardware, per_weight, options.input_tokens, options.output_tokens, options.concurrency)
    least = smallest_that_fits(shape, hardware, per_weight) or ParallelPlan()
    plans: dict[ParallelPlan, None] = {}
    for count in sorted(set(options.counts)):
        plans[ParallelPlan(tp=count)] = None
        if count > 1:
            plans[ParallelPlan(pp=count)] = None
        if count > least.tp and count % least.tp == 0:
            plans[ParallelPlan(tp=least.tp, replicas=count // least.tp)] = None
    return ask, list(plans), dict(_measured(text) for text in options.measured)


def show(card: Card, options: Options) -> None:
    """Print the table, the recommendation and what to measure next, and last one line of JSON."""
    print(f"{'plan':<10}{'KV tokens':>10}{'output tok/s':>24}{'TTFT':>9}{'speed-up':>20}{'eff.':>7}{'$/M tokens':>19}")
    for line in card.lines:
        cost = usd_per_million(line, options.usd_per_hour) if options.usd_per_hour else None
        print(
            f"{line.plan!s:<10}{line.memory.kv_tokens:>10}{_range(line.output_tokens_s, 0):>24}"
            f"{line.ttft_s * 1e3:>6.0f} ms{_range(line.speedup, 2):>20}{line.efficiency.value:>7.0%}"
            f"{_range(cost, 2) if cost else '':>19}" + _beside(line)
        )
    best = recommend(card)
    print(f"Recommended: {best.plan}, among the most tokens per device ({best.efficiency.value:.0%} efficient).")
    for doubt in card.doubts:
        print(f"Low confidence, wider intervals: {doubt}.")
    if card.next_measurement is not None:
        print(f"Measure {card.next_measurement} next: it narrows the intervals most for its devices.")
    print(json.dumps({"lines": [_flat(line) for line in card.lines], "recommended": str(best.plan)}))


def _beside(line: Line) -> str:
    if line.measured is None or line.foretold is None:
        return ""
    return f"  measured {line.measured:.0f}, predicted from the others {line.foretold:.0f}"


def _flat(line: Line) -> dict[str, object]:
    return asdict(line) | {"plan": str(line.plan), "devices": line.plan.devices}


def _range(found: Range, digits: int) -> str:
    return f"{found.value:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


def _measured(text: str) -> tuple[ParallelPlan, float]:
    name, _, value = text.partition("=")
    try:
        rate = float(value)
    except ValueError:
        rate = 0.0
    if not 0 < rate < 1e9:
        raise ValueError(f"--measured {text}: write PLAN=TOKENS_PER_SECOND, as in tp2=1390")
    return ParallelPlan.parse(name), rate


if __name__ == "__main__":
    sys.exit(main())
