"""A command as it works where it is read."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from common.machine.folders import ROOT, WEEK, from_here, typed


@pytest.mark.parametrize(
    ("place", "script"),
    [(ROOT, "week5/decide.py"), (WEEK, "decide.py"), (ROOT / "common" / "core", "../../week5/decide.py")],
)
def test_inside_the_lab_it_is_short(place: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    assert typed("then: python week5/decide.py --rate 2; x") == f"then: python {script} --rate 2; x"
    assert (place / script).resolve() == WEEK / "decide.py"


def test_elsewhere_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert typed("python week5/decide.py") == f"python {WEEK / 'decide.py'}"
    assert from_here(WEEK) == str(WEEK)


def test_without_an_activated_environment_the_interpreter_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "executable", str(ROOT / ".venv" / "bin" / "python"))
    assert typed("python week5/decide.py") == ".venv/bin/python week5/decide.py"
    monkeypatch.setattr(sys, "executable", "/opt/lab/bin/python3")
    assert typed("python week5/decide.py") == "/opt/lab/bin/python3 week5/decide.py"
