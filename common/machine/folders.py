"""Where the lab's scripts are, as somebody has to write it in the folder that they are in."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WEEK = ROOT / "week5"


def from_here(path: Path) -> str:
    """A place of the lab from the current folder: as short as it can be inside the lab, else in full."""
    here = Path.cwd()
    return os.path.relpath(path, here) if here == ROOT or ROOT in here.parents else str(path)


def typed(text: str) -> str:
    """The text with `python week5/x.py` as it works in the current folder, by the interpreter that runs."""
    return re.sub(r"\bpython week5/(\w+\.py)", lambda match: f"{_interpreter()} {from_here(WEEK / match[1])}", text)


def _interpreter() -> str:
    """`python`, or where that is another one (no environment is activated): the place of the one that runs."""
    running, found = Path(sys.executable), shutil.which("python")
    if found and Path(found).parent == running.parent:  # not resolved: an environment's is a link to its parent's
        return "python"
    return from_here(running) if ROOT in running.parents else str(running)
