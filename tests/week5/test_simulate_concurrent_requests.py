"""The concurrency experiment as a user runs it: real vLLM of its own, and a real vLLM that somebody else runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.engines.engine import Engine
from common.store import files
from common.store.schema import Case
from tests.experiment.script import Script
from tests.shared_engines import ENGINE_ARGS

pytestmark = pytest.mark.vllm

NAME = "simulate_concurrent_requests"
LENGTHS = ("--input-tokens", "16", "--output-tokens", "16")


def run(script: Script, results: Path, *arguments: str) -> tuple[dict[str, Any], dict[str, Case]]:
    """The script's last line, and its cases by id."""
    done = script(*LENGTHS, "--results-dir", str(results), *arguments)
    assert done.code == 0, done.err
    last = done.last
    return last, {case.id: case for case in files.load(Path(last["result"])).cases}


def test_on_engines_that_it_starts(real_script: Callable[[str], Script], tmp_path: Path) -> None:
    words = ("--model", "qwen2-9m", "--tp", "1", "--concurrency", "1", "4", "--repeats", "2", "--rate", "20")
    last, cases = run(real_script(NAME), tmp_path, *words, "--requests", "16", *ENGINE_ARGS)
    assert last["status"] == "complete"
    assert list(cases) == ["tp1/closed/c1", "tp1/closed/c4", "tp1/open/r20", "tp1/batch/n16", "tp1/batch-offline/n16"]
    offline = cases.pop("tp1/batch-offline/n16")
    assert offline.status == "ok" and [repeat["total_output_tokens"] for repeat in offline.repeats] == [256, 256]
    assert all(repeat["server_output_tokens"] == 256 for repeat in offline.repeats)
    assert 0.2 < last["summary"][offline.id]["gain"] < 5
    for case in cases.values():
        assert case.status == "ok" and len(case.repeats) == 2 and case.client is not None
        for repeat in case.repeats:
            assert repeat["failed"] == 0 and repeat["mean_queue_ms"] >= 0
            assert repeat["server_output_tokens"] == repeat["total_output_tokens"]
    assert 0.5 < cases["tp1/closed/c4"].repeats[0]["slot_fairness"] <= 1
    batch = cases["tp1/batch/n16"].repeats
    assert [repeat["batch_first"] for repeat in batch] == [0, 1]
    assert all(repeat["batch_total_output_tokens"] == repeat["total_output_tokens"] == 256 for repeat in batch)
    assert 0.2 < last["summary"]["tp1/batch/n16"]["gain"] < 5


@pytest.mark.parametrize("chat", [(), ("--chat",)])
def test_on_somebody_elses_server(
    tp1: Engine, real_script: Callable[[str], Script], tmp_path: Path, chat: tuple[str, ...]
) -> None:
    url = f"{tp1.endpoints[0].origin}/v1/"
    words = ("--base-url", url, "--model", tp1.endpoints[0].model, "--concurrency", "1", "3", "--requests", "8")
    last, cases = run(real_script(NAME), tmp_path, *words, *chat)
    assert last["status"] == "complete" and list(cases) == ["server/closed/c1", "server/closed/c3"]
    for case in cases.values():
        (repeat,) = case.repeats
        assert case.status == "ok" and repeat["completed"] == 8
        assert repeat["total_output_tokens"] == repeat["server_output_tokens"]
        assert repeat["total_input_tokens"] > 0 and "mean_queue_ms" in repeat
        assert case.engine["version"] == tp1.facts.version
