"""Output throughput by the lab and by `vllm bench serve` on the same running server: three ABBA pairs, fresh seeds.

Part of `make bench-sweep`. TP=1, the 126M reference model, 16 streams, 160 requests of 64 tokens in and 32 out: some
fifteen to 25 seconds, which is longer than a shared machine keeps one speed; with 64 of them pairs were off by 6 %.
Both ask for the likeliest token: left to its default, theirs draws at random, for which the engine needs 1 % longer.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from rich.console import Console

from common.core.arrivals import ClosedLoop
from common.core.metrics import repeat_metrics
from common.core.plan import ParallelPlan
from common.core.workload import Workload
from common.engines.engine import Engine
from common.engines.models import find_model
from common.engines.vllm_engine import VllmLauncher
from common.load.client import run_load
from tests.shared_engines import devices_of, settings_of

MODEL, STREAMS, REQUESTS, PAIRS, LIMIT = "qwen2-126m", 16, 160, 3, 0.05


def main() -> int:
    """Print the ratio of each pair and return 1 when their median is off by more than the limit."""
    console = Console(width=100)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        plan, settings = ParallelPlan(), settings_of(MODEL, extra_args=())
        engine = VllmLauncher(folder, (), lambda _: None).start(plan, devices_of(plan), settings)
        try:
            work = Workload(REQUESTS, 64, 32, find_model(MODEL, say=lambda _: None).shape.vocab_size)
            our_throughput(engine, work, STREAMS)  # warm-up
            ratios = [
                abba_ratio(engine, MODEL, work.reseeded(100 * pair + 1), STREAMS, folder) for pair in range(PAIRS)
            ]
        finally:
            engine.stop()
    shown = ", ".join(f"{ratio:.3f}" for ratio in ratios)
    off = median(ratios) - 1
    console.print(f"the lab over vllm bench serve, same server: {shown}; median {1 + off:.3f} (limit 1 +- {LIMIT})")
    return int(abs(off) > LIMIT)


def abba_ratio(engine: Engine, model: str, work: Workload, streams: int, folder: Path) -> float:
    """Ours, theirs, theirs, ours, each with another seed: drift falls out of the ratio."""
    ours = our_throughput(engine, work.reseeded(1), streams)
    theirs = sum(their_throughput(engine, model, work.reseeded(seed), streams, folder) for seed in (2, 3))
    return (ours + our_throughput(engine, work.reseeded(4), streams)) / theirs


def our_throughput(engine: Engine, work: Workload, streams: int) -> float:
    """Output tokens per second as the lab measures them."""
    loaded = run_load(engine.endpoints, work.generate(), ClosedLoop(streams))
    return repeat_metrics(loaded.records, loaded.duration_s)["output_throughput"]


def their_throughput(engine: Engine, model: str, work: Workload, streams: int, folder: Path) -> float:
    """Output tokens per second as `vllm bench serve` reports them."""
    endpoint, name = engine.endpoints[0], f"{work.seed}.json"
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.cli.main", "bench", "serve", "--backend", "openai"),
        *("--host", endpoint.host, "--port", str(endpoint.port), "--endpoint", "/v1/completions"),
        *("--model", str(find_model(model, say=lambda _: None).folder), "--served-model-name", endpoint.model),
        *("--dataset-name", "random", "--random-input-len", str(work.input_tokens)),
        *("--random-output-len", str(work.output_tokens), "--num-prompts", str(work.requests)),
        *("--max-concurrency", str(streams), "--ignore-eos", "--temperature", "0", "--seed", str(work.seed)),
        *("--disable-tqdm", "--save-result", "--result-dir", str(folder), "--result-filename", name),
    ]
    subprocess.run(command, check=True, capture_output=True)
    result = json.loads((folder / name).read_text())
    if result["completed"] != work.requests:
        raise RuntimeError(f"vllm bench serve completed {result['completed']} of {work.requests} requests")
    return float(result["output_throughput"])


if __name__ == "__main__":
    sys.exit(main())
