"""The last line on stdout: whole for scripts, short for a person."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from common.experiment.report import print_last_line

SUMMARY = {"tp1/fixed/c1": {"status": "ok", "output_throughput": 31.0}}


@pytest.mark.parametrize("on_terminal", [True, False])
def test_the_last_line_is_one_document_and_fits_a_terminal(
    on_terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: on_terminal)
    print_last_line(Path("/r.json"), "complete", SUMMARY)
    document = json.loads(capsys.readouterr().out)
    assert document == {"result": "/r.json", "status": "complete"} | ({} if on_terminal else {"summary": SUMMARY})
