"""The cases of a run: what every plan is asked for, and which plans this machine cannot run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from common.core.plan import ParallelPlan
from common.engines.models import Model
from common.experiment.load_spec import Lengths
from common.experiment.options import InputError, Options
from common.experiment.preflight import check_sizes, why_not
from common.experiment.spec import Spec
from common.machine.devices import Machine
from common.store.schema import CaseError


@dataclass(frozen=True)
class Skipped:
    """A case that was asked for and cannot run."""

    spec: Spec
    reason: CaseError


def plans(options: Options, model: Model) -> list[ParallelPlan]:
    """Tensor-parallel plans of the sizes asked for, the smallest first.

    Raises:
        InputError: a size that was asked for does not divide the model.
    """
    sizes = options.tp_sizes()
    if options.tp is not None:
        check_sizes(model.shape, sizes)
    return [ParallelPlan(tp=size) for size in sizes]


def written_plans(written: Sequence[str]) -> list[ParallelPlan]:
    """The plans of a command line, each once, the smallest first.

    Raises:
        InputError: none, or one that is no plan.
    """
    if not written:
        raise InputError("--plans needs at least one plan, as in --plans tp1 tp2 pp2")
    try:
        return sorted({ParallelPlan.parse(text) for text in written}, key=by_size)
    except ValueError as error:
        raise InputError(f"--plans: {error}") from None


def by_size(plan: ParallelPlan) -> tuple[int, int, int, ParallelPlan]:
    """Orders plans so that the base comes first: by devices, and what splits the model before what copies it."""
    return plan.devices, plan.replicas, plan.dp, plan


def list_cases(
    plans: Sequence[ParallelPlan],
    of_plan: Callable[[ParallelPlan], Sequence[Spec]],
    options: Options,
    model: Model,
    machine: Machine,
) -> tuple[list[Spec], list[Skipped]]:
    """Every plan's cases in order, and those that cannot run here."""
    specs: list[Spec] = []
    skipped: list[Skipped] = []
    for plan in plans:
        reason = why_not(plan, model.shape, machine, options.oversubscribe)
        for spec in of_plan(plan):
            specs += [] if reason else [spec]
            skipped += [Skipped(spec, reason)] if reason else []
    return specs, skipped


def flags_of(plan: ParallelPlan, options: Options, machine: Machine) -> tuple[str, ...]:
    """What every number of a plan must be read with on this machine."""
    flags = []
    if plan.devices > len(machine.devices) and options.oversubscribe:
        flags.append("oversubscribed")
    if machine.host_shares_devices and plan.devices == len(machine.devices):
        flags.append("host_shares_devices")
    return tuple(flags)


def default_lengths(model: Model, machine: Machine, input_tokens: int | None, output_tokens: int | None) -> Lengths:
    """Tokens of made-up requests: small enough for a CPU, long enough for a GPU, unless they are given."""
    default_input, default_output = (32, 32) if machine.kind == "cpu" else (512, 128)
    return Lengths(input_tokens or default_input, output_tokens or default_output, model.shape.vocab_size)
