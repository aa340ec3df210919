"""Trouble on this side: a full disk, a key that went, an answer that nobody foresaw. The machine ends all the same."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from common.cloud import teardown, upkeep
from common.cloud.errors import BILLING, CLEAN, RUN_FAILED, MachineError, ProviderError, Refused
from common.cloud.flow import go
from common.cloud.http import Call, Reply
from common.cloud.ledger import Ledger
from common.cloud.main import main
from common.cloud.options import Cost, Down, OnMachine, Selftest, Sweep, Verify
from common.cloud.profiles import read_profiles
from common.cloud.provider import Machine
from common.cloud.runpod import Runpod
from common.cloud.session import Session
from common.cloud.survey import open_here
from common.cloud.watchdog import watch
from tests.cloud.evening import Place
from tests.cloud.fake_runpod import KEY, OTHER_KEY
from tests.cloud.runpod_bodies import ok, problem
from tests.cloud.world import PROFILES, ROOT, Evening, RoteTransport


@pytest.fixture(autouse=True)
def small_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.cloud.work.packed", lambda root: b"code")


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def brought_up(evening: Evening) -> Session:
    known = {one.marks for one in open_here(evening.world, evening.folder / "results")}
    assert upkeep.up(replace(evening.request, job=None), evening.world, Path("key")) == CLEAN
    (made,) = [one for one in open_here(evening.world, evening.folder / "results") if one.marks not in known]
    return made


def answering(evening: Evening, change: Callable[[Call, Reply], Reply]) -> Runpod:
    return Runpod(KEY, evening.clock, "http://127.0.0.1:1", lambda call: change(call, evening.fake.exchange(call)))


def test_a_disk_that_fills_up_in_mid_run_ends_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger cannot be written any more, nor the receipt; proof is what the provider says."""
    evening = Evening(tmp_path)
    run = RoteTransport.run

    def fills(self: RoteTransport, script: str, stdin: bytes = b"", timeout_s: float = 60.0) -> object:
        if ".exit" in script:
            monkeypatch.setattr(Ledger, "write", full)
            monkeypatch.setattr(Ledger, "save", full)
        return run(self, script, stdin, timeout_s)

    monkeypatch.setattr(RoteTransport, "run", fills)
    assert evening.go() == RUN_FAILED
    assert evening.fake.ours() == []
    assert evening.held.told == ["done"]
    said = "\n".join(evening.said)
    assert "proven gone" in said and "No space left" in said
    assert "no receipt" in said
    assert not evening.ledger.closed


def test_a_full_disk_hides_no_alarm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evening = Evening(tmp_path, frozenset({"terminate_ignored"}))
    monkeypatch.setattr("common.cloud.flow.enter_cost", full)
    assert evening.go() == BILLING
    assert "curl -X DELETE" in "\n".join(evening.said)


def test_results_that_find_no_room_are_no_reason_to_stop_or_to_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evening = Evening(tmp_path)
    monkeypatch.setattr("common.cloud.work.fetch", full)
    assert evening.go() == RUN_FAILED
    assert evening.fake.ours() == []
    assert any("results not fetched this time" in line and "No space" in line for line in evening.said)


def test_the_watchdog_outlives_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evening = Evening(tmp_path)
    session = brought_up(evening)
    monkeypatch.setattr(Ledger, "write", full)
    monkeypatch.setattr(Ledger, "save", full)
    assert watch(session, lambda: "dead")
    assert evening.fake.ours() == []


def test_the_watchdog_outlives_what_nobody_foresaw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evening = Evening(tmp_path)
    session = brought_up(evening)
    end, times = teardown.end, iter([True, True, False])

    def breaks(session: Session) -> teardown.Verdict:
        if next(times):
            raise ZeroDivisionError
        return end(session)

    monkeypatch.setattr("common.cloud.watchdog.end", breaks)
    assert watch(session, lambda: "dead")
    assert evening.fake.ours() == []
    assert any("ZeroDivisionError" in line for line in evening.said)


