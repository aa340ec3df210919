"""What every script of week5/ has in common as a command."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = [path for path in sorted((ROOT / "week5").glob("*.py")) if path.name != "__init__.py"]
each_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
FIRST = "sys.path.insert(0, str(Path(__file__).resolve().parents[1]))"


@each_script
def test_it_takes_the_lab_it_stands_in_and_ends_quietly_where_nobody_reads(script: Path) -> None:
    text = script.read_text(encoding="utf-8")
    assert text.index(FIRST) < text.index("\nfrom common."), "before anything of the lab is imported"
    assert text.endswith('\nif __name__ == "__main__":\n    sys.exit(while_read(main))\n')


@pytest.mark.slow
def test_the_first_lines_of_help() -> None:
    command = f'"{sys.executable}" "{ROOT / "week5" / "checklist.py"}" --help | head -n 1; echo "${{PIPESTATUS[0]}}"'
    outcome = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd="/", timeout=120)
    assert outcome.stderr == ""
    first, _, code = outcome.stdout.rstrip().rpartition("\n")
    assert first.startswith("usage: ")
    assert code in ("0", "141"), "0 where all of it went into the pipe before head left"


@pytest.mark.slow
def test_of_two_checkouts_with_one_environment_each_uses_its_own(tmp_path: Path) -> None:
    """The environment has another checkout installed, as `pip install --editable` there leaves it."""
    here = tmp_path / "mine"
    for folder in ("common", "week5"):
        shutil.copytree(ROOT / folder, here / folder, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, str(here / "week5" / "checklist.py")]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    outcome = subprocess.run(command, capture_output=True, text=True, cwd="/", env=environment, timeout=120)
    assert f"Files are under {here / 'results'}" in outcome.stdout, outcome.stderr
