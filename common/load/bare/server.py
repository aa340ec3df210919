"""A bare server with known timing: what a load client is measured against.

    python -m common.load.bare --ttft-ms 50 --itl-ms 10

speaks `/v1/completions` and `/v1/chat/completions` (streams only), `/v1/models` and `/health` on a port of the loopback
interface, and prints its address. Every answer's first token is sent TTFT after its request was read and one more each
ITL after that, `max_tokens` of them; with `--itl-ms 0` the rest goes as fast as the socket takes it. The server notes
what it truly did: `/truth` says so and forgets it. It ends when its standard input is closed, and prints what it has
not yet told.

Both delays are the same for all answers, so two queues are always in order of time and no heap is needed. Bytes are
made beforehand, one `send` carries one token, and a burst of sends stops often to look for new requests: on one core
it keeps the time of 1,024 streams at 100 tokens per second each.
"""

from __future__ import annotations

import contextlib
import select
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict

from common.load.bare import answer as bare_answer
from common.load.bare.answer import CHAT_PATH, COMPLETIONS_PATH, Asked, HttpRequest, Refusal
from common.load.bare.connection import BareConnection
from common.load.bare.truth import TruthLog

_SENDS_AT_ONCE = 64
_PARSED_AT_ONCE = 16
_ACCEPTED_AT_ONCE = 16
_FLOOD_TOKENS = 128  # to a send: about 32 KiB
_LONGEST_WAIT_S = 1.0
_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class _Answer:
    """One answer on its way out; `left` tokens are still to be sent, the next at `due_ns`."""

    __slots__ = ("asked", "connection", "due_ns", "first_ns", "free_ns", "left", "read_ns")

    def __init__(self, connection: BareConnection, asked: Asked, ttft_ns: int) -> None:
        self.connection = connection
        self.asked = asked
        self.read_ns = connection.read_ns
        self.due_ns = self.read_ns + ttft_ns
        self.first_ns: int | None = None
        self.free_ns = 0  # when the socket last took what it had not: a slow reader makes nobody late
        self.left = asked.tokens


