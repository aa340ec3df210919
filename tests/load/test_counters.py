"""The watch on a counter that rises by the clock, so that its true increase between two moments is known."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from common.load.counters import CounterWatch

pytestmark = pytest.mark.timing

NAME = "vllm:generation_tokens_total"
RATE_PER_S = 1_000.0


class Rising(BaseHTTPRequestHandler):
    """1,000 a second on each of two engines, beside names that only look alike; /broken has none, /odd no number."""

    def do_GET(self) -> None:
        now = RATE_PER_S * time.perf_counter()
        lines = ["# TYPE vllm:generation_tokens_total counter", f"{NAME}_created 1.7e9"]
        if self.path.startswith("/odd"):
            lines.append(f"{NAME} many")
        elif not self.path.startswith("/broken"):
            lines += [f'{NAME}{{engine="{engine}",model_name="m"}} {now}' for engine in (0, 1)]
        lines += [
            'vllm:num_requests_waiting_by_reason{reason="capacity"} 99',
            'vllm:num_requests_waiting{engine="0"} 7',
        ]
        content = "\n".join(lines).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def rising() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Rising)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_increase_between_two_moments_is_interpolated(rising: str) -> None:
    with CounterWatch([rising], NAME, interval_s=0.1) as watch:
        time.sleep(0.15)
        begin_ns = time.perf_counter_ns()
        time.sleep(0.5)
        end_ns = time.perf_counter_ns()
        time.sleep(0.05)
    true_increase = 2 * RATE_PER_S * (end_ns - begin_ns) / 1e9
    assert watch.increase(begin_ns, end_ns) == pytest.approx(true_increase, rel=0.05)


def test_replicas_are_summed(rising: str) -> None:
    with CounterWatch([rising, rising], NAME) as watch:
        begin_ns = time.perf_counter_ns()
        time.sleep(0.2)
        end_ns = time.perf_counter_ns()
    true_increase = 4 * RATE_PER_S * (end_ns - begin_ns) / 1e9
    assert watch.increase(begin_ns, end_ns) == pytest.approx(true_increase, rel=0.1)


def test_moments_outside_the_readings_are_unknown(rising: str) -> None:
    before_ns = time.perf_counter_ns()
    with CounterWatch([rising], NAME) as watch:
        during_ns = time.perf_counter_ns()
    assert watch.increase(before_ns, during_ns) is None
    assert watch.increase(during_ns, time.perf_counter_ns()) is None
    assert watch.increase(during_ns, during_ns) == 0


@pytest.mark.parametrize("path", ["/broken", "/odd"])
def test_a_server_without_the_counter_is_a_gap(rising: str, path: str) -> None:
    with CounterWatch([rising + path], NAME) as watch:
        now_ns = time.perf_counter_ns()
    assert watch.increase(now_ns, now_ns) is None


def test_a_server_that_is_not_there_is_a_gap() -> None:
    with CounterWatch(["http://127.0.0.1:1"], NAME, interval_s=0.01) as watch:
        time.sleep(0.05)
        now_ns = time.perf_counter_ns()
    assert watch.increase(now_ns, now_ns) is None


def test_a_gauge_is_kept_as_its_readings(rising: str) -> None:
    with CounterWatch([rising, rising], NAME, "vllm:num_requests_waiting", interval_s=0.05) as watch:
        time.sleep(0.2)
        begin_ns = time.perf_counter_ns()
        time.sleep(0.2)
        end_ns = time.perf_counter_ns()
    assert set(watch.levels(begin_ns, end_ns)) == {14.0}, "seven on each"
    assert 2 <= len(watch.levels(begin_ns, end_ns)) <= 4
    assert watch.levels(0, begin_ns) and watch.levels(end_ns + 10**9, end_ns + 2 * 10**9) == []


def test_without_servers_nothing_is_known() -> None:
    with CounterWatch([], NAME, "vllm:num_requests_waiting") as watch:
        begin_ns = time.perf_counter_ns()
    assert watch.increase(begin_ns, begin_ns) is None and watch.levels(0, 2 * begin_ns) == []


def test_a_server_without_the_gauge_still_has_its_counter(rising: str) -> None:
    with CounterWatch([rising], NAME, "vllm:no_such_gauge", interval_s=0.05) as watch:
        begin_ns = time.perf_counter_ns()
        time.sleep(0.1)
        end_ns = time.perf_counter_ns()
    assert watch.increase(begin_ns, end_ns) is not None and watch.levels(begin_ns, end_ns) == []
