"""Does splitting a model over more devices pay, and how much of each device is lost?

Question.    How many times faster is tensor parallelism over n devices than the smallest plan that holds the model?
Prediction.  Less than n: every layer waits for two all-reduces, small shards use a device worse than large ones, and
             on CPU slices all devices share one memory. On a terminal you are asked for your guess first.
Method.      Real vLLM, one engine start per plan (lab: three), the same seeded requests for every plan, everything
             that vLLM would choose by plan pinned. Three curves, because one alone misleads, and two that explain:
               fixed      the same number of streams for every plan: what a user feels
               saturated  each plan at the load whose double gains less than 3 %: what a machine earns
               weak       the same number of streams per device: what growing together does
               pinned     saturated with no more KV cache than the base has: what parallelism alone gives (not in smoke)
               replay     requests that come when a trace says (--workload): what its users would have felt
Reading.     speed-up is output tokens per second against the base plan; eff. is speed-up per device. In a replay,
             where every plan is offered the same load, speed-up is that of the median request's whole time. An
             interval that holds 1.00 resolves nothing. Below the table stands what explains the loss.

Examples:
  python benchmark_scaling.py                                   # sizes 1, 2, 4 as far as devices reach
  python benchmark_scaling.py --tp 1 2 --preset lab             # three engine starts per plan
  python benchmark_scaling.py --replicas                        # n independent replicas beside each TP=n
  python benchmark_scaling.py --model Qwen/Qwen3-8B --tp 1 2 4 8 --usd-per-hour 12.40 --dry-run
  python benchmark_scaling.py --workload trace.jsonl --time-scale 0.5   # your requests, twice as fast
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the lab that this script stands in

from common.analysis.scaling.table import print_scaling
from common.core.arrivals import Replay
from common.core.plan import ParallelPlan
from common.engines.models import Model
from common.experiment import report
from common.experiment.experiment import Experiment
from common.experiment.listing import Skipped, default_lengths, flags_of, list_cases, plans
from common.experiment.load_spec import Lengths, LoadSpec, Saturate
from common.experiment.options import InputError, Options, check_load, check_requests, parse
from common.experiment.recordings import Recorded, read_recorded
from common.experiment.run import run
from common.experiment.spec import Spec
from common.machine.command_line import Count, several_of
from common.machine.devices import Machine
from common.machine.reader import while_read

METHOD_VERSION = 3
Curve = Literal["fixed", "saturated", "pinned", "weak", "replay"]
CURVES: tuple[Curve, ...] = ("fixed", "saturated", "pinned", "weak", "replay")


@dataclass(frozen=True)
class ScalingOptions(Options):
    """Options of the scaling benchmark."""

    concurrency: tuple[int, ...] = (1, 16)
    """Streams of the fixed curve."""
    turns: Count = None
    """Requests of each stream in one repeat; the preset's number by default."""
    input_tokens: Count = None
    """Prompt length; by default 32 on CPU, 512 on GPUs."""
    output_tokens: Count = None
    """Generated tokens per request; by default 32 on CPU, 128 on GPUs. With --workload: where a prompt does not
    say."""
    replicas: bool = False
    """Measure n independent replicas (tp1xn) beside each TP=n, under the same total load."""
    curves: Annotated[tuple[Curve, ...] | None, several_of(CURVES)] = None
    """Which curves to measure; by default all, in smoke all but `pinned`, which costs engine starts of its own, and
    `replay` where --workload is a trace."""

    def check(self) -> None:
        """Check what no type can say.

        Raises:
            InputError: a number out of its range.
        """
        super().check()
        counts = {"--turns": self.turns, "--input-tokens": self.input_tokens, "--output-tokens": self.output_tokens}
        check_load(self.concurrency, counts)
        check_requests("--turns", self.turns, max(self.concurrency))
        if self.curves == ():
            raise InputError(f"--curves needs at least one of {', '.join(CURVES)}")
        if self.workload is None and "replay" in (self.curves or ()):
            raise InputError("--curves replay needs a trace to replay: give one with --workload FILE")
        if self.workload is not None and self.input_tokens is not None:
            raise InputError("--input-tokens and --workload exclude each other: prompts come from the file")
        if self.time_scale is not None and "replay" not in (self.curves or CURVES):
            raise InputError("--time-scale acts on the replay alone: add replay to --curves, or leave it out")


