"""A script of week5/ in this process, on a machine of two slices, with the engines of a `World`."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from common.experiment import options

SCRIPTS = Path(__file__).resolve().parents[2] / "week5"


@dataclass(frozen=True)
class Outcome:
    """What a run of the script said."""

    code: int
    out: str
    err: str

    @property
    def last(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out.splitlines()[-1])
        return found

    def refusal(self) -> str:
        """The one line of a refused command line."""
        assert self.code == options.BAD_INPUT, self
        assert self.out == "", "nothing but the error"
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("error: ")
        return lines[0]


def load_script(name: str = "benchmark_scaling") -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Script:
    """Runs the script and takes down what it says."""

    module: ModuleType
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def __call__(self, *arguments: str) -> Outcome:
        self.monkeypatch.setattr(sys, "argv", [str(self.module.__file__), *arguments])
        self.capsys.readouterr()
        try:
            code = self.module.main()
        except SystemExit as end:
            code = end.code
        out, err = self.capsys.readouterr()
        return Outcome(int(code or 0), out, err)
