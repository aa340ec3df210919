"""Result files: whatever happens to a run, its file is whole, found again, and nobody else's."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.core.arrivals import OpenLoop
from common.core.mix import MixedWorkload, RequestClass
from common.core.workload import RecordedWorkload
from common.store import files
from common.store.files import ResultPaths, StoreError
from tests.store.sample import WORK, sample_result

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="locks are POSIX")

EXPERIMENT = "benchmark_scaling"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "result.json"


def put(folder: Path, name: str, status: str = "interrupted", key: str = "key") -> Path:
    path = folder / EXPERIMENT / name
    path.parent.mkdir(parents=True, exist_ok=True)
    files.save(sample_result(status, key), path)
    return path


def hold_elsewhere(path: Path) -> subprocess.Popen[str]:
    """Another process that holds the result's lock until its standard input is closed."""
    code = (
        "import sys; from pathlib import Path; from common.store import files\n"
        f"with files.hold(files.ResultPaths(Path({str(path)!r}))):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@pytest.fixture
def held(tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    path = put(tmp_path, "20260103T000000Z-m-x.json")
    with hold_elsewhere(path) as process:
        yield path, process
        process.kill()


def test_what_is_saved_is_what_is_loaded(path: Path) -> None:
    result = sample_result()
    files.save(result, path)
    assert files.load(path) == result


def test_a_result_is_readable_json_with_the_designs_top_level(path: Path) -> None:
    files.save(sample_result(), path)
    content = json.loads(path.read_text())
    wanted = [
        "schema_version",
        "experiment",
        "method_version",
        "run_id",
        "argv",
        "config",
        "environment",
        "cases",
        "cost",
        "warnings",
    ]
    assert set(wanted) <= set(content)
    assert content["cases"][0]["plan"] == {"tp": 2, "pp": 1, "dp": 1, "ep": False, "replicas": 1, "stage_layers": []}
    assert "\n" in path.read_text(), "indented, so that a diff of two results reads"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_constant_open_loop_comes_back(path: Path) -> None:
    """Constant gaps are `None`, since JSON has no infinity."""
    result = sample_result()
    result.cases[0].arrivals = OpenLoop(2.0, None)
    files.save(result, path)
    assert files.load(path).cases[0].arrivals == OpenLoop(2.0, None)


def test_a_mix_comes_back_as_a_mix(path: Path) -> None:
    """Three kinds of workload stand in one field: each must come back as what it was."""
    result = sample_result()
    classes = (RequestClass("short", 8, 32, 16), RequestClass("long", 1, 2048, 16, None, 1))
    recorded = RecordedWorkload("trace", "0" * 64, 5, 8, 4)
    for workload in (MixedWorkload(classes, 8.0, 3), recorded, WORK):
        result.cases[0].workload = workload
        files.save(result, path)
        assert files.load(path).cases[0].workload == workload
        assert type(files.load(path).cases[0].workload) is type(workload)


def test_a_crash_before_the_replacement_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.save(sample_result("running"), path)
    before = path.read_bytes()

    def crash(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(KeyboardInterrupt):
        files.save(sample_result("complete"), path)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["result.json"], "no half file stays behind"


@pytest.mark.slow
def test_killed_while_saving_the_file_is_always_whole(path: Path) -> None:
    """A process that saves in a loop, killed: what stands there loads, and is one of the two versions."""
    code = (
        "import sys; from pathlib import Path; from common.store import files\n"
        "from tests.store.sample import sample_result\n"
        "small, large = sample_result(), sample_result('running')\n"
        "large.cases = large.cases * 300\n"
        f"path = Path({str(path)!r})\n"
        "files.save(small, path); print('saved', flush=True)\n"
        "while True:\n    files.save(large, path); files.save(small, path)"
    )
    root = Path(__file__).resolve().parents[2]
    for pause_ms in (3, 11):
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=root) as process:
            assert process.stdout is not None
            process.stdout.readline()
            try:
                process.wait(pause_ms / 1e3)
            except subprocess.TimeoutExpired:
                process.kill()
        assert len(files.load(path).cases) in (2, 600)


def test_a_file_that_is_in_use_elsewhere_is_still_replaced(path: Path) -> None:
    files.save(sample_result("running"), path)
    with path.open() as reader:
        files.save(sample_result("complete"), path)
        assert json.load(reader)["status"] == "running", "a reader keeps what it opened"
    assert files.load(path).status == "complete"


@pytest.mark.parametrize("keep", [0, 1, 400, -2])
def test_a_truncated_file_is_refused_and_left_alone(path: Path, keep: int) -> None:
    files.save(sample_result(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[:keep] if keep else b"")
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"truncated or not JSON; give another file, or measure again"):
        files.load(path)
    with pytest.raises(StoreError, match=r"truncated or not JSON; move it away, or start afresh with --no-resume"):
        files.find_interrupted(path.parent.parent, path.parent.name, "any")
    assert path.read_bytes() == before


def test_a_folder_is_checked_without_leaving_anything(tmp_path: Path) -> None:
    files.check_writable(tmp_path / "not" / "yet", "x")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", Path("/proc/self/nowhere")):
        with pytest.raises(StoreError, match="choose another with --results-dir"):
            files.check_writable(place, "x")


def edited(path: Path, **changed: object) -> Path:
    content = json.loads(path.read_text())
    content.update(changed)
    path.write_text(json.dumps({key: value for key, value in content.items() if value != "DROP"}))
    return path


@pytest.mark.parametrize("version", [0, 1, "2", None, "DROP"])
def test_another_schema_version_is_refused(path: Path, version: object) -> None:
    files.save(sample_result(), path)
    edited(path, schema_version=version)
    with pytest.raises(StoreError, match=r"schema version .*, this lab reads 2; give another file, or measure again"):
        files.load(path)


@pytest.mark.parametrize("content", ["[]", "3", '"text"', "null", "{}"])
def test_json_that_is_no_result_is_refused(path: Path, content: str) -> None:
    path.write_text(content)
    with pytest.raises(StoreError, match=re.escape(str(path))):
        files.load(path)


def test_an_unknown_field_is_refused_at_the_top(path: Path) -> None:
    files.save(sample_result(), path)
    with pytest.raises(StoreError, match="surprise"):
        files.load(edited(path, surprise=1))


@pytest.mark.parametrize("where", ["case", "plan", "arrivals", "estimate"])
def test_an_unknown_field_is_refused_inside_a_case(path: Path, where: str) -> None:
    files.save(sample_result(), path)
    content = json.loads(path.read_text())
    case: dict[str, Any] = content["cases"][0]
    {"case": case, "plan": case["plan"], "arrivals": case["arrivals"], "estimate": case["summary"][0]}[where][
        "surprise"
    ] = 1
    path.write_text(json.dumps(content))
    with pytest.raises(StoreError, match="surprise"):
        files.load(path)


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("status", "done", "status"),
        ("cases", [{"id": "x"}], r"cases\.0"),
        ("method_version", "first", "method_version"),
        ("resume_key", "DROP", "resume_key"),
    ],
)
def test_a_wrong_field_is_named_in_one_line(path: Path, field: str, value: object, named: str) -> None:
    files.save(sample_result(), path)
    with pytest.raises(StoreError, match=named) as caught:
        files.load(edited(path, **{field: value}))
    assert "\n" not in str(caught.value)


