"""What happens when many clients come at once, and how many are too many?

Question.    How do throughput and waiting grow with the number of clients, where does more load stop paying, and is
             one batch of requests faster than the same requests sent at once by many clients?
Prediction.  Throughput grows with concurrency, since one pass over the weights then serves more requests, until
             arithmetic fills the devices; from there on more clients only wait longer. A batch gains nothing:
             continuous batching puts concurrent requests into one batch anyway. Write your guess down first.
Method.      Real vLLM, one engine start per plan (lab: three), seeded requests of one length.
               closed   so many clients, each sending its next request when its last one is answered
               open     requests that come by the clock, whether or not earlier ones have ended (--rate)
               batch    the same prompts as one request and as so many clients, in turns (ABBA), and in one call of
                        the offline LLM.generate(...), at an engine start of its own (smoke: smallest plan alone)
             With --base-url the server is somebody else's: closed loops at each --concurrency, streamed, prompts of
             plain words (about one token each; usage says what they were); the key comes from OPENAI_API_KEY.
Reading.     The knee is where throughput over response time is largest (Kleinrock's power): before it clients cost
             little waiting, behind it mostly waiting. good is the share of requests within --slo; queue is what vLLM
             says they waited before it began; Jain is 1 where all clients got the same. More load is not better.

Examples:
  python simulate_concurrent_requests.py                              # 1, 4, 16, 32 clients on every plan
  python simulate_concurrent_requests.py --tp 1 --rate 2 8 --burstiness 0.5        # bursts, by the clock
  python simulate_concurrent_requests.py --tp 1 --rate 1 --final-rate 20           # a ramp
  python simulate_concurrent_requests.py --base-url http://localhost:8000 --model NAME --concurrency 1 8 32
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the lab that this script stands in

from common.analysis.concurrency.table import concurrency_summary, print_concurrency
from common.core.plan import ParallelPlan
from common.engines.models import Model
from common.experiment.batch_spec import BatchSpec, OfflineBatchSpec
from common.experiment.experiment import Experiment
from common.experiment.external import Asked, run_external
from common.experiment.listing import Skipped, default_lengths, flags_of, list_cases, plans
from common.experiment.load_spec import LoadSpec
from common.experiment.open_loops import check_open_loops, open_loops, requests_at
from common.experiment.options import InputError, Options, check_load, check_requests, parse
from common.experiment.run import run
from common.experiment.slo import DEFAULT_SLO, parse_slo
from common.experiment.spec import Spec
from common.experiment.words import Words
from common.machine.command_line import Count, Number, optional
from common.machine.devices import Machine
from common.machine.reader import while_read

METHOD_VERSION = 2


@dataclass(frozen=True)
class ConcurrencyOptions(Options):
    """Options of the concurrency experiment."""

    base_url: Annotated[str | None, optional("URL")] = None
    """Drive this OpenAI-compatible server instead of engines of our own, as in http://localhost:8000."""
    chat: bool = False
    """With --base-url: send to /v1/chat/completions instead of /v1/completions."""
    idle_timeout_s: float = 60.0
    """With --base-url: give the server up when it sends nothing to anybody for so long while requests wait."""
    concurrency: Annotated[tuple[int, ...] | None, optional("INT [INT ...]")] = None
    """Clients; by default 1 4 16 32, in lab and full powers of two to 256, with --base-url 1 4 16."""
    requests: Count = None
    """Requests of each closed or open loop in one repeat; by default 2 per client, in lab 5."""
    input_tokens: Count = None
    """Prompt length; by default 32 on CPU, 512 on GPUs and with --base-url."""
    output_tokens: Count = None
    """Generated tokens per request; by default 32 on CPU, 128 on GPUs and with --base-url."""
    rate: Annotated[tuple[float, ...], tyro.conf.arg(metavar="FLOAT [FLOAT ...]")] = ()
    """Also send by the clock: so many requests per second, one case each."""
    burstiness: float = 1.0
    """Of the times between them: 1 is Poisson, less comes in bursts, inf is constant."""
    final_rate: Number = None
    """Let the rate rise or fall to this one from the first request to the last."""
    offline: bool = True
    """Give the batch to the offline `LLM(...)` API too; --no-offline leaves it, and its engine starts, out."""
    slo: Annotated[tuple[str, ...] | None, optional("LIMIT [LIMIT ...]")] = None
    """Limits for goodput in milliseconds; by default ttft=500 tpot=50, on CPU ttft=1000 tpot=100."""

    def check(self) -> None:
        """Check what no type can say.

        Raises:
            InputError: a number out of its range, or options that exclude each other.
        """
        super().check()
        tokens = {"--input-tokens": self.input_tokens, "--output-tokens": self.output_tokens}
        counts = {"--requests": self.requests, **tokens}
        check_load((1,) if self.concurrency is None else self.concurrency, counts)
        check_requests("--requests", self.requests)
        if self.requests is not None and self.requests < max(self.concurrency or (1,)):
            raise InputError(f"--requests {self.requests}: fewer than the clients of --concurrency have one each")
        check_open_loops(self.rate, self.burstiness, self.final_rate)
        if self.slo is not None:
            parse_slo(self.slo)
        if not 1 <= self.idle_timeout_s < 86_400:
            raise InputError(f"--idle-timeout-s {self.idle_timeout_s:g}: seconds from 1 to 86400, as in 60")
        if self.chat and self.base_url is None:
            raise InputError("--chat needs --base-url: engines of our own are measured through /v1/completions")


