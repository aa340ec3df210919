"""Which parallel plan is best here, for what, and why?

Question.    The same devices can hold one model split inside its layers (tp), split by layers (pp), copied under one
             front end (dp) or as engines of their own (x2), or split by experts (ep). What does each give and cost?
Prediction.  tp answers one stream fastest, because all devices work on the same token; it also talks most. pp sends a
             thousandth of that and is no faster than one device at one stream: stages wait for each other. dp and
             replicas split nothing, so one stream gains nothing from them, and weights are on every device.
Method.      Real vLLM, one engine start per plan (lab: three), the same seeded requests for all, everything that vLLM
             would choose by plan pinned. Per plan: fixed streams (strong scaling), a fixed number per device (weak),
             and, beyond smoke, its best load (saturated). Without --plans: every legal plan of the devices at hand.
             A plan that does not divide the model is refused; one that needs more devices is a skipped row.
             A dense model has no experts: plans with ep are measured on --moe-model (`<model>/tp2ep` in the result),
             beside that model's own smallest plan, and never compared with the dense model's.
Reading.     The first tables are those of benchmark_scaling.py. Then every plan at every load by latency and tokens
             per second and device, with the Pareto front: what is not on it is beaten in both by something that is.
             Then who holds what, what ranks send each other, and which plan to take for which goal.

Examples:
  python compare_parallel_plans.py                               # every legal plan here, and ep on a small MoE model
  python compare_parallel_plans.py --plans tp1 tp2 pp2 tp1x2 --goal throughput
  python compare_parallel_plans.py --plans pp2 pp5+3             # an even and an uneven pipeline
  python compare_parallel_plans.py --model Qwen/Qwen3-30B-A3B --plans tp4 tp4ep tp2dp2ep --usd-per-hour 12.40
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the lab that this script stands in

from common.analysis.plans.goals import GOALS, Goal
from common.analysis.plans.table import plans_summary, print_plans
from common.core.legality import legal_plans, plainly
from common.core.plan import ParallelPlan
from common.engines.models import Model, find_model
from common.engines.reference_models import REFERENCE_MODELS
from common.experiment import report
from common.experiment.experiment import Experiment
from common.experiment.listing import Skipped, by_size, default_lengths, flags_of, list_cases, written_plans
from common.experiment.load_spec import LoadSpec, Saturate
from common.experiment.options import InputError, Options, check_load, parse
from common.experiment.preflight import check_plan
from common.experiment.run import run
from common.experiment.spec import Spec
from common.experiment.view import say_plainly
from common.machine.command_line import Count, Text, optional
from common.machine.devices import Machine
from common.machine.reader import while_read
from common.store.schema import Result

METHOD_VERSION = 2
TURNS, REPEATS = {"smoke": 2, "lab": 8, "full": 12}, {"smoke": 3, "lab": 2, "full": 3}
WEAK_STREAMS_PER_DEVICE = 4
SATURATE = Saturate(16, 256)
FEWEST_REQUESTS = 4
SMALL_MOE = "qwen3-moe-16m"


@dataclass(frozen=True)
class PlanOptions(Options):
    """Options of the comparison of plans."""

    plans: Annotated[tuple[str, ...] | None, optional("PLAN [PLAN ...]")] = None
    """Plans to compare, as in tp1 tp2 pp2 tp1dp2 tp1x2 tp2ep pp5+3; by default every legal one."""
    moe_model: Text = None
    """Mixture of experts that plans with ep run on where --model has no experts; by default qwen3-moe-16m beside a
    reference model, and none beside your own."""
    goal: Goal | None = None
    """Recommend a plan for one goal, with its reason; by default all three are named."""
    concurrency: tuple[int, ...] = (1, 16)
    """Streams of the fixed curve."""
    input_tokens: Count = None
    """Prompt length; by default 32 on CPU, 512 on GPUs."""
    output_tokens: Count = None
    """Generated tokens per request; by default 32 on CPU, 128 on GPUs."""

    def check(self) -> None:
        """Check what no type can say.

        Raises:
            InputError: a number out of its range, or no plan.
        """
        super().check()
        if self.tp is not None:
            raise InputError("--tp names sizes of tensor parallelism alone: write plans, as in --plans tp1 tp2 pp2")
        if self.plans is not None:
            written_plans(self.plans)
        check_load(self.concurrency, {"--input-tokens": self.input_tokens, "--output-tokens": self.output_tokens})


def cases(options: PlanOptions, model: Model, machine: Machine) -> tuple[list[Spec], list[Skipped]]:
    """The cases of the run's model, then those of the mixture of experts where that is another one."""
    asked = None if options.plans is None else written_plans(options.plans)
    devices, other = len(machine.devices), experts_beside(options, asked, model)
    if asked is None:
        own = legal_plans(model.shape, devices)
        by_experts = [] if other is None else largest_by_experts(other, devices)
    else:
        own = checked([plan for plan in asked if other is None or not plan.ep], model, machine)
        by_experts = [] if other is None else checked([plan for plan in asked if plan.ep], other, machine)
    specs, skipped = cases_of_model(own, None, options, model, machine)
    if other is not None and by_experts:
        more, left_out = cases_of_model([ParallelPlan(), *by_experts], other, options, other, machine)
        specs, skipped = [*specs, *more], [*skipped, *left_out]
    return specs, skipped


