"""A `go` that is killed at any step: the watchdog, who holds nothing but the ledger, ends what it rented."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast
from unittest import mock

import psutil
import pytest

from common.cloud.aws import ANSWER_S
from common.cloud.clock import Clock, Pauses
from common.cloud.errors import MachineError
from common.cloud.flow import go
from common.cloud.http import TIMEOUT_S, Call, Reply
from common.cloud.ledger import Ledger, ledgers
from common.cloud.marks import Marks
from common.cloud.provider import Provider
from common.cloud.runpod import Runpod
from common.cloud.session import Session
from common.cloud.watchdog import PIDFILE, Armed, arm, watch
from tests.cloud.fake_runpod import KEY, FakeRunpod
from tests.cloud.pods import end_watchdogs
from tests.cloud.serving import serve
from tests.cloud.world import ROOT, Evening

QUICK = Pauses(
    **{"poll_s": 0.05, "found_s": 0.6, "between_s": 0.2, "reachable_s": 20, "pull_s": 0.3, "wind_down_s": 1},
    **{"silent_s": 1, "stage_poll_s": 0.05, "watch_s": 0.05, "grace_s": 0.5},
)


class Killed(BaseException):
    """Lets a frozen thread go when its test is over; nothing may come of it."""


@dataclass
class Kill:
    """Freezes a thread for ever at its n-th step: what it knew is lost, what it wrote down and sent is not."""

    at: int
    steps: list[str] = field(default_factory=list)
    frozen: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)
    owner: int = field(default_factory=threading.get_ident)
    """The test's own thread, which is never frozen."""

    def step(self, name: str) -> None:
        if threading.get_ident() == self.owner:
            return
        self.steps.append(name)
        if self.over.is_set():
            raise Killed
        if len(self.steps) == self.at:
            self.frozen.set()
            self.over.wait()
            raise Killed


@contextlib.contextmanager
def run_until_killed(kill: Kill, body: Callable[[], object]) -> Iterator[None]:
    """`body` in a thread, with a step before and after every line of its ledger."""
    write = Ledger.write

    def written(self: Ledger, event: str, at: float, **facts: object) -> None:
        kill.step(f"before {event}")
        write(self, event, at, **facts)
        kill.step(f"after {event}")

    def run() -> None:
        with contextlib.suppress(Killed):
            body()
            kill.frozen.set()

    with mock.patch.object(Ledger, "write", written), mock.patch("common.cloud.work.packed", lambda root: b"code"):
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            assert kill.frozen.wait(60), kill.steps
            yield
        finally:
            kill.over.set()
            thread.join(5)


def going(evening: Evening, kill: Kill) -> Callable[[], object]:
    """`go`, with a step before and after every request."""

    def exchanged(call: Call) -> Reply:
        kill.step(f"before {call.method}")
        reply = evening.fake.exchange(call)
        kill.step(f"after {call.method}")
        return reply

    provider = Runpod(KEY, evening.clock, "http://127.0.0.1:1", exchanged)
    return lambda: go(evening.request, replace(evening.world, provider=provider))


def take_over(evening: Evening, provider: Provider, last_step: str) -> None:
    """What the watchdog does when its owner has died, with nothing but the ledger."""
    for ledger in ledgers(evening.folder / "results"):
        marks = ledger.marks()
        if marks is not None:
            assert watch(Session(provider, ledger, marks, evening.said.append, evening.clock), lambda: "dead")
            assert ledger.closed, last_step


def steps(folder: Path) -> list[str]:
    """Every step of a renting that nobody kills."""
    folder.mkdir()
    evening, kill = Evening(folder), Kill(10**9)
    with run_until_killed(kill, going(evening, kill)):
        assert evening.ledger.closed
    return kill.steps


def killed_at(at: int, folder: Path) -> bool:
    """Whether something was rented then."""
    folder.mkdir()
    evening, kill = Evening(folder), Kill(at)
    with run_until_killed(kill, going(evening, kill)):
        rented = bool(evening.fake.ours())
        take_over(evening, evening.provider, kill.steps[-1])
        assert evening.fake.ours() == [], kill.steps[-1]
    return rented