@pytest.mark.parametrize("ssh", ["none", {"direct": {"host": "x", "port": "many"}}, {"direct": [1]}])
def test_a_pod_whose_address_is_described_in_another_way_is_seen_and_ended(ssh: object, tmp_path: Path) -> None:
    evening = Evening(tmp_path)
    session = brought_up(evening)
    session.ledger.path.write_text("")  # found by its name alone

    def bent(call: Call, reply: Reply) -> Reply:
        body = reply.json() if reply.status == 200 else None
        if isinstance(body, dict) and isinstance(body.get("pods"), list):
            return ok(body | {"pods": [pod | {"ssh": ssh} for pod in body["pods"]]})
        return reply

    assert teardown.end(replace(session, provider=answering(evening, bent))).verified is True
    assert evening.fake.ours() == []


def test_an_answer_that_nobody_foresaw_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what it says is not repeated: it may hold the key."""
    evening = Evening(tmp_path)
    session = brought_up(evening)

    def breaks(_: Runpod) -> list[Machine]:
        raise ValueError(f"Invalid header value: Bearer {KEY}")

    monkeypatch.setattr(Runpod, "machines", breaks)
    verdict = teardown.end(session)
    assert verdict.verified is None
    assert evening.fake.ours() == [], "what is written down is ended all the same"
    assert upkeep.verify(Verify(tmp_path / "results"), evening.world, ROOT) == BILLING
    assert any("machines: ValueError" in line for line in evening.said)
    assert KEY not in "".join((*evening.said, *verdict.looks[-1].unanswered))


@pytest.mark.parametrize("pagination", ["more", 3, [1]])
def test_pages_described_in_another_way_are_no_whole_list(pagination: object, tmp_path: Path) -> None:
    evening = Evening(tmp_path)

    def bent(call: Call, reply: Reply) -> Reply:
        body = reply.json() if reply.status == 200 else None
        return ok(body | {"pagination": pagination}) if isinstance(body, dict) and "pods" in body else reply

    with pytest.raises(ProviderError):
        answering(evening, bent).machines()


@pytest.mark.parametrize("how", ["no network", "key withdrawn", "no ssh key", "disk full"])
def test_down_that_cannot_is_9_and_goes_on_with_the_next(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anything else would read as: nothing bills."""
    evening = Evening(tmp_path)
    first, second = brought_up(evening), brought_up(evening)
    mine = first.ledger.machine_ids()[0]
    world = evening.world
    if how in ("no network", "key withdrawn"):

        def bent(call: Call, reply: Reply) -> Reply:
            if not call.url.endswith(f"/{mine}"):
                return reply
            return problem(403, "forbidden") if how == "key withdrawn" else problem(503, "try later")

        world = replace(world, provider=answering(evening, bent))
    elif how == "no ssh key":

        def no_key(session: Session) -> object:
            if session.marks == first.marks:
                raise Refused("no ssh key")
            return evening.world.connect(session)

        world = replace(world, connect=no_key)  # type: ignore[arg-type]
    else:
        monkeypatch.setattr("common.cloud.work.fetch", full)
        world = replace(world, confirm=lambda _: False)
    evening.said.clear()
    assert upkeep.down(Down(tmp_path / "results"), world, ROOT) == BILLING
    said = "\n".join(evening.said)
    assert mine in said and "$7.18 per hour" in said
    if how != "disk full":
        assert second.ledger.closed, "the other one was ended"
        assert "curl -X DELETE" in said


def test_a_machine_that_stands_still_is_not_called_gone(tmp_path: Path) -> None:
    evening = Evening(tmp_path)
    session = brought_up(evening)
    (pod,) = evening.fake.ours()
    evening.fake.pods[pod].status = "EXITED"
    with pytest.raises(MachineError) as raised:
        upkeep.sync(OnMachine(session.ledger.folder.parents[1]), evening.world, ROOT)
    assert "gone" not in str(raised.value)
    assert "bills" in str(raised.value) and "`down`" in str(raised.value)


@pytest.mark.parametrize("faults", [frozenset({"unknown_at_first"}), frozenset({"gone_in_mid_run"})])
def test_a_selftest_passes_only_at_the_deadline(faults: frozenset[str], tmp_path: Path) -> None:
    """A machine that is not known yet, or that the provider took back, has not ended itself."""
    evening = Evening(tmp_path, faults)
    profile = read_profiles(PROFILES, "runpod")["selftest"]
    assert upkeep.selftest(Selftest(tmp_path / "results"), evening.world, profile) == RUN_FAILED
    assert evening.fake.ours() == []
    assert (evening.ledger.last("selftest") or {})["passed"] is False


