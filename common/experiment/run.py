"""From a parsed command line to an exit code: find the machine, check, measure, report."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from common.analysis.beliefs import print_beliefs
from common.analysis.questions import print_guess
from common.analysis.scaling import LATENCY, samples
from common.core.stats import geometric_mean
from common.core.verdict import ClientCeiling
from common.engines.models import Model, ModelError, default_model, find_model, token_counter
from common.engines.reference_models import cache_root
from common.engines.settings import EngineSettings, parse_engine_args
from common.engines.vllm_engine import VllmLauncher
from common.experiment import preflight, recordings, report
from common.experiment.dry_run import print_dry_run
from common.experiment.estimate import Estimate, estimate
from common.experiment.events import CaseDone, Said
from common.experiment.guessing import check_guess, question_of, take_guess
from common.experiment.listing import Skipped
from common.experiment.opening import Work, open_result
from common.experiment.options import BAD_INPUT, FAILED, INTERRUPTED, STARTS, InputError, Options
from common.experiment.roofline import Roofline
from common.experiment.spec import Spec
from common.experiment.sweep import Sweep
from common.experiment.view import View, say_plainly
from common.load.calibration import calibrate
from common.machine.ceilings import Ceilings, measure_ceilings
from common.machine.devices import DeviceError, Machine, find_machine
from common.machine.environment import describe_environment, machine_fingerprint
from common.store import files
from common.store.schema import Result

BELIEFS = 2  # of all that a result contradicts; `python -m common.analysis look` prints the rest


@dataclass(frozen=True)
class Experiment:
    """What makes one script different from another: its name, its cases, how its result is read."""

    name: str
    method_version: int
    cases: Callable[[Any, Model, Machine], tuple[Sequence[Spec], Sequence[Skipped]]]
    print_result: Callable[[Result], None]
    summary: Callable[[Result], dict[str, Any]]


def run(experiment: Experiment, options: Options) -> int:
    """Run an experiment and return the exit code.

    0: all cases ok or skipped; 1: a case failed; 2: bad input or nothing can run; 130: interrupted.
    """
    with contextlib.ExitStack() as held:
        try:
            prepared = _prepare(experiment, options, held)
        except (InputError, ModelError, DeviceError, files.StoreError, ValueError) as error:
            say_plainly(f"error: {error}")
            return BAD_INPUT
        except KeyboardInterrupt:
            say_plainly("interrupted before anything was measured")
            return INTERRUPTED
        if isinstance(prepared, int):
            return prepared
        try:
            return _measure(experiment, options, prepared)
        except files.StoreError as error:  # the disk is full: what was saved before still is
            say_plainly(f"error: {error}")
            return FAILED


@dataclass(frozen=True)
class Prepared:
    """A run that may begin: everything is checked, and the result is ours to write."""

    machine: Machine
    settings: EngineSettings
    recount: Callable[[str], int] | None
    specs: Sequence[Spec]
    planned: Estimate
    result: Result
    paths: files.ResultPaths


def _prepare(experiment: Experiment, options: Options, held: contextlib.ExitStack) -> Prepared | int:
    """Check everything that can be wrong before anything starts; an exit code where that was all there was to do.

    Raises:
        ValueError: one line, with the remedy (`InputError`, `ModelError`, `DeviceError`, `StoreError`).
    """
    machine = find_machine(options.cores_per_device, options.device_ids)
    engine = preflight.check_engine(options.engine_python)
    asked = options.model or default_model(machine.kind, len(machine.devices))
    model = find_model(asked, say_plainly, download=not options.dry_run)
    specs, skipped = experiment.cases(options, model, machine)
    if not specs:
        raise InputError(f"no plan can run here: {skipped[0].reason.message}. {skipped[0].reason.remedy}")
    settings = replace(_settings(model, machine, options), engine=engine)
    preflight.check_lengths(specs, settings)
    if options.workload is not None and recordings.used_by(specs) is None:
        raise InputError(f"{experiment.name} sends requests of its own: leave --workload out")
    question = question_of(experiment.name, [spec.unmeasured() for spec in specs])
    check_guess(options.guess, question)
    preflight.check_engine_args(settings, specs[0].configuration.plan, say_plainly)
    planned = estimate(specs, STARTS[options.preset], Roofline(model.shape, machine.kind), _repeats_base(options))
    if options.dry_run:
        left_out = {skip.spec.id: skip.reason.message for skip in skipped}
        return print_dry_run(specs, left_out, planned, options.usd_per_hour)
    devices_needed = max(spec.configuration.plan.devices for spec in specs)
    warnings = preflight.check_machine(machine, devices_needed, options.allow_shared, engine)
    name, version, recording = experiment.name, experiment.method_version, recordings.used_by(specs)
    result, paths = open_result(Work(name, version, options, model, machine, settings, recording))
    held.enter_context(files.hold(paths))
    warnings += recordings.notes(specs)
    result.warnings += [warning for warning in warnings if warning not in result.warnings]
    _add_skipped(result, skipped)
    take_guess(result, question, options.guess)
    recount = token_counter(model, of_a_prompt=False) if (model.folder / "tokenizer.json").is_file() else None
    return Prepared(machine, settings, recount, specs, planned, result, paths)


def _measure(experiment: Experiment, options: Options, prepared: Prepared) -> int:
    machine, result, paths = prepared.machine, prepared.result, prepared.paths
    code = 0
    with View(prepared.planned.seconds, options.usd_per_hour) as view:
        for warning in result.warnings:
            view(Said(f"note: {warning}"))
        for case in result.cases:
            if case.status == "skipped":
                view(CaseDone(case))
        try:
            if not result.environment:
                view(Said("measuring the machine's own ceilings"))
                engine = prepared.settings.engine
                ceilings = _ceilings(machine, result)
                result.environment = describe_environment(machine, ceilings, engine=engine.versions if engine else None)
                result.environment["client"] = _calibrated(machine, result, lambda line: view(Said(line)))
            client = result.environment.get("client")
            sweep = Sweep(
                VllmLauncher(paths.logs, _batch_sizes(prepared.specs), lambda line: view(Said(line))),
                machine,
                prepared.settings,
                result,
                paths,
                view,
                seed=options.seed,
                starts=STARTS[options.preset],
                repeat_base_last=_repeats_base(options),
                recount=prepared.recount,
                ceiling=ClientCeiling(**client) if client else None,
            )
            sweep.run(prepared.specs)
        except KeyboardInterrupt:
            code, result.status = INTERRUPTED, "interrupted"
    _summarise(result, options.usd_per_hour)
    files.save(result, paths.json)
    experiment.print_result(result)
    print_beliefs(result, most=BELIEFS)
    print_guess(result)
    report.print_next_step(result)
    if any(case.status == "failed" for case in result.cases):
        code = code or FAILED
    sys.stdout.write(f"result: {paths.json}\n")
    report.print_last_line(paths.json, result.status, experiment.summary(result))
    return code


def _repeats_base(options: Options) -> bool:
    """Whether the base is started once more at the end, which shows drift."""
    return options.preset != "smoke"


def _ceilings(machine: Machine, result: Result) -> Ceilings | None:
    try:
        return measure_ceilings(machine)
    except RuntimeError as error:
        result.warnings.append(f"the machine's ceilings could not be measured: {error}")
        return None


def _calibrated(machine: Machine, result: Result, say: Callable[[str], None]) -> dict[str, Any] | None:
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


def _summarise(result: Result, usd_per_hour: float | None) -> None:
    """Fill every case's summary from its repeats, and the run's cost where a price is known."""
    for case in result.cases:
        rates = samples(case, "output_throughput")
        if not rates:
            continue
        throughput = geometric_mean("output_throughput", "tok/s", rates)
        case.summary = [throughput]
        if case.curve == "replay" and (latencies_ms := samples(case, LATENCY)):
            case.summary.append(geometric_mean(LATENCY, "ms", latencies_ms))
        if usd_per_hour is not None:
            usd = usd_per_hour / 3600 / throughput.value * 1e6
            case.summary.append(geometric_mean("usd_per_million_output_tokens", "USD", [usd]))
    if usd_per_hour is not None:
        measured_s = sum(repeat["duration"] for case in result.cases for repeat in case.repeats)
        result.cost = {
            "usd_per_hour": usd_per_hour,
            "measured_s": measured_s,
            "usd_measured": usd_per_hour * measured_s / 3600,
        }
