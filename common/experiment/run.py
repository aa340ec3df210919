"""From a parsed command line to an exit code: find the machine, check, measure, report."""

from __future__ import annotations

import contextlib
import sys

from common.analysis.learning.beliefs import print_beliefs
from common.analysis.learning.questions import print_guess
from common.analysis.scaling.rows import LATENCY, samples
from common.core.capacity import usd_per_million_tokens
from common.core.stats import geometric_mean
from common.core.verdict import ClientCeiling
from common.engines.models import ModelError
from common.engines.remote import GONE, HUNG
from common.experiment import report
from common.experiment.events import CaseDone, Said
from common.experiment.experiment import Experiment
from common.experiment.options import BAD_INPUT, FAILED, INTERRUPTED, InputError, Options
from common.experiment.prepare import Prepare, Prepared, prepare_engines
from common.experiment.sweep import Sweep
from common.experiment.view import View, say_plainly
from common.machine.devices import DeviceError
from common.machine.interrupts import none_lost
from common.store import files
from common.store.schema import Result

BELIEFS = 2  # of all that a result speaks to; `python -m common.analysis look` prints the rest


def run(experiment: Experiment, options: Options, prepare: Prepare | None = None) -> int:
    """Run an experiment and return the exit code; on engines of our own, unless `prepare` has others.

    0: all is well; 1: the experiment calls its result a failure; 2: bad input or nothing can run; 130: interrupted.
    """
    with none_lost(), contextlib.ExitStack() as held:
        try:
            prepared = (prepare or prepare_engines)(experiment, options, held)
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


def _measure(experiment: Experiment, options: Options, prepared: Prepared) -> int:
    machine, result, paths = prepared.machine, prepared.result, prepared.paths
    code = 0
    planned_s = None if prepared.planned is None else prepared.planned.seconds
    with View(planned_s, options.usd_per_hour) as view:

        def say(line: str) -> None:
            view(Said(line))

        for warning in result.warnings:
            view(Said(f"note: {warning}"))
        for case in result.cases:
            if case.status == "skipped":
                view(CaseDone(case))
        try:
            if not result.environment:
                result.environment = prepared.describe(result, say)
            client = result.environment.get("client")
            sweep = Sweep(
                prepared.launcher(say),
                machine,
                prepared.settings,
                result,
                paths,
                prepared.told(view),
                seed=options.seed,
                starts=prepared.starts,
                repeat_base_last=prepared.repeat_base_last,
                recount=prepared.recount,
                ceiling=ClientCeiling(**client) if client else None,
                budget=prepared.budget,
            )
            sweep.run(prepared.specs)
            if any(case.error is not None and case.error.kind in (GONE, HUNG) for case in result.cases):
                result.status = "interrupted"  # somebody starts it again, and the same command goes on
        except KeyboardInterrupt:
            code, result.status = INTERRUPTED, "interrupted"
    _summarise(result, options.usd_per_hour)
    files.save(result, paths.json)
    experiment.print_result(result)
    print_beliefs(result, most=BELIEFS)
    print_guess(result)
    report.print_next_step(result)
    if experiment.failed(result):
        code = code or FAILED
    if experiment.write_report is not None:
        written = experiment.write_report(result, paths.json.with_suffix(""))
        sys.stdout.writelines(f"report: {path}\n" for path in written)
    sys.stdout.write(f"result: {paths.json}\n")
    report.print_last_line(
        paths.json,
        "failed" if report.nothing_came(result) else result.status,
        experiment.summary(result),
        client="INVALID" if report.nothing_comparable(result) else "",
    )
    return code


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
            usd = usd_per_million_tokens(usd_per_hour, throughput.value)
            case.summary.append(geometric_mean("usd_per_million_output_tokens", "USD", [usd]))
    if usd_per_hour is not None:
        measured_s = sum(repeat["duration"] for case in result.cases for repeat in case.repeats)
        result.cost = {
            "usd_per_hour": usd_per_hour,
            "measured_s": measured_s,
            "usd_measured": usd_per_hour * measured_s / 3600,
        }
