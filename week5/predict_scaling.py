"""What would more devices give, before you rent them?

Question.    Does the model fit, how fast will each plan be, and what will a million tokens cost?
Prediction.  This is one. Memory is arithmetic; speed is a roofline per engine step with communication from measured
             all-reduce tables, and constants learnt over published measurements; no engine is started.
Method.      For each device count: tensor parallel, pipeline, experts, and replicas of the smallest plan that fits, all
             under the same total load. What you have measured calibrates the rest: --measured tp1=812 tp2=1390 (output
             tokens/s under this load), or --measured RESULT.json, whose two smallest plans predict all its others.
Reading.     Brackets promise four of five measurements that the model had not seen (of published ones they held
             nine of ten); without --measured the rates are uncertain by design, and speed-up is surer than rates. $
             are per million output tokens, fully loaded, of the devices used: --usd-per-hour is the price of the whole
             machine of the largest of --counts.
             KB/token is what ranks send each other. Of experts dealt over devices (ep) nothing is claimed until some
             were measured. Over PCIe, and for experts, believe the intervals rather than the values. After a run,
             `loss` tells apart what is missing from n times the base: memory and batch, communication, everything
             else on device and host, unexplained. The last line is JSON.

Examples:
  python week5/predict_scaling.py --model Qwen/Qwen3-32B --gpu H100 --counts 1 2 4 8 --usd-per-hour 21.52
  python week5/predict_scaling.py --model ./config.json --gpu L40S --concurrency 64 --measured tp1=812 tp2=1390
  python week5/predict_scaling.py --measured results/benchmark_scaling/<file>.json
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the lab that this script stands in

from common.core.legality import MOST_DEVICES
from common.core.model_shape import ModelShape
from common.core.plan import ParallelPlan
from common.core.plural import plural
from common.engines.reference_models import REFERENCE_MODELS
from common.machine.command_line import Number, Text, with_whole_lines, wrong_in_one_line
from common.machine.folders import typed
from common.machine.reader import while_read
from common.predict.calibrate import stored_priors
from common.predict.card import Card, make_card, recommend
from common.predict.card_table import beside_lines, card_lines
from common.predict.choices import nothing_fits, plans_of
from common.predict.given import all_measured, result_file
from common.predict.hardware import find_exactly, taken_as
from common.predict.measured import left_out, predict_result
from common.predict.memory import smallest_that_fits
from common.predict.shapes import bytes_of_config, bytes_per_weight, check_dtype, find_shape
from common.predict.wanted import Ask
from common.store.archive import load_result
from common.store.files import StoreError

BAD_INPUT = 2


@dataclass(frozen=True)
class Options:
    """Options of the prediction."""

    model: Text = None
    """A model's name (Qwen/Qwen3-32B, or a reference model), or a config.json or the folder that holds one."""
    gpu: Text = None
    """The accelerator, as in H100, "A100 PCIe", L40S, "RTX 4090"."""
    counts: tuple[int, ...] = (1, 2, 4, 8)
    """Device counts to predict."""
    input_tokens: int = 512
    """Prompt length."""
    output_tokens: int = 128
    """Generated tokens per request."""
    concurrency: int = 32
    """Requests in flight, in all."""
    dtype: str = "auto"
    """Precision of the weights: bfloat16, float32, fp8, int8, int4, awq ...; a model's name may say it too. `auto` is
    that of its checkpoint, as the quantization_config of its config.json says."""
    usd_per_hour: Number = None
    """Price of the whole machine, the one with the largest of --counts devices; adds dollars per million output
    tokens, of which a plan on fewer devices pays its share."""
    measured: tuple[str, ...] = ()
    """What was measured: PLAN=TOKENS_PER_SECOND, or one result file, which says model, devices and loads itself."""


def main() -> int:
    """Parse, predict, print; 2 where the input is wrong or nothing fits."""
    with wrong_in_one_line():
        options = tyro.cli(
            with_whole_lines(Options), description="\n".join(f" {line}" for line in typed(__doc__ or "").splitlines())
        )
    try:
        result = result_file(options.measured)
        return before_a_run(options) if result is None else after_a_run(result, options)
    except BrokenPipeError:
        raise  # who read has left, and wants no message
    except (ValueError, OSError, StoreError) as error:
        print(f"error: {typed(str(error))}", file=sys.stderr)
        return BAD_INPUT


