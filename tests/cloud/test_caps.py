"""Caps, deadlines, the dated table, marks, the ledger: arithmetic and files."""

from __future__ import annotations

import math
import os
import re
import time
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.cloud.caps import ENDING_S, LEAST_S, Caps, clock_time
from common.cloud.errors import OverCapError, Refused
from common.cloud.estimate import LEAST_RUN_S, Estimate
from common.cloud.ledger import Ledger, ledgers, new_ledger
from common.cloud.marks import Marks, read_name
from common.cloud.prices import find, table
from common.cloud.profiles import read_profiles
from tests.cloud.world import ROOT


@given(st.floats(0.01, 1000), st.floats(0.01, 24), st.floats(0.05, 100))
def test_a_deadline_keeps_both_caps(usd: float, hours: float, price: float) -> None:
    caps = Caps(usd, hours)
    try:
        seconds = caps.deadline(1.8e9, price) - 1.8e9
    except OverCapError:
        assert min(hours * 3600, usd / price * 3600) < LEAST_S + ENDING_S + 1
        return
    assert (seconds + ENDING_S) / 3600 * price <= usd + 1e-6, "what ending takes is kept back"
    assert seconds + ENDING_S <= hours * 3600 + 1e-6


@given(st.floats(1, 100), st.floats(0.3, 24), st.floats(0.05, 100), st.floats(60, 90000))
def test_what_an_estimate_that_does_not_fit_is_told_to_take_is_enough(
    usd: float, hours: float, price: float, needs_s: float
) -> None:
    """An estimate is refused where the time to the winding down is shorter, and the caps that are named would do."""
    caps = Caps(usd, hours)
    try:
        there_s = caps.seconds(price) - 300
    except OverCapError:
        return
    filled = Estimate(1, 1, 1e9, 0.0, "").within(there_s)
    assert filled.seconds == pytest.approx(max(there_s, 12 * 60 + LEAST_RUN_S))
    for enough_s in (needs_s, filled.seconds, math.nextafter(there_s, math.inf)):
        if enough_s < there_s + 1:
            caps.check(enough_s, price, 300.0)
    if needs_s < there_s + 1:
        return
    with pytest.raises(OverCapError) as raised:
        caps.check(needs_s, price, 300.0)
    named = dict(re.findall(r"--max-(usd|hours) ([\d.e+]+)", str(raised.value)))
    assert named
    Caps(float(named.get("usd", usd)), float(named.get("hours", hours))).check(needs_s - 1e-6, price, 300.0)


def test_the_nearer_cap_counts() -> None:
    assert Caps(15.0, 1.5).seconds(7.18) == 1.5 * 3600 - ENDING_S
    assert Caps(7.18, 1.5).seconds(7.18) == 3600 - ENDING_S


