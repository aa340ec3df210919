"""A bare server in a process of its own, for as long as a `with` block."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from types import TracebackType
from urllib.parse import urlsplit

from common.load.bare.answer import MODEL
from common.load.bare.truth import Truth
from common.load.client import Endpoint

_PATIENCE_S = 10.0


class BareProcess:
    """Starts `python -m common.load.bare` and ends it; a killed owner's server ends itself.

    On Linux the server has the last of the owner's cores to itself: the calling thread, and what it starts, keep off it
    until the server ends. Left alone, the scheduler puts two processes that talk over loopback on one core as often
    as not, and each message then waits for the other side to stop.
    """

    def __init__(self, ttft_s: float, itl_s: float) -> None:
        self._cores: set[int] = set()  # the owner's, before the server took one
        self._command = [sys.executable, "-m", "common.load.bare"]
        self._command += ["--ttft-ms", f"{1e3 * ttft_s:g}", "--itl-ms", f"{1e3 * itl_s:g}"]

    def __enter__(self) -> BareProcess:
        """Start it.

        Raises:
            RuntimeError: it ended before it listened; its last words are on standard error.
        """
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.base_url = self._process.stdout.readline().strip()
        if not self.base_url:
            self._end()
            raise RuntimeError(
                f"the bare server did not start (exit {self._process.returncode}); try it by hand: "
                + " ".join(self._command)
            )
        self._cores = _part_from(self._process.pid)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    @property
    def endpoint(self) -> Endpoint:
        """Where its completions are."""
        return Endpoint("127.0.0.1", urlsplit(self.base_url).port or 0, MODEL)

    @property
    def pid(self) -> int:
        """The server's process."""
        return self._process.pid

    def take_truth(self) -> Truth:
        """What it did since it was last asked."""
        with urllib.request.urlopen(f"{self.base_url}/truth", timeout=_PATIENCE_S) as answer:
            return Truth(**json.load(answer))

    def _end(self) -> None:
        if self._cores:
            os.sched_setaffinity(0, self._cores)
        try:
            self._process.communicate(timeout=_PATIENCE_S)  # closes its standard input
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()


def _part_from(pid: int) -> set[int]:
    """Give a process the last of this thread's cores, and this thread the others; returns those it had, if it did."""
    if sys.platform != "linux":
        return set()
    cores = os.sched_getaffinity(0)
    if len(cores) < 2:
        return set()
    last = max(cores)
    os.sched_setaffinity(pid, {last})
    os.sched_setaffinity(0, cores - {last})
    return cores
