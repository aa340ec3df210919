"""`go` for real: the command line, the API behind a socket, a machine that is a folder and a process group."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from common.cloud.clock import Clock, Pauses
from common.cloud.launch import Connect
from common.cloud.main import Setting, main
from common.cloud.provider import Machine
from common.cloud.session import Session
from common.cloud.transport import Transport
from common.store.schema import RESULT
from tests.cloud.fake_runpod import KEY, FakeRunpod
from tests.cloud.pods import LocalShell, Pods, end_watchdogs
from tests.cloud.serving import serve
from tests.cloud.world import PROFILES
from tests.store.sample import sample_result

if TYPE_CHECKING:  # the `go` that is killed starts without it
    import pytest

QUICK = Pauses(
    **{"poll_s": 0.1, "found_s": 0.5, "between_s": 0.2, "reachable_s": 20, "pull_s": 0.3, "wind_down_s": 5},
    **{"silent_s": 1, "stage_poll_s": 0.1, "watch_s": 0.1, "grace_s": 1},
)
SUMMARY = {"result": None, "status": "dry-run", "summary": {"cases": 1, "engine_starts": 1, "minutes": 0.1}}
TINY = f"""
import os, pathlib, sys, time
if "--dry-run" in sys.argv:
    print({json.dumps(json.dumps(SUMMARY))})
    sys.exit()
print(sorted(os.environ), sys.argv)
folder = pathlib.Path("results/benchmark_scaling")
folder.mkdir(parents=True)
part = pathlib.Path("result.json").read_text()
(folder / "20260101T000000Z-m-x.json").write_text(part[:100])
(folder / ".half-written").write_text("no")
(folder / "x y.parquet").write_bytes(bytes(range(256)) * 400)
time.sleep(float(os.environ.get("TINY_SLEEPS", "0.8")))
(folder / "20260101T000000Z-m-x.json").write_text(part)
sys.exit(int(os.environ.get("TINY_CODE", "0")))
"""


@dataclass
class Place:
    """A checkout with one tiny experiment, an ssh key, a results folder, and the pods of an account."""

    folder: Path
    fake: FakeRunpod
    pods: Pods
    url: str
    root: Path = Path()
    pauses: Pauses = QUICK

    def __post_init__(self) -> None:
        root = self.root = self.folder / "root"
        (root / "week5").mkdir(parents=True)
        (root / "week5" / "benchmark_scaling.py").write_text(TINY)

        (root / "result.json").write_bytes(RESULT.dump_json(sample_result("complete")))
        (root / ".env").write_text("SECRET=1")
        subprocess.run(["git", "init", "-q", str(root)], check=True)
        key = self.folder / "id_ed25519"
        key.write_text("not used: the machine is a folder")
        key.chmod(0o600)
        (self.folder / "id_ed25519.pub").write_text("ssh-ed25519 AAAAplanted me@here\n")
        self.fake.started, self.fake.ended = self.pods.started, self.pods.ended

    @property
    def results(self) -> Path:
        return self.folder / "results"

    def __call__(self, *words: str) -> int:
        """One verb, as the command line runs it; machines are reached through a local shell."""
        return command(self.folder, self.root, self.url, self.pods, words, self.pauses)

    def go(self, *words: str, exp_args: str = "--model qwen2-9m") -> int:
        """The whole evening with the tiny experiment."""
        return self(*going(self.folder), "--exp-args", exp_args, *words)


@contextlib.contextmanager
def a_place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """An account behind a socket whose pods are processes of this machine, with keys planted in the environment."""
    monkeypatch.setenv("RUNPOD_API_KEY", KEY)
    monkeypatch.setenv("HF_TOKEN", "hf_PLANTEDTOKEN")
    (folder / "pods").mkdir()
    fake, pods = FakeRunpod(Clock(), boot_s=0.2), Pods(folder / "pods")
    with serve(fake) as url:
        try:
            yield Place(folder, fake, pods, url)
        finally:
            end_watchdogs(folder)
            pods.end_all()


def going(folder: Path) -> list[str]:
    """The words of such an evening."""
    wanted = ["--profile", "4xa100", "--exp", "benchmark_scaling", "--max-usd", "15", "--max-hours", "1.5", "--yes"]
    return ["go", *wanted, "--ssh-key", str(folder / "id_ed25519"), "--keep-venv", sys.prefix]


def command(folder: Path, root: Path, url: str, pods: Pods, words: Sequence[str], pauses: Pauses = QUICK) -> int:
    """`runpod/run.py` with these words, its account at `url`, its machines in folders."""

    def connect(session: Session) -> Connect:
        def to(machine: Machine) -> Transport:
            return LocalShell(pods, machine.id)

        return to

    setting = Setting(root, url, connect, Clock(), pauses)
    return main("runpod", PROFILES, [*words, "--results-dir", str(folder / "results")], setting)


if __name__ == "__main__":  # a `go` that can be killed: the place's folder, the account's address, more words
    here = Path(sys.argv[1])
    sys.exit(command(here, here / "root", sys.argv[2], Pods(here / "pods"), [*going(here), *sys.argv[3:]]))
