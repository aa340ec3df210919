"""From a parsed command line to an exit code: find the machine, check, measure, report."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from common.analysis.reading import streams
from common.analysis.scaling import samples
from common.core.stats import geometric_mean
from common.engines.models import Model, ModelError, default_model, find_model
from common.engines.settings import EngineSettings, parse_engine_args
from common.engines.vllm_engine import VllmLauncher
from common.experiment import preflight, report
from common.experiment.cases import CaseSpec, Saturate
from common.experiment.estimate import Estimate, estimate
from common.experiment.events import CaseDone, Said
from common.experiment.options import BAD_INPUT, FAILED, INTERRUPTED, InputError, Options
from common.experiment.sweep import Sweep
from common.experiment.view import View, say_plainly
from common.machine.ceilings import Ceilings, measure_ceilings
from common.machine.devices import DeviceError, Machine, find_machine
from common.machine.environment import describe_environment, machine_fingerprint, machine_name, scrubbed
from common.store import files
from common.store.schema import CaseError, Result

STARTS = {"smoke": 1, "lab": 3, "full": 5}
# A resumed run may change these; of another interpreter the versions count, and its path is nobody's business
NOT_PART_OF_THE_WORK = ("results_dir", "resume", "dry_run", "usd_per_hour", "engine_python")
FOLDERS = ("--results-dir", "--engine-python")


@dataclass(frozen=True)
class Skipped:
    """A case that was asked for and cannot run."""

    spec: CaseSpec
    reason: CaseError


@dataclass(frozen=True)
class Experiment:
    """What makes one script different from another: its name, its cases, how its result is read."""

    name: str
    method_version: int
    cases: Callable[[Any, Model, Machine], tuple[list[CaseSpec], list[Skipped]]]
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
    specs: Sequence[CaseSpec]
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
    name = options.model or default_model(machine.kind, len(machine.devices))
    model = find_model(name, say_plainly, download=not options.dry_run)
    specs, skipped = experiment.cases(options, model, machine)
    if not specs:
        raise InputError(f"no plan can run here: {skipped[0].reason.message}. {skipped[0].reason.remedy}")
    settings = replace(_settings(model, machine, options), engine=engine)
    preflight.check_lengths(specs, settings)
    preflight.check_engine_args(settings, specs[0].plan, say_plainly)
    planned = estimate(specs, STARTS[options.preset], model.shape, machine.kind, _repeats_base(options))
    if options.dry_run:
        return _dry_run(specs, skipped, planned, options)
    devices_needed = max(spec.plan.devices for spec in specs)
    warnings = preflight.check_machine(machine, devices_needed, getattr(options, "allow_shared", False), engine)
    result, paths = _open(experiment, options, model, machine, settings)
    held.enter_context(files.hold(paths))
    result.warnings += [warning for warning in warnings if warning not in result.warnings]
    _add_skipped(result, skipped)
    return Prepared(machine, settings, specs, planned, result, paths)


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
            )
            sweep.run(prepared.specs)
        except KeyboardInterrupt:
            code, result.status = INTERRUPTED, "interrupted"
    _summarise(result, options.usd_per_hour)
    files.save(result, paths.json)
    experiment.print_result(result)
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


def _settings(model: Model, machine: Machine, options: Options) -> EngineSettings:
    """Pinned for all plans: a GPU runs compiled with CUDA graphs, a CPU eager, which starts in half the time."""
    on_cpu = machine.kind == "cpu"
    return EngineSettings(
        model=str(model.folder),
        served_name=model.name,
        max_model_len=min(1024 if on_cpu else 4096, model.shape.max_position_embeddings),
        max_num_batched_tokens=2048 if on_cpu else 8192,
        eager=on_cpu,
        async_scheduling=not on_cpu,  # the CPU back end switches it off in any case
        extra_args=parse_engine_args(options.engine_args),
    )


def _open(
    experiment: Experiment, options: Options, model: Model, machine: Machine, settings: EngineSettings
) -> tuple[Result, files.ResultPaths]:
    """The interrupted run of the same work on the same machine, or a new result."""
    work = {key: value for key, value in asdict(options).items() if key not in NOT_PART_OF_THE_WORK}
    config = {
        **work,
        "model": model.name,
        "model_shape": asdict(model.shape),
        "engine_settings": asdict(settings) | {"model": None, "engine": None},
        "results_dir": str(options.results_dir),
    }
    same = {**config, "results_dir": None, "folder": str(model.folder)}
    keyed = [experiment.method_version, same, machine_fingerprint(machine)]
    keyed += [settings.engine.versions] if settings.engine else []
    key = hashlib.sha256(json.dumps(keyed, sort_keys=True, default=str).encode()).hexdigest()
    if options.resume and (found := files.find_interrupted(options.results_dir, experiment.name, key)):
        say_plainly(f"going on with {found.json} (--no-resume starts afresh)")
        result = files.load(found.json)
        return replace(result, status="running"), found
    paths = files.new_paths(options.results_dir, experiment.name, machine_name(machine), model.name.rpartition("/")[2])
    argv = [scrubbed(word) for word in _without_folders(sys.argv[1:])]
    config = json.loads(json.dumps(config, default=str)) | {"results_dir": None}
    return Result(experiment.name, experiment.method_version, paths.json.stem, key, argv, config, {}), paths


def _without_folders(words: Sequence[str]) -> list[str]:
    """The command line without your folders, which are nobody else's business: `--results-dir X`, or with `=`."""
    kept: list[str] = []
    skip = False
    for word in words:
        flag, equals, _ = word.partition("=")
        is_folder = flag.replace("_", "-") in FOLDERS
        if not (skip or is_folder):
            kept.append(word)
        skip = is_folder and not equals
    return kept


