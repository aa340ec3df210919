"""`go` from end to end with real processes, and where its secrets are afterwards."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from common.analysis.learning.checklist import Here, _terminated
from common.cloud.errors import BILLING, CLEAN, NO_CAPACITY, RUN_FAILED
from common.cloud.http import Call
from common.cloud.ledger import ledgers
from common.cloud.watchdog import PIDFILE
from common.store import files
from tests.cloud.evening import QUICK, Place, a_place
from tests.cloud.fake_runpod import KEY
from tests.cloud.test_watchdog import wait_for
from tests.cloud.world import ROOT

RESULT = "benchmark_scaling/20260101T000000Z-m-x.json"


@pytest.fixture(scope="module")
def evening(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Place, str]]:
    """One whole evening, and what it said."""
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as monkeypatch, a_place(tmp_path_factory.mktemp("evening"), monkeypatch) as place:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            assert place.go("--env", "NCCL_DEBUG=WARN") == CLEAN
        yield place, said.getvalue()


@pytest.mark.slow
def test_the_whole_evening(evening: tuple[Place, str]) -> None:
    place, said = evening
    assert place.fake.ours() == []
    assert place.pods.alive() == []
    (ledger,) = ledgers(place.results)
    assert ledger.closed
    assert _terminated(Here(place.results, 2)).state == "done", "the week's checklist takes the receipt"
    result = files.load(place.results / RESULT)
    assert 7.1 < result.cost["usd_per_hour"] < 7.2, "the live price"
    split = [result.cost[name] for name in ("boot_s", "download_s", "load_s", "run_s", "idle_s")]
    assert min(split) >= 0
    assert result.cost["usd_all_in"] >= result.cost["usd_run"] > 0
    assert result.environment["rented"]["tier"] == "SECURE"
    assert result.environment["rented"]["links"] == "NVLink"
    assert (place.results / "benchmark_scaling" / "x y.parquet").read_bytes() == bytes(range(256)) * 400
    assert not list(place.results.rglob(".half*"))
    for shown in ("at most $", "proven gone", "4xa100: $7.1", "interconnect: NVLink", "estimate: 1 cases"):
        assert shown in said
    sent = place.pods.folder / "pod-1" / "lab"
    assert (sent / "week5" / "benchmark_scaling.py").is_file()
    assert not (sent / ".env").exists(), "what looks like a key stays here"


def test_no_secret_anywhere(evening: tuple[Place, str]) -> None:
    place, said = evening
    pod = place.pods.folder / "pod-1"
    kept = {path: path.read_bytes() for path in place.folder.rglob("*") if path.is_file()}
    for secret in (KEY, "hf_PLANTEDTOKEN"):
        where = [path for path, text in kept.items() if secret.encode() in text]
        assert where == ([] if secret == KEY else [pod / ".hf-token"]), "the token lies in one file of the machine"
        assert secret not in said
        assert secret not in json.dumps([made.body for made in place.fake.pods.values()])
    assert (pod / ".hf-token").stat().st_mode & 0o777 == 0o600
    log = next(ledgers(place.results)[0].folder.glob("experiment-*.log")).read_text()
    assert "HF_TOKEN" in log, "the experiment has it"
    assert "RUNPOD_API_KEY" not in log


@pytest.mark.slow
def test_a_failing_experiment_is_brought_home_and_ended(place: Place) -> None:
    assert place.go("--env", "TINY_CODE=1") == RUN_FAILED
    assert files.load(place.results / RESULT).status == "complete"
    assert place.fake.ours() == []


@pytest.mark.slow
def test_results_come_home_while_it_runs_and_survive_the_machine(place: Place) -> None:
    """The pod is pulled in mid-run: the run has failed, the account is clean, and the first half is at home."""

    def pull_the_plug() -> None:
        while not (place.results / "benchmark_scaling" / "x y.parquet").exists():
            time.sleep(0.05)
        place.fake.exchange(Call("DELETE", f"{place.url}/v2/pods/pod-1", {"Authorization": f"Bearer {KEY}"}))

    somebody = threading.Thread(target=pull_the_plug)
    somebody.start()
    assert place.go("--env", "TINY_SLEEPS=30") == RUN_FAILED
    somebody.join()
    assert place.fake.ours() == []
    assert ledgers(place.results)[0].closed


@pytest.mark.slow
@pytest.mark.parametrize("event", ["creating", "reachable", "fetched"])
def test_kill_9_of_go(event: str, place: Place) -> None:
    """A `go` of its own process, killed on its way: nobody is left who knows, but for the watchdog and the ledger."""
    words = [sys.executable, "-m", "tests.cloud.evening", str(place.folder), place.url]
    more = ["--exp-args", "--model qwen2-9m", "--env", "TINY_SLEEPS=30"]
    with (place.folder / "said").open("wb") as said:
        process = subprocess.Popen([*words, *more], cwd=ROOT, stdout=said, stderr=said)
    try:
        wait_for(lambda: any(ledger.last(event) for ledger in ledgers(place.results)), 60)
    finally:
        process.kill()
        process.wait()
    (ledger,) = ledgers(place.results)
    assert not ledger.closed
    wait_for(lambda: ledger.closed, 60)
    assert place.fake.ours() == []
    assert place.pods.alive() == []
    assert (ledger.last("watchdog") or {})["reason"] == "the owner died"
    kept = [path.read_bytes() for path in place.folder.rglob("*") if path.is_file()]
    assert not any(KEY.encode() in text for text in kept)


@pytest.mark.slow
def test_no_capacity_at_the_launch_offers_the_next_smaller_machine(
    place: Place, capfd: pytest.CaptureFixture[str]
) -> None:
    place.fake.faults = frozenset({"no_capacity"})  # the catalogue says LOW, the create says that there is none
    assert place.go() == NO_CAPACITY
    assert "smaller, and to be had now: --profile 2xa100, $3.60 per hour, NVLink" in capfd.readouterr().err


@pytest.mark.slow
def test_what_was_not_brought_from_there_is_never_overwritten(place: Place) -> None:
    own = place.results / RESULT
    own.parent.mkdir(parents=True)
    own.write_text("mine")
    assert place.go() == CLEAN
    assert own.read_text() == "mine"
    beside = ledgers(place.results)[0].folder / "beside" / RESULT
    assert files.load(beside).status == "complete"


@pytest.mark.slow
def test_up_run_sync_down_verify(place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    key = ("--ssh-key", str(place.folder / "id_ed25519"))
    caps = ("--profile", "4xa100", "--max-usd", "5", "--max-hours", "0.5", "--yes")
    assert place("up", *caps, *key) == CLEAN
    assert place.pods.alive() == ["pod-1"]
    assert place("verify", "--yes") == BILLING, "a machine that is up bills"
    assert "BILLS at $7.1" in capfd.readouterr().err

    assert place("run", "benchmark_scaling", "--keep-venv", sys.prefix, *key, "--exp-args", "--model qwen2-9m") == CLEAN
    assert (place.results / RESULT).is_file()
    assert place("sync", *key) == CLEAN
    assert place("down", *key) == CLEAN
    assert place.pods.alive() == []
    assert place("verify", "--yes") == CLEAN
    assert place("cost", "--mtok", "0.001") == CLEAN
    said = capfd.readouterr().err
    assert "billed $0.51" in said
    estimated, per = re.findall(r"estimated \$([\d.]+).*, \$([\d.]+) per million tokens, all in", said)[0]
    assert float(per) == pytest.approx(float(estimated) / 0.001, abs=5.01)
    assert place("down", *key) == 2, "nothing is open any more"


def test_a_test_that_fails_leaves_no_process(tmp_path: Path) -> None:
    """Neither a machine that is up nor its watchdog, which would wait an hour and a half for the deadline."""
    left: list[int] = []

    def fails() -> None:
        with pytest.MonkeyPatch.context() as monkeypatch, a_place(tmp_path, monkeypatch) as place:
            caps = ("--profile", "4xa100", "--max-usd", "15", "--max-hours", "1.5", "--yes")
            assert place("up", *caps, "--ssh-key", str(tmp_path / "id_ed25519")) == CLEAN
            (ledger,) = ledgers(place.results)
            left.extend([int((ledger.folder / PIDFILE).read_text()), place.pods.processes["pod-1"].pid])
            assert all(map(psutil.pid_exists, left))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert not [pid for pid in left if psutil.pid_exists(pid)]


def test_sweep_ends_only_what_is_over(place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    gpu = {"id": "NVIDIA L4", "count": 1}
    place.fake.started = place.fake.ended = lambda _: None
    for name in (f"llmlab-a-aaaaaa-dl{int(time.time()) - 60}", f"llmlab-b-bbbbbb-dl{int(time.time()) + 600}"):
        place.fake._make({"name": name, "cloud": "SECURE", "image": "x:1", "gpu": gpu})
    assert place("sweep", "--yes") == CLEAN
    assert [place.fake.pods[one].body["name"][:8] for one in place.fake.ours()] == ["llmlab-b"]
    assert "may live until" in capfd.readouterr().err
    assert place("verify", "--yes") == BILLING


@pytest.mark.slow
def test_selftest_watches_a_machine_end_itself(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.cloud.upkeep.SELFTEST_S", 3)
    assert place("selftest", "--yes") == CLEAN
    assert place.pods.alive() == []
    assert ledgers(place.results)[0].last("selftest") is not None
    assert Path(ledgers(place.results)[0].folder / "teardown.json").is_file()


@pytest.mark.vllm
@pytest.mark.apart
def test_the_smallest_scaling_benchmark_on_real_vllm(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lab's own checkout, sent, run on CPU slices with the 9M model, brought home, and the "machine" gone."""
    place.root, place.pauses = ROOT, replace(QUICK, pull_s=3, stage_poll_s=1)  # looking costs the engine its cores
    monkeypatch.setenv(
        "XDG_CACHE_HOME", os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    )  # vLLM's, filled
    arguments = "--model qwen2-9m --tp 1 --curves fixed --concurrency 1 2 --input-tokens 16 --output-tokens 16"
    assert place.go(exp_args=arguments) == CLEAN
    assert place.fake.ours() == []
    assert place.pods.alive() == []
    (path,) = (place.results / "benchmark_scaling").glob("*.json")
    result = files.load(path)
    assert {case.status for case in result.cases} == {"ok"}
    assert result.cost["load_s"] > 1
    assert result.cost["usd_per_million_output_tokens_all_in"] > result.cost["usd_per_million_output_tokens_run"] > 0
