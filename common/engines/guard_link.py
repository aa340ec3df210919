"""The script's links to a guard, and to the importer that guards on CPUs are forked from."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

GUARD, ANSWER, WORD_BYTES = b"guard", b"answer", 16  # what an importer is asked to fork


class Importer:
    """A process that has imported vLLM, from which guards and their engines are forked (see importer.py)."""

    def __init__(self, wanted: Mapping[str, Any], log: Path) -> None:
        self.wanted = wanted
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, log.open("ab") as output:
            self._process = subprocess.Popen(
                wanted["command"],
                env=wanted["env"],
                stdin=theirs.fileno(),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Of the importer; guards forked from it are its children."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it can fork another guard."""
        return self._process.poll() is None

    @property
    def returncode(self) -> int:
        """Of one that has ended, or is about to."""
        return self._process.wait()

    def fork(self, word: bytes, its_input: int, its_output: int) -> None:
        """Give a guard its pipes, or an answer; where the importer has just died they close, as when a guard ends."""
        with contextlib.suppress(OSError):
            socket.send_fds(self._socket, [word], [its_input, its_output])

    def answer(self, question: Mapping[str, Any], limit_s: float) -> bytes:
        """What `interpreter_answers` says in a fork, which has imported all it needs; empty where it could not.

        Raises:
            TimeoutError: nothing was said in time.
        """
        ours, its = socket.socketpair()
        with ours:
            with its:
                self.fork(ANSWER, its.fileno(), its.fileno())
            ours.settimeout(limit_s)
            said = b""
            with contextlib.suppress(ConnectionError):
                ours.sendall(json.dumps(question).encode())
                ours.shutdown(socket.SHUT_WR)
                while piece := ours.recv(1 << 16):
                    said += piece
            return said

    def close(self) -> None:
        """End it; it holds nothing, so that there is nothing to be gentle with. What it has forked goes on."""
        self._socket.close()
        self._process.kill()
        self._process.wait()


_importer: Importer | None = None  # for the next engine, too


def close_importer() -> None:
    """End the process that waits for another engine; at the end of this one it happens by itself."""
    global _importer
    if _importer is not None:
        _importer.close()
        _importer = None


atexit.register(close_importer)


def importer_for(wanted: Mapping[str, Any], log: Path) -> Importer:
    """The one that is there, if it imports what is wanted."""
    global _importer
    if _importer is None or _importer.wanted != wanted or not _importer.alive:
        close_importer()
        _importer = Importer(wanted, log)
    return _importer


class Guard:
    """The pipes to a guard, which is forked from an importer or starts as a program of its own."""

    def __init__(self, importer: Importer | None) -> None:
        self.importer = importer
        self.pid: int | None = None  # of the guard itself, once it has told
        self.ended = False  # whoever ended it
        self._process: subprocess.Popen[bytes] | None = None
        self._unread = b""
        its_input, ours = os.pipe()
        self._input = open(ours, "wb")  # noqa: PTH123, SIM115  # of a pipe, closed by close()
        self._output, its_output = os.pipe()
        self._poll = select.poll()
        self._poll.register(self._output, select.POLLIN)
        if importer is not None:
            importer.fork(GUARD, its_input, its_output)
        else:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "common.engines.guard"],
                stdin=its_input,
                stdout=its_output,
                start_new_session=True,  # Ctrl-C at the terminal is for the script, which then stops the engine
            )
        os.close(its_input)
        os.close(its_output)

    def say(self, line: str) -> None:
        """One line to it; lost where it has ended."""
        with contextlib.suppress(BrokenPipeError, ValueError):
            self._input.write(line.encode() + b"\n")
            self._input.flush()

    def listen(self, timeout_s: float) -> list[dict[str, Any]]:
        """What it has said since."""
        if self.ended or not self._poll.poll(timeout_s * 1e3):
            return []
        data = os.read(self._output, 1 << 16)
        self.ended = not data
        *lines, self._unread = (self._unread + data).split(b"\n")
        events = [json.loads(line) for line in lines]
        self.pid = next((event["guard"] for event in events if "guard" in event), self.pid)
        return events

    def close(self) -> None:
        """Have it end, and see that it has."""
        with contextlib.suppress(BrokenPipeError):
            self._input.close()
        deadline = time.monotonic() + 5
        while not self.ended and time.monotonic() < deadline:
            self.listen(0.1)
        if not self.ended and self.pid is not None:  # its report is what counts; a stuck guard must not stay behind
            os.kill(self.pid, signal.SIGKILL)
        if self._process is not None:
            self._process.wait()
        os.close(self._output)
