"""Do short requests wait for long ones, and what does it cost the long ones if they need not?

Question.    Many short requests come, and now and then a very long prompt. What do the short ones lose by it, and how
             much of that do chunked prefill, a cap on long prompts, and priorities give back?
Prediction.  A step of the engine lasts as long as its longest part. A prompt that is not cut up stops everything:
             running answers stand still and new requests wait until it is done. Cut into chunks it still takes as
             long, but running answers get a token between any two chunks. Who comes anew is let in only where a chunk
             leaves room: vLLM serves what runs first. Write your guess down before you look.
Method.      Real vLLM, one engine start per variant (lab: three). One repeat is a comparison of its own, on one
             engine: the short requests alone, the long ones alone, and both together, with the same seeded times and
             prompts, in turned order. Variants, each an engine of its own:
               on         chunked prefill, at most --budget tokens in a step; long prompts are at least four times that
               control    chunked prefill with a budget that every prompt fits in: allowed, but nothing is ever cut
               off        no chunked prefill; it needs a budget that every prompt fits in
               threshold  as on, and of one prompt at most a quarter of the budget while others are there
               priority   as on, and short requests before long ones in the queue (the others: first come first served)
             smoke runs on and off. Without --tp, the smallest plan.
Reading.     slowdown: a request's time over its class's median alone. Jain's index of what requests got: 1 if all fare
             alike. starved: first token later than ten times the p99 alone. Below the table stands what the short class
             gained from each variant and what the long one paid; an interval that holds 1.00 resolves nothing.

Examples:
  python test_mixed_workload.py                                     # chunked prefill on and off
  python test_mixed_workload.py --preset lab                        # all variants, three engine starts each
  python test_mixed_workload.py --variants on threshold --tp 1 2    # the cap on long prompts, for two plans
  python test_mixed_workload.py --long-tokens 3072 --long-requests 2 --seconds 15
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the lab that this script stands in

from common.analysis.fairness.table import fairness_summary, print_fairness
from common.core.mix import MixedWorkload, RequestClass
from common.core.plan import ParallelPlan
from common.engines.models import Model
from common.engines.settings import EngineSettings
from common.experiment.experiment import Experiment
from common.experiment.listing import Skipped, flags_of, list_cases, plans
from common.experiment.mix_spec import MixSpec
from common.experiment.options import InputError, Options, Preset, check_counts, check_requests, parse
from common.experiment.run import run
from common.experiment.spec import Spec
from common.machine.command_line import Count, Number, several_of
from common.machine.devices import Machine
from common.machine.reader import while_read

METHOD_VERSION = 2
Variant = Literal["on", "control", "off", "threshold", "priority"]
VARIANTS: tuple[Variant, ...] = ("on", "off", "control", "threshold", "priority")


@dataclass(frozen=True)
class MixedOptions(Options):
    """Options of the mixed-load experiment."""

    variants: Annotated[tuple[Variant, ...] | None, several_of(VARIANTS)] = None
    """Which engines to measure; by default on and off in smoke, all in lab and full."""
    budget: int = 512
    """Tokens of a step where prompts are cut up."""
    seconds: Number = None
    """How long requests come in one repeat; the preset's time by default."""
    short_rate: float = 4.0
    """Short requests per second, Poisson."""
    long_requests: Count = None
    """Long requests in that time, at even gaps; the preset's number by default."""
    short_tokens: int = 32
    """Prompt length of short requests."""
    long_tokens: Count = None
    """Prompt length of long requests; by default four times the budget on CPU, sixteen times on GPUs."""

    def check(self) -> None:
        """Check what no type can say.

        Raises:
            InputError: a number out of its range, or long prompts that are not long.
        """
        super().check()
        if self.variants == ():
            raise InputError(f"--variants needs at least one of {', '.join(VARIANTS)}")
        if self.budget < (fewest := EngineSettings.max_num_seqs):
            raise InputError(f"--budget {self.budget}: at least {fewest} is needed, one token for every sequence")
        counts = {"--long-requests": self.long_requests, "--short-tokens": self.short_tokens}
        check_counts(counts)
        check_requests("--long-requests", self.long_requests)
        if self.long_tokens is not None and self.long_tokens < LONG_BUDGETS * self.budget:
            raise InputError(
                f"--long-tokens {self.long_tokens}: a long prompt is at least {LONG_BUDGETS} times the budget, here"
                f" {LONG_BUDGETS * self.budget}"
            )
        for flag, number in {"--seconds": self.seconds, "--short-rate": self.short_rate}.items():
            if number is not None and not 0 < number < 1e5:
                raise InputError(f"{flag} {number:g}: a number above 0 and below 100000, as in {flag} 10")


