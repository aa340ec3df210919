"""The load client: sends a workload to endpoints and says, to the microsecond, what came back and when.

What makes it right under load: connections are opened and requests are bytes before the clock starts, arrival is
stamped before anything else, the next request leaves in the same callback, and all parsing waits for the end.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np

from common.core.arrivals import Arrivals, ClosedLoop, OpenLoop, Replay
from common.core.record import RequestRecord
from common.core.workload import Request
from common.load.connection import Exchange, Target, tls_context
from common.load.discretion import without_host, without_key, without_prompt
from common.load.dispatch import Array, ClosedDispatch, Dispatch, OpenDispatch, open_lanes
from common.load.loop_lag import Lag, LoopLag
from common.load.payload import request_head, request_payload
from common.load.response import Recount, parse_response
from common.load.spill import PIECES_AT_ONCE, Spill

PATROL_S = 0.25
STALLED = "stalled"  # the error kind of requests that were in flight when the server was given up
_SPARE_FILES = 128  # descriptors for everything that is not a connection

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Endpoint:
    """Where a model is served: `/v1/completions`, or `/v1/chat/completions`.

    `name` is what errors call it; by default its host and port. A server that sends nothing to anybody for
    `idle_timeout_s` while requests wait is given up; `None`: never.
    """

    host: str
    port: int
    model: str
    path: str = "/v1/completions"
    api_key: str | None = field(default=None, repr=False)
    tls: bool = False
    name: str = ""
    idle_timeout_s: float | None = None

    @property
    def origin(self) -> str:
        """`http://host:port`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http{'s' if self.tls else ''}://{host}:{self.port}"


@dataclass(frozen=True)
class LoadResult:
    """What one run of the client did. Stamps are nanoseconds of `time.perf_counter_ns`.

    `begin_ns` is the first send, `end_ns` the last byte (or failure) of the last request to end; where nothing could
    be sent, `begin_ns` is when it was tried. `client_cpu_s` is this process' CPU time between the two.
    """

    records: list[RequestRecord]
    begin_ns: int
    end_ns: int
    begin_unix_s: float
    client_cpu_s: float
    loop_lag: Lag
    flags: tuple[str, ...] = ()

    @property
    def duration_s(self) -> float:
        """Seconds from the first send to the last end."""
        return (self.end_ns - self.begin_ns) / 1e9


def run_load(  # noqa: PLR0913 - the three that matter come first, each of the others has a default
    endpoints: Sequence[Endpoint],
    requests: Sequence[Request],
    arrivals: Arrivals,
    *,
    seed: int = 0,
    timeout_s: float = 600.0,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] | None = None,
    recount: Recount | None = None,
) -> LoadResult:
    """Send all requests and wait for the end of each; what goes wrong with one is in its record, not raised.

    Args:
        endpoints: replicas of one model; slot or request i goes to endpoint i modulo their number.
        requests: sent in this order.
        arrivals: closed loop (slots), or open loop (a schedule computed before the first send).
        seed: of the open loop's schedule; a replay takes its times from the requests.
        timeout_s: for each request, from its send; checked every 0.25 s.
        progress: called at most four times a second with the requests that have ended and an estimate of the tokens
            seen: the pieces of data received. It runs inside the event loop and must be quick.
        should_stop: asked as often; once it says yes, whatever has not ended is recorded as `cancelled`.
            Where the first endpoint's idle time-out passes, what is in flight is recorded as `stalled` and the rest as
            `cancelled`.
        recount: counts the tokens of a text, for `recounted_tokens`; called after the run.

    A server that rejects `ignore_eos` gets all requests once more without it; the result is then flagged
    `ignore_eos_rejected`, and answers may be shorter than asked for.

    Raises:
        ValueError: no endpoints, no requests, or endpoints that differ in model or path.
    """
    _check(endpoints, requests)
    watch = _Watch(timeout_s, endpoints[0].idle_timeout_s, progress, should_stop)
    how = arrivals if isinstance(arrivals, ClosedLoop) else schedule_s(arrivals, requests, seed)
    targets = [_target(endpoint) for endpoint in endpoints]
    result = _send_all(targets, _exchanges(requests, endpoints[0], ignore_eos=True), how, watch, recount)
    if any(map(_rejects_ignore_eos, result.records)):
        result = _send_all(targets, _exchanges(requests, endpoints[0], ignore_eos=False), how, watch, recount)
        result = replace(result, flags=("ignore_eos_rejected",))
    for request, record in zip(requests, result.records, strict=True):
        if record.error is not None:
            record.error = _publishable(record.error, request, endpoints)
    return result


