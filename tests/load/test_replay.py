"""A recorded workload on its way to a server: at its times, with its lengths, and nothing of it in what comes back."""

from __future__ import annotations

import itertools
import statistics
from pathlib import Path

import pytest

from common.core.arrivals import ClosedLoop, Replay
from common.load.client import run_load, schedule_s
from common.load.discretion import LEFT_OUT, without_prompt
from common.load.workload_file import read_workload
from common.load.workload_forms import Limits
from tests.load.conftest import GoldenServer
from tests.load.workload_files import json_lines, trace

pytestmark = pytest.mark.timing

LIMITS = Limits(
    wanted=100, context_tokens=200, vocab_size=10_240, output_tokens=4, count=lambda text: len(text.split())
)


@pytest.mark.parametrize("time_scale", [0.5, 1.0, 2.0])
def test_a_replay_sends_when_the_trace_says(golden: GoldenServer, tmp_path: Path, time_scale: float) -> None:
    at_ms = [500, 500, 510, 540, 540, 610, 700, 701, 702, 800]
    recording = read_workload(trace(tmp_path / "t", [(at, 10 + at % 7, 1 + at % 3) for at in at_ms]), LIMITS)
    requests = recording.generate(len(at_ms), seed=5)
    result = run_load([golden.endpoint("golden:20:2")], requests, Replay(time_scale))
    assert all(record.ok for record in result.records)

    intended = [record.intended_ns for record in result.records if record.intended_ns is not None]
    expected_ns = [round((at - 500) * 1e6 * time_scale) for at in at_ms]
    assert [at - intended[0] for at in intended] == pytest.approx(expected_ns, abs=2)
    late_ms = [
        (record.sent_ns - record.intended_ns) / 1e6
        for record in result.records
        if record.sent_ns is not None and record.intended_ns is not None
    ]
    assert min(late_ms) >= 0
    assert statistics.median(late_ms) < 2

    log = sorted(golden.take_log()["requests"], key=lambda entry: entry["received_ns"])
    assert len(log) == len(at_ms)
    by_prompt = {tuple(entry["body"]["prompt"]): entry for entry in log}
    received = [by_prompt[request.prompt]["received_ns"] for request in requests if isinstance(request.prompt, tuple)]
    gaps_off_ms = [
        abs((later - earlier) - (due_later - due)) / 1e6
        for (earlier, later), (due, due_later) in zip(
            itertools.pairwise(received), itertools.pairwise(expected_ns), strict=True
        )
    ]
    assert statistics.median(gaps_off_ms) < 3, "the server saw them come at their times"
    assert [
        by_prompt[request.prompt]["body"]["max_tokens"] for request in requests if isinstance(request.prompt, tuple)
    ] == [1 + at % 3 for at in at_ms]


def test_requests_of_the_same_moment_are_sent_at_once(golden: GoldenServer, tmp_path: Path) -> None:
    recording = read_workload(trace(tmp_path / "t", [(0, 10, 2)] * 20), LIMITS)
    result = run_load([golden.endpoint("golden:100:1")], recording.generate(20, 0), Replay(1.0))
    assert all(record.ok for record in result.records)
    log = golden.take_log()["requests"]
    assert len(log) == 20
    assert max(entry["received_ns"] for entry in log) < min(entry["send_ns"][0] for entry in log)


def test_times_that_are_missing_or_go_back_are_refused(tmp_path: Path) -> None:
    prompts = read_workload(json_lines(tmp_path / "p", [{"prompt": "a b c"}] * 3), LIMITS)
    with pytest.raises(ValueError, match="the time of every request"):
        schedule_s(Replay(1.0), prompts.generate(3, 0), 0)
    timed = read_workload(trace(tmp_path / "t", [(0, 10, 2), (9, 11, 2)]), LIMITS)
    with pytest.raises(ValueError, match="ascending"):
        schedule_s(Replay(1.0), timed.generate(2, 0)[::-1], 0)


def test_text_is_sent_as_it_stands(golden: GoldenServer, tmp_path: Path) -> None:
    prompt = 'wie "geht\'s"\n\tné 😀'
    recording = read_workload(json_lines(tmp_path / "p", [{"prompt": prompt, "output_tokens": 3}]), LIMITS)
    (record,) = run_load([golden.endpoint()], recording.generate(1, 0), ClosedLoop(1)).records
    (entry,) = golden.take_log()["requests"]
    assert entry["body"]["prompt"] == prompt
    assert entry["body"]["max_tokens"] == 3
    assert (record.prompt_tokens, record.output_tokens) == (7, 3), "counts are the server's"


def test_an_answer_that_repeats_the_prompt_leaves_no_trace_of_it(golden: GoldenServer, tmp_path: Path) -> None:
    secret = "my diary of last summer, chapter one"
    recording = read_workload(json_lines(tmp_path / "p", [{"prompt": secret}]), LIMITS)
    (record,) = run_load([golden.endpoint("echoes")], recording.generate(1, 0), ClosedLoop(1)).records
    assert record.error_kind == "http_422"
    assert record.error == LEFT_OUT


@pytest.mark.parametrize(
    ("error", "prompt", "kept"),
    [
        ("max_tokens is too large", "tell me about large tokens", True),
        ("invalid: 'tell me about large tokens'", "tell me about large tokens", False),
        ("invalid: 'tell me about la", "tell me about large tokens", False),
        ("input_value=[17, 4711, 8, 15, 999]", (17, 4711, 8, 15, 999, 3), False),
        ("This model's maximum context length is 1024 tokens", (17, 4711, 8, 15, 999, 3), True),
        ("broken", "", True),
        ("cannot say: hello", "hello", False),
        ("", "hello there, everybody", True),
    ],
)
def test_messages_are_kept_unless_they_quote(error: str, prompt: str | tuple[int, ...], kept: bool) -> None:
    assert without_prompt(error, prompt) == (error if kept else LEFT_OUT)
