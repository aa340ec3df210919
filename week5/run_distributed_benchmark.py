"""One evening, every experiment: what does this machine do for this model, and which plan should serve it?

Question.    Which plan earns most, which answers fastest, what does a million tokens cost on each, and which is the
             cheapest that keeps your limits?
Prediction.  The plan with most tokens per second is not the one that answers first, and seldom the cheapest that is
             good enough. Write your guess down before you look.
Method.      The cases of all experiments of the week in one run, each engine started once for all of them (lab: three
             times): scaling; does TP work; latency of a single request by prompt and output length; many clients;
             mixed load; the limit on sequences (max_num_seqs). With --max-minutes or --max-usd the most valuable come
             first: time is kept back for them, and what does not fit is left out and said so.
Reading.     The tables of the single experiments, then the plans side by side: throughput, latency, memory, dollars
             per million tokens, and the cheapest plan within --slo. The same as a page with figures, and as Markdown,
             lies beside the result.

Examples:
  python run_distributed_benchmark.py                                       # some minutes, four engine starts
  python run_distributed_benchmark.py --preset lab --max-minutes 90
  python run_distributed_benchmark.py --preset lab --usd-per-hour 7.96 --max-usd 12
  python run_distributed_benchmark.py --parts scaling latency --replicas
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the lab that this script stands in

from common.analysis.evening.plans import evening_summary, print_evening
from common.analysis.report import write_report
from common.core.plan import ParallelPlan
from common.engines.models import Model
from common.engines.settings import parse_engine_args
from common.experiment.experiment import Experiment
from common.experiment.listing import Skipped, default_lengths, flags_of, list_cases, plans
from common.experiment.load_spec import LoadSpec
from common.experiment.options import InputError, Options, parse
from common.experiment.preflight import context_tokens
from common.experiment.run import run
from common.experiment.slo import parse_slo
from common.experiment.spec import Spec
from common.machine.command_line import Number, optional, several_of
from common.machine.devices import Machine
from common.machine.reader import while_read
from week5 import benchmark_scaling, simulate_concurrent_requests, test_mixed_workload, test_tensor_parallel

METHOD_VERSION = 2
Part = Literal["scaling", "verification", "latency", "concurrency", "mixed", "sequences"]
PARTS: tuple[Part, ...] = ("scaling", "verification", "latency", "concurrency", "mixed", "sequences")  # by value
SMOKE_MINUTES = 5.0
Listed = tuple[Sequence[Spec], Sequence[Skipped]]


@dataclass(frozen=True)
class EveningOptions(Options):
    """Options of the evening's run."""

    parts: Annotated[tuple[Part, ...] | None, several_of(PARTS)] = None
    """Which parts, by default all; in smoke not the limit on sequences, which costs engine starts of its own."""
    replicas: bool = False
    """Measure n independent replicas (tp1xn) beside each TP=n."""
    max_minutes: Number = None
    """Leave out, from the least valuable on, what does not fit into so many minutes; 5 in smoke."""
    max_usd: Number = None
    """The same for so many dollars; needs --usd-per-hour."""
    slo: Annotated[tuple[str, ...] | None, optional("LIMIT [LIMIT ...]")] = None
    """Limits that the cheapest plan must keep, in milliseconds, as in ttft=500 tpot=50."""

    def check(self) -> None:
        """Check what no type can say.

        Raises:
            InputError: a number out of its range.
        """
        super().check()
        if self.parts == ():
            raise InputError(f"--parts needs at least one of {', '.join(PARTS)}")
        for flag, number in {"--max-minutes": self.max_minutes, "--max-usd": self.max_usd}.items():
            if number is not None and not 0 < number < 1e6:
                raise InputError(f"{flag} {number:g}: a number above 0 and below 1000000, as in {flag} 60")
        if self.max_usd is not None and self.usd_per_hour is None:
            raise InputError("--max-usd needs the machine's price: --usd-per-hour 7.96")
        if self.slo is not None:
            parse_slo(self.slo)

    @property
    def budget_s(self) -> float | None:
        """Seconds that the run may take; None: as many as it needs."""
        minutes = self.max_minutes or (SMOKE_MINUTES if self.preset == "smoke" and self.max_usd is None else None)
        limits = [] if minutes is None else [60 * minutes]
        if self.max_usd is not None and self.usd_per_hour is not None:
            limits.append(3600 * self.max_usd / self.usd_per_hour)
        return min(limits, default=None)


