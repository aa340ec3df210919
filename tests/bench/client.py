"""The lab's client beside other people's, against a bare server that knows its own times.

`make bench-client`. TTFT 50 ms and one token each 10 ms on 64 to 1,024 streams, a flood on 64, and an open loop of 500
requests per second. What a client reports is held against what the server did in the same run. CPU seconds leave start
and imports out on both sides. The server has a core of its own, all clients the others.

The lab's runs are the median of three. Runs in which other programs used the machine, or the server was late, are run
again a few times, so that a hiccup decides nothing. CPU per token is compared at 256 streams: with fewer, start and
imports are too large a part of what is subtracted; with more, `vllm bench serve` has no core left, reads many tokens at
once, late, and so does less for each. Exit 1 when a promise does not hold.
"""

from __future__ import annotations

import gc
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

import psutil
from rich.console import Console
from rich.table import Table

from common.core.arrivals import Arrivals, ClosedLoop, OpenLoop
from common.core.metrics import repeat_metrics
from common.core.workload import Workload
from common.load.bare.process import BareProcess
from common.load.bare.truth import Truth
from common.load.client import run_load
from tests.bench.peers import AIPERF, GUIDELLM, PROMPT_TOKENS, VLLM, Load, Peer, PeerError, Seen, children_cpu_s

TTFT_S, ITL_S, TOKENS, RUNS, MOST_RUNS = 0.050, 0.010, 128, 3, 8
LEVELS = [Load(streams, 4 * streams, TOKENS) for streams in (64, 256, 512)] + [Load(1_024, 2_048, TOKENS)]
FLOOD = Load(64, 64, 4_000)
FLOOD_TTFT_S = 0.001
RATE_PER_S, OPEN = 500.0, Load(0, 3_000, 16)
TTFT_LIMIT, P99_LIMIT_S, TPOT_LIMIT = 0.03, 0.010, 0.005
CPU_LIMIT, FLOOD_LIMIT, LATENESS_LIMIT_S = 0.25, 10.0, 0.002
OTHERS_LIMIT = 0.1
CPU_STREAMS = 256
LAB = "the lab"
COLUMNS = (
    *("streams", "client", "mean TTFT (true)", "p99 TTFT (true)", "mean TPOT (true)", "late", "others"),
    "CPU s / M tok",
)
CAPTION = "ms; true: the server's own account; late: p99 of its sends; others: cores that other programs used"


@dataclass(frozen=True)
class Run:
    """One client's report of one run, and the server's."""

    seen: Seen
    truth: Truth
    others: float  # cores that other programs used meanwhile
    lateness_s: float | None = None  # p99 of sends; None where the client does not say

    @property
    def calm(self) -> bool:
        """Whether the machine was ours and the server in time."""
        return self.others <= OTHERS_LIMIT and known(self.truth.late_p99_s) <= ITL_S

    @property
    def ttft_off(self) -> float:
        """Share by which the reported mean TTFT is off."""
        return self.seen.mean_ttft_s / known(self.truth.mean_ttft_s) - 1

    @property
    def p99_off_s(self) -> float:
        """Seconds by which the reported p99 TTFT is off."""
        return self.seen.p99_ttft_s - known(self.truth.p99_ttft_s)

    @property
    def tpot_off(self) -> float:
        """Share by which the reported mean TPOT is off."""
        return self.seen.mean_tpot_s / known(self.truth.mean_tpot_s) - 1


@dataclass(frozen=True)
class Promise:
    """What the client is held to; `held` is None where there was nothing to compare with."""

    text: str
    measured: str
    held: bool | None


@dataclass
class Results:
    """All runs by client; floods in tokens per second."""

    levels: dict[str, dict[int, list[Run]]]
    floods: dict[str, list[float]]
    open_loop: list[Run]
    idle_cpu_s: dict[str, float]

    def cpu_s_per_million(self, client: str, streams: int) -> float:
        """CPU seconds per million tokens, start and imports left out."""
        runs = self.levels[client][streams]
        return 1e6 * median((run.seen.cpu_s - self.idle_cpu_s[client]) / run.truth.tokens for run in runs)


