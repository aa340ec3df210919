"""Answers that went through the disk come back as they were."""

from __future__ import annotations

import asyncio
import errno
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.core.record import RequestRecord
from common.load.connection import Exchange
from common.load.spill import PIECES_AT_ONCE, Spill

Pieces = list[tuple[int, bytes]]
pieces = st.lists(st.tuples(st.integers(0, 2**62), st.binary(max_size=40)), max_size=12)


def exchange() -> Exchange:
    return Exchange(RequestRecord(0, "default", 1), b"")


def through(spill: Spill, batches: list[tuple[Exchange, Pieces]]) -> None:
    """Hand over each batch after it has arrived, and let the event loop turn once between batches."""

    async def run() -> None:
        for one, arrived in batches:
            one.pieces.extend(arrived)
            spill.take(one)
            await asyncio.sleep(0)
        for _ in range(2 * len(batches) + 10):
            await asyncio.sleep(0)

    asyncio.run(run())


@settings(max_examples=60)
@given(batches=st.lists(st.tuples(st.integers(0, 3), pieces), max_size=12))
def test_interleaved_answers_come_back_whole_and_in_order(batches: list[tuple[int, Pieces]]) -> None:
    exchanges = [exchange() for _ in range(4)]
    with Spill() as spill:
        through(spill, [(exchanges[which], arrived) for which, arrived in batches])
        for which, one in enumerate(exchanges):
            expected = [piece for owner, arrived in batches if owner == which for piece in arrived]
            assert not one.pieces, "everything is on disk"
            assert one.received == len(expected)
            assert list(spill.answer(one).pieces()) == expected


def test_a_turn_moves_a_bounded_amount() -> None:
    one = exchange()
    one.pieces.extend((stamp, b"x") for stamp in range(3 * PIECES_AT_ONCE))

    async def run(spill: Spill) -> list[int]:
        spill.take(one)
        left = []
        for _ in range(4):
            await asyncio.sleep(0)
            left.append(len(one.pieces))
        return left

    with Spill() as spill:
        left = asyncio.run(run(spill))
        assert max(before - after for before, after in zip([3 * PIECES_AT_ONCE, *left], left, strict=False)) == 256
        assert left[-1] == 0
        assert list(spill.answer(one).stamps_ns) == list(range(3 * PIECES_AT_ONCE))


def test_a_full_disk_costs_memory_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = exchange(), exchange()
    with Spill() as spill:
        through(spill, [(first, [(1, b"one")])])

        def full(_: Pieces) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(spill, "_write", full)
        through(spill, [(first, [(2, b"two")]), (second, [(3, b"three")])])
        assert list(spill.answer(first).pieces()) == [(1, b"one"), (2, b"two")]
        assert list(spill.answer(second).pieces()) == [(3, b"three")]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_a_million_tokens_stay_under_500_megabytes(tmp_path: Path) -> None:
    """In a process of its own, one token a piece: what 1,000 streams of 1,000 tokens bring."""
    script = tmp_path / "million.py"
    script.write_text(
        textwrap.dedent("""
        import asyncio, pathlib, re
        from common.core.metrics import repeat_metrics
        from common.core.record import RequestRecord
        from common.load.connection import Connection, Exchange
        from common.load.response import parse_response
        from common.load.spill import PIECES_AT_ONCE, Spill

        TOKEN = b'data: {"id":"cmpl-0123456789abcdef0123456789abcdef","object":"text_completion","created":1763700000,'
        TOKEN += b'"model":"qwen2-126m","choices":[{"index":0,"text":" token","logprobs":null,"finish_reason":null,'
        TOKEN += b'"stop_reason":null,"token_ids":null}],"system_fingerprint":null,"usage":null}\\n\\n'
        CHUNK = b"%x\\r\\n%b\\r\\n" % (len(TOKEN), TOKEN)
        HEAD = b"HTTP/1.1 200 OK\\r\\nContent-Type: text/event-stream\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n"
        USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":1000}}\\n\\ndata: [DONE]\\n\\n'
        END = b"%x\\r\\n%b\\r\\n0\\r\\n\\r\\n" % (len(USAGE), USAGE)

        def peak_kib():  # ru_maxrss would be that of the process which started this one, where it was larger
            return re.search(r"VmHWM:\\s*(\\d+)", pathlib.Path("/proc/self/status").read_text())[1]

        class Wire(asyncio.Transport):
            def write(self, data): pass
            def is_closing(self): return False

        async def receive(spill):
            exchanges = [Exchange(RequestRecord(i, "default", 1000), b"") for i in range(1000)]
            connections = [Connection(lambda: None, lambda failure: None) for _ in exchanges]
            for connection, exchange in zip(connections, exchanges):
                connection.connection_made(Wire())
                connection.send(b"", exchange)
                connection.data_received(HEAD)
            for token in range(1000):
                for connection, exchange in zip(connections, exchanges):
                    connection.data_received(bytes(bytearray(CHUNK)))  # its own bytes, as from a socket
                    if len(exchange.pieces) > PIECES_AT_ONCE:
                        spill.take(exchange)
                await asyncio.sleep(0)
                while spill._waiting:
                    await asyncio.sleep(0)
            for connection, exchange in zip(connections, exchanges):
                connection.data_received(END)
                spill.take(exchange)
            while spill._waiting:
                await asyncio.sleep(0)
            return exchanges

        with Spill() as spill:
            exchanges = asyncio.run(receive(spill))
            for exchange in exchanges:
                parse_response(spill.answer(exchange), exchange.record)
        found = repeat_metrics([exchange.record for exchange in exchanges], 10.0)
        print(found["completed"], found["total_output_tokens"], peak_kib())
        """)
    )
    ran = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True, timeout=120)
    completed, tokens, peak_kib = map(float, ran.stdout.split())
    assert (completed, tokens) == (1000, 1_000_000)
    assert peak_kib < 500e6 / 1024