def _publishable(error: str, request: Request, endpoints: Sequence[Endpoint]) -> str:
    for prompt in request.batch or (request.prompt,):
        error = without_prompt(error, prompt)
    for endpoint in endpoints:
        error = without_host(without_key(error, endpoint.api_key), endpoint.host, endpoint.name)
    return error


def _exchanges(requests: Sequence[Request], endpoint: Endpoint, ignore_eos: bool) -> list[Exchange]:
    return [
        Exchange(
            RequestRecord(request.index, request.request_class, request.requested_tokens),
            request_payload(request, endpoint.model, endpoint.path, ignore_eos),
        )
        for request in requests
    ]


def _rejects_ignore_eos(record: RequestRecord) -> bool:
    return record.error_kind in ("http_400", "http_422") and "ignore_eos" in (record.error or "")


def _send_all(
    targets: Sequence[Target],
    exchanges: Sequence[Exchange],
    how: ClosedLoop | Array,
    watch: _Watch,
    recount: Recount | None,
) -> LoadResult:
    """Run the event loop over all exchanges, then parse them."""
    with _no_garbage_collection(), Spill() as spill, asyncio.Runner(loop_factory=_loop_factory()) as runner:
        span = runner.run(_run(targets, exchanges, how, watch, spill))
        for exchange in exchanges:
            parse_response(spill.answer(exchange), exchange.record, recount)
            exchange.pieces.clear()
    return _result(exchanges, span)


@dataclass
class _Watch:
    """What is looked after four times a second."""

    timeout_s: float
    idle_timeout_s: float | None
    progress: Progress | None
    should_stop: Callable[[], bool] | None
    _seen: int = field(default=0, init=False)
    _moved_ns: int = field(default=0, init=False)

    def begin(self, now_ns: int) -> None:
        """Sending begins: silence counts from here."""
        self._seen, self._moved_ns = 0, now_ns

    def patrol(self, dispatch: Dispatch) -> None:
        now_ns = time.perf_counter_ns()
        for lane in list(dispatch.lanes):
            lane.expire(now_ns, self.timeout_s)
            if lane.exchange is not None and len(lane.exchange.pieces) > PIECES_AT_ONCE:
                dispatch.ledger.spill(lane.exchange)
        in_flight = [lane.exchange for lane in dispatch.lanes if lane.exchange is not None]
        pieces = dispatch.ledger.pieces + sum(exchange.received for exchange in in_flight)
        if self.progress is not None:
            self.progress(dispatch.ledger.done, pieces)
        if self.should_stop is not None and self.should_stop():
            dispatch.stop()
        elif self._is_idle(now_ns, pieces, waiting=any(exchange.record.sent_ns for exchange in in_flight)):
            dispatch.stop(STALLED, f"the server sent nothing for {self.idle_timeout_s:g} s")

    def _is_idle(self, now_ns: int, pieces: int, waiting: bool) -> bool:
        """Whether requests have waited for so long without a byte for any of them."""
        if not waiting or pieces != self._seen:
            self._seen, self._moved_ns = pieces, now_ns
        return self.idle_timeout_s is not None and now_ns - self._moved_ns > self.idle_timeout_s * 1e9


