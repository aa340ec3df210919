"""Result files on disk: named, locked while written, saved atomically, found again to resume."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from common.store.schema import RESULT, SCHEMA_VERSION, Result

ANOTHER = "give another file, or measure again"  # the remedy where somebody named the file
AFRESH = "move it away, or start afresh with --no-resume"  # where a run looked for something to go on with
RESULT_NAME = re.compile(r"\d{8}T\d{6}Z-.+\.json")  # tells results from what stands beside them


class StoreError(ValueError):
    """A result cannot be read or written; the message is one line with the remedy."""


@dataclass(frozen=True)
class ResultPaths:
    """A result file and what stands beside it."""

    json: Path

    @property
    def requests(self) -> Path:
        """Folder of per-request parquet files."""
        return self.json.with_suffix(".requests")

    @property
    def bench(self) -> Path:
        """Folder of the export that `vllm bench sweep plot` reads."""
        return self.json.with_suffix(".bench")

    @property
    def logs(self) -> Path:
        """Folder of engine logs."""
        return self.json.with_suffix(".logs")

    @property
    def lock(self) -> Path:
        """Held while a run writes the file."""
        return self.json.with_name(f".{self.json.stem}.lock")


def new_paths(results: Path, experiment: str, machine: str, model: str) -> ResultPaths:
    """`<results>/<experiment>/<UTC>-<machine>-<model>.json`, a name that no other run has.

    Raises:
        StoreError: the folder cannot be made or written, or its disk is full.
    """
    folder = results.expanduser().absolute() / experiment
    with _writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _probe(folder)
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    stem = f"{moment}-{machine}-{_slug(model)}"
    for count in itertools.count(1):
        paths = ResultPaths(folder / (f"{stem}.json" if count == 1 else f"{stem}-{count}.json"))
        if not paths.json.exists():
            with contextlib.suppress(FileExistsError):
                paths.lock.touch(exist_ok=False)  # two runs that begin in the same second get two names
                return paths
    raise AssertionError("unreachable")


def check_writable(results: Path, experiment: str) -> None:
    """Check that a result could be written, and leave nothing behind.

    Raises:
        StoreError: the folder cannot be made or written, or its disk is full.
    """
    folder = results.expanduser().absolute() / experiment
    with _writing_to(folder):
        _probe(next(place for place in (folder, *folder.parents) if place.exists()))


@contextlib.contextmanager
def _writing_to(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"cannot write to {folder}: {error.strerror}; choose another with --results-dir") from error


def _probe(folder: Path) -> None:
    """Write a little, and forget it.

    Raises:
        OSError: that cannot be done.
    """
    with tempfile.TemporaryFile(dir=folder) as probe:
        probe.write(b"\0" * 65_536)
        probe.flush()
        os.fsync(probe.fileno())


def save(result: Result, path: Path) -> None:
    """Replace the file in one step, so that a reader, or a crash, never sees half of it.

    Raises:
        StoreError: the disk is full or gone; what was saved before is still there.
    """
    try:
        _replace(path, RESULT.dump_json(result, indent=1))
    except OSError as error:
        raise StoreError(f"cannot save {path}: {error.strerror}; make room, then run the same command again") from error


def _replace(path: Path, encoded: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.stem}-", delete=False) as file:
        try:
            file.write(encoded)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).chmod(0o644)
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def load(path: Path, remedy: str = ANOTHER) -> Result:
    """Read and validate a result file; an error ends with the remedy.

    Raises:
        StoreError: missing, truncated, of another schema version, or not a result.
    """
    try:
        encoded = path.read_bytes()
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}; {remedy}") from error
    return decode(encoded, str(path), remedy)


def decode(encoded: bytes, path: str, remedy: str = ANOTHER) -> Result:
    """Validate the bytes of a result file; `path` is what errors call it.

    Raises:
        StoreError: truncated, of another schema version, or not a result.
    """
    try:
        content = json.loads(encoded)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path} is truncated or not JSON; {remedy}") from error
    if not isinstance(content, dict):
        raise StoreError(f"{path} is not a result file; {remedy}")
    version = content.get("schema_version")
    if version != SCHEMA_VERSION:
        raise StoreError(f"{path} has schema version {version}, this lab reads {SCHEMA_VERSION}; {remedy}")
    try:
        return RESULT.validate_python(content, strict=False)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise StoreError(f"{path} is not a result file: {place}: {first['msg']}; {remedy}") from error


@contextlib.contextmanager
def hold(paths: ResultPaths) -> Iterator[None]:
    """Hold a result's lock; the system releases it when the process ends, however it ends.

    Raises:
        StoreError: another run holds it.
    """
    import fcntl  # POSIX only, as are engines

    with paths.lock.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreError(f"{paths.json} is being written by another run; wait for it to end") from error
        try:
            yield
        finally:
            paths.lock.unlink(missing_ok=True)


def find_interrupted(results: Path, experiment: str, resume_key: str) -> ResultPaths | None:
    """The result that a run with this key left unfinished and that no living run holds.

    Of several the one with the most measured cases, and of those the newest.

    Raises:
        StoreError: a file in the experiment's folder cannot be read.
    """
    folder = results.expanduser().absolute() / experiment
    best: ResultPaths | None = None
    most = -1
    for path in sorted(folder.glob("*.json"), key=lambda path: path.stem, reverse=True):
        result = load(path, AFRESH)
        measured = sum(bool(case.repeats) for case in result.cases)
        if result.status == "complete" or result.resume_key != resume_key or measured <= most:
            continue
        if not _is_held(ResultPaths(path)):
            best, most = ResultPaths(path), measured
    return best


def _is_held(paths: ResultPaths) -> bool:
    try:
        with hold(paths):
            return False
    except StoreError:
        return True


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.") or "model"