@pytest.mark.parametrize("line", ['{"event": "created"}', '{"event": "creating"}', '{"event": "creating", "at": "x"}'])
def test_a_line_that_somebody_spoiled_stops_no_ending(line: str, tmp_path: Path) -> None:
    evening = Evening(tmp_path)
    session = brought_up(evening)
    with session.ledger.path.open("a") as file:
        file.write(line + "\n")
    assert teardown.end(session).verified is True
    assert evening.fake.ours() == []


def test_an_account_without_a_name_is_not_like_every_other(tmp_path: Path) -> None:
    """Two accounts whose answers both lack an id would pass for the same one."""
    mine, other = (Runpod(key, exchange=lambda call: ok({"email": "me"})) for key in (KEY, OTHER_KEY))
    assert mine.account() != other.account()


def test_what_is_left_is_named_with_what_ends_it(tmp_path: Path) -> None:
    """A volume is no pod: the command that deletes pods would not find it."""
    evening = Evening(tmp_path)
    name = f"llmlab-x-abcdef-dl{int(evening.clock.now()) - 60}"
    evening.fake.volumes.append({"id": "vol-1", "name": name, "size": 10})
    assert upkeep.verify(Verify(tmp_path / "results"), evening.world, ROOT) == BILLING
    (line,) = [line for line in evening.said if "vol-1" in line]
    assert "/v2/pods/" not in line
    assert "/v2/network-volumes/vol-1" in line and "`sweep`" in line


def test_a_bug_in_the_lab_is_not_proof(
    place: Place, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["up", "--profile", "4xa100", "--max-usd", "15", "--max-hours", "1.5", "--yes"]
    assert place(*words, "--ssh-key", str(place.folder / "id_ed25519")) == CLEAN
    with monkeypatch.context() as broken:
        broken.setattr("common.cloud.upkeep.survey", lambda *_: 1 / 0)
        assert place("verify", "--yes") == BILLING
    said = capfd.readouterr().err
    assert "ZeroDivisionError" in said and "pod-1" in said
    assert place("down", "--discard", "--yes") == CLEAN


def test_an_answer_after_lunch_rents_nothing(tmp_path: Path) -> None:
    """The deadline was shown before the question, and would be over."""
    evening = Evening(tmp_path)

    def late(_: str) -> bool:
        evening.clock.sleep(7200)
        return True

    with pytest.raises(Refused, match="Begin again"):
        go(evening.request, replace(evening.world, confirm=late))
    assert not any(method == "POST" for method, _ in evening.fake.calls)


def test_sweep_believes_no_single_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing from one list and back in the next is ended again."""
    evening = Evening(tmp_path, frozenset({"terminate_slow"}))
    name = f"llmlab-x-abcdef-dl{int(evening.clock.now()) - 60}"
    evening.fake._make({"name": name, "cloud": "SECURE", "image": "x:1", "gpu": {"id": "NVIDIA L4", "count": 1}})
    machines, flickers = Runpod.machines, iter([False, True, False])

    def flickering(provider: Runpod) -> list[Machine]:
        return [] if next(flickers, False) else machines(provider)

    monkeypatch.setattr(Runpod, "machines", flickering)
    assert upkeep.sweep(Sweep(tmp_path / "results"), evening.world, ROOT) == CLEAN
    assert evening.fake.ours() == []


def test_a_home_that_nobody_has(capfd: pytest.CaptureFixture[str]) -> None:
    assert main("runpod", PROFILES, ["cost", "--dry-run", "--results-dir", "~nobody-of-this-name/x"]) == 2
    assert "--results-dir" in capfd.readouterr().err


def test_cost_without_a_renting_says_so(tmp_path: Path) -> None:
    evening = Evening(tmp_path)
    assert upkeep.show_cost(Cost(tmp_path / "results"), evening.world, ROOT) == CLEAN
    assert evening.said == [f"no renting is written down in {tmp_path / 'results'}"]