@dataclass(frozen=True)
class Amount:
    """How much a preset measures: seconds and long requests of one repeat, repeats inside a start."""

    seconds: float
    long_requests: int
    repeats: int


AMOUNTS: dict[Preset, Amount] = {"smoke": Amount(8.0, 1, 3), "lab": Amount(20.0, 3, 2), "full": Amount(40.0, 6, 3)}
LONG_BUDGETS = 4
SHORT_OUTPUT_TOKENS, LONG_OUTPUT_TOKENS = 16, 16
CONTEXT_STEP = 256  # max_model_len is the longest request, rounded up to this


def cases(options: MixedOptions, model: Model, machine: Machine) -> tuple[list[Spec], list[Skipped]]:
    """Every variant for every plan, and which of them this machine cannot run."""
    chosen = plans(options, model)
    workload = mix(options, machine)
    context_tokens = -(-workload.context_tokens // CONTEXT_STEP) * CONTEXT_STEP
    if context_tokens > (limit := model.shape.max_position_embeddings):
        raise InputError(
            f"long requests need a context of {context_tokens} tokens and {model.name} has {limit}: lower --long-tokens"
            " (and --budget with it)"
        )
    variants = options.variants or (VARIANTS[:2] if options.preset == "smoke" else VARIANTS)

    def of_plan(plan: ParallelPlan) -> list[MixSpec]:
        return [
            MixSpec(
                plan,
                variant,
                mix(options, machine, prioritised=variant == "priority"),
                model.shape.vocab_size,
                options.repeats or AMOUNTS[options.preset].repeats,
                flags_of(plan, options, machine),
                tuple(sorted(settings_of(variant, options.budget, context_tokens).items())),
            )
            for variant in dict.fromkeys(variants)
        ]

    return list_cases(chosen if options.tp else chosen[:1], of_plan, options, model, machine)


def mix(options: MixedOptions, machine: Machine, prioritised: bool = False) -> MixedWorkload:
    """Short requests at any moment, long ones at even gaps, so that every repeat has them in the same places."""
    amount = AMOUNTS[options.preset]
    seconds = options.seconds or amount.seconds
    long_tokens = options.long_tokens or options.budget * (LONG_BUDGETS if machine.kind == "cpu" else 4 * LONG_BUDGETS)
    shorts = max(1, round(options.short_rate * seconds))
    short = RequestClass("short", shorts, options.short_tokens, SHORT_OUTPUT_TOKENS)
    longs = options.long_requests or amount.long_requests
    long = RequestClass("long", longs, long_tokens, LONG_OUTPUT_TOKENS, None, priority=1 if prioritised else 0)
    return MixedWorkload((short, long), seconds)


def settings_of(variant: Variant, budget: int, context_tokens: int) -> dict[str, Any]:
    """The engine settings of a variant."""
    whole = {"max_model_len": context_tokens, "max_num_batched_tokens": context_tokens, "chunked_prefill": True}
    cut = whole | {"max_num_batched_tokens": budget}
    changed: dict[Variant, dict[str, Any]] = {
        "on": cut,
        "control": whole,
        "off": whole | {"chunked_prefill": False},
        "threshold": cut | {"long_prefill_token_threshold": budget // 4},
        "priority": cut | {"scheduling_policy": "priority"},
    }
    return changed[variant]


EXPERIMENT = Experiment("test_mixed_workload", METHOD_VERSION, cases, print_fairness, fairness_summary)


def main() -> int:
    """Parse, run, and return the exit code."""
    return run(EXPERIMENT, parse(MixedOptions, __doc__ or ""))


if __name__ == "__main__":
    sys.exit(while_read(main))