def experts_beside(options: PlanOptions, asked: Sequence[ParallelPlan] | None, model: Model) -> Model | None:
    """The mixture of experts that plans with ep are measured on beside a dense model; None where nothing needs one."""
    by_experts = [plan for plan in asked or [] if plan.ep]
    needed = model.shape.num_experts == 0 and (asked is None or by_experts)
    if not needed and options.moe_model is not None:
        raise InputError("--moe-model: no plan here needs another model for its experts; leave it out")
    if not needed or (asked is None and options.moe_model is None and not is_reference(model)):
        return None
    if options.moe_model is None and not is_reference(model):
        raise InputError(f"{by_experts[0]} splits experts, and {model.name} has none: name a model with --moe-model")
    other = find_model(options.moe_model or SMALL_MOE, say_plainly, download=not options.dry_run)
    if not other.shape.num_experts:
        raise InputError(f"--moe-model {other.name} has no experts to split: name a mixture of experts")
    return other


def largest_by_experts(model: Model, devices: int) -> list[ParallelPlan]:
    """The plan that does nothing but split experts (and with them all else) over most devices; none on one device."""
    plain = [plan for plan in legal_plans(model.shape, devices) if plan == ParallelPlan(tp=plan.tp, ep=True)]
    return plain[-1:]


def checked(asked: Sequence[ParallelPlan], model: Model, machine: Machine) -> list[ParallelPlan]:
    """The plans, each once, if all divide the model."""
    plans = list(dict.fromkeys(plainly(plan, model.shape) for plan in asked))
    for plan in plans:
        check_plan(plan, model.shape, machine)
    return plans


def is_reference(model: Model) -> bool:
    """Whether the model is one of the lab's own small ones."""
    return model.name in REFERENCE_MODELS


def cases_of_model(
    plans: Sequence[ParallelPlan], named: Model | None, options: PlanOptions, model: Model, machine: Machine
) -> tuple[list[Spec], list[Skipped]]:
    """The curves of one model's plans; `named` where it is not the run's."""
    lengths = default_lengths(model, machine, options.input_tokens, options.output_tokens)

    def of_plan(plan: ParallelPlan) -> list[LoadSpec]:
        flags, turns = flags_of(plan, options, machine), TURNS[options.preset]
        loads = [("fixed", streams) for streams in dict.fromkeys(options.concurrency)]
        loads += [("weak", WEAK_STREAMS_PER_DEVICE * plan.devices)]
        repeats = options.repeats or REPEATS[options.preset]
        specs = [
            LoadSpec(plan, curve, load, lengths, max(turns, FEWEST_REQUESTS // load), repeats, flags, model=named)
            for curve, load in loads
        ]
        saturated = replace(specs[0], curve="saturated", load=SATURATE, turns=turns)
        return specs if options.preset == "smoke" else [*specs, saturated]

    return list_cases(sorted(plans, key=by_size), of_plan, options, model, machine)


def summary(result: Result) -> dict[str, Any]:
    """For the last line: every case, and what they come to."""
    return report.scaling_summary(result) | plans_summary(result)


EXPERIMENT = Experiment("compare_parallel_plans", METHOD_VERSION, cases, print_plans, summary)


def main() -> int:
    """Parse, run, and return the exit code."""
    options = parse(PlanOptions, __doc__ or "")
    goals = GOALS if options.goal is None else (options.goal,)
    return run(replace(EXPERIMENT, print_result=lambda result: print_plans(result, goals=goals)), options)


if __name__ == "__main__":
    sys.exit(while_read(main))