@dataclass(frozen=True)
class Amount:
    """How much a preset measures: clients, requests of each, repeats inside a start, prompts and pairs of a batch."""

    ladder: tuple[int, ...]
    turns: int
    repeats: int
    batch: int
    pairs: int
    open_s: float


AMOUNTS = {
    "smoke": Amount((1, 4, 16, 32), 2, 3, 16, 4, 10.0),
    "lab": Amount((1, 2, 4, 8, 16, 32, 64, 128, 256), 5, 2, 32, 4, 60.0),
    "full": Amount((1, 2, 4, 8, 16, 32, 64, 128, 256), 8, 3, 64, 6, 120.0),
}
EXTERNAL_LADDER, FEWEST_REQUESTS = (1, 4, 16), 4


def cases(options: ConcurrencyOptions, model: Model, machine: Machine) -> tuple[list[Spec], list[Skipped]]:
    """Every load on every plan, and which of them this machine cannot run."""
    lengths = default_lengths(model, machine, options.input_tokens, options.output_tokens)
    slo_ms = parse_slo(options.slo or (DEFAULT_SLO[machine.kind],))
    amount, sizes = AMOUNTS[options.preset], plans(options, model)

    def of_plan(plan: ParallelPlan) -> list[Spec]:
        first = LoadSpec(plan, "closed", 1, lengths, 1, options.repeats or amount.repeats, slo_ms=slo_ms)
        first = replace(first, flags=flags_of(plan, options, machine))
        batch = (plan, amount.batch, lengths, options.repeats or amount.pairs, first.flags)
        without_server = options.offline and (plan == sizes[0] or options.preset != "smoke")
        batches = [BatchSpec(*batch), *([OfflineBatchSpec(*batch)] if without_server else [])]
        return [*loads(options, first, options.concurrency or amount.ladder), *batches]

    return list_cases(sizes, of_plan, options, model, machine)


def external_cases(options: ConcurrencyOptions, flags: tuple[str, ...]) -> list[LoadSpec]:
    """Every load on somebody's server; nothing but the clock and --rate unless clients are asked for."""
    words = Words(options.input_tokens or 512, options.output_tokens or 128, salt=time.time_ns() // 1_000)
    slo_ms = parse_slo(options.slo or (DEFAULT_SLO["gpu"],))
    first = LoadSpec(ParallelPlan(), "closed", 1, words, 1, options.repeats or 1, flags, slo_ms=slo_ms, where="server")
    clients = options.concurrency or (() if options.rate else EXTERNAL_LADDER)
    specs = loads(options, first, clients)
    return [
        replace(spec, lengths=replace(words, salt=words.salt + 1_000_003 * place)) for place, spec in enumerate(specs)
    ]


def loads(options: ConcurrencyOptions, like: LoadSpec, clients: Sequence[int]) -> list[LoadSpec]:
    """Closed loops, the fewest clients first, then what comes by the clock."""
    amount = AMOUNTS[options.preset]
    specs = []
    enough = [count for count in sorted(set(clients)) if count <= (options.requests or count)]
    for count in enough:
        requests = options.requests or max(FEWEST_REQUESTS, amount.turns * count)
        turns = max(1, requests // count)
        specs.append(replace(like, load=count, turns=turns, total=requests))
    for arrivals in open_loops(options.rate, options.burstiness, options.final_rate):
        requests = options.requests or requests_at(arrivals, amount.open_s)
        specs.append(replace(like, curve="open", load=arrivals, turns=requests))
    return specs


EXPERIMENT = Experiment("simulate_concurrent_requests", METHOD_VERSION, cases, print_concurrency, concurrency_summary)


def main() -> int:
    """Parse, run, and return the exit code."""
    options = parse(ConcurrencyOptions, __doc__ or "")
    if options.base_url is not None:
        asked = Asked(options.base_url, options.model, options.chat, options.idle_timeout_s)
        return run_external(EXPERIMENT, options, external_cases, asked)
    return run(EXPERIMENT, options)


if __name__ == "__main__":
    sys.exit(while_read(main))
