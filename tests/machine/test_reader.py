"""A command whose reader leaves ends without a traceback, and other failures stay what they are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.machine.reader import NOBODY_READS, while_read

ROOT = Path(__file__).resolve().parents[2]
BEGIN = "import sys\nfrom common.machine.reader import while_read\n"
MUCH = "print('line\\n' * 100_000)"


def run(main: str, *, reads: bool, unbuffered: str = "") -> tuple[int, str]:
    """Exit code and stderr of a command of these lines, whose stdout nobody reads, or somebody to the end."""
    code = f"{BEGIN}def main():\n    {main}\nsys.exit(while_read(main))"
    ours, theirs = os.pipe()
    if not reads:
        os.close(ours)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": unbuffered}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=theirs, stderr=subprocess.PIPE, text=True, env=environment) as process:
        os.close(theirs)
        if reads:
            with os.fdopen(ours) as stream:
                stream.read()
        _, said = process.communicate(timeout=60)
    return process.returncode, said


@pytest.mark.parametrize(
    "main",
    [
        f"{MUCH}; return 0",
        "print('little, written only at the end'); return 0",
        f"{MUCH}; sys.exit(0)",
        "print('help'); sys.exit(0)",
        "import rich; rich.print('by rich\\n' * 10_000); return 0",
    ],
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_nobody_reads(main: str, unbuffered: str) -> None:
    assert run(main, reads=False, unbuffered=unbuffered) == (NOBODY_READS, "")


@pytest.mark.parametrize(("main", "code"), [("print('x'); return 1", 1), ("sys.exit(2)", 2), ("return 0", 0)])
def test_somebody_reads(main: str, code: int) -> None:
    assert run(main, reads=True) == (code, "")


def test_another_pipe_that_breaks_is_no_reader_that_left() -> None:
    code, said = run("raise BrokenPipeError(32, 'of an engine')", reads=True)
    assert code == 1
    assert "of an engine" in said


def test_a_failure_is_shown_though_nobody_reads() -> None:
    code, said = run("raise KeyError('a fault of ours')", reads=False)
    assert code == 1
    assert "a fault of ours" in said


def test_without_any_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert while_read(lambda: 3) == 3