def main() -> int:
    """Run everything, print the table and the promises."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # for all clients alike: 1,024 streams
    console = Console(width=160)
    peers = []
    for peer in (VLLM, GUIDELLM, AIPERF):
        if peer.program() is None:
            console.print(f"{peer.name}: not installed")
        else:
            peers.append(peer)
    results = Results({LAB: {}}, {LAB: []}, [], {})
    with BareProcess(TTFT_S, ITL_S) as server:
        run_ours(server, Load(8, 8, 8))  # the first run of a process imports and opens more than the others
        results.idle_cpu_s[LAB] = median(run_ours(server, Load(1, 1, 2)).seen.cpu_s for _ in range(RUNS))
        for load in LEVELS:
            console.print(f"{load.streams} streams, {load.requests} requests of {load.tokens} tokens")
            results.levels[LAB][load.streams] = three_calm(partial(run_ours, server, load))
        results.open_loop = three_calm(partial(measure_ours, server, OPEN, OpenLoop(RATE_PER_S)))
    results.floods[LAB] = [flood(run_ours) for _ in range(RUNS)]
    for peer in peers:
        console.print(peer.name)
        try:
            run_peer(peer, results)
        except PeerError as failure:
            console.print(f"FAILED {failure}")
            for found in (results.levels, results.floods, results.idle_cpu_s):
                found.pop(peer.name, None)
    console.print(table(results))
    ours = [run for runs in (*results.levels[LAB].values(), results.open_loop) for run in runs]
    if not all(run.calm for run in ours):
        console.print("the machine was not calm in all of the lab's runs: end other programs and run this again")
    return verdict(console, results)


def three_calm(run: Callable[[], Run]) -> list[Run]:
    """Three calm runs out of at most eight; where there are not so many, the last three as they are."""
    runs: list[Run] = []
    for _ in range(MOST_RUNS):
        runs.append(run())
        calm = [run for run in runs if run.calm]
        if len(calm) == RUNS:
            return calm
    return runs[-RUNS:]


def run_ours(server: BareProcess, load: Load) -> Run:
    """The lab's client; its CPU time includes making the requests and parsing the answers."""
    return measure_ours(server, load, ClosedLoop(load.streams))


def measure_ours(server: BareProcess, load: Load, arrivals: Arrivals) -> Run:
    server.take_truth()
    gc.collect()
    began, others_s, cpu_s = time.perf_counter(), -others_cpu_s(server), -time.process_time()
    requests = Workload(load.requests, PROMPT_TOKENS, load.tokens, 10_000).generate()
    loaded = run_load([server.endpoint], requests, arrivals)
    cpu_s += time.process_time()
    others_s += others_cpu_s(server)
    others = others_s / (time.perf_counter() - began)
    truth, found = server.take_truth(), repeat_metrics(loaded.records, loaded.duration_s)
    if found["failed"]:
        raise RuntimeError(f"{found['failed']:.0f} of the lab's {load.requests} requests failed")
    ttft_s, p99_s, tpot_s = (found[f"{name}_ms"] / 1e3 for name in ("mean_ttft", "p99_ttft", "mean_tpot"))
    seen = Seen(ttft_s, p99_s, tpot_s, found["output_throughput"], cpu_s)
    return Run(seen, truth, others, found["p99_lateness_ms"] / 1e3)


def others_cpu_s(server: BareProcess) -> float:
    """CPU seconds since the machine's start of all but the server, this process and those it has waited for."""
    machine, serving = psutil.cpu_times()._asdict(), psutil.Process(server.pid).cpu_times()
    all_s = sum(machine.get(kind, 0.0) for kind in ("user", "nice", "system", "irq", "softirq", "steal"))
    return float(all_s - serving.user - serving.system - time.process_time() - children_cpu_s())


def run_peer(peer: Peer, results: Results) -> None:
    """The same levels and flood, after runs of a single token that show what start and imports cost.

    Once each, three times where CPU time is compared: a run of theirs takes longer than one of ours.
    """
    with BareProcess(TTFT_S, ITL_S) as server:
        results.idle_cpu_s[peer.name] = median(peer.run(server.base_url, Load(1, 1, 1)).cpu_s for _ in range(RUNS))
        results.levels[peer.name] = {
            load.streams: [run_theirs(peer, server, load) for _ in range(RUNS if load.streams == CPU_STREAMS else 1)]
            for load in LEVELS
        }
    results.floods[peer.name] = [flood(lambda server, load: run_theirs(peer, server, load))]


def run_theirs(peer: Peer, server: BareProcess, load: Load) -> Run:
    """One run of a peer.

    Raises:
        PeerError: it failed, or the server sent fewer tokens than were asked for.
    """
    server.take_truth()
    began, others_s = time.perf_counter(), -others_cpu_s(server)
    seen = peer.run(server.base_url, load)
    others = (others_s + others_cpu_s(server)) / (time.perf_counter() - began)
    truth = server.take_truth()
    if truth.tokens < load.requests * load.tokens:
        raise PeerError(f"{peer.name}: {truth.tokens} tokens were served, {load.requests * load.tokens} asked for")
    return Run(seen, truth, others)


def flood(run: Callable[[BareProcess, Load], Run]) -> float:
    """Tokens per second that a client takes in when the server never waits."""
    with BareProcess(FLOOD_TTFT_S, 0.0) as server:
        return run(server, FLOOD).seen.tokens_per_s


