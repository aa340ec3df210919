"""`share` with secrets planted in every place: none of them leaves, and a classmate can use what arrives."""

from __future__ import annotations

import getpass
import platform
import re
import socket
import sys
import zipfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from common.analysis.__main__ import main
from common.analysis.frames import latest_reference, load_results
from common.analysis.newest import newest_of_ours
from common.analysis.sharing.privacy import Privacy
from common.core.record import RequestRecord
from common.store.files import ResultPaths, StoreError, load, save
from common.store.requests import load_requests, save_requests
from common.store.schema import SCHEMA_VERSION, CaseError, Check, Result
from tests.analysis.pairs import judged, side
from tests.store.sample import sample_result

HOST, FQDN, USER, HOME = "rack7-node3", "rack7-node3.cs.example.edu", "lovelace", "/data/people/lovelace"
SECRETS = [
    HOST,
    FQDN,
    USER,
    f"{HOME}/models/x",
    "/home/bob/run.py",
    "/srv/private/model",
    "hf_AbCdEfGhIjKlMnOpQrSt",
    "sk-proj-abcdefghijkl",
    "10.20.30.40",
    "fe80::1ff:fe23:4567:890a",
]
EVERYTHING = " | ".join(SECRETS)
# What must not be found anywhere, told independently of the rules that replace it
TRACES = re.compile(
    r"rack7|example\.edu|lovelace|/data|/home|/srv|hf_Ab|sk-proj|10\.20\.30|fe80|opensesame", re.IGNORECASE
)


@pytest.fixture(autouse=True)
def machine_of_lovelace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: HOST)
    monkeypatch.setattr(socket, "getfqdn", lambda: FQDN)
    monkeypatch.setattr(platform, "node", lambda: HOST)
    monkeypatch.setattr(getpass, "getuser", lambda: USER)
    monkeypatch.setattr(Path, "home", lambda: Path(HOME))
    for name in ("HOSTNAME", "USER", "LOGNAME", "SUDO_USER"):
        monkeypatch.delenv(name, raising=False)


def full_of_secrets() -> Result:
    made = side(argv=["--model", SECRETS[5], "--engine-args", "--hf-token opensesame", EVERYTHING])
    made.warnings = [f"devices are shared with {EVERYTHING}"]
    made.resume_key = "f" * 64
    made.config |= {
        "model": f"{USER}/finetune",
        "model_path": SECRETS[3],
        "nested": {SECRETS[3]: [EVERYTHING, {"password": "opensesame"}]},
        "words": ["--api-key", "opensesame"],
    }
    made.config["engine_settings"] |= {"extra_args": ["--tokenizer", SECRETS[4]], "model": SECRETS[5]}
    made.environment["settings"] |= {"VLLM_CACHE_ROOT": SECRETS[3], "NCCL_DEBUG_FILE": f"/tmp/{HOST}.log"}
    made.environment["os"] = EVERYTHING
    made.environment["devices"][0]["note"] = EVERYTHING
    made.environment["versions"]["lab"] = f"from {SECRETS[3]}"
    one = made.cases[0]
    one.flags = [EVERYTHING]
    one.error = CaseError("died", f"connect to 10.20.30.40:8000 failed: {EVERYTHING}", EVERYTHING)
    one.checks = [Check("first repeat agrees", False, EVERYTHING)]
    one.engine["log"] = EVERYTHING
    judged("DOUBTFUL", EVERYTHING, remedy=EVERYTHING)(one)
    return made


