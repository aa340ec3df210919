"""One case through the real client, against the golden server in an engine's place."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from common.core.plan import ParallelPlan
from common.core.verdict import ClientCeiling
from common.engines.failures import EngineError
from common.experiment.bench import Bench
from common.experiment.events import Event, Measuring, RepeatDone, Said
from common.experiment.load_spec import Lengths, LoadSpec
from common.load.client import Endpoint
from common.machine.monitor import Monitor
from common.store.requests import load_requests
from common.store.schema import Case
from tests.experiment.fakes import MACHINE, FakeEngine, World
from tests.load.conftest import GoldenServer, running_server

pytestmark = pytest.mark.timing

__all__ = ["running_server"]

SPEC = LoadSpec(ParallelPlan(), "fixed", 2, Lengths(8, 5, 10_240), turns=3, repeats=2)


class GoldenEngine(FakeEngine):
    """A fake engine whose endpoint really answers."""

    def __init__(self, server: GoldenServer, mode: str) -> None:
        super().__init__(ParallelPlan(), World())
        self.served = server.endpoint(mode)

    @property
    def endpoints(self) -> Sequence[Endpoint]:
        return [self.served]


@pytest.fixture
def monitor() -> Iterator[Monitor]:
    with Monitor(MACHINE) as running:
        yield running


def measured(
    server: GoldenServer,
    mode: str,
    monitor: Monitor,
    folder: Path,
    spec: LoadSpec = SPEC,
    watch: Callable[[Event], None] = lambda event: None,
) -> tuple[Case, list[Event]]:
    server.take_log()
    events: list[Event] = []

    def note(event: Event) -> None:
        events.append(event)
        watch(event)

    ceiling = ClientCeiling(1_024, 100_000.0, 0.001)
    bench = Bench(GoldenEngine(server, mode), 0, 0, folder, monitor, note, len, ceiling)
    case = spec.at(2)
    spec.measure(bench, case, [])
    return case, events


def test_a_case_is_what_the_server_did(running_server: GoldenServer, monitor: Monitor, tmp_path: Path) -> None:
    case, events = measured(running_server, "golden:20:4", monitor, tmp_path)
    log = running_server.take_log()["requests"]
    # 2 warm-up requests (as many tokens as a request has), then 2 repeats of 2 slots x 3 turns
    assert [entry["body"]["max_tokens"] for entry in log] == [5] * 14
    assert all(entry["body"]["ignore_eos"] is True for entry in log)
    assert all(entry["body"]["temperature"] == 0 for entry in log)
    for repeat in case.repeats:
        assert repeat["completed"] == 6
        assert repeat["failed"] == 0
        assert repeat["total_output_tokens"] == 30
        assert repeat["token_count_mismatches"] == 0
        # a slot's turn is 20 ms to the first token and 4 gaps of 4 ms: 3 turns take 108 ms at the least
        assert repeat["median_ttft_ms"] >= 19.5
        assert repeat["duration"] >= 0.107
        assert repeat["output_throughput"] == pytest.approx(30 / repeat["duration"])
        assert repeat["output_throughput"] <= 281
    assert [(repeat["start"], repeat["repeat"]) for repeat in case.repeats] == [(0, 0), (0, 1)]
    told = [event.output_throughput for event in events if isinstance(event, RepeatDone)]
    assert told == [repeat["output_throughput"] for repeat in case.repeats]
    assert any(isinstance(event, Measuring) for event in events)


def test_saved_records_give_the_reported_latencies(
    running_server: GoldenServer, monitor: Monitor, tmp_path: Path
) -> None:
    case, _ = measured(running_server, "golden:5:1", monitor, tmp_path)
    for number, repeat in enumerate(case.repeats):
        records = load_requests(tmp_path / f"tp1-fixed-c2-start0-repeat{number}.parquet")
        ttfts = [(record.chunk_ns[0] - record.sent_ns) / 1e6 for record in records if record.sent_ns is not None]
        assert len(ttfts) == 6
        assert repeat["mean_ttft_ms"] == pytest.approx(sum(ttfts) / 6)


def test_a_server_that_answers_nothing_useful_is_an_engine_error(
    running_server: GoldenServer, monitor: Monitor, tmp_path: Path
) -> None:
    began = time.monotonic()
    with pytest.raises(EngineError) as caught:
        measured(running_server, "bad_request", monitor, tmp_path)
    assert caught.value.failure.kind == "all_requests_failed"
    assert "max_tokens is too large" in caught.value.failure.message
    assert time.monotonic() - began < 5


@pytest.mark.slow
def test_long_repeats_have_a_steady_window_and_their_text_is_counted_again(
    running_server: GoldenServer, monitor: Monitor, tmp_path: Path
) -> None:
    case, _ = measured(running_server, "golden:20:4", monitor, tmp_path, replace(SPEC, turns=12))
    assert case.client is not None and case.client.word != "INVALID", "the client is judged"
    sent = [entry["body"]["max_tokens"] for entry in running_server.take_log()["requests"][2:]]
    assert sorted(sent[:2]) == [2, 5] and set(sent[2:24]) == {5}, "the first two slots are staggered"
    for repeat in case.repeats:
        turn_s = repeat["steady_mean_e2el_ms"] / 1e3
        assert repeat["steady_output_throughput"] == pytest.approx(2 * 5 / turn_s, rel=0.1)
        assert repeat["steady_mean_ttft_ms"] >= 19.5
        assert repeat["token_count_mismatches"] == 0
        assert repeat["max_concurrent_requests"] == 2
        # four characters a token (" tok"), and `len` in the tokenizer's place counts characters
        assert repeat["recounted_share"] == 4.0


@pytest.mark.slow
def test_an_event_loop_that_is_held_up_is_invalid(
    running_server: GoldenServer, monitor: Monitor, tmp_path: Path
) -> None:
    """The live view runs inside the event loop: one that takes 300 ms each time spoils every number."""

    def slow(event: Event) -> None:
        if isinstance(event, Measuring) and event.label != "warm-up":
            time.sleep(0.3)

    case, _ = measured(running_server, "golden:20:10", monitor, tmp_path, replace(SPEC, turns=6, repeats=1), slow)
    assert "measured_again" in case.flags
    assert case.client is not None
    assert case.client.word == "INVALID"
    assert any("event" in reason for reason in case.client.reasons) and case.client.remedy


@pytest.mark.slow
def test_a_repeat_in_which_the_client_was_held_up_is_measured_again(
    running_server: GoldenServer, monitor: Monitor, tmp_path: Path
) -> None:
    halts = iter([0.3])

    def slow_once(event: Event) -> None:
        if isinstance(event, Measuring) and event.label == "repeat 1":
            time.sleep(next(halts, 0.0))

    case, events = measured(running_server, "golden:20:10", monitor, tmp_path, replace(SPEC, turns=6), slow_once)
    assert [repeat["repeat"] for repeat in case.repeats] == [0, 1]
    assert sum(isinstance(event, RepeatDone) for event in events) == 2
    assert "measured_again" in case.flags
    said = [event.text for event in events if isinstance(event, Said)]
    assert said and all("repeat 1 again, attempt 2 of 3; close other programs" in line for line in said)
    assert case.client is not None and case.client.word != "INVALID"
