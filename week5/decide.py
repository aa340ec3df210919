"""Which plan, how many devices, and for how much: the page for the person who pays.

Question.    How many devices serve so many requests per second within limits on latency, with one engine to spare, what
             do they cost a month rented or bought, and what would change that?
Prediction.  The plan that answers fastest is seldom the one that costs least: a spare is a whole engine, so large
             engines make dear spares. Write down your number of devices before you look.
Method.      Reads results, measures nothing: the newest of your own that were measured under load, and the older ones
             of the same machine, model and engine settings (what disagrees is named and left out), or --results. A
             load is within the limits where nine requests of ten are: exactly, from every request's times beside the
             result, or at least as far as percentiles can show. Each plan counts with its largest such rate, at the low
             end of its interval; enough engines for the rate, and one more. With --gpu, plans that were not measured
             are predicted and marked so; with nothing measured, --model and --gpu make a page of predictions alone.
Reading.     The first line is the answer. ASSUMED: engines add up beyond those measured side by side. PREDICTED: not
             measured, and never chosen over what was. A price that is not given is left out and named. Exit code 1
             where no plan keeps the limits. The last line is JSON.

Examples:
  python decide.py --rate 20 --slo ttft=1000 tpot=100 --usd-per-hour 7.18
  python decide.py --rate 20 --slo ttft=1000 tpot=100 --buy-usd 120000 --months 36 --watts 3500 --usd-per-kwh 0.2
  python decide.py --rate 2 --slo tpot=50 --results results/reference/2x1core-amd-epyc
  python decide.py --rate 20 --slo ttft=500 tpot=50 --model Qwen/Qwen3-32B --gpu H100 --counts 1 2 4 8
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the lab that this script stands in

from common.analysis.decision.answer import Decision, Question, decide
from common.analysis.decision.evidence import given_evidence, own_evidence
from common.analysis.decision.loads import Work
from common.analysis.decision.page import Page, summary, write_page
from common.analysis.decision.reading import PREDICTED, answer_lines, headline
from common.analysis.wording import CARRIES_OVER, about
from common.core.capacity import Prices
from common.experiment.advice import PRESET, Site, advise, plans_measured, site_of, wanted
from common.experiment.foretell import Prediction, foretell, measured_elsewhere
from common.experiment.load_spec import Lengths, LoadSpec
from common.experiment.options import FAILED, RESULTS, InputError, parse, refuse
from common.experiment.report import print_last_line
from common.experiment.slo import parse_slo
from common.machine.command_line import Count, Number, Text, optional
from common.machine.reader import while_read
from common.predict.hardware import taken_as
from common.store.files import StoreError
from week5 import benchmark_scaling, predict_scaling
from week5.simulate_concurrent_requests import AMOUNTS, ConcurrencyOptions
from week5.simulate_concurrent_requests import loads as listed_loads

MOST_RATE, MOST = 1e7, 1e9


@dataclass(frozen=True)
class DecisionOptions:
    """Options of the decision."""

    rate: float
    """Requests per second to serve, of the workload that was measured."""
    slo: Annotated[tuple[str, ...], tyro.conf.arg(metavar="LIMIT [LIMIT ...]")]
    """Limits in milliseconds that nine requests of ten must keep, on ttft, tpot or e2el, as in ttft=500 tpot=50."""
    results: Annotated[tuple[Path, ...] | None, optional("PATH [PATH ...]")] = None
    """Result files, or folders of them; by default your own newest."""
    usd_per_hour: Number = None
    """Price of one whole machine, rented; by default what the newest result was measured at, if it says."""
    buy_usd: Number = None
    """Price of one whole machine, bought; needs --months."""
    months: Number = None
    """Months over which a purchase is written off."""
    watts: Number = None
    """What one bought machine draws at work; with --usd-per-kwh electricity is added."""
    usd_per_kwh: Number = None
    """Price of electricity."""
    input_tokens: Count = None
    """Count only loads with prompts of so many tokens; for predictions alone 512."""
    output_tokens: Count = None
    """Count only loads with answers of so many tokens; for predictions alone 128."""
    model: Text = None
    """Count only results of this model; to predict it, a name, a config.json, or the folder that holds one."""
    gpu: Text = None
    """Predict what was not measured on this accelerator, and count only results on it."""
    counts: Annotated[tuple[int, ...], tyro.conf.arg(metavar="INT [INT ...]")] = (1, 2, 4, 8)
    """Device counts to predict; with nothing measured, a machine has the largest of them."""
    results_dir: Path = RESULTS
    """Where your own results are, and decision/<UTC>/ with the page is written; earlier pages stay."""

    def check(self) -> None:
        """Check what no type can say.

        Raises:
            InputError: a number out of its range, or half of what a sum needs.
        """
        parse_slo(self.slo)
        for field in fields(self):
            value = getattr(self, field.name)
            most, unit = (MOST_RATE, " (requests per second)") if field.name == "rate" else (MOST, "")
            if isinstance(value, int | float) and not 0 < value < most:
                flag = field.name.replace("_", "-")
                raise InputError(f"--{flag} {value:g}: a number above 0 and below {most:.0e} is needed{unit}")
        if not self.counts or not all(0 < count <= 1024 for count in self.counts):
            raise InputError("--counts: device counts are 1 to 1024, as in --counts 1 2 4 8")
        if (self.buy_usd is None) != (self.months is None):
            raise InputError("--buy-usd and --months go together: a price, and the months that it is written off over")
        if (self.watts is None) != (self.usd_per_kwh is None):
            raise InputError("--watts and --usd-per-kwh go together: what a machine draws, and the price of it")
        if self.watts is not None and self.buy_usd is None:
            raise InputError("--watts is for a bought machine: give --buy-usd and --months too")


def make_page(options: DecisionOptions) -> Page:
    """Everything on the page: what was measured first, then what is predicted, then what to measure.

    Raises:
        ValueError: results, a model or an accelerator that nothing can be said of.
        OSError: a model's config.json cannot be read.
    """
    objection = measured_elsewhere(options.model, options.gpu)
    if options.results is None:
        evidence = own_evidence(options.results_dir, objection)
    else:
        evidence = given_evidence(options.results, objection)
    lengths = (options.input_tokens, options.output_tokens)
    loads, left_out = evidence.loads(lengths)
    if not loads and (options.model is None or options.gpu is None):
        why = f" ({left_out[0]})" if left_out else ""
        raise StoreError(
            f"nothing was measured under load that counts here{why}: run week5/simulate_concurrent_requests.py, or name"
            " --model and --gpu for a page of predictions"
        )
    limits, work = parse_slo(options.slo), loads[0].work if loads else Work(lengths[0] or 512, lengths[1] or 128)
    behind = evidence.behind(loads)
    site = site_of(behind[0][1], options.usd_per_hour) if loads else None
    prediction = Prediction([])
    if options.gpu is not None:
        model = options.model or (site.model if site else "")
        words = predict_scaling.Options(model, options.gpu, options.counts, work.input_tokens, work.output_tokens)
        ask, plans, _ = predict_scaling.read(words)
        prediction = foretell(ask, plans, limits, loads)
        site = site or Site(model, ask.shape, "gpu", max(options.counts), options.usd_per_hour)
    assert site is not None, "measured or predicted"
    prices = Prices(site.usd_per_hour, options.buy_usd, options.months, options.watts, options.usd_per_kwh)
    question = Question(options.rate, limits, site.machine_devices, prices)
    decision = decide(question, work, loads, prediction.foretold)
    source = f"{PREDICTED}: {site.model} on {options.gpu}, machines of {site.machine_devices}"
    if loads:
        source = f"Measured: {about(behind[0][1])}"
        source += "; the price is the newest result's" if site.usd_per_hour != options.usd_per_hour else ""
    files, left_out = [path.name for path, _ in behind], [*left_out, *prediction.left_out]
    also = taken_as(options.gpu)
    caveats = [
        *([f"{also}."] if also else []),
        *prediction.doubts,
        *([CARRIES_OVER] if site.device_kind == "cpu" else []),
    ]
    next_steps = next_step(decision, prediction, site)
    return Page(decision, source, files, left_out, next_steps, caveats, evidence.dropped())


def next_step(decision: Decision, prediction: Prediction, site: Site) -> list[str]:
    """The measurement that would tell most, what it takes, and its command."""
    measure = wanted(decision, prediction.next_plan)
    lengths = Lengths(decision.work.input_tokens, decision.work.output_tokens, site.shape.vocab_size)
    plans = plans_measured(measure, site)
    if len(plans) > 1:
        turns, repeats = benchmark_scaling.AMOUNTS[PRESET].turns, benchmark_scaling.AMOUNTS[PRESET].repeats
        specs = [LoadSpec(plan, "fixed", load, lengths, turns, repeats) for plan in plans for load in measure.clients]
    else:
        load = LoadSpec(measure.plan, "closed", 1, lengths, 1, AMOUNTS[PRESET].repeats)
        rates = () if measure.rate is None else (measure.rate,)
        specs = listed_loads(ConcurrencyOptions(preset=PRESET, rate=rates), load, measure.clients)
    return advise(decision, measure, site, specs)


def main() -> int:
    """Read, decide, write the page, and return the exit code."""
    options = parse(DecisionOptions, __doc__ or "")
    try:
        page = make_page(options)
        paths = write_page(page, options.results_dir.expanduser())
    except (StoreError, ValueError, OSError) as error:
        refuse(str(error))
    decision = page.decision
    for line in (headline(decision), *answer_lines(decision), *page.dropped, *(str(path.absolute()) for path in paths)):
        print(line)
    print_last_line(paths[0].absolute(), "ok" if decision.chosen else "no plan", summary(decision))
    return 0 if decision.chosen else FAILED


if __name__ == "__main__":
    sys.exit(while_read(main))
