"""Results in a zip: written in one step, and read without unpacking it."""

from __future__ import annotations

import os
import re
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from common.store.files import RESULT_NAME, StoreError, decode, load
from common.store.schema import Result

LARGEST_RESULT_BYTES = 256 << 20  # unpacked; a zip from elsewhere may claim anything
A_DATE = (2000, 1, 1, 0, 0, 0)  # file times tell nothing about a measurement, but something about a person


def load_result(place: Path) -> Result:
    """A result file, the only result of a zip, or one of several as `share.zip:name.json`.

    Raises:
        StoreError: not there, not readable, or several results and none chosen.
    """
    archive, chosen = place, None
    if not place.exists() and (parts := re.fullmatch(r"(.+\.zip):(.+)", str(place), re.DOTALL)):
        archive, chosen = Path(parts[1]), parts[2]
    if archive.suffix.lower() != ".zip":
        return load(place)
    try:
        with zipfile.ZipFile(archive) as opened:
            member = _member(opened, archive, chosen)
            if member.file_size > LARGEST_RESULT_BYTES:
                raise StoreError(f"{place}: {member.file_size / 1e6:.0f} MB of JSON are no result of the lab")
            with opened.open(member) as file:
                encoded = file.read(LARGEST_RESULT_BYTES + 1)
    except OSError as error:
        raise StoreError(f"cannot read {archive}: {error.strerror or error}") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise StoreError(f"{archive} is truncated, locked or no zip; ask for it again") from error
    return decode(encoded, str(place))


def _member(opened: zipfile.ZipFile, archive: Path, chosen: str | None) -> zipfile.ZipInfo:
    results = [info for info in opened.infolist() if RESULT_NAME.fullmatch(PurePosixPath(info.filename).name)]
    if not results:
        raise StoreError(f"{archive} holds no result; make one with `make share`")
    wanted = [info for info in results if chosen in (None, info.filename, PurePosixPath(info.filename).name)]
    if len(wanted) == 1:
        return wanted[0]
    names = sorted(PurePosixPath(info.filename).name for info in results)
    listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    if not wanted:
        raise StoreError(f"{archive} holds no {chosen}, but {listed}")
    raise StoreError(
        f"{archive} holds {len(names)} results ({listed}): unzip it, or choose one as {archive}:{names[0]}"
    )


def write_archive(folder: Path, target: Path, check: Callable[[Path], None], replace: bool = False) -> None:
    """Zip everything under a folder; the target is whole or not there.

    Args:
        folder: what is zipped, by paths relative to it.
        target: the zip.
        check: told the finished zip before it gets its name; what it raises is passed on, and no zip stays.
        replace: take the place of a zip that is there.

    Raises:
        StoreError: the target is there, or cannot be written.
    """
    _refuse_existing(target, replace)
    try:
        with tempfile.NamedTemporaryFile(dir=target.absolute().parent, prefix=".share-", delete=False) as file:
            try:
                with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as opened:
                    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
                        info = zipfile.ZipInfo(path.relative_to(folder).as_posix(), A_DATE)
                        info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
                        opened.writestr(info, path.read_bytes())
                file.flush()
                os.fsync(file.fileno())
                check(Path(file.name))
                Path(file.name).chmod(0o644)
                _refuse_existing(target, replace)
                Path(file.name).replace(target)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise StoreError(f"cannot write {target}: {error.strerror or error}; choose another with --to") from error


def _refuse_existing(target: Path, replace: bool) -> None:
    if target.exists() and not (replace and target.is_file()):
        another = "choose another with --to (in make: TO=x.zip)"
        raise StoreError(f"{target} is there already; {another}, or replace it with --force")
