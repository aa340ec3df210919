"""The same points by `vllm bench sweep serve` and by the lab, side by side: wall time, and the first repeat.

`make bench-sweep`. TP 1 and 2, 64 tokens in and 32 out, 1 stream with 4 prompts and 16 streams with 64, three
repeats, the 126M reference model, one CPU core per device, equal engine settings.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from common.core.plan import ParallelPlan
from common.engines.guarded import GuardedProcess, free_port
from common.engines.reference_models import ensure_model
from common.engines.settings import EngineSettings
from common.machine.devices import find_machine

ROOT = Path(__file__).resolve().parents[2]
MODEL = "qwen2-126m"
SIZES, STREAMS, TURNS, REPEATS = (1, 2), (1, 16), 4, 3
INPUT_TOKENS, OUTPUT_TOKENS = 64, 32
WALL_TIME_LIMIT, FIRST_REPEAT_LIMIT = 0.6, 0.10
VLLM = [sys.executable, "-m", "vllm.entrypoints.cli.main"]


@dataclass(frozen=True)
class Side:
    """What one of the two did: seconds in all, and output tok/s of each repeat by (tp, streams)."""

    wall_s: float
    rates: dict[tuple[int, int], list[float]]
    folder: Path


def main() -> int:
    """Run both, print the table, and return 1 when a limit is missed."""
    with tempfile.TemporaryDirectory() as scratch:
        theirs = run_theirs(Path(scratch) / "theirs")
        ours = run_ours(Path(scratch) / "ours")
        plots = plot_ours(ours.folder)
        return report(theirs, ours, plots)


def run_theirs(folder: Path) -> Side:
    """`vllm bench sweep serve`, under a guard, since it does not wait for what it kills."""
    folder.mkdir(parents=True)
    port = free_port()
    (folder / "serve.json").write_text(json.dumps([{"tensor_parallel_size": size} for size in SIZES]))
    (folder / "bench.json").write_text(
        json.dumps([{"max_concurrency": streams, "num_prompts": streams * TURNS} for streams in STREAMS])
    )
    bench = [
        *(*VLLM, "bench", "serve", "--backend", "openai", "--endpoint", "/v1/completions"),
        *(
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--model",
            str(ensure_model(MODEL)),
            "--served-model-name",
            MODEL,
        ),
        *("--dataset-name", "random", "--random-input-len", str(INPUT_TOKENS)),
        *("--random-output-len", str(OUTPUT_TOKENS), "--ignore-eos", "--temperature", "0", "--disable-tqdm"),
    ]
    command = [
        *(*VLLM, "bench", "sweep", "serve", "--serve-cmd", serve_command(folder, port)),
        *("--bench-cmd", " ".join(bench), "--num-runs", str(REPEATS), "-o", str(folder / "out")),
        *("--serve-params", str(folder / "serve.json"), "--bench-params", str(folder / "bench.json")),
    ]
    environment = {**os.environ, "VLLM_NO_USAGE_STATS": "1", "TMPDIR": str(folder / "tmp")}
    (folder / "tmp").mkdir()
    began = time.monotonic()
    with GuardedProcess(command, environment, folder / "log", port) as process:
        while process.alive:
            time.sleep(0.2)
        wall_s = time.monotonic() - began
        if process.returncode != 0:
            raise RuntimeError(f"vllm bench sweep serve failed:\n{(folder / 'log').read_text()[-4000:]}")
    return Side(wall_s, rates_of(folder / "out"), folder)


def serve_command(folder: Path, port: int) -> str:
    """A `vllm serve` with the lab's settings, whose core binding follows the size that the sweep appends."""
    settings = EngineSettings(str(ensure_model(MODEL)), MODEL)
    command = settings.command(ParallelPlan(), port)
    at = command.index("--tensor-parallel-size")
    command = command[:at] + command[at + 2 :]
    cores = [",".join(map(str, device.cores)) for device in find_machine().devices]
    script = folder / "vllm"  # the sweep resets caches only of a server that is called so
    script.write_text(
        "#!/bin/sh\n"
        "export VLLM_CPU_KVCACHE_SPACE=1 VLLM_SERVER_DEV_MODE=1\n"
        f"case \"$*\" in *'size 2'*) export VLLM_CPU_OMP_THREADS_BIND='{'|'.join(cores[:2])}';;"
        f" *) export VLLM_CPU_OMP_THREADS_BIND='{cores[0]}';; esac\n"
        f'exec {" ".join(command)} "$@"\n'
    )
    script.chmod(0o755)
    # The sweep reads host and port from the command it starts, which is this script.
    return f"{script} --host 127.0.0.1 --port {port}"


