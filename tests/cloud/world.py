"""A renting in a test: a clock that only tests move, a machine that answers by rote, and what was said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from common.cloud.caps import Caps
from common.cloud.clock import Clock, Pauses
from common.cloud.errors import CloudError, MachineError
from common.cloud.estimate import Estimate
from common.cloud.flow import Request, World, go
from common.cloud.launch import Connect
from common.cloud.ledger import Ledger, ledgers
from common.cloud.profiles import Profile, read_profiles
from common.cloud.provider import Machine
from common.cloud.runpod import Runpod
from common.cloud.session import Session
from common.cloud.transport import Done
from common.cloud.watchdog import Armed
from common.cloud.work import Job
from tests.cloud.fake_runpod import KEY, FakeRunpod

ROOT = Path(__file__).resolve().parents[2]
PROFILES = ROOT / "runpod" / "profiles.toml"
GPUS = "@gpus\n" + "NVIDIA A100-SXM4-80GB, 580.65.06\n" * 4
PROBED = f"{GPUS}@cuda\nCUDA Version: 13.0\n@links\nGPU0 X NV12 NV12 NV12\n@disk\n{10**12}\n@end\n"


class TestClock(Clock):
    """Time that passes only in pauses; `interrupt_at` presses Ctrl-C in that pause."""

    __test__ = False

    def __init__(self, interrupt_at: int | None = None) -> None:
        self.time, self.pauses, self.interrupt_at = 1.8e9, 0, interrupt_at

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds
        self.pauses += 1
        if self.pauses == self.interrupt_at:
            raise KeyboardInterrupt


@dataclass
class RoteTransport:
    """A machine whose every command succeeds as long as the pod exists; stages take two looks."""

    fake: FakeRunpod
    machine: Machine
    looks: int = 0
    scripts: list[str] = field(default_factory=list)
    stdin: list[bytes] = field(default_factory=list)

    def run(self, script: str, stdin: bytes = b"", timeout_s: float = 60.0) -> Done:
        pod = self.fake.pods[self.machine.id]
        self.fake._walk(pod)
        if pod.gone or "never_answers" in self.fake.faults or self.fake._walk(pod) != "RUNNING":
            raise MachineError("no answer")
        self.scripts.append(script)
        self.stdin.append(stdin)
        if script.startswith("\necho"):
            return Done(0, PROBED.encode(), "")
        if ".exit" in script:
            self.looks += 1
            return Done(0, b"0" if self.looks % 8 == 0 else b"", "")
        return Done(0, b"", "")


class Held:
    """A watchdog that only remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def tell(self, word: str) -> None:
        self.told.append(word)

    def close(self) -> None:
        self.told.append("closed")


@dataclass
class Evening:
    """One `go` against the fake, and everything that it left."""

    folder: Path
    faults: frozenset[str] = frozenset()
    interrupt_at: int | None = None
    profile: str = "4xa100"
    said: list[str] = field(default_factory=list)
    held: Held = field(default_factory=Held)
    transports: list[RoteTransport] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.clock = TestClock(self.interrupt_at)
        self.fake = FakeRunpod(self.clock, self.faults)
        self.provider = Runpod(KEY, self.clock, "http://127.0.0.1:1", self.fake.exchange)

    @property
    def request(self) -> Request:
        profile: Profile = read_profiles(PROFILES, "runpod")[self.profile]
        job = Job("week5/benchmark_scaling.py", ("--preset", "lab"), None)
        planned = Estimate(8, 2, 600.0, 0.0, "as planned")
        (self.folder / "root").mkdir(exist_ok=True)
        results = self.folder / "results"
        made = Request(profile, Caps(15.0, 1.5), "scaling", job, planned, ROOT, results, "ssh-ed25519 AAAA me@here")
        return made

    @property
    def world(self) -> World:
        def arm(session: Session, spec: Mapping[str, Any]) -> Armed:
            return cast(Armed, self.held)

        def connect(session: Session) -> Connect:
            def to(machine: Machine) -> RoteTransport:
                self.transports.append(RoteTransport(self.fake, machine))
                return self.transports[-1]

            return to

        pauses = Pauses()
        return World(self.provider, {}, connect, self.said.append, lambda _: True, self.clock, pauses, arm)

    def go(self) -> int:
        """The exit code, as a command line would have it."""
        try:
            return go(self.request, self.world)
        except CloudError as error:
            self.said.append(str(error))
            return error.code

    @property
    def ledger(self) -> Ledger:
        return ledgers(self.folder / "results")[-1]
