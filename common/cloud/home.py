"""Bringing results home: only what changed, checked by its sha256, each file put into place in one step.

What a rented machine sends is data: a name that leads out of the results, or a file that nobody asked for, is refused.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from common.cloud.errors import MachineError
from common.cloud.ledger import Ledger
from common.cloud.transport import Transport

MANIFEST = "manifest.json"
BATCH_BYTES = 256 << 20
NAME = re.compile(r"[\w.+@ =-]+(/[\w.+@ =-]+)*")
# Files that are being written begin with a dot; the committed reference and other rentings stay where they are.
LIST = (
    "cd {folder}/results 2>/dev/null || exit 0; find . -type f ! -name '.*' ! -path './reference/*' ! -path './cloud/*'"
    " ! -path './schema.json' -printf '%s\\t%T@\\t%P\\n'"
)
SEND = "cd {folder}/results && tr '\\n' '\\0' > ../.wanted && xargs -0 sha256sum -- < ../.wanted > ../.sums; " + (
    "tar -cf - -C .. .sums -C results --null --verbatim-files-from -T ../.wanted"
)


@dataclass(frozen=True)
class Fetched:
    """One fetch: files put into place, and those that changed while they were read (they come next time)."""

    files: list[str]
    unsettled: list[str]
    listed: int

    @property
    def complete(self) -> bool:
        """Whether everything that lay there is now here."""
        return not self.unsettled


def fetch(transport: Transport, ledger: Ledger, results: Path, folder: str = "lab") -> Fetched:
    """Fetch what is new or changed since the last time.

    Raises:
        MachineError: the machine does not answer, or sends what it was not asked for.
    """
    kept = ledger.load(MANIFEST) or {}
    listed = _listing(transport, folder)
    wanted = [name for name, stamp in listed.items() if kept.get(name, {}).get("stamp") != stamp]
    done: list[str] = []
    unsettled: list[str] = []
    for batch in _batches(wanted, listed):
        command = SEND.format(folder=folder)
        answer = transport.run(command, ("\n".join(batch) + "\n").encode(), timeout_s=300)
        for name, content, checksum in _unpacked(answer.out, batch):
            if hashlib.sha256(content).hexdigest() != checksum:
                unsettled.append(name)
                continue
            place = _place(results, ledger, name, kept)
            write(place, content)
            kept[name] = {"stamp": listed[name], "sha256": checksum, "bytes": len(content), "at": str(place)}
            done.append(name)
        unsettled += [name for name in batch if name not in done and name not in unsettled]
        ledger.save(MANIFEST, kept)
    return Fetched(done, unsettled, len(listed))


def write(path: Path, content: bytes) -> None:
    """Replace a file in one step, with the disk's word for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).chmod(0o644)
    Path(file.name).replace(path)


def _listing(transport: Transport, folder: str) -> dict[str, str]:
    answer = transport.run(LIST.format(folder=folder))
    if answer.code != 0:
        raise MachineError(f"results cannot be listed: {answer.err.strip()[-200:]}")
    found = {}
    for line in answer.out.decode(errors="replace").splitlines():
        size, _, rest = line.partition("\t")
        moment, _, name = rest.partition("\t")
        if size.isdecimal() and _harmless(name):
            found[name] = f"{size} {moment}"
    return found


def _harmless(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return NAME.fullmatch(name) is not None and not any(part in ("..", ".") or part.startswith(".") for part in parts)


def _batches(names: list[str], listed: dict[str, str]) -> list[list[str]]:
    batches: list[list[str]] = []
    room = 0
    for name in names:
        size = int(listed[name].partition(" ")[0])
        if not batches or size > room:
            batches.append([])
            room = BATCH_BYTES
        batches[-1].append(name)
        room -= size
    return batches


def _unpacked(archive: bytes, asked: list[str]) -> list[tuple[str, bytes, str]]:
    """Names, contents and checksums of what was asked for; a cut archive gives what came whole."""
    sums: dict[str, str] = {}
    found = []
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r|") as tar:
            for member in tar:
                file = tar.extractfile(member) if member.isreg() else None
                if file is None:
                    continue
                content = file.read()
                if member.name == ".sums":
                    lines = content.decode(errors="replace").splitlines()
                    sums = {line[66:]: line[:64] for line in lines}
                elif member.name in asked and len(content) == member.size:
                    found.append((member.name, content))
    except (tarfile.TarError, EOFError, OSError):
        pass  # what is missing is asked for again
    return [(name, content, sums[name]) for name, content in found if name in sums]


def _place(results: Path, ledger: Ledger, name: str, kept: dict[str, dict[str, str]]) -> Path:
    """Where a file goes: under results, but never over one that did not come from this machine."""
    if name in kept:
        return Path(kept[name]["at"])
    place = results / name
    return ledger.folder / "beside" / name if place.exists() else place