class BareServer:
    """One thread, one selector; `run` returns after `stop`."""

    def __init__(self, ttft_s: float, itl_s: float, port: int = 0) -> None:
        self.log = TruthLog()
        self._ttft_ns, self._itl_ns = round(ttft_s * 1e9), round(itl_s * 1e9)
        self._tokens_at_once = 1 if self._itl_ns else _FLOOD_TOKENS
        self._blocks = {chat: bare_answer.token(chat) * self._tokens_at_once for chat in (False, True)}
        self._first: deque[_Answer] = deque()  # wait for their first token, in order of time
        self._next: deque[_Answer] = deque()  # wait for a later one, in order of time
        self._arrived: deque[BareConnection] = deque()  # have been read from, not yet parsed
        self._blocked: dict[BareConnection, _Answer] = {}  # wait for the socket, not for their time
        self._running = True
        self._selector = selectors.DefaultSelector()
        self._listener = socket.create_server(("127.0.0.1", port), backlog=4096)
        self._listener.setblocking(False)
        self._selector.register(self._listener, _READ, None)
        self._alarm, self._bell = socket.socketpair()
        self._selector.register(self._alarm, _READ, None)

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def stop(self) -> None:
        """End `run`; may be called from another thread."""
        self._running = False
        with contextlib.suppress(OSError):
            self._bell.send(b"!")

    def run(self) -> None:
        """Serve until stopped."""
        try:
            while self._running:
                self._send_due()
                self._parse_arrived()
                for key, events in self._wait():
                    if key.fileobj is self._listener:
                        self._accept()
                    elif key.data is not None:
                        self._serve(key.data, events)
        finally:
            for key in list(self._selector.get_map().values()):
                if isinstance(key.fileobj, socket.socket):
                    key.fileobj.close()
            self._bell.close()
            self._selector.close()

    def _wait(self) -> list[tuple[selectors.SelectorKey, int]]:
        """Until a token is due or a socket is ready. `select` waits to the microsecond, epoll to the millisecond."""
        if self._arrived:
            return self._selector.select(0)
        due_ns = [queue[0].due_ns for queue in (self._first, self._next) if queue]
        wait_s = (min(due_ns) - time.perf_counter_ns()) / 1e9 if due_ns else _LONGEST_WAIT_S
        if wait_s > 0:
            select.select([self._selector], [], [], min(wait_s, _LONGEST_WAIT_S))
        return self._selector.select(0)

    def _send_due(self) -> None:
        """Send what is due, oldest first, up to a number after which new requests are looked for."""
        first, later, clock = self._first, self._next, time.perf_counter_ns
        for _ in range(_SENDS_AT_ONCE):
            if first and not (later and later[0].due_ns <= first[0].due_ns):
                queue = first
            elif later:
                queue = later
            else:
                return
            answer, now_ns = queue[0], clock()
            if answer.due_ns > now_ns:
                return
            queue.popleft()
            if not answer.connection.closed:
                self._send_tokens(answer, now_ns)

    def _send_tokens(self, answer: _Answer, now_ns: int) -> None:
        if self._itl_ns or answer.first_ns is None:
            self.log.late_ns.append(now_ns - max(answer.due_ns, answer.free_ns))
            answer.due_ns += self._itl_ns
        else:
            answer.due_ns = now_ns
        chat = answer.asked.chat
        if answer.first_ns is not None and answer.left > self._tokens_at_once:
            answer.left -= self._tokens_at_once
            data = self._blocks[chat]
        else:
            data = self._first_or_last(answer, now_ns)
        try:
            sent = answer.connection.write(data)
        except OSError:
            self._drop(answer.connection)
        else:
            if sent:
                self._go_on(answer, now_ns)
            else:
                self._blocked[answer.connection] = answer

    def _go_on(self, answer: _Answer, now_ns: int) -> None:
        if answer.left:
            self._next.append(answer)
        else:
            self._finish(answer, now_ns)

    def _first_or_last(self, answer: _Answer, now_ns: int) -> bytes:
        chat, count, data = answer.asked.chat, answer.left, b""
        if answer.first_ns is None:
            answer.first_ns, count = now_ns, 1
            data = bare_answer.opening(chat)
        answer.left -= count
        if answer.left:
            return data + bare_answer.token(chat)
        return data + bare_answer.token(chat) * (count - 1) + bare_answer.ending(answer.asked)

    def _finish(self, answer: _Answer, now_ns: int) -> None:
        assert answer.first_ns is not None
        self.log.enter(answer.read_ns, answer.first_ns, now_ns, answer.asked.tokens)
        connection = answer.connection
        connection.busy = False
        if connection.closing:
            connection.hang_up()
        elif connection.received:  # the next request came before this answer's end
            connection.read_ns = now_ns
            self._arrived.append(connection)

    def _accept(self) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                accepted, _ = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            BareConnection(accepted, self._selector)

    def _serve(self, connection: BareConnection, events: int) -> None:
        try:
            if events & _READ and connection.read():
                self._arrived.append(connection)
            if events & _WRITE and connection.flush():
                self._flushed(connection)
        except OSError:
            self._drop(connection)

    def _flushed(self, connection: BareConnection) -> None:
        """An answer that waited goes on at once: its time has passed."""
        answer = self._blocked.pop(connection, None)
        if answer is not None:
            answer.free_ns = time.perf_counter_ns()
            if answer.left:
                self._next.appendleft(answer)
            else:
                self._finish(answer, answer.free_ns)
        elif connection.closing and not connection.busy:
            connection.hang_up()

    def _parse_arrived(self) -> None:
        """A few at a time: requests are stamped as they are read, and parsed while their first tokens wait."""
        for _ in range(min(len(self._arrived), _PARSED_AT_ONCE)):
            self._parse(self._arrived.popleft())

    def _parse(self, connection: BareConnection) -> None:
        while not (connection.busy or connection.closing):
            try:
                request = bare_answer.take_request(connection.received)
                if request is None:
                    return
                connection.closing = request.last
                data = self._begin(connection, request)
            except Refusal as refusal:
                connection.closing = connection.closing or refusal.fatal
                data = bare_answer.refuse(refusal)
            try:
                sent = connection.write(data)
            except OSError:
                self._drop(connection)
                return
            if sent and connection.closing and not connection.busy:
                connection.hang_up()

    def _begin(self, connection: BareConnection, request: HttpRequest) -> bytes:
        """What is sent at once: all of the answer, or the head of one whose tokens have their times."""
        if request.path in (COMPLETIONS_PATH, CHAT_PATH):
            if request.method != "POST":
                raise Refusal("405 Method Not Allowed", f"{request.path} takes POST")
            asked = bare_answer.read_asked(request.path, request.body)
            connection.busy = True
            self._first.append(_Answer(connection, asked, self._ttft_ns))
            return bare_answer.STREAM_HEAD
        pages: dict[str, Callable[[], bytes]] = {
            "/v1/models": bare_answer.models,
            "/health": lambda: bare_answer.reply("200 OK"),
            "/truth": lambda: bare_answer.reply("200 OK", self._tell()),
        }
        if request.path not in pages:
            raise Refusal("404 Not Found", f"{request.path} is not here; there are {', '.join(pages)}")
        return pages[request.path]()

    def _tell(self) -> dict[str, float | int | None]:
        told, self.log = self.log, TruthLog()
        return asdict(told.summary())

    def _drop(self, connection: BareConnection) -> None:
        self.log.abandoned += connection.busy
        self._blocked.pop(connection, None)
        connection.close()