@dataclass(frozen=True)
class _Span:
    """The measured time, as far as the event loop knows it."""

    begin_ns: int
    begin_unix_s: float
    cpu_s: float
    lag: Lag


async def _run(
    targets: Sequence[Target], exchanges: Sequence[Exchange], how: ClosedLoop | Array, watch: _Watch, spill: Spill
) -> _Span:
    dispatch: Dispatch
    if isinstance(how, ClosedLoop):
        dispatch = ClosedDispatch(how, targets, exchanges, spill)
    else:
        dispatch = OpenDispatch(how, targets, exchanges, spill)
    try:
        with _enough_files(len(dispatch.lanes)):
            await open_lanes(dispatch.lanes)
            begin_unix_s, begin_ns, cpu_s = time.time(), time.perf_counter_ns(), time.process_time()
            lag = LoopLag()
            watch.begin(begin_ns)
            await dispatch.start()
            while not dispatch.ledger.complete.done():
                await asyncio.wait((dispatch.ledger.complete,), timeout=PATROL_S)
                watch.patrol(dispatch)
            cpu_s = time.process_time() - cpu_s
            return _Span(begin_ns, begin_unix_s, cpu_s, lag.stop())
    finally:
        dispatch.stop()
        spill.stop()
        await asyncio.sleep(0)  # the loop closes aborted sockets in its next turn


def _result(exchanges: Sequence[Exchange], span: _Span) -> LoadResult:
    sent = [exchange.record.sent_ns for exchange in exchanges if exchange.record.sent_ns is not None]
    begin_ns = min(sent, default=span.begin_ns)
    return LoadResult(
        records=[exchange.record for exchange in exchanges],
        begin_ns=begin_ns,
        end_ns=max(exchange.record.ended_ns for exchange in exchanges if exchange.record.ended_ns is not None),
        begin_unix_s=span.begin_unix_s + (begin_ns - span.begin_ns) / 1e9,
        client_cpu_s=span.cpu_s,
        loop_lag=span.lag,
    )


def schedule_s(arrivals: OpenLoop | Replay, requests: Sequence[Request], seed: int) -> Array:
    """Intended send times in seconds from the start, shape (requests,), ascending.

    Raises:
        ValueError: a replay of requests without times, or with times that go back.
    """
    if isinstance(arrivals, OpenLoop):
        return arrivals.schedule_s(len(requests), seed)
    times = [request.at_s for request in requests if request.at_s is not None]
    if len(times) < len(requests) or times != sorted(times):
        raise ValueError("a replay needs the time of every request, in ascending order")
    return (np.asarray(times, dtype=np.float64) - times[0]) * arrivals.time_scale


def _check(endpoints: Sequence[Endpoint], requests: Sequence[Request]) -> None:
    if not endpoints or not requests:
        raise ValueError("run_load needs an endpoint and a request")
    if len({(endpoint.model, endpoint.path) for endpoint in endpoints}) > 1:
        raise ValueError("endpoints must be replicas: one model, one path")


def _target(endpoint: Endpoint) -> Target:
    """Resolve the name once, so that no reconnect waits for it; a name that does not resolve has no address."""
    try:
        found = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    except socket.gaierror:
        found = []
    return Target(
        name=endpoint.name or f"{endpoint.host}:{endpoint.port}",
        addresses=tuple((str(address[0]), int(address[1])) for *_, address in found),
        head=request_head(endpoint.host, endpoint.port, endpoint.path, endpoint.api_key),
        host=endpoint.host,
        tls=tls_context() if endpoint.tls else None,
    )


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if sys.platform == "win32":
        return None  # asyncio's own
    import uvloop

    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A full collection among a million stamps would stop the clock's reader for a tenth of a second."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()


@contextmanager
def _enough_files(connections: int) -> Iterator[None]:
    """Raise the limit on open files where it would cut the run short; many systems start at 256 or 1,024."""
    if sys.platform == "win32":
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
        )
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
