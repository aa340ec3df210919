"""The ledger of one renting: what was meant and what came of it, on disk before it happens.

One folder per renting, `results/cloud/<UTC>-<lab id>/`. `ledger.jsonl` only grows; each line is flushed to the disk
before the step that it announces. It helps to find a machine again; whether one exists only the provider says.
"""

from __future__ import annotations

import json
import os
import secrets
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.cloud.errors import Refused
from common.cloud.marks import Marks

RECEIPT = "teardown.json"
MOMENT = (int, float)


@dataclass(frozen=True)
class Ledger:
    """The folder of one renting."""

    folder: Path

    @property
    def path(self) -> Path:
        """The ledger itself."""
        return self.folder / "ledger.jsonl"

    def write(self, event: str, at: float, **facts: object) -> None:
        """Append a line and wait until the disk has it.

        Raises:
            OSError: it has not, or not all of it.
        """
        line = json.dumps({"at": round(at, 3), "event": event, **facts}) + "\n"
        with open(self.path, "ab+", opener=_private) as file:  # Path.open has no opener
            if file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
                line = f"\n{line}"  # after half a line, which a crash has left, this one would be lost with it
            file.write(line.encode())  # in full, or it raises: a disk that fills up takes what still fits
            file.flush()
            os.fsync(file.fileno())

    def events(self) -> list[dict[str, Any]]:
        """All lines; half a line, which a crash may leave, is not one."""
        found = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines() if self.path.exists() else []:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict) and isinstance(event.get("event"), str) and isinstance(event.get("at"), MOMENT):
                found.append(event)
        return found

    def last(self, event: str) -> dict[str, Any] | None:
        """The newest line of this kind."""
        return next((one for one in reversed(self.events()) if one["event"] == event), None)

    def machine_ids(self) -> list[str]:
        """Ids of all machines that were made for it, in order."""
        return list(dict.fromkeys(str(one["id"]) for one in self.events() if one["event"] == "created" and "id" in one))

    def marks(self) -> Marks | None:
        """Its marks, from the intent; None where there is none, or a spoiled one."""
        intent = self.last("intent") or {}
        purpose, lab_id, deadline = (intent.get(name) for name in ("purpose", "lab_id", "deadline"))
        if not (isinstance(purpose, str) and isinstance(lab_id, str) and lab_id and isinstance(deadline, int)):
            return None
        return Marks(purpose, lab_id, deadline)

    @property
    def spoiled(self) -> bool:
        """Whether a machine was asked for, and what it was meant to be cannot be read any more."""
        return self.marks() is None and (self.last("creating") or self.last("created")) is not None

    def save(self, name: str, document: object) -> Path:
        """Replace a JSON file of the folder in one step."""
        path = self.folder / name
        with tempfile.NamedTemporaryFile("w", dir=self.folder, prefix=".", delete=False, encoding="utf-8") as file:
            file.write(json.dumps(document, indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        Path(file.name).replace(path)
        return path

    def withdraw(self, name: str) -> None:
        """Remove a file of the folder, on the disk before this returns; harmless where there is none."""
        (self.folder / name).unlink(missing_ok=True)
        _sync(self.folder)

    def load(self, name: str) -> dict[str, Any] | None:
        """A JSON object of the folder; None where it is missing or broken."""
        try:
            document = json.loads((self.folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return document if isinstance(document, dict) else None

    @property
    def closed(self) -> bool:
        """Whether a receipt says that nothing of it is left."""
        receipt = self.load(RECEIPT)
        return receipt is not None and receipt.get("verified") is True


def new_ledger(results: Path) -> tuple[Ledger, str]:
    """A new folder, and the lab id that nobody else has.

    Raises:
        Refused: the folder cannot be made.
    """
    lab_id = secrets.token_hex(3)
    folder = results.expanduser().absolute() / "cloud" / f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{lab_id}"
    try:
        folder.mkdir(parents=True)
        Ledger(folder).path.touch(0o600)
        for changed in (folder, folder.parent):  # the names, too, must be on the disk
            _sync(changed)
    except OSError as error:
        raise Refused(f"cannot write to {folder}: {error.strerror}; choose another with --results-dir") from error
    return Ledger(folder), lab_id


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def ledgers(results: Path) -> list[Ledger]:
    """All rentings that are known here, oldest first."""
    return [Ledger(path.parent) for path in sorted((results.expanduser().absolute() / "cloud").glob("*/ledger.jsonl"))]


def spoiled_ledgers(results: Path) -> list[str]:
    """What a person must know about each that no receipt closes and that does not say any more what was rented."""
    return [
        f"{ledger.folder} cannot be read, and a machine was asked for there: look on the provider's page"
        for ledger in ledgers(results)
        if ledger.spoiled and not ledger.closed
    ]


def open_ledgers(results: Path, provider: str) -> list[Ledger]:
    """Those of a provider whose end no receipt proves, oldest first."""
    mine = [one for one in ledgers(results) if (one.last("intent") or {}).get("provider") == provider]
    return [one for one in mine if not one.closed]
