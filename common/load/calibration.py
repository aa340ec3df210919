"""What this client can bear on this machine: measured against a bare server whose own times are known.

The load doubles from level to level until the client is wrong or time is up. What the server itself did late is in its
own account of the same run and is not blamed on the client.
"""

from __future__ import annotations

import contextlib
import hashlib
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

import psutil
from pydantic import TypeAdapter, ValidationError

from common.core.arrivals import ClosedLoop
from common.core.metrics import repeat_metrics
from common.core.verdict import BENT, ClientCeiling
from common.core.workload import Workload
from common.load.bare.process import BareProcess
from common.load.client import run_load

METHOD_VERSION = 1  # raise it when the levels or the limits change: ceilings of another method are measured anew
LEVELS = (64, 256, 512, 1_024)
TIME_LIMIT_S = 10.0
TTFT_S, ITL_S = 0.050, 0.010
_TURNS, _TOKENS = 2, 60
_PROMPT_TOKENS, _VOCABULARY = 64, 10_000
_P99_LIMIT_S = 0.010
_TPOT_LIMIT = 0.005
_FLOOD_STREAMS, _FLOOD_TOKENS, _FLOOD_TTFT_S = 64, 4_000, 0.001
_PARSING_S = 8e-6  # a token's share of what a level takes besides its load, roughly
_BUSY = 0.5  # load average per CPU above which a low ceiling may be the neighbours' doing
_REQUEST_TIMEOUT_S = 5.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class Level:
    """One load, and how far client and server disagree about it.

    `added_` is client minus server; `server_late_s` is the server's own p99 lateness.
    """

    streams: int
    tokens_per_s: float
    failed: int
    added_ttft_s: float
    added_ttft_p99_s: float
    tpot_off: float
    server_ttft_s: float
    server_late_s: float

    @property
    def right(self) -> bool:
        """Whether both accounts agree: mean TTFT within 3 %, its p99 within 10 ms, TPOT within 0.5 %."""
        return (
            not self.failed
            and abs(self.added_ttft_s) <= BENT * self.server_ttft_s
            and self.added_ttft_p99_s <= _P99_LIMIT_S
            and abs(self.tpot_off) <= _TPOT_LIMIT
        )

    @property
    def blames_client(self) -> bool:
        """Whether the client was wrong while the server kept time: its p99 was not a whole token late."""
        return not self.right and self.server_late_s <= ITL_S

    def __str__(self) -> str:
        word = "right" if self.right else "wrong" if self.blames_client else "nothing learnt, the server was late"
        return (
            f"{self.streams:,} streams, {self.tokens_per_s:,.0f} tokens/s: mean TTFT {1e3 * self.added_ttft_s:+.1f} ms,"
            f" p99 {1e3 * self.added_ttft_p99_s:+.1f} ms, TPOT {self.tpot_off:+.2%}: {word}"
        )


@dataclass(frozen=True)
class _Cached:
    """A ceiling on disk, and what it is the ceiling of."""

    method_version: int
    versions: dict[str, str]
    fingerprint: str
    ceiling: ClientCeiling


_CACHED = TypeAdapter(_Cached)


def calibrate(
    fingerprint: str,
    cache_folder: Path | None = None,
    *,
    say: Say = lambda _: None,
    levels: Sequence[int] = LEVELS,
    time_limit_s: float = TIME_LIMIT_S,
) -> ClientCeiling | None:
    """The client's ceiling on this machine, from the cache or measured in at most `time_limit_s`.

    Nothing is kept that a busy machine may have spoilt: a ceiling that was seen while other programs ran is returned,
    but measured anew next time.

    Args:
        fingerprint: of the machine; what must be equal for a ceiling to hold.
        cache_folder: where `client-<hash of the fingerprint>.json` is kept; `None` keeps nothing. A folder that cannot
            be written to is no failure.
        say: told each level in one line.
        levels: numbers of streams, ascending.
        time_limit_s: for all of it; a level that would not fit is left out.

    Returns:
        The ceiling, or `None` where the client was wrong at the lowest level twice: the machine was too busy to tell.

    Raises:
        RuntimeError: the bare server did not start.
        ValueError: no levels.
    """
    if not levels:
        raise ValueError("levels must hold a number of streams")
    path = None if cache_folder is None else cache_folder / f"client-{_digest(fingerprint)}.json"
    if path is not None and (known := _read(path, fingerprint)) is not None:
        return known
    until = time.perf_counter() + time_limit_s
    load_average = psutil.getloadavg()[0]
    say(f"calibrating the client (up to {time_limit_s:.0f} s; load average {load_average:.1f})")
    flood = _flood()
    best, at_least = _climb(levels, until, say)
    if best is None:
        say(f"the client could not be calibrated: it was wrong at {levels[0]} streams; end other programs first")
        return None
    ceiling = ClientCeiling(best.streams, best.tokens_per_s, best.added_ttft_s, flood, at_least, load_average)
    disturbed = best.streams < levels[-1] and load_average > _BUSY * (psutil.cpu_count() or 1)
    if path is not None and not disturbed:
        _write(path, _Cached(METHOD_VERSION, _versions(), fingerprint, ceiling), say)
    return ceiling