def test_killed_at_each_kind_of_step(tmp_path: Path) -> None:
    """Before and after every kind of line in the ledger and of request, and once in the middle of the run."""
    whole = steps(tmp_path / "whole")
    chosen = sorted({whole.index(name) + 1 for name in whole} | {len(whole) // 2})
    rented = sum(killed_at(at, tmp_path / str(at)) for at in chosen)
    assert len(chosen) > 20
    assert rented > len(chosen) / 3, "most steps lie within a machine's life"


@pytest.mark.slow
def test_killed_at_every_step(tmp_path: Path) -> None:
    total = len(steps(tmp_path / "whole"))
    assert total > 60
    rented = sum(killed_at(at, tmp_path / str(at)) for at in range(1, total + 1))
    assert rented > total / 3


@pytest.mark.parametrize("late_s", [20, ANSWER_S + 5])
def test_a_create_on_its_way_when_the_owner_dies(late_s: float, tmp_path: Path) -> None:
    """The machine shows up after the owner's death, as late as a provider answers; the first looks saw nothing."""
    assert Pauses().found_s > max(TIMEOUT_S, ANSWER_S)
    evening = Evening(tmp_path, frozenset({"late"}))
    marks = Marks("test", "abcdef", int(evening.clock.now()) + 3600)
    session = Session(evening.provider, Ledger(tmp_path), marks, evening.said.append, evening.clock)
    session.note("creating", name=marks.name)
    evening.fake._make({"name": marks.name, "cloud": "SECURE", "image": "x:1", "gpu": {"id": "NVIDIA L4", "count": 4}})
    evening.fake.pods["pod-1"].visible_at = evening.clock.now() + late_s
    assert evening.provider.get("pod-1") is None
    assert watch(session, lambda: "dead")
    assert evening.fake.ours() == []
    assert evening.fake.touched == {"pod-1"}


def test_it_leaves_alone_what_is_done_and_ends_what_is_kept_too_long(tmp_path: Path) -> None:
    evening = Evening(tmp_path)
    ledger = Ledger(tmp_path)
    marks = Marks("up", "abcdef", int(evening.clock.now()) + 100)
    session = Session(evening.provider, ledger, marks, evening.said.append, evening.clock)
    body = {"name": marks.name, "cloud": "SECURE", "image": "x:1", "gpu": {"id": "NVIDIA L4", "count": 4}}
    evening.fake._make(body)
    assert not watch(session, lambda: "done")
    assert evening.fake.ours() == ["pod-1"]
    assert watch(session, lambda: "keep")
    assert evening.clock.now() > marks.deadline
    assert evening.fake.ours() == []


@pytest.fixture
def account(tmp_path: Path) -> Iterator[tuple[FakeRunpod, str]]:
    fake = FakeRunpod(Clock(), boot_s=0.0)
    with serve(fake) as url:
        try:
            yield fake, url
        finally:
            end_watchdogs(tmp_path)


def renting(folder: Path, url: str, deadline: float) -> tuple[Session, Mapping[str, Any]]:
    folder.mkdir()
    marks = Marks("test", "abc123", int(deadline))
    session = Session(Runpod(KEY, None, url), Ledger(folder), marks, lambda _: None, pauses=QUICK)
    about = {"purpose": "test", "lab_id": "abc123", "deadline": int(deadline), "usd_per_hour": 1.0}
    session.note("intent", **about)
    return session, {"kind": "runpod", "key": KEY, "url": url}


def wait_for(what: Callable[[], object], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not what() and time.monotonic() < end:
        time.sleep(0.05)
    assert what()


def make(fake: FakeRunpod, session: Session) -> None:
    body = {"name": session.marks.name, "cloud": "SECURE", "image": "x:1", "gpu": {"id": "NVIDIA L4", "count": 4}}
    session.note("creating", name=session.marks.name)
    fake._make(body)


OWNER = """
import json, sys, time
from pathlib import Path
from common.cloud.clock import Pauses
from common.cloud.ledger import Ledger
from common.cloud.marks import Marks
from common.cloud.providers import provider_from
from common.cloud.session import Session
from common.cloud.watchdog import arm
spec = {"kind": "runpod", "key": sys.argv[3], "url": sys.argv[2]}
marks = Marks("test", "abc123", int(time.time()) + 3600)
pauses = Pauses(**json.loads(sys.argv[4]))
session = Session(provider_from(spec), Ledger(Path(sys.argv[1])), marks, lambda _: None, pauses=pauses)
session.note("intent", purpose="test", lab_id="abc123", deadline=marks.deadline, usd_per_hour=1.0)
armed = arm(session, spec)
session.note("creating", name=marks.name)
print(marks.name, flush=True)
time.sleep(600)
"""


def test_a_watchdog_starts_without_what_it_does_not_need() -> None:
    """It is started before every create, and lives as long as the machine."""
    heavy = "{'pydantic', 'numpy', 'scipy', 'tyro', 'boto3'}"
    script = f"import sys, common.cloud.watchdog; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_kill_9_of_the_owner(tmp_path: Path, account: tuple[FakeRunpod, str]) -> None:
    """Real processes: the owner is killed, its watchdog ends the machine, proves it, and exits; the key is nowhere."""
    fake, url = account
    folder = tmp_path / "renting"
    folder.mkdir()
    words = [str(folder), url, KEY, json.dumps(asdict(QUICK))]
    owner = subprocess.Popen([sys.executable, "-c", OWNER, *words], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert owner.stdout is not None
    try:
        with owner.stdout as said:
            name = said.readline().strip()
        pid = int((folder / PIDFILE).read_text())
        watchdog = psutil.Process(pid)
        fake._make({"name": name, "cloud": "SECURE", "image": "x:1", "gpu": {"id": "NVIDIA L4", "count": 4}})
        assert os.getsid(pid) == pid, "the terminal's end is not its own"
        assert KEY not in " ".join(watchdog.cmdline()) + str(watchdog.environ())
        time.sleep(0.3)
        assert fake.ours(), "while the owner lives nothing is ended"
    finally:
        os.kill(owner.pid, signal.SIGKILL)
        owner.wait()
    wait_for(lambda: Ledger(folder).closed)
    assert fake.ours() == []
    wait_for(lambda: not psutil.pid_exists(pid) or watchdog.status() == psutil.STATUS_ZOMBIE)
    assert KEY not in "".join(path.read_text() for path in folder.iterdir())


@pytest.mark.slow
def test_the_owner_lets_go(tmp_path: Path, account: tuple[FakeRunpod, str]) -> None:
    fake, url = account
    session, spec = renting(tmp_path / "done", url, time.time() + 3600)
    armed = arm(session, spec)
    make(fake, session)
    armed.tell("done")
    wait_for(lambda: not (tmp_path / "done" / PIDFILE).exists())
    assert fake.ours(), "done means that the owner has proven it"
    session, spec = renting(tmp_path / "kept", url, time.time() + 1)
    armed = arm(session, spec)
    armed.tell("keep")
    wait_for(lambda: session.ledger.closed)
    assert fake.ours() == [], "kept until the deadline, and no longer"


def test_nothing_is_rented_without_a_watchdog(tmp_path: Path, account: tuple[FakeRunpod, str]) -> None:
    _, url = account
    session, _ = renting(tmp_path / "none", url, time.time() + 3600)
    with pytest.raises(MachineError, match="does not start"):
        arm(session, {"kind": "runpod", "key": KEY, "url": "http://example.com"})
    evening = Evening(tmp_path)

    def broken(session: Session, spec: Mapping[str, Any]) -> Armed:
        raise MachineError("no")

    assert go(evening.request, replace(evening.world, arm=cast(Any, broken))) == 5
    assert not any(method == "POST" for method, _ in evening.fake.calls)
