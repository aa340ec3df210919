"""Commands and files over ssh, with a program called `ssh` that runs them here; and what a bad machine may send."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from pathlib import Path

import pytest

from common.cloud.errors import MachineError
from common.cloud.home import fetch
from common.cloud.ledger import Ledger
from common.cloud.transport import Done, Ssh, harmless

SSH = """#!/bin/bash
echo "$@" >> "$0.calls"
[ -e "$0.broken" ] && { echo "Connection refused" >&2; exit 255; }
exec bash -c "${@: -1}"
"""


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ssh:
    program = tmp_path / "bin" / "ssh"
    program.parent.mkdir()
    program.write_text(SSH)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("RUNPOD_API_KEY", "rpa_planted")
    monkeypatch.chdir(tmp_path)
    return Ssh("203.0.113.7", 2222, tmp_path / "key", tmp_path / "known_hosts")


def test_a_script_arrives_as_it_was_written(ssh: Ssh, tmp_path: Path) -> None:
    done = ssh.run("""echo "a  'b' \\"c\\" $((1+1))"; cat; env | grep -c RUNPOD; exit 7""", b"in\n")
    assert done.out == b"a  'b' \"c\" 2\nin\n0\n"
    assert done.code == 7
    said = (tmp_path / "bin" / "ssh.calls").read_text()
    for option in ("BatchMode=yes", "ForwardAgent=no", f"UserKnownHostsFile={tmp_path}/known_hosts", "-p 2222"):
        assert option in said
    assert "root@203.0.113.7" in said


def test_trouble_of_ssh_is_told_from_the_scripts(ssh: Ssh, tmp_path: Path) -> None:
    (tmp_path / "bin" / "ssh.broken").touch()
    with pytest.raises(MachineError, match="Connection refused"):
        ssh.run("true")
    (tmp_path / "bin" / "ssh.broken").unlink()
    with pytest.raises(MachineError, match="no answer within"):
        ssh.run("sleep 5", timeout_s=0.2)


def test_only_what_changed_travels(ssh: Ssh, tmp_path: Path) -> None:
    there = tmp_path / "lab" / "results" / "x"
    there.mkdir(parents=True)
    (there / "a.json").write_text("one")
    (there / "b.json").write_text("two")
    (there / ".unfinished").write_text("no")
    (tmp_path / "lab" / "results" / "schema.json").write_text("committed")
    (tmp_path / "renting").mkdir()
    ledger, home = Ledger(tmp_path / "renting"), tmp_path / "home"
    assert sorted(fetch(ssh, ledger, home).files) == ["x/a.json", "x/b.json"]
    assert fetch(ssh, ledger, home).files == []
    (there / "b.json").write_text("three")
    assert fetch(ssh, ledger, home).files == ["x/b.json"]
    assert (home / "x" / "b.json").read_text() == "three"
    kept = ledger.load("manifest.json")
    assert kept is not None
    assert kept["x/b.json"]["sha256"] == hashlib.sha256(b"three").hexdigest()


class Hostile:
    """A machine that lists and sends what it likes."""

    def __init__(self, listing: str, members: dict[str, bytes], sums: str, cut: int | None = None) -> None:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for name, content in {".sums": sums.encode(), **members}.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
        self.listing, self.archive = listing, buffer.getvalue()[:cut]

    def run(self, script: str, stdin: bytes = b"", timeout_s: float = 60.0) -> Done:
        return Done(0, self.listing.encode() if "find" in script else self.archive, "")


def sum_of(content: bytes, name: str) -> str:
    return f"{hashlib.sha256(content).hexdigest()}  {name}\n"


@pytest.mark.parametrize("name", ["../../evil", "/etc/evil", "a/../../evil", ".ssh/evil", "a\nb", "a/.hidden/b", ""])
def test_a_name_that_leads_out_is_not_taken(name: str, tmp_path: Path) -> None:
    machine = Hostile(f"4\t1.0\t{name}\n", {name or "x": b"evil"}, sum_of(b"evil", name))
    (tmp_path / "renting").mkdir()
    fetch(machine, Ledger(tmp_path / "renting"), tmp_path / "home")
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name == "evil"]
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("cut", [None, 600, 700, 1100])
def test_a_file_that_is_cut_or_spoiled_is_not_put_in_place(cut: int | None, tmp_path: Path) -> None:
    content = b"x" * 1000
    right = sum_of(content, "a.json") if cut else sum_of(b"another", "a.json")
    machine = Hostile("1000\t1.0\ta.json\n", {"a.json": content, "not-asked-for": b"no"}, right, cut)
    (tmp_path / "renting").mkdir()
    fetched = fetch(machine, Ledger(tmp_path / "renting"), tmp_path / "home")
    assert fetched.files == []
    assert fetched.unsettled == ["a.json"]
    assert not fetched.complete
    assert not (tmp_path / "home").exists()


def test_children_get_no_secrets() -> None:
    planted = {"RUNPOD_API_KEY": "x", "HF_TOKEN": "x", "AWS_PROFILE": "x", "MY_SECRET": "x"}
    kept = {"PATH": "x", "SSH_AUTH_SOCK": "x", "HOME": "x", "TOKENIZERS_PARALLELISM": "x", "MONKEY": "x"}
    assert harmless(planted | kept) == kept