def _climb(levels: Sequence[int], until: float, say: Say) -> tuple[Level | None, bool]:
    """The last level at which the client was right, and whether that is only as far as could be seen.

    A level that fails is tried a second time, if there is time: a hiccup of the machine is no ceiling.
    """
    best: Level | None = None
    pace = 1.0  # how much longer than thought levels take here
    with BareProcess(TTFT_S, ITL_S) as server:
        for streams in levels:
            for trial in range(2):
                began = time.perf_counter()
                if (trial or best is not None) and began + pace * _seconds(streams) > until:
                    break
                level = measure_level(server, streams)
                say(f"{'again: ' if trial else ''}{level}")
                pace = max(1.0, (time.perf_counter() - began) / _seconds(streams))
                if level.right:
                    best = level
                    break
            if best is None or best.streams != streams:
                return best, not level.blames_client
    return best, True


def _seconds(streams: int) -> float:
    """What a level takes, about."""
    return _TURNS * (TTFT_S + (_TOKENS - 1) * ITL_S) + streams * _TURNS * _TOKENS * _PARSING_S


def measure_level(server: BareProcess, streams: int, turns: int = _TURNS, tokens: int = _TOKENS) -> Level:
    """Load the server and compare both accounts; `turns` requests of `tokens` tokens on each stream.

    Raises:
        RuntimeError: not a single request succeeded.
    """
    server.take_truth()
    work = Workload(streams * turns, _PROMPT_TOKENS, tokens, _VOCABULARY)
    loaded = run_load([server.endpoint], work.generate(), ClosedLoop(streams), timeout_s=_REQUEST_TIMEOUT_S)
    seen, truth = repeat_metrics(loaded.records, loaded.duration_s), server.take_truth()
    if not seen["completed"] or truth.mean_ttft_s is None or truth.p99_ttft_s is None or truth.mean_tpot_s is None:
        raise RuntimeError(f"no request to the bare server succeeded: {loaded.records[0].error}")
    return Level(
        streams=streams,
        tokens_per_s=seen["output_throughput"],
        failed=int(seen["failed"]),
        added_ttft_s=seen["mean_ttft_ms"] / 1e3 - truth.mean_ttft_s,
        added_ttft_p99_s=seen["p99_ttft_ms"] / 1e3 - truth.p99_ttft_s,
        tpot_off=seen["mean_tpot_ms"] / 1e3 / truth.mean_tpot_s - 1,
        server_ttft_s=truth.mean_ttft_s,
        server_late_s=truth.late_p99_s or 0.0,
    )


def _flood() -> float | None:
    """Tokens per second when the server never waits; `None` where a request failed."""
    with BareProcess(_FLOOD_TTFT_S, 0.0) as server:
        work = Workload(_FLOOD_STREAMS, _PROMPT_TOKENS, _FLOOD_TOKENS, _VOCABULARY)
        loaded = run_load([server.endpoint], work.generate(), ClosedLoop(_FLOOD_STREAMS), timeout_s=_REQUEST_TIMEOUT_S)
    if not all(record.ok for record in loaded.records):
        return None
    return work.requests * work.output_tokens / loaded.duration_s


def _digest(fingerprint: str) -> str:
    return hashlib.sha256(fingerprint.encode()).hexdigest()[:16]


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name, package in (("lab", "distributed-inference-lab"), ("uvloop", "uvloop")):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(package)
    return found


def _read(path: Path, fingerprint: str) -> ClientCeiling | None:
    """What is kept, if it is whole and of this method, machine and software."""
    try:
        cached = _CACHED.validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
    wanted = replace(cached, method_version=METHOD_VERSION, versions=_versions(), fingerprint=fingerprint)
    return cached.ceiling if cached == wanted else None


def _write(path: Path, cached: _Cached, say: Say) -> None:
    """Made beside its place and moved in one step, so that nobody reads half of it."""
    made: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.stem}-", delete=False) as file:
            made = Path(file.name)
            file.write(_CACHED.dump_json(cached, indent=2))
        made.replace(path)
    except OSError as failure:
        say(f"the client's ceiling is not kept: {path.parent}: {failure.strerror}")
        if made is not None:
            with contextlib.suppress(OSError):
                made.unlink(missing_ok=True)
