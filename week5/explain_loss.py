"""Why is it not n times as fast, and is that explanation right?

Question.    A model split over n devices gives less than n times the tokens of one. How much of what is missing goes
             to memory and batch, to communication, to everything else, and how much can nobody explain?
Prediction.  Made before anything is slowed: if each all-reduce takes so many microseconds longer, a step takes
             that times the number of all-reduces in it longer. An account of the loss that is right must put exactly
             that into its communication bar. Write your guess down: how large is that bar without the delay?
Method.      Real vLLM. The smallest plan, the largest TP size (or --tp), and the same with its communication knocked
             out: on CPUs every all-reduce waits 1 ms, and by turns --delay-us longer, on the same engine; on GPUs P2P
             and the custom all-reduce are off, on an engine of its own. All-reduces are timed in every engine, alone,
             at the model's own message sizes. A step model is calibrated on the first two plans; the third is judged
             by it, and the model is not told of the delay.
Reading.     Bars go from n times the base's rate down to what was measured. Memory and batch: every device reads its
             weights and its share of the KV cache, however few requests share a step. Communication: all-reduces.
             Everything else: launches, scheduler, API server, which no device count makes shorter. Unexplained: what
             the model does not account for, above or below 0. The knock-out passes where the communication bar takes
             in what the delay cost, within 10 %.

Examples:
  python explain_loss.py                             # tp1, the largest TP size here, and that with slower all-reduces
  python explain_loss.py --delay-us 5000 --concurrency 1 16
  python explain_loss.py --tp 1 4 --preset lab
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the lab that this script stands in

from common.core.plan import ParallelPlan
from common.core.plural import plural
from common.engines.models import Model
from common.experiment.experiment import Experiment
from common.experiment.listing import Skipped, default_lengths, flags_of, list_cases, plans
from common.experiment.load_spec import LoadSpec
from common.experiment.loss import loss_summary, print_loss, write_loss_figure
from common.experiment.options import InputError, Options, Preset, check_load, parse
from common.experiment.run import run
from common.experiment.slowed_spec import SlowedSpec
from common.experiment.spec import Spec
from common.machine.command_line import Count
from common.machine.devices import Machine
from common.machine.reader import while_read

METHOD_VERSION = 3
TURNS: dict[Preset, int] = {"smoke": 2, "lab": 8, "full": 12}
REPEATS: dict[Preset, int] = {"smoke": 3, "lab": 2, "full": 3}
FEWEST_REQUESTS = 4
MOST_US = 1e5


@dataclass(frozen=True)
class LossOptions(Options):
    """Options of the account of the loss."""

    concurrency: tuple[int, ...] = (1, 16)
    """Streams of the fixed curve; the knock-out is measured at each."""
    delay_us: float = 3000.0
    """How much longer every all-reduce takes in the knock-out, in microseconds; on GPUs it has no say. It comes on top
    of a wait of 1 ms: that ranks wait at all gives their cores to the API server, which is not what a delay costs."""
    input_tokens: Count = None
    """Prompt length; by default 32 on CPU, 512 on GPUs."""
    output_tokens: Count = None
    """Generated tokens per request; by default 32 on CPU, 128 on GPUs."""

    def check(self) -> None:
        """Check what no type can say.

        Raises:
            InputError: a number out of its range.
        """
        super().check()
        if not 0 < self.delay_us <= MOST_US:
            raise InputError(f"--delay-us {self.delay_us:g}: above 0 and at most {MOST_US:g}, as in --delay-us 3000")
        check_load(self.concurrency, {"--input-tokens": self.input_tokens, "--output-tokens": self.output_tokens})


def cases(options: LossOptions, model: Model, machine: Machine) -> tuple[list[Spec], list[Skipped]]:
    """The smallest plan, the largest this machine can run, and that one with its communication knocked out."""
    sizes = plans(options, model)
    possible = [plan for plan in sizes if plan.devices <= len(machine.devices) or options.oversubscribe]
    if len(possible) < 2:
        can = f"{plural(len(machine.devices), 'device')} can run {possible[0] if possible else 'none'}"
        raise InputError(
            f"a loss needs two plans, and of {', '.join(map(str, sizes))} this machine's {can}: give two sizes, as in"
            " --tp 1 2, on two devices or more; fewer CPU cores run them with --oversubscribe"
        )
    base, split = possible[0], possible[-1]
    asked_in_vain = [plan for plan in sizes if plan not in possible] if options.tp else []
    lengths = default_lengths(model, machine, options.input_tokens, options.output_tokens)

    def of_plan(plan: ParallelPlan) -> list[LoadSpec]:
        turns, repeats = TURNS[options.preset], options.repeats or REPEATS[options.preset]
        fixed = [
            LoadSpec(
                plan,
                "fixed",
                streams,
                lengths,
                max(turns, -(-FEWEST_REQUESTS // streams)),
                repeats,
                flags_of(plan, options, machine),
            )
            for streams in dict.fromkeys(options.concurrency)
        ]
        return fixed if plan == base else [*fixed, *(slowed(spec, options, machine) for spec in fixed)]

    return list_cases([base, split, *asked_in_vain], of_plan, options, model, machine)


def slowed(spec: LoadSpec, options: LossOptions, machine: Machine) -> LoadSpec:
    """The same load with its communication knocked out."""
    if machine.kind == "gpu":
        return replace(spec, curve="slowed", changed=(("peer_to_peer", False),))
    return SlowedSpec(**vars(replace(spec, curve="slowed")), delay_us=options.delay_us)


EXPERIMENT = Experiment("explain_loss", METHOD_VERSION, cases, print_loss, loss_summary, write_report=write_loss_figure)


def main() -> int:
    """Parse, run, and return the exit code."""
    return run(EXPERIMENT, parse(LossOptions, __doc__ or ""))


if __name__ == "__main__":
    sys.exit(while_read(main))
