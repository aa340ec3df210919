"""Results in a zip: whole or not there, and read without trusting what is in it."""

from __future__ import annotations

import os
import stat
import zipfile
from pathlib import Path

import pytest

from common.store import archive
from common.store.archive import load_result, write_archive
from common.store.files import StoreError, save
from tests.store.sample import sample_result

NAME = "20260101T000000Z-m-x.json"
OTHER = "20260102T000000Z-m-x.json"


def accept(_: Path) -> None:
    """Nothing is wrong."""


def folder_with(tmp_path: Path, *names: str) -> Path:
    folder = tmp_path / "folder"
    for name in names:
        path = folder / "shared-0" / "benchmark_scaling" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save(sample_result(), path)
    (folder / "shared-0" / "benchmark_scaling" / "x.bench").mkdir(parents=True, exist_ok=True)
    (folder / "shared-0" / "benchmark_scaling" / "x.bench" / "summary.json").write_text("[]")
    (folder / "shared-0" / "README.txt").write_text("what this is\n")
    return folder


def zipped(tmp_path: Path, *names: str) -> Path:
    write_archive(folder_with(tmp_path, *names), tmp_path / "share.zip", accept)
    return tmp_path / "share.zip"


def refusal(place: Path) -> str:
    with pytest.raises(StoreError) as caught:
        load_result(place)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_only_result_of_a_zip_is_read_from_it(tmp_path: Path) -> None:
    assert load_result(zipped(tmp_path, NAME)) == sample_result()


def test_a_file_is_read_as_ever(tmp_path: Path) -> None:
    save(sample_result(), tmp_path / NAME)
    assert load_result(tmp_path / NAME) == sample_result()
    assert "No such file" in refusal(tmp_path / "none.json")


@pytest.mark.parametrize("chosen", [NAME, f"shared-0/benchmark_scaling/{NAME}"])
def test_one_of_several_is_chosen_by_its_name(tmp_path: Path, chosen: str) -> None:
    path = zipped(tmp_path, NAME, OTHER)
    assert load_result(Path(f"{path}:{chosen}")) == sample_result()
    message = refusal(path)
    assert f"holds 2 results ({NAME}, {OTHER}): unzip it, or choose one as {path}:{NAME}" in message
    assert f"holds no nothing.json, but {NAME}, {OTHER}" in refusal(Path(f"{path}:nothing.json"))


def test_many_results_are_not_all_listed(tmp_path: Path) -> None:
    path = zipped(tmp_path, *(f"202601{day:02d}T000000Z-m-x.json" for day in range(1, 9)))
    assert "and 5 more" in refusal(path)


def test_a_zip_without_a_result_says_how_to_make_one(tmp_path: Path) -> None:
    assert "holds no result; make one with `make share`" in refusal(zipped(tmp_path))


def test_a_zip_that_is_none_is_one_line(tmp_path: Path) -> None:
    path = zipped(tmp_path, NAME)
    whole = path.read_bytes()
    middle = whole.replace(whole[200:260], b"\0" * 60)
    for content in (b"", b"PK", b"not a zip", whole[: len(whole) // 2], middle):
        path.write_bytes(content)
        assert "is truncated, locked or no zip; ask for it again" in refusal(path)
    assert "No such file" in refusal(tmp_path / "none.zip")
    assert "No such file" in refusal(Path(f"{tmp_path}/none.zip:{NAME}"))
    assert refusal(tmp_path / "folder")


def test_a_broken_result_in_a_zip_is_one_line(tmp_path: Path) -> None:
    for content in (b"{", b'{"schema_version": 99}'):
        with zipfile.ZipFile(tmp_path / "share.zip", "w") as made:
            made.writestr(f"x/{NAME}", content)
        assert refusal(tmp_path / "share.zip").startswith(str(tmp_path / "share.zip"))


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "LARGEST_RESULT_BYTES", 1 << 20)
    with zipfile.ZipFile(tmp_path / "share.zip", "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr(NAME, b"[" + b" " * (2 << 20) + b"]")
    assert "are no result of the lab" in refusal(tmp_path / "share.zip")


def test_a_locked_zip_is_one_line(tmp_path: Path) -> None:
    path = zipped(tmp_path, NAME)
    content = bytearray(path.read_bytes())
    content[6] |= 1  # the flag "encrypted" of the first entry, here and in the directory
    for place in range(len(content) - 4):
        if content[place : place + 4] == b"PK\1\2":
            content[place + 8] |= 1
        if content[place : place + 4] == b"PK\3\4":
            content[place + 6] |= 1
    path.write_bytes(content)
    assert "locked" in refusal(path)


def test_nothing_of_the_zip_tells_when_or_by_whom(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, NAME)
    for number in (1, 2):
        write_archive(folder, tmp_path / f"{number}.zip", accept)
        for path in folder.rglob("*"):
            os.utime(path, (1e9, 1e9))
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()
    assert stat.S_IMODE((tmp_path / "1.zip").stat().st_mode) == 0o644
    with zipfile.ZipFile(tmp_path / "1.zip") as opened:
        assert opened.namelist() == sorted(opened.namelist())
        assert {info.date_time[0] for info in opened.infolist()} == {2000}


def test_a_zip_that_is_there_stays_unless_it_may_be_replaced(tmp_path: Path) -> None:
    folder, target = folder_with(tmp_path, NAME), tmp_path / "share.zip"
    target.write_bytes(b"mine")
    with pytest.raises(StoreError, match=r"choose another with --to \(in make: TO=x.zip\), or replace it with --force"):
        write_archive(folder, target, accept)
    assert target.read_bytes() == b"mine"
    write_archive(folder, target, accept, replace=True)
    assert load_result(target) == sample_result()
    (tmp_path / "dir.zip").mkdir()
    with pytest.raises(StoreError, match="is there already"):
        write_archive(folder, tmp_path / "dir.zip", accept, replace=True)


def test_a_zip_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    target = tmp_path / "share.zip"

    def somebody_else_writes(_: Path) -> None:
        target.write_bytes(b"mine")

    with pytest.raises(StoreError, match="is there already"):
        write_archive(folder_with(tmp_path, NAME), target, somebody_else_writes)
    assert target.read_bytes() == b"mine"
    assert not list(tmp_path.glob(".share-*"))


@pytest.mark.parametrize("error", [StoreError("a key"), KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_what_fails_leaves_no_zip_and_the_former_one(tmp_path: Path, error: BaseException) -> None:
    def refuse(path: Path) -> None:
        assert zipfile.is_zipfile(path), "checked as it would leave"
        raise error

    folder, target = folder_with(tmp_path, NAME), tmp_path / "share.zip"
    with pytest.raises((StoreError, KeyboardInterrupt)):
        write_archive(folder, target, refuse)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder"]
    target.write_bytes(b"mine")
    with pytest.raises((StoreError, KeyboardInterrupt)):
        write_archive(folder, target, refuse, replace=True)
    assert target.read_bytes() == b"mine"


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot write .*No such file.*; choose another with --to"):
        write_archive(folder_with(tmp_path, NAME), tmp_path / "none" / "share.zip", accept)
