"""The scaling benchmark as a user runs it: real vLLM, whole script, and everything that can go wrong with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from common.store import files
from common.store.schema import Result

pytestmark = [pytest.mark.vllm, pytest.mark.apart, pytest.mark.timeout(600)]

SCRIPT = Path(__file__).resolve().parents[2] / "week5" / "benchmark_scaling.py"
SMALLEST = ["--model", "qwen2-9m", "--curves", "fixed", "--repeats", "2", "--input-tokens", "16"]


@contextmanager
def running(results: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The script as a process; whatever the test does, it is gone afterwards."""
    command = [sys.executable, str(SCRIPT), *SMALLEST, "--results-dir", str(results), *arguments]
    script = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, cwd="/"
    )
    with script:
        try:
            yield script
        finally:
            script.kill()


def finish(script: subprocess.Popen[str]) -> tuple[dict[str, Any], str]:
    """Wait for the end; the last line on stdout as JSON, and stderr."""
    out, err = script.communicate(timeout=400)
    return json.loads(out.splitlines()[-1]), err


def read_until(script: subprocess.Popen[str], words: str) -> str:
    """What it says on stderr, up to the line with these words."""
    assert script.stderr is not None
    seen = ""
    for line in script.stderr:
        seen += line
        if words in line:
            return seen
    raise AssertionError(f"it ended before it said {words!r}: {seen}")


def is_worker(process: psutil.Process) -> bool:
    return "Worker" in " ".join(process.cmdline()) or "Worker" in process.name()


def the_result(results: Path) -> Result:
    (path,) = (results / "benchmark_scaling").glob("*.json")
    return files.load(path)


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def saved_cases(results: Path) -> list[str]:
    found = list((results / "benchmark_scaling").glob("*.json"))
    return [case.id for case in files.load(found[0]).cases if case.repeats] if found else []


def listening(connections: Iterable[Any]) -> set[int]:
    return {connection.laddr.port for connection in connections if connection.status == psutil.CONN_LISTEN}


class Traces:
    """What a script and its engine had: processes, ports, shared memory."""

    def __init__(self, script: subprocess.Popen[str]) -> None:
        self.processes: list[psutil.Process] = []
        self.ports: set[int] = set()
        mapped: set[int] = set()
        for process in psutil.Process(script.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess, ProcessLookupError, FileNotFoundError):  # some live for a moment only
                self.ports |= listening(process.net_connections("tcp"))
                lines = Path(f"/proc/{process.pid}/maps").read_text().splitlines()
                # By inode: a semaphore is mapped under a temporary name, shown as deleted, before it gets its own.
                mapped |= {int(line.split()[4]) for line in lines if "/dev/shm/" in line}
                self.processes.append(process)
        self.shared = {path for path in Path("/dev/shm").iterdir() if path.stat().st_ino in mapped}
        assert len(self.processes) >= 3, "guard, server, engine core"
        assert self.ports
        assert self.shared

    def gone(self) -> bool:
        alive = any(process.is_running() and process.status() != "zombie" for process in self.processes)
        return not (
            alive or self.ports & listening(psutil.net_connections("tcp")) or any(path.exists() for path in self.shared)
        )


def test_killed_in_its_second_case_it_leaves_nothing_and_resumes_whatever_dies_next(tmp_path: Path) -> None:
    """First the script is killed; while it goes on, a worker is: that case fails, and the next one runs."""
    arguments = ("--tp", "1", "2", "4", "--concurrency", "2", "4", "--output-tokens", "24")
    with running(tmp_path, *arguments) as script:
        wait_for(lambda: bool(saved_cases(tmp_path)), 120)
        traces = Traces(script)
        os.kill(script.pid, signal.SIGKILL)
    killed_at = time.monotonic()
    wait_for(traces.gone, 10)
    assert time.monotonic() - killed_at < 10
    before = the_result(tmp_path)
    assert before.status == "running"
    first = next(case for case in before.cases if case.id == "tp1/fixed/c2")

    with running(tmp_path, *arguments) as script:
        seen = read_until(script, "tp2/fixed/c2: repeat 1")
        workers = [process for process in psutil.Process(script.pid).children(recursive=True) if is_worker(process)]
        assert len(workers) == 2, [process.cmdline() for process in workers]
        workers[1].kill()
        last, err = finish(script)
    assert script.returncode == 1, err
    assert "going on with" in seen
    after = the_result(tmp_path)
    assert after.status == last["status"] == "complete"
    again = next(case for case in after.cases if case.id == first.id)
    assert again.repeats == first.repeats, "the finished case was not measured again"
    cases = {case.id: case for case in after.cases}
    states = {f"tp{tp}/fixed/c{streams}": "skipped" if tp == 4 else "ok" for tp in (1, 2, 4) for streams in (2, 4)}
    assert {name: case.status for name, case in cases.items()} == states | {"tp2/fixed/c2": "failed"}
    error = cases["tp2/fixed/c2"].error
    assert error is not None and error.kind == "worker_died"
    assert Path(last["result"]).is_absolute()
    # A busy machine makes an INVALID client, and such a case has no speed-up
    pair = [cases["tp1/fixed/c4"], cases["tp2/fixed/c4"]]
    believed = not any(case.is_invalid for case in pair)
    assert ("speedup" in last["summary"]["tp2/fixed/c4"]) == believed
    assert last["summary"]["tp4/fixed/c4"] == {"status": "skipped"}


@pytest.mark.parametrize("times", [1, 2])
def test_interrupted_it_saves_and_leaves_nothing(tmp_path: Path, times: int) -> None:
    with running(tmp_path, "--tp", "1", "--concurrency", "2", "4", "--output-tokens", "48") as script:
        if times == 1:
            wait_for(lambda: bool(saved_cases(tmp_path)), 120)
        else:
            read_until(script, "weights done")
        traces = Traces(script)
        for _ in range(times):
            script.send_signal(signal.SIGINT)
            time.sleep(0.3)
        last, err = finish(script)
    assert script.returncode == 130, err
    assert last["status"] == "interrupted"
    wait_for(traces.gone, 10)
    assert the_result(tmp_path).status == "interrupted"
