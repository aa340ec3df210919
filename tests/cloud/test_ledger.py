"""The ledger on a disk that breaks off, or is full."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from common.cloud.ledger import new_ledger
from tests.cloud.world import ROOT


def test_a_line_after_half_a_line_is_whole(tmp_path: Path) -> None:
    """A crash left half a line; the id that is written next must not be lost with it."""
    ledger, _ = new_ledger(tmp_path)
    ledger.write("creating", 1.0)
    with ledger.path.open("ab") as file:
        file.write(b'{"at": 2.0, "event": "crea')
    ledger.write("created", 3.0, id="pod-1")
    assert ledger.machine_ids() == ["pod-1"]
    assert [one["event"] for one in ledger.events()] == ["creating", "created"]


def test_a_line_that_finds_no_room_raises(tmp_path: Path) -> None:
    """A disk that fills up takes what still fits and says how much that was; here a limit in place of its end."""
    ledger, _ = new_ledger(tmp_path)
    code = (
        "import resource, signal, sys; from pathlib import Path; from common.cloud.ledger import Ledger\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (20, 20))\n"
        "try: Ledger(Path(sys.argv[1])).write('creating', 1.0)\n"
        "except OSError: print('refused')"
    )
    done = subprocess.run([sys.executable, "-c", code, str(ledger.folder)], capture_output=True, check=True, cwd=ROOT)
    assert done.stdout == b"refused\n"
    ledger.write("creating", 1.0)
    assert [one["event"] for one in ledger.events()] == ["creating"]