def saved(folder: Path, made: Result, errors: tuple[str, ...] = (EVERYTHING, "")) -> Path:
    """A result with everything beside it: requests, export, logs."""
    paths = ResultPaths(folder / "results" / made.experiment / f"{made.run_id}.json")
    paths.json.parent.mkdir(parents=True, exist_ok=True)
    save(made, paths.json)
    records = [
        RequestRecord(index, f"class of {USER}", 32, sent_ns=1, chunk_ns=[2, 3], error=error or None)
        for index, error in enumerate(errors)
    ]
    save_requests(records, paths.requests / "tp1-fixed-c16-start0-repeat0.parquet")
    table = pyarrow.parquet.read_table(paths.requests / "tp1-fixed-c16-start0-repeat0.parquet")
    table = table.append_column("prompt", pyarrow.array(["Dear Ada, this is a prompt"] * len(records)))
    table = table.replace_schema_metadata({"written by": EVERYTHING})
    pyarrow.parquet.write_table(table, paths.requests / f"{USER}-start0-repeat1.parquet")
    paths.bench.mkdir(exist_ok=True)
    (paths.bench / "summary.json").write_text(f'[{{"model_id": "{HOME}"}}]')
    paths.logs.mkdir(exist_ok=True)
    (paths.logs / "01-tp1-0.log").write_text(f"a prompt of {EVERYTHING}")
    (paths.requests / "notes.txt").write_text(EVERYTHING)
    return paths.json


def command(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["analysis", *words])
    try:
        return main()
    except SystemExit as end:
        return int(end.code or 0)


def shared(monkeypatch: pytest.MonkeyPatch, target: Path, *results: Path, words: tuple[str, ...] = ()) -> Path:
    assert command(monkeypatch, "share", *map(str, results), "--to", str(target), *words) == 0
    return target


def unzipped(archive: Path, folder: Path) -> Path:
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(folder)
    return folder


def test_no_planted_secret_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = shared(monkeypatch, tmp_path / "out.zip", saved(tmp_path, full_of_secrets()))
    folder = unzipped(archive, tmp_path / "arrived")
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) == 5, "README, result, export, two repeats; no log, no note"
    for path in files:
        assert not TRACES.search(str(path.relative_to(folder))), path
        if path.suffix == ".parquet":
            table = pyarrow.parquet.read_table(path)
            assert not TRACES.search(str(table.to_pylist()) + str(table.schema.metadata)), path
            assert "prompt" not in table.column_names
            assert b"Dear Ada" not in path.read_bytes()
            assert b"lovelace" not in path.read_bytes()
        else:
            text = path.read_text()
            assert not TRACES.search(text), (path, TRACES.findall(text))
            assert "Dear Ada" not in text
    assert not TRACES.search(archive.read_bytes().decode("latin-1"))


def test_what_is_measured_arrives_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, full_of_secrets())
    (found,) = load_results(shared(monkeypatch, tmp_path / "out.zip", path))
    before = load(path)
    assert [(case.id, case.repeats, case.plan, case.workload) for case in found.cases] == [
        (case.id, case.repeats, case.plan, case.workload) for case in before.cases
    ]
    assert found.resume_key == "", "made of folders too"
    assert found.run_id == before.run_id
    assert found.config["model"] == "<user>/finetune"
    folder = unzipped(tmp_path / "out.zip", tmp_path / "arrived")
    (parquet,) = folder.rglob("tp1-*.parquet")
    records, originals = load_requests(parquet), load_requests(ResultPaths(path).requests / parquet.name)
    assert [(record.chunk_ns, record.sent_ns) for record in records] == [
        (record.chunk_ns, record.sent_ns) for record in originals
    ]
    assert records[0].request_class == "class of <user>"
    assert records[1].error is None


def test_a_result_without_secrets_arrives_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = sample_result()
    archive = shared(monkeypatch, tmp_path / "out.zip", saved(tmp_path, made, errors=()))
    (found,) = load_results(archive)
    made.resume_key = ""
    assert found == made


