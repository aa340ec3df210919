"""The local watchdog: a detached process that ends a renting whose owner has died, or whose deadline is over.

It is armed before the create, in a session of its own, and survives the terminal. What it needs, the account's key
among it, comes through its standard input and is in no argument, environment or file. The same pipe says whether the
owner lives: end of file without `done` or `keep` means that it was killed. `keep` (after `up`) leaves the machine
until its deadline.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Literal

import psutil

from common.cloud.clock import Clock, Pauses
from common.cloud.errors import MachineError
from common.cloud.ledger import Ledger
from common.cloud.marks import Marks
from common.cloud.provider import Provider
from common.cloud.providers import provider_from
from common.cloud.session import Session
from common.cloud.teardown import end
from common.cloud.transport import harmless

ROOT = Path(__file__).resolve().parents[2]
PIDFILE = "watchdog.pid"
Owner = Literal["alive", "done", "keep", "dead"]


def is_watched(ledger: Ledger) -> bool:
    """Whether the watchdog of a renting lives."""
    try:
        return "common.cloud.watchdog" in psutil.Process(int((ledger.folder / PIDFILE).read_text())).cmdline()
    except (OSError, ValueError, psutil.Error):
        return False


class Armed:
    """The owner's end of the pipe."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def tell(self, word: Literal["done", "keep"]) -> None:
        """The owner has proven the end, or leaves the machine on purpose."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(f"{word}\n".encode())
            self._process.stdin.flush()
        self.close()

    def close(self) -> None:
        """Let go of it: without a word before, it takes over."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.returncode = self._process.returncode or 0  # it lives on; nobody waits for it


def arm(session: Session, provider: Mapping[str, Any]) -> Armed:
    """Start the watchdog of a renting and wait until it watches; `provider` is what `provider_from` takes.

    Raises:
        MachineError: it does not start, so nothing may be rented.
    """
    spec = {
        "provider": dict(provider),
        "folder": str(session.ledger.folder),
        "marks": asdict(session.marks),
        "pauses": asdict(session.pauses),
    }
    with (session.ledger.folder / "watchdog.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "common.cloud.watchdog"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=ROOT,
            env=harmless(os.environ) | {"PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdout as answer:
        with contextlib.suppress(OSError):
            process.stdin.write(json.dumps(spec).encode() + b"\n")
            process.stdin.flush()
        if answer.readline().strip() != b"armed":
            process.kill()
            process.wait()
            process.stdin.close()
            raise MachineError(
                f"the watchdog does not start, so nothing is rented: {session.ledger.folder}/watchdog.log"
            )
    return Armed(process)


def watch(session: Session, owner: Callable[[], Owner]) -> bool:
    """Wait until there is something to do, and do it until it is proven; whether it had to act."""
    while True:
        state = owner()
        if state == "done":
            return False
        if state == "keep" and session.ledger.closed:
            return False
        late = session.left_s < -session.pauses.grace_s
        if state == "dead" or late:
            with contextlib.suppress(OSError):  # a disk that is full is no reason to leave a machine up
                session.note("watchdog", reason="the owner died" if state == "dead" else "the deadline is over")
            session.say("taking over")
            while not _ended(session):
                session.say("not proven gone yet: going on")
                session.clock.sleep(session.pauses.watch_s)
            return True
        session.clock.sleep(session.pauses.watch_s)


def _ended(session: Session) -> bool:
    """One attempt; whatever goes wrong in it, there is another."""
    try:
        return end(session).verified is True
    except Exception as error:  # noqa: BLE001  # nobody else is left to try
        session.say(f"stumbled: {type(error).__name__}")
        return False


def main() -> None:
    """Read what to watch from standard input, say so, and watch."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    spec = json.loads(sys.stdin.buffer.readline())
    session = _session(spec, provider_from(spec["provider"]))
    (session.ledger.folder / PIDFILE).write_text(f"{os.getpid()}\n")
    sys.stdout.write("armed\n")
    sys.stdout.flush()
    words = _Listener(sys.stdin.buffer)
    try:
        watch(session, lambda: words.state)
    finally:
        (session.ledger.folder / PIDFILE).unlink(missing_ok=True)


class _Listener:
    """What the owner said last, read by a thread, because a pipe cannot be polled everywhere."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self.state: Owner = "alive"
        threading.Thread(target=self._listen, args=(pipe,), daemon=True).start()

    def _listen(self, pipe: IO[bytes]) -> None:
        for line in pipe:
            if line.strip() in (b"done", b"keep"):
                self.state = "done" if line.strip() == b"done" else "keep"
                return
        self.state = "dead"


def _session(spec: Mapping[str, Any], provider: Provider) -> Session:
    clock = Clock()

    def say(line: str) -> None:
        with contextlib.suppress(OSError):  # its log is on a disk, too
            sys.stderr.write(f"{clock.now():.0f} {line}\n")
            sys.stderr.flush()

    ledger = Ledger(Path(spec["folder"]))
    return Session(provider, ledger, Marks(**spec["marks"]), say, clock, Pauses(**spec["pauses"]))


if __name__ == "__main__":
    main()
