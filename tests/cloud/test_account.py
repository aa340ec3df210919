"""Another account's credentials: its lists are empty, and prove nothing about what this one rented."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from common.cloud import teardown, upkeep
from common.cloud.errors import BAD_INPUT, BILLING, CLEAN, RUN_FAILED, OtherAccountError, ProviderError, Refused
from common.cloud.flow import World, go
from common.cloud.http import Call, Reply
from common.cloud.ledger import ledgers
from common.cloud.options import Down, OnMachine, Sweep, Verify
from common.cloud.providers import check_lasts
from common.cloud.runpod import Runpod
from common.cloud.survey import open_here
from tests.cloud.evening import Place
from tests.cloud.fake_runpod import KEY, OTHER_KEY
from tests.cloud.runpod_bodies import problem
from tests.cloud.world import ROOT, Evening

KEYFILE = Path("key")


@pytest.fixture(autouse=True)
def small_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.cloud.work.packed", lambda root: b"code")


def asked_with(key: str, evening: Evening) -> World:
    return replace(evening.world, provider=Runpod(key, evening.clock, "http://127.0.0.1:1", evening.fake.exchange))


def test_another_accounts_key_proves_nothing(tmp_path: Path) -> None:
    evening = Evening(tmp_path, frozenset({"terminate_ignored"}))
    assert evening.go() == BILLING, "and its machine is still there"
    results = tmp_path / "results"
    evening.said.clear()
    other = asked_with(OTHER_KEY, evening)
    assert upkeep.verify(Verify(results), other, ROOT) == BILLING
    said = "\n".join(evening.said)
    assert "rented by account user_1, and these credentials are of user_2" in said
    assert "machine pod-1 may still bill, at $7.18 per hour. End it: curl -X DELETE" in said
    assert "https://console.runpod.io" in said
    assert upkeep.sweep(Sweep(results), other, ROOT) == BILLING
    evening.said.clear()
    assert upkeep.down(Down(results), other, ROOT) == BILLING
    assert "rented by account user_1, and these credentials are of user_2" in "\n".join(evening.said)
    with pytest.raises(OtherAccountError):
        upkeep.sync(OnMachine(results), other, ROOT)
    assert not ledgers(results)[0].closed

    evening.fake.faults = frozenset()
    own = asked_with(KEY, evening)
    assert upkeep.down(Down(results, discard=True), own, ROOT) == CLEAN
    assert upkeep.verify(Verify(results), own, ROOT) == CLEAN
    assert "account user_1" in evening.said[-1]
    assert upkeep.verify(Verify(results), other, ROOT) == CLEAN, "a receipt proves that renting's end"
    assert "account user_2" in evening.said[-1], "and what was looked at now is said"


def test_doctor_calls_nothing_ok_that_it_did_not_ask(place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    """A note is no fault: nothing is missing because of it."""
    place("doctor")
    said = capfd.readouterr().err.splitlines()
    (balance,) = [line for line in said if "balance" in line]
    assert balance.startswith("note    balance and auto-pay: not told by the API: look at https://console.runpod.io/")
    assert [line for line in said if line.startswith("note") and "`selftest` shows it" in line]
    oks = [line for line in said if line.startswith("ok ")]
    assert all("lists its" in line or "are here" in line for line in oks)
    assert len([line for line in oks if "lists its" in line]) == 2


@pytest.mark.parametrize("answer", [True, None, False])
def test_only_what_is_missing_makes_doctor_fail(
    answer: bool | None, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Runpod, "state_of_account", lambda _: [(answer, "x")])
    monkeypatch.setattr("common.cloud.account.missing", lambda *_: [])
    assert place("doctor") == (BAD_INPUT if answer is False else CLEAN)


def test_no_receipt_by_another_accounts_lists(tmp_path: Path) -> None:
    """Whoever asks for the proof: a watchdog that was given another key, or a verb that forgot to look."""
    evening = Evening(tmp_path, frozenset({"terminate_ignored"}))
    assert evening.go() == BILLING
    (session,) = open_here(asked_with(OTHER_KEY, evening), tmp_path / "results")
    verdict = teardown.end(session)
    assert verdict.verified is None
    assert verdict.code == BILLING
    assert not session.ledger.closed
    assert "user_2" in "".join((session.ledger.load("teardown.json") or {})["left"])


def test_a_key_that_may_not_ask_is_known_by_its_checksum(tmp_path: Path) -> None:
    provider = Runpod(KEY, exchange=lambda call: problem(403, "no right"))
    name = provider.account()
    assert name.startswith("key-")
    assert name == Runpod(KEY, exchange=lambda call: problem(404, "no such path")).account()
    assert name != Runpod(OTHER_KEY, exchange=lambda call: problem(403, "no right")).account()
    assert KEY[4:12] not in name


def test_temporary_credentials_must_outlive_the_deadline(tmp_path: Path) -> None:
    """Without them neither `go` nor the watchdog can end anything."""
    evening = Evening(tmp_path)
    now = evening.clock.now()
    short = replace(evening.world, spec={"token": "x", "expires": now + 3000})
    with pytest.raises(Refused, match="aws sso login") as raised:
        go(evening.request, short)
    assert raised.value.code == BAD_INPUT
    assert "--max-hours" in str(raised.value)
    assert not any(method == "POST" for method, _ in evening.fake.calls)
    assert not (tmp_path / "results").exists()
    assert check_lasts({"token": "x", "expires": now + 7200}, now + 6000) is None
    assert check_lasts({"token": None}, now) is None
    warning = check_lasts({"token": "x"}, now + 6000)
    assert warning is not None
    assert "the watchdog" in warning
    assert "a key that does not end" in warning


def test_where_the_account_is_not_known_nothing_is_rented(tmp_path: Path) -> None:
    evening = Evening(tmp_path)
    ask = evening.fake.exchange

    def silent(call: Call) -> Reply:
        return problem(500, "internal error") if call.url.endswith("/v2/account") else ask(call)

    with pytest.raises(ProviderError, match="/v2/account") as raised:
        go(evening.request, replace(evening.world, provider=Runpod(KEY, evening.clock, exchange=silent)))
    assert raised.value.code == RUN_FAILED
    assert not any(method == "POST" for method, _ in evening.fake.calls)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("path", "right"),
    [
        ("/v2/pods", "Pods read and write"),
        ("/v2/network-volumes", "Network volumes read"),
        ("/v2/clusters", "Clusters read"),
        ("/v2/catalog/gpus/NVIDIA A100-SXM4-80GB", ""),
    ],
)
def test_a_key_that_may_not_list_is_refused_before_renting(path: str, right: str, tmp_path: Path) -> None:
    """What cannot be listed could never be proven gone."""
    evening = Evening(tmp_path)
    evening.fake.denied = {path}
    for verb in ("go", "up"):
        with pytest.raises(Refused) as raised:
            go(evening.request, evening.world) if verb == "go" else upkeep.up(evening.request, evening.world, KEYFILE)
        assert raised.value.code == BAD_INPUT
        assert f"GET {path.partition(' ')[0]}" in str(raised.value)
        assert f"give it {right}" in str(raised.value)
    assert not any(method == "POST" for method, _ in evening.fake.calls)
    assert not (tmp_path / "results").exists()