def test_an_impossible_plan_is_refused(path: Path) -> None:
    files.save(sample_result(), path)
    content = json.loads(path.read_text())
    content["cases"][0]["plan"]["tp"] = 0
    path.write_text(json.dumps(content))
    with pytest.raises(StoreError, match="tp must be 1 or more"):
        files.load(path)


def test_a_missing_file_is_a_store_error(path: Path) -> None:
    with pytest.raises(StoreError, match="No such file"):
        files.load(path)


# --- names


def test_a_new_name_says_what_it_is(tmp_path: Path) -> None:
    paths = files.new_paths(tmp_path / "made" / "for it", EXPERIMENT, "2x1core-amd-epyc", "Qwen/Qwen2.5-7B-Instruct")
    assert re.fullmatch(r"\d{8}T\d{6}Z-2x1core-amd-epyc-qwen-qwen2\.5-7b-instruct\.json", paths.json.name)
    assert paths.json.parent == tmp_path / "made" / "for it" / EXPERIMENT
    assert paths.json.is_absolute()
    assert list(paths.json.parent.iterdir()) == [paths.lock], "the name is reserved, nothing is left of the probe"
    beside = {paths.requests.name, paths.bench.name, paths.logs.name}
    assert beside == {f"{paths.json.name[:-5]}{end}" for end in (".requests", ".bench", ".logs")}


