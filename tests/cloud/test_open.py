"""Machines that are up on purpose: what is said of them, and that nothing calls them gone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from common.cloud import upkeep
from common.cloud.errors import BILLING, CLEAN
from common.cloud.launch import DEARER
from common.cloud.ledger import RECEIPT, Ledger, ledgers, new_ledger
from common.cloud.main import main
from common.cloud.options import Down, Verify
from common.cloud.survey import open_here
from common.cloud.watchdog import PIDFILE, is_watched, watch
from tests.cloud.evening import Place
from tests.cloud.fake_runpod import Pod
from tests.cloud.world import ROOT, Evening


@pytest.fixture(autouse=True)
def small_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.cloud.work.packed", lambda root: b"code")


def brought_up(evening: Evening) -> int:
    return upkeep.up(replace(evening.request, job=None), evening.world, Path("key"))


def dearer(evening: Evening, only: int, times: float) -> None:
    """Have one pod, by its number, cost so many times what was quoted."""
    started = evening.fake.started

    def price(pod: Pod) -> None:
        if pod.id == f"pod-{only}" and pod.cost is not None:
            pod.cost *= times
        started(pod)

    evening.fake.started = price


def test_the_proof_for_one_candidate_is_none_for_the_next(tmp_path: Path) -> None:
    """The first one is too dear and is proven gone: the second is up, watched, and ended by `down`."""
    evening = Evening(tmp_path)
    first = len(evening.fake.pods)
    dearer(evening, only=first, times=2.0)
    assert brought_up(evening) == CLEAN
    alive = evening.fake.ours()
    assert len(evening.fake.pods) - first == 2 and len(alive) == 1
    assert not evening.ledger.closed
    assert evening.ledger.load("teardown.json") is None, "the checklist reads this"
    (session,) = open_here(evening.world, tmp_path / "results")
    looks = iter(["keep", "keep", "done"])
    assert not watch(session, lambda: next(looks)), "it goes on until it is told"  # type: ignore[arg-type]
    assert next(looks, None) is None
    evening.said.clear()
    assert upkeep.verify(Verify(tmp_path / "results"), evening.world, ROOT) == BILLING
    assert evening.fake.ours() == alive, "it ends nothing"
    assert upkeep.down(Down(tmp_path / "results", discard=True), evening.world, ROOT) == CLEAN
    assert evening.fake.ours() == []
    assert evening.ledger.closed


def test_a_machine_a_little_dearer_than_its_quote_stays_under_the_cap(tmp_path: Path) -> None:
    """Inside the 5 % that are allowed, and yet over the cap in dollars at its deadline: it is ended."""
    evening = Evening(tmp_path)
    asked = evening.request
    evening_caps = replace(asked.caps, max_usd=7.18, max_hours=20.0)
    dearer(evening, only=len(evening.fake.pods), times=DEARER - 0.001)
    dearer(evening, only=len(evening.fake.pods) + 1, times=DEARER - 0.001)
    upkeep.up(replace(asked, job=None, caps=evening_caps), evening.world, Path("key"))
    assert evening.fake.ours() == []
    assert "where the cap is $7.18" in "\n".join(evening.said)


def test_without_credentials_what_is_known_is_said(
    place: Place, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["up", "--profile", "4xa100", "--max-usd", "15", "--max-hours", "1.5", "--yes"]
    assert place(*words, "--ssh-key", str(place.folder / "id_ed25519")) == CLEAN
    (pod,) = place.fake.ours()
    capfd.readouterr()
    with monkeypatch.context() as without:
        without.delenv("RUNPOD_API_KEY")
        for verb in ("verify", "down", "sync", "sweep"):
            assert place(verb, "--yes") == BILLING, verb
            said = capfd.readouterr().err
            assert pod in said and "$7.18 per hour" in said and "RUNPOD_API_KEY is not set" in said, verb
    assert place("down", "--discard", "--yes") == CLEAN
    capfd.readouterr()
    monkeypatch.delenv("RUNPOD_API_KEY")
    assert place("verify", "--yes") == 2, "nothing is open here: only the key is missing"


def spoiled(ledger: Ledger, **changed: object) -> None:
    lines = [json.loads(line) for line in ledger.path.read_text().splitlines()]
    for line in lines:
        if line["event"] == "intent":
            line.update(changed)
    ledger.path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize("how", ["null", "missing", "bytes"])
def test_a_ledger_that_was_spoiled_is_not_forgotten(tmp_path: Path, how: str) -> None:
    """Nobody else's machine is touched, and the folder is named."""
    evening = Evening(tmp_path)
    assert brought_up(evening) == CLEAN
    (ledger,) = ledgers(tmp_path / "results")
    known = evening.fake.ours()
    for name in known:
        evening.fake.pods[name].gone = True
    stranger = next(pod for pod in evening.fake.pods.values() if pod.id not in known)
    if how == "bytes":
        whole = ledger.path.read_bytes().splitlines(keepends=True)
        ledger.path.write_bytes(b"\xff\xfe" + whole[0][: len(whole[0]) // 2] + b"\n" + b"".join(whole[1:]))
    else:
        spoiled(ledger, lab_id=None) if how == "null" else spoiled(ledger, deadline="soon")
    evening.said.clear()
    assert upkeep.verify(Verify(tmp_path / "results"), evening.world, ROOT) == BILLING
    assert any(ledger.folder.name in line and "cannot be read" in line for line in evening.said), evening.said
    assert not stranger.gone


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("verb", ["verify", "down"])
def test_without_credentials_a_spoiled_ledger_is_not_forgotten_either(
    verb: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ledger, _ = new_ledger(tmp_path / "results")
    ledger.write("created", 1.0, id="pod-1")
    words = [verb, "--yes", "--results-dir", str(tmp_path / "results")]
    assert main("runpod", ROOT / "runpod" / "profiles.toml", words) == BILLING
    said = capfd.readouterr().err
    assert f"{ledger.folder} cannot be read" in said and "RUNPOD_API_KEY is not set" in said
    ledger.save(RECEIPT, {"verified": True})
    assert main("runpod", ROOT / "runpod" / "profiles.toml", words) == 2


def test_a_watchdog_that_died_is_not_promised(tmp_path: Path) -> None:
    evening = Evening(tmp_path, frozenset({"terminate_ignored"}))
    assert evening.go() == BILLING
    assert not is_watched(evening.ledger)
    assert any("NO WATCHDOG IS LEFT" in line for line in evening.said)
    (evening.ledger.folder / PIDFILE).write_text("1\n")
    assert not is_watched(evening.ledger), "another process has its number"