def table(results: Results) -> Table:
    """One line for each client and level; the lab's numbers are medians, with the range of its runs."""
    shown = Table(caption=CAPTION)
    for name in COLUMNS:
        shown.add_column(name, justify="left" if name == "client" else "right")
    for load in LEVELS:
        for client, levels in results.levels.items():
            runs = levels[load.streams]
            cells = [
                pair([run.seen.mean_ttft_s for run in runs], [known(run.truth.mean_ttft_s) for run in runs]),
                pair([run.seen.p99_ttft_s for run in runs], [known(run.truth.p99_ttft_s) for run in runs]),
                pair([run.seen.mean_tpot_s for run in runs], [known(run.truth.mean_tpot_s) for run in runs], 2),
                f"{1e3 * median(known(run.truth.late_p99_s) for run in runs):.1f}",
                f"{median(run.others for run in runs):.2f}",
                f"{results.cpu_s_per_million(client, load.streams):.1f}",
            ]
            shown.add_row(str(load.streams), client, *cells)
    return shown


def pair(seen_s: Sequence[float], true_s: Sequence[float], digits: int = 1) -> str:
    """`50.7 [50.6, 51.2] (50.3)`: median of a client's runs, their range, and the median truth; milliseconds."""
    shown = f"{1e3 * median(seen_s):.{digits}f}"
    if len(seen_s) > 1:
        shown += f" [{1e3 * min(seen_s):.{digits}f}, {1e3 * max(seen_s):.{digits}f}]"
    return f"{shown} ({1e3 * median(true_s):.{digits}f})"


def verdict(console: Console, results: Results) -> int:
    """Print each promise with its number; 1 where one does not hold."""
    console.print(
        f"flood, {FLOOD.streams} streams: "
        + "; ".join(
            f"{client} {median(rates) / 1e6:.2f} M tok/s"
            + (f" [{min(rates) / 1e6:.2f}, {max(rates) / 1e6:.2f}]" if len(rates) > 1 else "")
            for client, rates in results.floods.items()
        )
    )
    failed = False
    for promise in promises(results):
        word = "not judged" if promise.held is None else "holds" if promise.held else "DOES NOT HOLD"
        console.print(f"{word}: {promise.text}: {promise.measured}")
        failed |= promise.held is False
    return int(failed)


def promises(results: Results) -> list[Promise]:
    """Each at its worst level, of the median of the runs there."""
    ours = results.levels[LAB].items()
    ttft = max((abs(median(run.ttft_off for run in runs)), streams) for streams, runs in ours)
    p99_s = max((abs(median(run.p99_off_s for run in runs)), streams) for streams, runs in ours)
    tpot = max((abs(median(run.tpot_off for run in runs)), streams) for streams, runs in ours)
    lateness_s = [known(run.lateness_s) for run in results.open_loop]
    held = [
        Promise(f"mean TTFT within {TTFT_LIMIT:.0%}", f"{ttft[0]:.2%} at {ttft[1]} streams", ttft[0] <= TTFT_LIMIT),
        Promise(
            f"p99 TTFT within {1e3 * P99_LIMIT_S:.0f} ms",
            f"{1e3 * p99_s[0]:.1f} ms at {p99_s[1]} streams",
            p99_s[0] <= P99_LIMIT_S,
        ),
        Promise(f"mean TPOT within {TPOT_LIMIT:.1%}", f"{tpot[0]:.2%} at {tpot[1]} streams", tpot[0] <= TPOT_LIMIT),
        Promise(
            f"p99 lateness of sends at {RATE_PER_S:.0f} requests/s under {1e3 * LATENESS_LIMIT_S:.0f} ms",
            f"{1e3 * median(lateness_s):.2f} ms [{1e3 * min(lateness_s):.2f}, {1e3 * max(lateness_s):.2f}]",
            median(lateness_s) < LATENESS_LIMIT_S,
        ),
    ]
    return held + compared(results)


def compared(results: Results) -> list[Promise]:
    """The promises that need `vllm bench serve` beside them."""
    cpu_text, flood_text = f"CPU per token at most {CPU_LIMIT} of vLLM's", f"flood at least {FLOOD_LIMIT:.0f}x vLLM's"
    if VLLM.name not in results.levels:
        return [Promise(text, "vllm bench serve did not run", None) for text in (cpu_text, flood_text)]
    share = results.cpu_s_per_million(LAB, CPU_STREAMS) / results.cpu_s_per_million(VLLM.name, CPU_STREAMS)
    times = median(results.floods[LAB]) / results.floods[VLLM.name][0]
    return [
        Promise(cpu_text, f"{share:.2f} at {CPU_STREAMS} streams", share <= CPU_LIMIT),
        Promise(flood_text, f"{times:.1f}x", times >= FLOOD_LIMIT),
    ]


def known(value: float | None) -> float:
    assert value is not None, "requests were served, so the server has times"
    return value


if __name__ == "__main__":
    sys.exit(main())