def _add_skipped(result: Result, skipped: Sequence[Skipped]) -> None:
    known = {case.id for case in result.cases}
    for skip in skipped:
        if skip.spec.id not in known:
            case = skip.spec.unmeasured()
            case.status, case.error = "skipped", skip.reason
            result.cases.append(case)


def _batch_sizes(specs: Sequence[CaseSpec]) -> list[int]:
    """Batch sizes whose all-reduce is worth timing: those that decoding will have, and one long prefill."""
    sizes = {spec.load for spec in specs if isinstance(spec.load, int)}
    sizes |= {rung for spec in specs if isinstance(spec.load, Saturate) for rung in spec.load.rungs()}
    return sorted(sizes | {1, 1024})


def _summarise(result: Result, usd_per_hour: float | None) -> None:
    """Fill every case's summary from its repeats, and the run's cost where a price is known."""
    for case in result.cases:
        rates = samples(case, "output_throughput")
        if not rates:
            continue
        throughput = geometric_mean("output_throughput", "tok/s", rates)
        case.summary = [throughput]
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


def _dry_run(specs: Sequence[CaseSpec], skipped: Sequence[Skipped], planned: Estimate, options: Options) -> int:
    for spec in specs:
        load = streams(spec.load) if isinstance(spec.load, int) else f"{spec.load.rungs()} streams, until it saturates"
        lengths = f"{spec.lengths.input_tokens} in / {spec.lengths.output_tokens} out"
        sys.stdout.write(f"{spec.id:24} {load}, {lengths}, {spec.repeats} repeats\n")
    for skip in skipped:
        sys.stdout.write(f"{skip.spec.id:24} skipped: {skip.reason.message}\n")
    usd = planned.usd(options.usd_per_hour)
    price = "" if usd is None else f", about ${usd:.2f}"
    minutes = planned.seconds / 60
    sys.stdout.write(
        f"{planned.cases} cases, {planned.engine_starts} engine starts, about {minutes:.0f} minutes{price}\n"
    )
    summary = {"cases": planned.cases, "engine_starts": planned.engine_starts, "minutes": round(minutes, 1), "usd": usd}
    report.print_last_line(None, "dry-run", summary)
    return 0