def after_a_run(path: Path, options: Options) -> int:
    """Predicted beside measured, for every plan of a result."""
    result = load_result(path)
    found = predict_result(result, stored_priors())
    usual = Options()
    unused = [one.name for one in fields(usual) if getattr(options, one.name) != getattr(usual, one.name)]
    if flags := [f"--{name.replace('_', '-')}" for name in unused if name != "measured"]:
        print(f"note: {', '.join(flags)} not used: a result says model, devices and loads itself", file=sys.stderr)
    print("\n".join(beside_lines(found, result)))
    if invalid := left_out(result):
        print(f"Left out, their client is INVALID: {', '.join(invalid)}.")
    print(json.dumps([asdict(one) | {"plan": str(one.plan), "error": one.error} for one in found]))
    return 0


def before_a_run(options: Options) -> int:
    """The static card."""
    ask, plans, measured = read(options)
    card = make_card(ask, plans, stored_priors(), measured)
    if not card.fits:
        raise ValueError(nothing_fits(ask, plans))
    devices, usd = max(options.counts), options.usd_per_hour
    for plan in measured:
        if plan in card.unfit:
            print(f"--measured {plan}={measured[plan]:g} counts for nothing: {plan} is left out, as below")
    if (also := taken_as(options.gpu)) is not None:
        print(also)
    print("\n".join(card_lines(card, ask, None if usd is None else usd / devices)))
    if usd is not None:
        print(
            f"$/M tokens: of a machine of {plural(devices, 'device')} at ${usd:g} an hour, the plan's share of devices."
        )
    best, reason = recommend(card)
    print(f"Recommended: {best}: {reason}.")
    print(json.dumps(flat(card) | {"recommended": str(best), "reason": reason}))
    return 0


def read(options: Options) -> tuple[Ask, list[ParallelPlan], dict[ParallelPlan, float]]:
    """The question in the lab's words.

    Raises:
        ValueError: something in the options is wrong; the message says what.
    """
    if options.model is None or options.gpu is None:
        raise ValueError("--model and --gpu are needed, or --measured with a result file")
    if not options.counts or not 1 <= min(options.counts) <= max(options.counts) <= MOST_DEVICES:
        raise ValueError(f"--counts: device counts are from 1 to {MOST_DEVICES}, as in --counts 1 2 4 8")
    if options.usd_per_hour is not None and not 0 < options.usd_per_hour < 1e6:
        raise ValueError(f"--usd-per-hour {options.usd_per_hour}: the whole machine's price, as in 21.52")
    check_dtype(options.dtype)
    hardware = find_exactly(options.gpu)
    shape, own = read_model(options.model, options.dtype)
    named = "" if config_of(options.model) else options.model  # a path says nothing of what lies there
    per_weight = bytes_per_weight(named, options.dtype, own)
    ask = Ask(shape, hardware, per_weight, options.input_tokens, options.output_tokens, options.concurrency)
    measured = all_measured(options.measured, max(options.counts), shape)
    least = smallest_that_fits(shape, hardware, per_weight) or ParallelPlan()
    plans = dict.fromkeys(plan for count in sorted(set(options.counts)) for plan in plans_of(count, least, shape))
    return ask, [*plans, *(plan for plan in measured if plan not in plans)], measured


def config_of(model: str) -> Path | None:
    """The config.json that a folder or file stands for; None where it is a name."""
    path = Path(model)
    config = path / "config.json" if model and path.is_dir() else path
    return config if config.is_file() else None


def read_model(model: str, dtype: str = "auto") -> tuple[ModelShape, float | None]:
    """What the model looks like: of a reference model, a config.json, or a name; and the checkpoint's bytes per weight.

    These are None where only the name can say.

    Raises:
        ValueError: a file that is no config.json, or a name that says nothing.
    """
    if model in REFERENCE_MODELS:
        return ModelShape.from_config(REFERENCE_MODELS[model].config()), None
    if config := config_of(model):
        try:
            content = json.loads(config.read_text(encoding="utf-8"))
            shape = ModelShape.from_config(content)
            return shape, bytes_of_config(content) if dtype == "auto" else None
        except (ValueError, RecursionError) as error:
            reason = str(error) if str(error).startswith("config.json") else "not JSON"
            raise ValueError(f"--model {model}: {config} is no model's config.json ({reason})") from error
    if model and Path(model).is_dir():
        raise ValueError(f"--model {model}: the folder has no config.json")
    shape, guessed = find_shape(model)
    if guessed:
        print(f"{model}: shape guessed from the size in the name; a config.json would be surer")
    return shape, None


def flat(card: Card) -> dict[str, object]:
    """The card as JSON holds it."""
    plans = [asdict(one) | {"plan": str(one.plan), "devices": one.plan.devices} for one in card.fits]
    unfit = {str(plan): reason for plan, reason in card.unfit.items()}
    following = None if card.next_measurement is None else str(card.next_measurement)
    return {"plans": plans, "unfit": unfit, "doubts": card.doubts, "measure_next": following}


if __name__ == "__main__":
    sys.exit(while_read(main))