def test_a_dot_in_a_models_name_costs_no_sibling_its_name(tmp_path: Path) -> None:
    one = files.new_paths(tmp_path, EXPERIMENT, "m", "Qwen2.5-7B")
    other = files.new_paths(tmp_path, EXPERIMENT, "m", "Qwen2.5-14B")
    assert len({one.requests, other.requests, one.bench, other.bench, one.lock, other.lock}) == 6


@pytest.mark.parametrize("model", ["../../etc/passwd", "a/../b", "~", "x y\n", "ünïcode", "..."])
def test_no_model_name_leads_out_of_the_folder(tmp_path: Path, model: str) -> None:
    paths = files.new_paths(tmp_path, EXPERIMENT, "m", model)
    assert paths.json.resolve().parent == (tmp_path / EXPERIMENT).resolve()
    assert re.fullmatch(r"[\w.-]+\.json", paths.json.name, re.ASCII)


def test_a_name_in_use_is_not_given_out_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.strftime", lambda *_: "20260101T000000Z")
    seen = set()
    for _ in range(4):
        paths = files.new_paths(tmp_path, EXPERIMENT, "m", "x")
        assert paths.json not in seen
        seen.add(paths.json)
        files.save(sample_result(), paths.json)


def test_a_name_whose_lock_is_held_is_not_given_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.strftime", lambda *_: "20260101T000000Z")
    first = files.new_paths(tmp_path, EXPERIMENT, "m", "x")
    with files.hold(first):
        assert files.new_paths(tmp_path, EXPERIMENT, "m", "x").json != first.json


@pytest.mark.parametrize("obstacle", ["a file", "a file above"])
def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path, obstacle: str) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("not a folder")
    with pytest.raises(StoreError, match=r"cannot write to .*; choose another with --results-dir"):
        files.new_paths(blocked if obstacle == "a file" else blocked / "deeper", EXPERIMENT, "m", "x")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StoreError, match="Permission denied"):
            files.new_paths(tmp_path, EXPERIMENT, "m", "x")
    finally:
        tmp_path.chmod(0o700)


def test_a_read_only_file_system_is_refused() -> None:
    with pytest.raises(StoreError, match="choose another with --results-dir"):
        files.new_paths(Path("/proc/results"), EXPERIMENT, "m", "x")


def test_a_full_disk_is_refused_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left on device; choose another"):
        files.new_paths(tmp_path, EXPERIMENT, "m", "x")


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 32 KiB; mounting needs rights that few test machines give."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_really_full_disk_is_refused(tiny_disk: Path) -> None:
    with pytest.raises(StoreError, match="No space left on device"):
        files.new_paths(tiny_disk, EXPERIMENT, "m", "x")


def test_a_disk_that_fills_up_leaves_the_last_whole_file(tiny_disk: Path) -> None:
    path = tiny_disk / "result.json"
    files.save(sample_result("running"), path)
    grown = sample_result("complete")
    grown.cases *= 300
    with pytest.raises((StoreError, OSError)):
        files.save(grown, path)
    assert files.load(path).status == "running"
    assert [entry.name for entry in tiny_disk.iterdir()] == ["result.json"]


# --- locks and resuming