@pytest.mark.parametrize(
    ("zone", "said"), [("UTC", "08:00:00 UTC"), ("CET-1", "09:00:00 CET"), ("<+0530>-5:30", "13:30:00 +0530")]
)
def test_a_clock_time_names_its_zone(zone: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as there:
        there.setenv("TZ", zone)
        time.tzset()
        assert clock_time(1_800_000_000) == f"{said} on 2027-01-15"
    time.tzset()


@settings(max_examples=40)
@given(st.text(max_size=60), st.from_regex(r"[0-9a-f]{6}", fullmatch=True), st.integers(10**9, 10**10 - 1))
def test_marks_survive_in_a_name(purpose: str, lab_id: str, deadline: int) -> None:
    name = Marks(purpose, lab_id, deadline).name
    found = read_name(name)
    assert found is not None
    assert (found.lab_id, found.deadline) == (lab_id, deadline)
    assert len(name) < 100
    assert read_name(f"{name}-copy") is None


@pytest.mark.parametrize("provider", ["runpod", "aws"])
def test_every_price_has_its_source(provider: str) -> None:
    for entry in table()[provider]:
        assert "http" in entry["source"], entry["id"]
        assert "read_on" in entry
        assert entry["links"] in ("NVLink", "PCIe", "none")


@pytest.mark.parametrize("provider", ["runpod", "aws"])
def test_profiles_of_the_house(provider: str) -> None:
    profiles = read_profiles(ROOT / provider / "profiles.toml", provider)
    assert {"2xa100", "4xa100", "4xl4", "4xa10g", "4xl40s", "8xa100", "8xh100", "selftest"} == set(profiles)
    for name, profile in profiles.items():
        assert profile.listed.id == profile.gpu, "the exact id"
        assert profile.smaller is None or profiles[profile.smaller].instead is None
        if profile.instead is None and name != "selftest":
            assert name.startswith(f"{profile.gpus}x")
            assert profile.dated_usd_per_hour is not None
            smaller = profiles[profile.smaller].dated_usd_per_hour if profile.smaller else 0.0
            assert smaller is not None
            assert smaller < profile.dated_usd_per_hour


def test_both_a100_profiles_are_sxm() -> None:
    profiles = read_profiles(ROOT / "runpod" / "profiles.toml", "runpod")
    for name in ("2xa100", "4xa100", "8xa100"):
        assert profiles[name].gpu == "NVIDIA A100-SXM4-80GB"
        assert profiles[name].links.startswith("NVLink")
        assert "cu1300" in profiles[name].image


def test_the_guides_prices_are_the_tables() -> None:
    for provider in ("runpod", "aws"):
        guide = (ROOT / provider / "README.md").read_text()
        for name, profile in read_profiles(ROOT / provider / "profiles.toml", provider).items():
            usd = profile.dated_usd_per_hour
            if profile.instead is None and name != "selftest" and usd is not None:
                price = usd if provider == "runpod" else profile.listed.usd(profile.gpus)
                assert f"${price:.2f}" in guide, name


def test_the_week_counts_with_the_same_price() -> None:
    four = read_profiles(ROOT / "runpod" / "profiles.toml", "runpod")["4xa100"]
    prices = {f"{replace(four, gpus=gpus).dated_usd_per_hour:.2f}" for gpus in (1, 4)}
    pages = [ROOT / "week5" / name for name in ("README.md", "decide.py", "exercises/run_distributed_benchmark.md")]
    for page in pages:
        named = set(re.findall(r"--usd-per-hour ([1-9]\d*\.\d\d)", page.read_text()))
        assert named, page
        assert named <= prices, page


def test_no_package_shadows_the_folders() -> None:
    for name in ("runpod", "aws"):
        assert not (ROOT / name / "__init__.py").exists()
        assert len((ROOT / name / "run.py").read_text().splitlines()) <= 10


def test_data_travels_with_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["setuptools"]["package-data"]["common.cloud"] == ["data/*"]
    assert any(one.startswith("boto3") for one in project["project"]["optional-dependencies"]["cloud"])
    assert not any("boto3" in one for one in project["project"]["dependencies"])


def test_a_ledger_whose_last_line_was_cut(tmp_path: Path) -> None:
    ledger, lab_id = new_ledger(tmp_path)
    ledger.write("intent", 1.0, purpose="x", lab_id=lab_id, deadline=1_800_000_000)
    ledger.write("created", 2.0, id="pod-1")
    whole = ledger.path.read_bytes()
    for cut in range(len(whole)):
        ledger.path.write_bytes(whole[:cut])
        assert len(ledger.events()) <= 2
    ledger.path.write_bytes(whole + b'{"at": 3, "event": "crea')
    assert ledger.machine_ids() == ["pod-1"]
    assert ledger.marks() == Marks("x", lab_id, 1_800_000_000)
    assert ledgers(tmp_path) == [Ledger(ledger.folder)]
    assert not ledger.closed
    for receipt in ("", "{", "[]", '{"verified": "true"}', '{"verified": null}'):
        (ledger.folder / "teardown.json").write_text(receipt)
        assert not ledger.closed


def test_a_line_of_the_ledger_is_on_the_disk_before_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, _ = new_ledger(tmp_path)
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda _: synced.append(ledger.path.read_text()))
    ledger.write("creating", 1.0, name="x")
    assert synced == ['{"at": 1.0, "event": "creating", "name": "x"}\n']


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Refused, match="--results-dir"):
        new_ledger(tmp_path / "file")


@pytest.mark.parametrize(
    ("name", "said"), [("", "nearest"), ("nvidia", "nearest"), ("V100", "nearest"), ("H100", "ambiguous")]
)
def test_cards_that_are_not_one(name: str, said: str) -> None:
    with pytest.raises(Refused, match=said):
        find("runpod", name)
