"""The machine's own end, run for real by bash: at its deadline, idle, with a clock that is wrong, and for ever."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.cloud.clock import Clock
from common.cloud.deadman import DeadMan, runpod_start
from tests.cloud.fake_runpod import KEY, FakeRunpod
from tests.cloud.pods import Pods
from tests.cloud.serving import serve

COUNTS = 'end_machine() { echo "$(date +%s)" >> "$LAB_HOME/ended"; }\n'


@contextmanager
def armed(folder: Path, dead_man: DeadMan, tools: dict[str, str] | None = None) -> Iterator[Path]:
    """The script in a process group of its own, with a machine's end that only counts."""
    (folder / "bin").mkdir()
    for name, text in ({"nvidia-smi": "exit 1"} | (tools or {})).items():
        (folder / "bin" / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / "bin" / name).chmod(0o755)
    script = dead_man.script(COUNTS) + "lab_deadman </dev/null >/dev/null 2>&1 &\nexit 3\n"
    environ = {"PATH": f"{folder}/bin:{os.environ['PATH']}", "HOME": str(folder)}
    process = subprocess.Popen(["bash", "-c", script], env=environ, start_new_session=True)
    assert process.wait() == 3, "the main command fails at once, and that disarms nothing"
    try:
        yield folder / "ended"
    finally:
        os.killpg(process.pid, signal.SIGKILL)


def ended_within(path: Path, seconds: float) -> float | None:
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        if path.exists() and path.read_text():
            return time.monotonic() - began
        time.sleep(0.05)
    return None


def dead_man(folder: Path, deadline_s: float, **changes: int) -> DeadMan:
    numbers = {"seconds": 3600, "idle_s": 3600, "grace_s": 3600, "poll_s": 1} | changes
    return DeadMan(int(time.time() + deadline_s), home=str(folder), **numbers)


@pytest.mark.slow
def test_at_its_deadline_and_again_for_ever(tmp_path: Path) -> None:
    with armed(tmp_path, dead_man(tmp_path, 3)) as ended:
        took = ended_within(ended, 10)
        assert took is not None
        assert 1.5 < took < 5.5
        time.sleep(1.3)
        assert len(ended.read_text().split()) >= 2, "the provider may have refused: it goes on"


@pytest.mark.slow
def test_a_clock_that_is_hours_behind(tmp_path: Path) -> None:
    with armed(tmp_path, dead_man(tmp_path, 7200, seconds=2)) as ended:
        assert ended_within(ended, 8) is not None


@pytest.mark.slow
def test_idle(tmp_path: Path) -> None:
    with armed(tmp_path, dead_man(tmp_path, 3600, idle_s=1, grace_s=1), {"nvidia-smi": "echo 0; echo 3"}) as ended:
        assert ended_within(ended, 10) is not None


@pytest.mark.slow
@pytest.mark.parametrize("busy", ["gpu", "stage"])
def test_busy_is_not_idle(tmp_path: Path, busy: str) -> None:
    (tmp_path / "stage.pid").write_text(str(os.getpid() if busy == "stage" else ""))
    tools = {"nvidia-smi": "echo 0; echo 97" if busy == "gpu" else "exit 1"}
    with armed(tmp_path, dead_man(tmp_path, 3600, idle_s=1, grace_s=0), tools) as ended:
        assert ended_within(ended, 2.5) is None


@pytest.mark.slow
def test_a_pod_ends_itself_with_its_own_key(tmp_path: Path) -> None:
    """The whole start command of a pod, three seconds before its deadline: through the API, with the pod's key."""
    fake, pods = FakeRunpod(Clock(), boot_s=0.0), Pods(tmp_path)
    fake.started, fake.ended = pods.started, pods.ended
    with serve(fake) as url:
        start = runpod_start(DeadMan(int(time.time()) + 3, 3600, poll_s=1), url)
        assert KEY not in start

        args = f"bash -c 'echo {base64.b64encode(start.encode()).decode()} | base64 -d | bash'"
        body = {"name": "llmlab-x-abcdef-dl1800000000", "image": "x:1", "cloud": "SECURE", "args": args, "env": {}}
        fake._make(body | {"gpu": {"id": "NVIDIA L4", "count": 4}})
        try:
            assert pods.alive() == ["pod-1"]
            began = time.monotonic()
            while fake.ours() and time.monotonic() - began < 15:
                time.sleep(0.1)
            assert time.monotonic() - began > 1.5, "not before its deadline"
            assert fake.ours() == []
            assert pods.alive() == []
        finally:
            pods.end_all()