def run_ours(folder: Path) -> Side:
    """The scaling benchmark on the same points."""
    command = [
        *(sys.executable, str(ROOT / "week5" / "benchmark_scaling.py"), "--model", MODEL),
        *("--tp", *map(str, SIZES), "--curves", "fixed", "--concurrency", *map(str, STREAMS)),
        *(
            "--repeats",
            str(REPEATS),
            "--turns",
            str(TURNS),
            "--input-tokens",
            str(INPUT_TOKENS),
            "--output-tokens",
            str(OUTPUT_TOKENS),
        ),
        *("--results-dir", str(folder), "--no-resume"),
    ]
    began = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return Side(time.monotonic() - began, rates_of(folder), folder)


def rates_of(folder: Path) -> dict[tuple[int, int], list[float]]:
    """Output throughput of each repeat; both sides write the same form."""
    rates: dict[tuple[int, int], list[float]] = {}
    for run in runs_in(folder):
        rates.setdefault((run["tensor_parallel_size"], run["max_concurrency"]), []).append(run["output_throughput"])
    return rates


def runs_in(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.rglob("summary.json")):
        yield from sorted(json.loads(path.read_text()), key=lambda run: run["run_number"])


def plot_ours(folder: Path) -> list[Path]:
    """vLLM's own plots of the lab's export."""
    options = ["--var-x", "max_concurrency", "--var-y", "output_throughput", "--curve-by", "tensor_parallel_size"]
    subprocess.run([*VLLM, "bench", "sweep", "plot", str(folder), *options], check=True, capture_output=True)
    return list(folder.rglob("*.png"))


def report(theirs: Side, ours: Side, plots: list[Path]) -> int:
    """Print both sides; 1 when a limit is missed."""
    table = Table(title="vllm bench sweep serve | the lab", caption="output tok/s of each repeat")
    for name in ("TP", "streams", "theirs", "first off by", "the lab", "first off by"):
        table.add_column(name, justify="right")
    missed = []
    for point in sorted(ours.rates):
        cells = []
        for side in (theirs, ours):
            first, *later = side.rates[point]
            off = first / (sum(later) / len(later)) - 1
            cells += [" ".join(f"{rate:.1f}" for rate in side.rates[point]), f"{off:+.0%}"]
            if side is ours and abs(off) > FIRST_REPEAT_LIMIT:
                missed.append(f"tp{point[0]} at {point[1]} streams: first repeat {off:+.1%} from the others")
        table.add_row(str(point[0]), str(point[1]), *cells)
    console = Console(width=100)
    console.print(table)
    for side, name in ((theirs, "vllm bench sweep serve"), (ours, "the lab")):
        gains = [mean(side.rates[2, streams]) / mean(side.rates[1, streams]) for streams in STREAMS]
        shown = ", ".join(f"{gain:.2f}x at {streams}" for gain, streams in zip(gains, STREAMS, strict=True))
        console.print(f"{name}: {side.wall_s:.0f} s; speed-up at TP=2: {shown}")
    share = ours.wall_s / theirs.wall_s
    console.print(
        f"wall time: {share:.2f} of theirs (limit {WALL_TIME_LIMIT}); their plots of our export: {len(plots)}"
    )
    if share > WALL_TIME_LIMIT:
        missed.append(f"wall time {share:.2f}")
    if not plots:
        missed.append("no plot")
    for line in missed:
        console.print(f"MISSED: {line}")
    return 1 if missed else 0


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    sys.exit(main())