def cases(options: EveningOptions, model: Model, machine: Machine) -> Listed:
    """Every part's cases, the most valuable part first."""
    specs: list[Spec] = []
    skipped: list[Skipped] = []
    for part in options.parts or (PARTS[:-1] if options.preset == "smoke" else PARTS):
        able, unable = LISTS[part](options, model, machine)
        specs += able
        skipped += unable
    return specs, skipped


def like(kind: type[Any], options: EveningOptions, **own: Any) -> Any:  # noqa: ANN401  # the options of another script
    """Another experiment's options with what all experiments share taken from ours."""
    shared = {field.name: getattr(options, field.name) for field in fields(Options)}
    return kind(**shared, **own)


def scaling(options: EveningOptions, model: Model, machine: Machine) -> Listed:
    """The curves of the scaling benchmark."""
    return benchmark_scaling.cases(
        like(benchmark_scaling.ScalingOptions, options, replicas=options.replicas), model, machine
    )


def verification(options: EveningOptions, model: Model, machine: Machine) -> Listed:
    """Does TP work: on the engines that serve anyway, in the model's own precision; offline ones not in smoke."""
    own = {"dtype": "auto", "offline": options.preset != "smoke"}
    return test_tensor_parallel.cases(like(test_tensor_parallel.VerifyOptions, options, **own), model, machine)


def latency(options: EveningOptions, model: Model, machine: Machine) -> Listed:
    """One request at a time: prompts four times as long and again (to the context's end), answers four times."""
    lengths = default_lengths(model, machine, None, None)
    most = context_tokens(model.shape, machine, parse_engine_args(options.engine_args))
    grown = [(4, 1), (16, 1), (1, 4)]
    wanted = [(longer_in * lengths.input_tokens, longer_out * lengths.output_tokens) for longer_in, longer_out in grown]
    fitting = dict.fromkeys((min(prompt, most - answer), answer) for prompt, answer in wanted)
    turns, usual = (2, 3) if options.preset == "smoke" else (5, 2)
    repeats = options.repeats or usual

    def of_plan(plan: ParallelPlan) -> list[LoadSpec]:
        found = []
        for sizes in fitting:
            one = replace(lengths, input_tokens=sizes[0], output_tokens=sizes[1])
            curve = f"latency-{sizes[0]}-{sizes[1]}"
            found.append(LoadSpec(plan, curve, 1, one, turns, repeats, flags_of(plan, options, machine)))
        return found

    return list_cases(plans(options, model), of_plan, options, model, machine)


def concurrency(options: EveningOptions, model: Model, machine: Machine) -> Listed:
    """Many clients, and a batch against concurrent singles; the offline one not in smoke."""
    own = {"concurrency": (1, 16, 64), "offline": False} if options.preset == "smoke" else {}
    kind = simulate_concurrent_requests.ConcurrencyOptions
    return simulate_concurrent_requests.cases(like(kind, options, slo=options.slo, **own), model, machine)


def mixed(options: EveningOptions, model: Model, machine: Machine) -> Listed:
    """Short and long requests together, on the smallest plan."""
    own = replace(options, tp=None)
    return test_mixed_workload.cases(like(test_mixed_workload.MixedOptions, own), model, machine)


def sequences(options: EveningOptions, model: Model, machine: Machine) -> Listed:
    """How many sequences an engine may run at once: the largest plan under the load that saturates it."""
    lengths = default_lengths(model, machine, None, None)
    fitting = [plan for plan in plans(options, model) if plan.devices <= len(machine.devices)][-1:]

    def of_plan(plan: ParallelPlan) -> list[LoadSpec]:
        made = LoadSpec(plan, "sequences", 128, lengths, 5, options.repeats or 2, flags_of(plan, options, machine))
        limits = (8, 32, 128)
        return [replace(made, curve=f"max_num_seqs-{most}", changed=(("max_num_seqs", most),)) for most in limits]

    return list_cases(fitting, of_plan, options, model, machine)


LISTS: dict[Part, Callable[[EveningOptions, Model, Machine], Listed]] = {
    "scaling": scaling,
    "verification": verification,
    "latency": latency,
    "concurrency": concurrency,
    "mixed": mixed,
    "sequences": sequences,
}
NAME = "run_distributed_benchmark"
EXPERIMENT = Experiment(NAME, METHOD_VERSION, cases, print_evening, evening_summary, write_report=write_report)


def main() -> int:
    """Parse, run, and return the exit code."""
    return run(EXPERIMENT, parse(EveningOptions, __doc__ or ""))


if __name__ == "__main__":
    sys.exit(while_read(main))