@dataclass(frozen=True)
class Amount:
    """How much a preset measures: turns per slot, repeats inside a start, and where saturation is sought.

    Five turns are the fewest with a steady window. Where several starts are the sample, repeats inside one are few.
    Four answers to one stream alone take three seconds on a CPU, less than a mood of a shared machine: more of them.
    """

    turns: int
    saturated_turns: int
    repeats: int
    alone: int
    saturate: Saturate


AMOUNTS = {
    "smoke": Amount(2, 1, 3, 6, Saturate(32, 64)),
    "lab": Amount(8, 5, 2, 2, Saturate(16, 256)),
    "full": Amount(12, 6, 3, 3, Saturate(16, 256)),
}
WEAK_STREAMS_PER_DEVICE = 8
FEWEST_REQUESTS = 4


def cases(options: ScalingOptions, model: Model, machine: Machine) -> tuple[list[Spec], list[Skipped]]:
    """Every curve for every plan, and which of them this machine cannot run."""
    split = plans(options, model)
    copied = [ParallelPlan(replicas=plan.tp) for plan in split if plan.tp > 1] if options.replicas else []
    recorded: Recorded | None = None

    def of_plan(plan: ParallelPlan) -> list[LoadSpec]:
        return cases_of_plan(plan, split[0], options, model, machine, recorded)

    if options.workload is not None:
        closed = [spec for plan in (*split, *copied) for spec in of_plan(plan)]
        recorded = read_recorded(options, model, machine, lengths(options, model, machine), closed)
        check_use(options, recorded)
    return list_cases([*split, *copied], of_plan, options, model, machine)


def check_use(options: ScalingOptions, recorded: Recorded) -> None:
    """Check that every option has something to act on.

    Raises:
        InputError: one has not.
    """
    if recorded.replayed is None and "replay" in (options.curves or ()):
        raise InputError("--curves replay needs a trace, and this workload says no times: leave replay out")
    if options.output_tokens is not None and recorded.whole.form != "jsonl":
        raise InputError("--output-tokens is for prompts that do not say: this workload says it, leave the option out")


def lengths(options: ScalingOptions, model: Model, machine: Machine) -> Lengths:
    """Tokens of made-up requests."""
    return default_lengths(model, machine, options.input_tokens, options.output_tokens)


def cases_of_plan(
    plan: ParallelPlan,
    base: ParallelPlan,
    options: ScalingOptions,
    model: Model,
    machine: Machine,
    recorded: Recorded | None = None,
) -> list[LoadSpec]:
    """The curves of one plan, the most telling first; `base` is the smallest plan of the run."""
    amount = AMOUNTS[options.preset]
    flags = flags_of(plan, options, machine)

    def spec(curve: str, load: int | Saturate | Replay) -> LoadSpec:
        fewest = -(-FEWEST_REQUESTS // load) if isinstance(load, int) else 1
        turns = options.turns or max(fewest, amount.turns if isinstance(load, int) else amount.saturated_turns)
        repeats = options.repeats or (amount.alone if load == 1 and machine.kind == "cpu" else amount.repeats)
        made = LoadSpec(plan, curve, load, lengths(options, model, machine), turns, repeats, flags)
        made = replace(made, kv_like=base if curve == "pinned" else None)
        return made if recorded is None else recorded.given_to(made)

    loads: dict[str, list[int | Saturate | Replay]] = {
        "fixed": list(dict.fromkeys(options.concurrency)),
        "saturated": [amount.saturate],
        "pinned": [amount.saturate] if plan.devices > base.devices and plan.replicas == 1 else [],
        "weak": [WEAK_STREAMS_PER_DEVICE * plan.devices],
        "replay": [Replay(options.time_scale or 1.0)] if recorded and recorded.replayed else [],
    }
    curves = options.curves or [curve for curve in CURVES if curve != "pinned" or options.preset != "smoke"]
    return [spec(curve, load) for curve in CURVES if curve in curves for load in loads[curve]]


EXPERIMENT = Experiment("benchmark_scaling", METHOD_VERSION, cases, print_scaling, report.scaling_summary)


def main() -> int:
    """Parse, run, and return the exit code."""
    return run(EXPERIMENT, parse(ScalingOptions, __doc__ or ""))


if __name__ == "__main__":
    sys.exit(while_read(main))