def test_a_lock_held_by_another_process_keeps_us_out(held: tuple[Path, subprocess.Popen[str]]) -> None:
    path, process = held
    with (
        pytest.raises(StoreError, match="being written by another run; wait for it to end"),
        files.hold(ResultPaths(path)),
    ):
        pass
    process.kill()
    process.wait()
    with files.hold(ResultPaths(path)):
        pass


def test_a_lock_is_gone_with_its_holder(tmp_path: Path) -> None:
    paths = ResultPaths(tmp_path / "x.json")
    with files.hold(paths):
        assert paths.lock.exists()
    assert not paths.lock.exists()


def test_an_error_inside_releases_the_lock(tmp_path: Path) -> None:
    paths = ResultPaths(tmp_path / "x.json")
    with pytest.raises(ZeroDivisionError), files.hold(paths):
        raise ZeroDivisionError
    with files.hold(paths):
        pass


def test_the_newest_unfinished_run_of_the_same_work_is_found(tmp_path: Path) -> None:
    put(tmp_path, "20260101T000000Z-m-x.json")
    wanted = put(tmp_path, "20260102T000000Z-m-x.json", "running")
    put(tmp_path, "20260103T000000Z-m-x.json", "complete")
    put(tmp_path, "20260104T000000Z-m-x.json", "interrupted", key="other work")
    assert files.find_interrupted(tmp_path, EXPERIMENT, "key") == ResultPaths(wanted)


def test_the_run_with_the_most_measured_cases_goes_on_rather_than_a_newer_empty_one(tmp_path: Path) -> None:
    measured = put(tmp_path, "20260101T000000Z-m-x.json")
    assert any(case.repeats for case in files.load(measured).cases)
    edited(put(tmp_path, "20260102T000000Z-m-x.json"), cases=[])
    assert files.find_interrupted(tmp_path, EXPERIMENT, "key") == ResultPaths(measured)


def test_another_experiments_runs_do_not_count(tmp_path: Path) -> None:
    put(tmp_path, "20260101T000000Z-m-x.json")
    assert files.find_interrupted(tmp_path, "another", "key") is None
    assert files.find_interrupted(tmp_path / "missing", EXPERIMENT, "key") is None


def test_a_run_that_is_still_alive_is_passed_over(tmp_path: Path, held: tuple[Path, subprocess.Popen[str]]) -> None:
    older = put(tmp_path, "20260101T000000Z-m-x.json")
    path, process = held
    assert files.find_interrupted(tmp_path, EXPERIMENT, "key") == ResultPaths(older)
    assert ResultPaths(path).lock.exists(), "looking does not take a living run's lock away"
    process.kill()
    process.wait()
    assert files.find_interrupted(tmp_path, EXPERIMENT, "key") == ResultPaths(path)


@pytest.mark.parametrize("damage", ["truncated", "version"])
def test_an_unreadable_file_stops_the_search_and_stays(tmp_path: Path, damage: str) -> None:
    put(tmp_path, "20260101T000000Z-m-x.json")
    broken = put(tmp_path, "20260102T000000Z-m-x.json")
    if damage == "truncated":
        broken.write_bytes(broken.read_bytes()[:200])
    else:
        edited(broken, schema_version=99)
    before = broken.read_bytes()
    with pytest.raises(StoreError, match=re.escape(str(broken))):
        files.find_interrupted(tmp_path, EXPERIMENT, "key")
    assert broken.read_bytes() == before


def test_left_over_temporary_files_do_not_disturb_the_search(tmp_path: Path) -> None:
    """A kill -9 while saving leaves a half-written file under a hidden name."""
    wanted = put(tmp_path, "20260101T000000Z-m-x.json")
    (wanted.parent / ".20260101T000000Z-m-x-abc123").write_text('{"half": ')
    assert files.find_interrupted(tmp_path, EXPERIMENT, "key") == ResultPaths(wanted)


def test_a_home_folder_may_be_written_as_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    paths = files.new_paths(Path("~/results"), EXPERIMENT, "m", "x")
    assert paths.json.is_relative_to(tmp_path / "results")
    files.save(sample_result(), paths.json)
    assert files.find_interrupted(Path("~/results"), EXPERIMENT, "key") == paths
