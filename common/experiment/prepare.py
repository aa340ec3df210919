"""What must be there before a run begins: the machine, the engines' settings, the cases, a result to write to."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from common.engines.engine import StartsEngines
from common.engines.models import Model, default_model, find_model, token_counter
from common.engines.reference_models import cache_root
from common.engines.settings import EngineSettings, parse_engine_args
from common.engines.vllm_engine import VllmLauncher
from common.experiment import preflight, recordings
from common.experiment.budget import Budget
from common.experiment.dry_run import print_dry_run
from common.experiment.estimate import Estimate, estimate
from common.experiment.events import Watcher
from common.experiment.experiment import Experiment
from common.experiment.guessing import check_guess, question_of, say_question, take_guess
from common.experiment.listing import Skipped
from common.experiment.opening import Work, open_result, unfinished
from common.experiment.options import STARTS, InputError, Options
from common.experiment.planned import planned_machine, planned_model
from common.experiment.roofline import Roofline
from common.experiment.spec import Spec
from common.experiment.view import say_plainly
from common.load.calibration import calibrate
from common.machine.ceilings import Ceilings, measure_ceilings
from common.machine.devices import Machine, find_machine
from common.machine.environment import describe_environment, machine_fingerprint
from common.store import files
from common.store.schema import Result

Say = Callable[[str], None]


@dataclass(frozen=True)
class Prepared:
    """A run that may begin: everything is checked, and the result is ours to write.

    `describe` tells the environment, once; `launcher` is given what a start has to say; `starts` is how often.
    """

    machine: Machine
    settings: EngineSettings
    recount: Callable[[str], int] | None
    specs: Sequence[Spec]
    planned: Estimate | None
    result: Result
    paths: files.ResultPaths
    launcher: Callable[[Say], StartsEngines]
    describe: Callable[[Result, Say], dict[str, Any]]
    starts: int
    repeat_base_last: bool
    budget: Budget | None = None
    told: Callable[[Watcher], Watcher] = lambda watch: watch  # how its events are put to whoever watches


Prepare = Callable[[Experiment, Any, contextlib.ExitStack], Prepared | int]


@dataclass(frozen=True)
class _Plan:
    """What a run would do."""

    machine: Machine
    model: Model
    settings: EngineSettings
    specs: Sequence[Spec]
    skipped: Sequence[Skipped]
    roofline: Roofline
    budget: Budget | None


def prepare_engines(experiment: Experiment, options: Options, held: contextlib.ExitStack) -> Prepared | int:
    """Check everything that can be wrong before anything starts; an exit code where that was all there was to do.

    Raises:
        ValueError: one line, with the remedy (`InputError`, `ModelError`, `DeviceError`, `StoreError`).
    """
    plan = _plan(experiment, options)
    machine, model, settings, specs, engine = plan.machine, plan.model, plan.settings, plan.specs, plan.settings.engine
    question = question_of(experiment.name, [spec.unmeasured() for spec in specs])
    check_guess(options.guess, question, experiment.name)
    preflight.check_engine_args(settings, specs[0].configuration.plan, machine, say_plainly)
    starts, base_last = STARTS[options.preset], _repeats_base_last(options)
    planned = estimate(specs, starts, plan.roofline, base_last)
    name, version, recording = experiment.name, experiment.method_version, recordings.used_by(specs)
    others = {spec.configuration.model.name: spec.configuration.model for spec in specs if spec.configuration.model}
    work = Work(name, version, options, model, machine, settings, recording, list(others.values()))
    if options.dry_run:
        files.check_writable(options.results_dir, name)
        begun = None if options.dry_run_gpus else unfinished(work)
        say_question(question, name)
        left_out = {skip.spec.id: skip.reason.message for skip in plan.skipped}
        return print_dry_run(specs, left_out, planned, options.usd_per_hour, begun)
    devices_needed = max(spec.configuration.plan.devices for spec in specs)
    warnings = preflight.check_machine(machine, devices_needed, options.allow_shared, engine)
    warnings += preflight.check_memory(specs, settings, model.shape, machine, options.allow_shared)
    warnings += recordings.notes(specs)
    result, paths = open_result(work)
    held.enter_context(files.hold(paths))
    result.warnings += [warning for warning in warnings if warning not in result.warnings]
    _add_skipped(result, plan.skipped)
    take_guess(result, question, options.guess)
    recount = token_counter(model, of_a_prompt=False) if (model.folder / "tokenizer.json").is_file() else None

    def launcher(say: Say) -> StartsEngines:
        return VllmLauncher(paths.logs, _batch_sizes(specs), say)

    def describe(result: Result, say: Say) -> dict[str, Any]:
        say("measuring the machine's own ceilings")
        versions = engine.versions if engine else None
        environment = describe_environment(machine, _ceilings(machine, result), engine=versions)
        return environment | {"client": calibrated(machine, result, say)}

    how = (launcher, describe, starts, base_last, plan.budget)
    return Prepared(machine, settings, recount, specs, planned, result, paths, *how)


def _plan(experiment: Experiment, options: Options) -> _Plan:
    """The machine, the model, the cases that can run and that there is time for, and what engines start with.

    Raises:
        ValueError: one line, with the remedy.
    """
    planned = options.dry_run_gpus
    machine = (
        find_machine(options.cores_per_device, options.device_ids) if planned is None else planned_machine(planned)
    )
    engine = preflight.check_engine(options.engine_python)
    asked = options.model or default_model(machine.kind, len(machine.devices))
    model = planned_model(asked) if planned else find_model(asked, say_plainly, download=not options.dry_run)
    specs, skipped = experiment.cases(options, model, machine)
    if not specs:
        raise InputError(f"no plan can run here: {skipped[0].reason.message}. {skipped[0].reason.remedy}")
    roofline = Roofline(model.shape, machine.kind)
    budget = None if options.budget_s is None else Budget(options.budget_s, roofline)
    specs, dear = _affordable(specs, options, budget)
    settings = replace(_settings(model, machine, options), engine=engine)
    preflight.check_lengths(specs, settings, model.shape)
    if options.workload is not None and recordings.used_by(specs) is None:
        raise InputError(f"{experiment.name} sends requests of its own: leave --workload out")
    return _Plan(machine, model, settings, specs, [*skipped, *dear], roofline, budget)


def _repeats_base_last(options: Options) -> bool:
    """Whether the base is measured once more at the end, to see the machine drift."""
    return options.preset != "smoke"


def _affordable(specs: Sequence[Spec], options: Options, budget: Budget | None) -> tuple[Sequence[Spec], list[Skipped]]:
    """The cases that there is time for, and the others.

    Raises:
        InputError: there is time for none.
    """
    if budget is None:
        return specs, []
    kept, dear = budget.affordable(specs, STARTS[options.preset], _repeats_base_last(options))
    if not kept:
        raise InputError(f"{budget.seconds / 60:.3g} minutes are not enough for a single case: give more")
    return kept, [Skipped(spec, budget.spent) for spec in dear]


def _ceilings(machine: Machine, result: Result) -> Ceilings | None:
    try:
        return measure_ceilings(machine)
    except RuntimeError as error:
        result.warnings.append(f"the machine's ceilings could not be measured: {error}")
        return None


def calibrated(machine: Machine, result: Result, say: Say) -> dict[str, Any] | None:
    """The client's own ceiling here, kept from an earlier run or measured in some seconds; `None` where it fails."""
    fingerprint = {key: value for key, value in machine_fingerprint(machine).items() if key != "vllm"}
    try:
        ceiling = calibrate(json.dumps(fingerprint, sort_keys=True), cache_root(), say=say)
    except RuntimeError as error:
        result.warnings.append(f"the client could not be calibrated: {error}")
        return None
    return asdict(ceiling) if ceiling else None


def _settings(model: Model, machine: Machine, options: Options) -> EngineSettings:
    """Pinned for all plans: a GPU runs compiled with CUDA graphs, a CPU eager, which starts in half the time."""
    on_cpu = machine.kind == "cpu"
    return EngineSettings(
        model=str(model.folder),
        served_name=model.name,
        max_model_len=preflight.context_tokens(model.shape, machine),
        max_num_batched_tokens=2048 if on_cpu else 8192,
        eager=on_cpu,
        async_scheduling=not on_cpu,  # the CPU back end switches it off in any case
        extra_args=parse_engine_args(options.engine_args),
    )


def _add_skipped(result: Result, skipped: Sequence[Skipped]) -> None:
    known = {case.id for case in result.cases}
    for skip in skipped:
        if skip.spec.id not in known:
            case = skip.spec.unmeasured()
            case.status, case.error = "skipped", skip.reason
            result.cases.append(case)


def _batch_sizes(specs: Sequence[Spec]) -> list[int]:
    """Batch sizes whose all-reduce is worth timing: those that decoding will have, and one long prefill."""
    return sorted({size for spec in specs for size in spec.streams} | {1, 1024})