@pytest.mark.slow
def test_a_classmate_compares_and_looks_without_unpacking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = shared(monkeypatch, tmp_path / "out.zip", saved(tmp_path, side(2.0)))
    mine = side(run_id="20250101T000000Z-2x1core-synthetic-qwen2-9m")
    save(mine, tmp_path / "mine.json")
    capsys.readouterr()
    assert command(monkeypatch, "compare", str(tmp_path / "mine.json"), str(archive)) == 0
    assert "2.00 [1.96, 2.05]" in capsys.readouterr().out
    assert command(monkeypatch, "look", "--result", str(archive), "--out", str(tmp_path / "figures")) == 0
    assert "fixed  tp2" in capsys.readouterr().out


def test_two_results_of_one_name_are_both_there_and_chosen_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = saved(tmp_path / "one", side()), saved(tmp_path / "two", side(2.0))
    archive = shared(monkeypatch, tmp_path / "out.zip", one, two)
    stem = one.stem
    assert f"{archive}" in capsys.readouterr().out
    with pytest.raises(StoreError, match=rf"holds 2 results .*choose one as .*:{stem}-2.json"):
        load_results(archive)
    (second,) = load_results(Path(f"{archive}:{stem}-2.json"))
    assert second.cases[0].repeats == load(two).cases[0].repeats
    readme = next((unzipped(archive, tmp_path / "arrived")).rglob("README.txt")).read_text()
    assert f"compare out.zip:{stem}.json" in readme


def test_unzipped_into_results_it_stands_beside_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = saved(tmp_path, side())
    archives = [
        shared(monkeypatch, tmp_path / "same.zip", own),
        shared(monkeypatch, tmp_path / "other.zip", saved(tmp_path / "elsewhere", side(2.0))),
    ]
    for archive in archives:
        unzipped(archive, tmp_path / "results")
    found = load_results(tmp_path / "results")
    rates = sorted(one.cases[0].repeats[0]["output_throughput"] for one in found)
    assert rates == [99.0, 99.0, 198.0], "three results of one name, in three folders"
    assert own.exists()
    assert newest_of_ours(tmp_path / "results") == (own, ""), "what others measured is not one's own"


def test_the_readme_says_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = shared(monkeypatch, tmp_path / "out.zip", saved(tmp_path, side()))
    readme = next(unzipped(archive, tmp_path / "arrived").rglob("README.txt")).read_text()
    assert f"result schema {SCHEMA_VERSION}" in readme
    assert re.search(r"version \d", readme)
    assert "python -m common.analysis compare out.zip results/" in readme
    assert "2 x A GPU | qwen2-9m | vLLM 0.32.0" in readme
    assert max(map(len, readme.splitlines())) <= 140


def test_the_readme_compares_with_a_result_of_the_same_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for experiment in ("test_mixed_workload", "test_tensor_parallel"):
        archive = shared(monkeypatch, tmp_path / f"{experiment}.zip", latest_reference(experiment))
        readme = next(unzipped(archive, tmp_path / experiment).rglob("README.txt")).read_text()
        assert "benchmark_scaling" not in readme
        rates = experiment == "test_mixed_workload"  # there are none to compare where it was verified
        assert (f"results/{experiment}/<yours>.json --factor" in readme) is rates


def test_the_newest_of_ones_own_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from common.analysis import __main__

    monkeypatch.setattr(__main__, "RESULTS", tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    assert command(monkeypatch, "share") == 2
    assert "run a script of week5/ first, or name the file to share" in capsys.readouterr().err
    saved(tmp_path, side(run_id="20250101T000000Z-m-x"))
    newest = saved(tmp_path, side(run_id="20260101T000000Z-m-x", experiment="another"))
    committed = tmp_path / "results" / "reference" / "m" / "benchmark_scaling" / "20270101T000000Z-m-x.json"
    committed.parent.mkdir(parents=True)
    save(side(), committed)
    assert command(monkeypatch, "share") == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "share.zip")
    (found,) = load_results(Path("share.zip"))
    assert found.run_id == newest.stem


def test_a_zip_is_not_replaced_unless_forced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, target = saved(tmp_path, side()), tmp_path / "out.zip"
    target.write_bytes(b"mine")
    assert command(monkeypatch, "share", str(path), "--to", str(target)) == 2
    assert "--force" in capsys.readouterr().err
    assert target.read_bytes() == b"mine"
    shared(monkeypatch, target, path, words=("--force",))
    assert load_results(target)


