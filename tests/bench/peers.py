"""Other people's load clients, run as their users run them, in a process of their own.

`vllm bench serve` comes with the engine. guidellm (0.7 or newer) and aiperf are run where they are installed; their
options and files are those of their documentation.
"""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.engines.reference_models import ensure_model
from common.load.bare.answer import MODEL

TOKENIZER_MODEL = "qwen2-9m"
PROMPT_TOKENS = 64
PATIENCE_S = 600


@dataclass(frozen=True)
class Load:
    """A closed loop: so many requests of so many tokens, on so many streams."""

    streams: int
    requests: int
    tokens: int


@dataclass(frozen=True)
class Seen:
    """What a client reported of a load, and its CPU seconds, start and imports included."""

    mean_ttft_s: float
    p99_ttft_s: float
    mean_tpot_s: float
    tokens_per_s: float
    cpu_s: float


class PeerError(RuntimeError):
    """A peer failed; its last line says why."""


@dataclass(frozen=True)
class Peer:
    """How a client is found, called, and read: seconds and tokens per second out of the file that it leaves."""

    name: str
    program: Callable[[], list[str] | None]
    options: Callable[[str, Load, Path], list[str]]
    read: Callable[[Path], tuple[float, float, float, float]]

    def run(self, base_url: str, load: Load) -> Seen:
        """Run it once.

        Raises:
            PeerError: it failed, or left no result.
        """
        program = self.program()
        assert program is not None
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            command = [*program, *self.options(base_url, load, folder)]
            cpu_s = -children_cpu_s()
            done = subprocess.run(
                command, capture_output=True, text=True, cwd=folder, env=_environment(), timeout=PATIENCE_S
            )
            cpu_s += children_cpu_s()
            if done.returncode != 0:
                said = (done.stderr or done.stdout).strip().splitlines()
                raise PeerError(f"{self.name}: exit {done.returncode}: {said[-1] if said else 'no word'}")
            try:
                return Seen(*self.read(folder), cpu_s=cpu_s)
            except (OSError, ValueError, LookupError, TypeError) as failure:
                raise PeerError(f"{self.name}: its result cannot be read: {failure!r}") from failure


def _environment() -> dict[str, str]:
    return {**os.environ, "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


def children_cpu_s() -> float:
    """CPU seconds of all processes that have ended and been waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _tokenizer() -> str:
    return str(ensure_model(TOKENIZER_MODEL))


def _installed(name: str) -> Callable[[], list[str] | None]:
    def find() -> list[str] | None:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        found = shutil.which(name, path=path)
        return None if found is None else [found]

    return find


def _vllm() -> list[str] | None:
    if importlib.util.find_spec("vllm") is None:
        return None
    return [sys.executable, "-m", "vllm.entrypoints.cli.main", "bench", "serve"]


def _vllm_options(base_url: str, load: Load, folder: Path) -> list[str]:
    return [
        *("--backend", "openai", "--base-url", base_url, "--endpoint", "/v1/completions"),
        *("--model", _tokenizer(), "--served-model-name", MODEL, "--dataset-name", "random", "--ignore-eos"),
        *("--random-input-len", str(PROMPT_TOKENS), "--random-output-len", str(load.tokens)),
        *("--num-prompts", str(load.requests), "--max-concurrency", str(load.streams), "--disable-tqdm"),
        *("--percentile-metrics", "ttft,tpot", "--metric-percentiles", "99"),
        *("--save-result", "--result-dir", str(folder), "--result-filename", "result.json"),
    ]


def _vllm_read(folder: Path) -> tuple[float, float, float, float]:
    result = json.loads((folder / "result.json").read_text())
    if result["failed"]:
        raise ValueError(f"{result['failed']} requests failed")
    latencies = (result[name] / 1e3 for name in ("mean_ttft_ms", "p99_ttft_ms", "mean_tpot_ms"))
    ttft_s, p99_s, tpot_s = latencies
    return ttft_s, p99_s, tpot_s, result["output_throughput"]


def _guidellm_options(base_url: str, load: Load, folder: Path) -> list[str]:
    return [
        *("run", "--backend", f"kind=openai_http,target={base_url},model={MODEL}"),
        *("--data", f"kind=synthetic_text,prompt_tokens={PROMPT_TOKENS},output_tokens={load.tokens}"),
        *("--tokenizer", f"kind=huggingface_auto,model={_tokenizer()}"),
        *("--profile", f"kind=concurrent,streams={load.streams}"),
        *("--constraint", f"kind=max_requests,count={load.requests}"),
        *("--output", f"kind=json,path={folder / 'result.json'}", "--disable-console"),
    ]


def _guidellm_read(folder: Path) -> tuple[float, float, float, float]:
    metrics: dict[str, Any] = json.loads((folder / "result.json").read_text())["benchmarks"][0]["metrics"]

    def of(name: str) -> dict[str, Any]:
        found: dict[str, Any] = metrics[name]["successful"]
        return found

    ttft = of("time_to_first_token_ms")
    gap_ms = of("inter_token_latency_ms")["mean"]  # its time_per_output_token takes the first token in
    rate = of("output_tokens_per_second")["mean"]
    return ttft["mean"] / 1e3, ttft["percentiles"]["p99"] / 1e3, gap_ms / 1e3, rate


def _aiperf_options(base_url: str, load: Load, folder: Path) -> list[str]:
    return [
        *("profile", "--model", MODEL, "--url", base_url, "--endpoint-type", "completions", "--streaming"),
        *("--tokenizer", _tokenizer(), "--synthetic-input-tokens-mean", str(PROMPT_TOKENS)),
        *("--output-tokens-mean", str(load.tokens), "--extra-inputs", "ignore_eos:true", "--ui", "none"),
        *("--concurrency", str(load.streams), "--request-count", str(load.requests), "--artifact-dir", str(folder)),
    ]


def _aiperf_read(folder: Path) -> tuple[float, float, float, float]:
    (path,) = folder.rglob("profile_export_aiperf.json")
    result: dict[str, Any] = json.loads(path.read_text())
    ttft = result["time_to_first_token"]
    gap_ms, rate = result["inter_token_latency"]["avg"], result["output_token_throughput"]["avg"]
    return ttft["avg"] / 1e3, ttft["p99"] / 1e3, gap_ms / 1e3, rate


VLLM = Peer("vllm bench serve", _vllm, _vllm_options, _vllm_read)
GUIDELLM = Peer("guidellm", _installed("guidellm"), _guidellm_options, _guidellm_read)
AIPERF = Peer("aiperf", _installed("aiperf"), _aiperf_options, _aiperf_read)