def test_hidden_words_are_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A result that was brought home: the pod's name is known to nobody here."""
    made = side(warnings=["pod-7f3 was busy"])
    (found,) = load_results(
        shared(monkeypatch, tmp_path / "out.zip", saved(tmp_path, made), words=("--hide", "pod-7f3", "grace"))
    )
    assert found.warnings == ["<word> was busy"]


def test_what_was_replaced_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(tmp_path, side(warnings=["/x on 10.0.0.1, 10.0.0.2"]), errors=())
    for parquet in ResultPaths(path).requests.glob("*.parquet"):
        parquet.unlink()
    shared(monkeypatch, tmp_path / "a.zip", path)
    assert "replaced: 2 x network address, 1 x path\n" in capsys.readouterr().out


@pytest.mark.parametrize("place", ["result", "requests", "name"])
def test_what_cleaning_missed_is_found_in_the_zip_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    path = saved(tmp_path, side(warnings=["made by lovelace"] if place == "result" else []), errors=())
    if place == "requests":
        save_requests([RequestRecord(0, "x", 1, error="at 10.20.30.40")], ResultPaths(path).requests / "one.parquet")
    if place != "name":
        (ResultPaths(path).requests / f"{USER}-start0-repeat1.parquet").unlink()
    monkeypatch.setattr(Privacy, "clean", lambda _, text: text)
    assert command(monkeypatch, "share", str(path), "--to", str(tmp_path / "out.zip")) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    named = {
        "result": f"{path.name} would still hold a user name",
        "requests": "one.parquet would still hold a network",
    }
    assert named.get(place, f"{USER}-start0-repeat1.parquet would still hold a user name") in said
    assert sorted(one.name for one in tmp_path.iterdir()) == ["results"]


def test_bad_input_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good = saved(tmp_path, side())
    truncated = saved(tmp_path, side(run_id="20250101T000000Z-m-x"))
    (broken,) = ResultPaths(truncated).requests.glob("tp1-*.parquet")
    broken.write_bytes(broken.read_bytes()[:-50])
    (tmp_path / "empty.json").write_text("")
    nameless = tmp_path / "nameless.json"
    save(side(run_id="mine"), nameless)
    wrong = {
        (str(tmp_path / "none.json"),): "No such file",
        (str(tmp_path / "empty.json"),): "truncated or not JSON",
        (str(tmp_path),): "cannot read",
        (str(truncated),): "truncated or no parquet; move it away",
        (str(nameless),): "no run id of the form",
        (str(good), str(tmp_path / "none.json")): "No such file",
        (str(good), "--to", str(tmp_path / "out.tar")): "ends with .zip",
        (str(good), "--to", str(tmp_path / "none" / "out.zip")): "cannot write",
    }
    monkeypatch.chdir(tmp_path)
    for words, reason in wrong.items():
        assert command(monkeypatch, "share", *words) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert len(err.splitlines()) == 1
        assert reason in err
        assert not list(tmp_path.glob("*.zip")) and not list(tmp_path.glob(".share-*"))


def test_a_linked_or_foreign_parquet_brings_only_the_labs_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(tmp_path, side(), errors=())
    foreign = pyarrow.table({"index": pyarrow.array([1]), "error": pyarrow.array([EVERYTHING]).dictionary_encode()})
    pyarrow.parquet.write_table(foreign, ResultPaths(path).requests / "foreign.parquet")
    folder = unzipped(shared(monkeypatch, tmp_path / "out.zip", path), tmp_path / "arrived")
    (arrived,) = folder.rglob("foreign.parquet")
    table = pyarrow.parquet.read_table(arrived)
    assert table.column_names == ["index", "error"]
    assert not TRACES.search(str(table.to_pylist()))
