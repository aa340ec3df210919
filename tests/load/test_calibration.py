from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from common.core.arrivals import ClosedLoop
from common.core.metrics import repeat_metrics
from common.core.verdict import ClientCeiling, ClientEvidence, Verdict, judge
from common.core.workload import Workload
from common.load import calibration
from common.load.bare.process import BareProcess
from common.load.calibration import Level, calibrate, measure_level
from common.load.client import run_load

pytestmark = pytest.mark.timing

RIGHT = Level(0, 1_000.0, 0, 0.001, 0.002, 0.001, 0.050, 0.001)


def level(streams: int, **changes: Any) -> Level:  # noqa: ANN401 - each field has its own type
    return Level(**{**vars(RIGHT), "streams": streams, "tokens_per_s": 100.0 * streams, **changes})


class Script:
    """Stands in for the measuring: levels as written, each taking no time, and a count of them."""

    def __init__(self, *levels: Level) -> None:
        self.levels: Iterator[Level] = iter(levels)
        self.asked: list[int] = []

    def __call__(self, _server: object, streams: int) -> Level:
        self.asked.append(streams)
        return next(self.levels)


class NoServer:
    def __init__(self, *_: float) -> None: ...
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


Play = Callable[..., Script]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Play:
    def start(*levels: Level, load_average: float = 0.0) -> Script:
        script = Script(*levels)
        monkeypatch.setattr(calibration, "BareProcess", NoServer)
        monkeypatch.setattr(calibration, "measure_level", script)
        monkeypatch.setattr(calibration, "_flood", lambda: 2e6)
        monkeypatch.setattr(psutil, "getloadavg", lambda: (load_average * (psutil.cpu_count() or 1), 0.0, 0.0))
        return script

    return start


@pytest.mark.parametrize(
    ("change", "right", "blamed"),
    [
        ({}, True, False),
        ({"added_ttft_s": 0.0016}, False, True),
        ({"added_ttft_s": -0.0016}, False, True),
        ({"added_ttft_s": 0.0016, "server_ttft_s": 0.060}, True, False),
        ({"added_ttft_p99_s": 0.011}, False, True),
        ({"tpot_off": 0.006}, False, True),
        ({"tpot_off": -0.006}, False, True),
        ({"failed": 1}, False, True),
        ({"tpot_off": 0.006, "server_late_s": 0.011}, False, False),
        ({"server_late_s": 0.011}, True, False),  # late or not, both accounts agree
    ],
)
def test_what_right_is(change: dict[str, float], right: bool, blamed: bool) -> None:
    assert (level(64, **change).right, level(64, **change).blames_client) == (right, blamed)
    assert f": {'right' if right else 'wrong' if blamed else 'nothing learnt'}" in str(level(64, **change))


WRONG = {"tpot_off": 0.01}
LATE = {"tpot_off": 0.01, "server_late_s": 0.1}


@pytest.mark.parametrize(
    ("levels", "asked", "streams", "at_least"),
    [
        ([level(4), level(8), level(16)], [4, 8, 16], 16, True),
        ([level(4), level(8, **WRONG), level(8, **WRONG)], [4, 8, 8], 4, False),
        ([level(4), level(8, **WRONG), level(8), level(16)], [4, 8, 8, 16], 16, True),
        ([level(4, **WRONG), level(4), level(8, **WRONG), level(8, **WRONG)], [4, 4, 8, 8], 4, False),
        ([level(4), level(8, **LATE), level(8, **LATE)], [4, 8, 8], 4, True),
        ([level(4), level(8, **LATE), level(8, **WRONG)], [4, 8, 8], 4, False),
    ],
)
def test_the_climb(play: Play, levels: list[Level], asked: list[int], streams: int, at_least: bool) -> None:
    script = play(*levels)
    said: list[str] = []
    ceiling = calibrate("machine", say=said.append, levels=(4, 8, 16), time_limit_s=60)
    assert script.asked == asked
    assert ceiling == ClientCeiling(streams, 100.0 * streams, 0.001, 2e6, at_least, 0.0)
    assert len(said) == 1 + len(asked)


def test_a_level_that_does_not_fit_is_left_out(play: Play) -> None:
    script = play(level(4))
    ceiling = calibrate("machine", levels=(4, 1_000_000), time_limit_s=5)
    assert script.asked == [4] and ceiling is not None and (ceiling.streams, ceiling.at_least) == (4, True)


def test_wrong_at_the_lowest_level_twice_is_no_calibration(play: Play, tmp_path: Path) -> None:
    said: list[str] = []
    play(level(4, **WRONG), level(4, **WRONG))
    assert calibrate("machine", tmp_path, say=said.append, levels=(4, 8)) is None
    assert "end other programs" in said[-1] and not list(tmp_path.iterdir())


def test_levels_must_be_given() -> None:
    with pytest.raises(ValueError, match="levels"):
        calibrate("machine", levels=())


def test_a_ceiling_is_kept_for_its_machine(play: Play, tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "lab"
    script = play(level(4), level(4))
    first = calibrate("one", folder, levels=(4,))
    assert calibrate("one", folder, levels=(4,)) == first and script.asked == [4]
    (kept,) = folder.iterdir()
    assert kept.name.startswith("client-") and kept.suffix == ".json"
    content = json.loads(kept.read_text())
    assert content["fingerprint"] == "one" and set(content["versions"]) == {"python", "lab", "uvloop"}
    calibrate("another", folder, levels=(4,))
    assert script.asked == [4, 4] and len(list(folder.iterdir())) == 2


def edited(**changes: Any) -> Callable[[str], str]:  # noqa: ANN401 - anything that JSON holds
    return lambda text: json.dumps(json.loads(text) | changes)


BROKEN: dict[str, Callable[[str], str]] = {
    "empty": lambda text: "",
    "truncated": lambda text: text[: len(text) // 2],
    "not JSON": lambda text: "\x00\xff",
    "another form": lambda text: "[1, 2]",
    "another method": edited(method_version=0),
    "other software": edited(versions={"python": "2.7"}),
    "another machine's": edited(fingerprint="other"),
    "no ceiling": edited(ceiling=None),
    "an impossible ceiling": lambda text: text.replace('"streams": 4', '"streams": -4'),
    "a ceiling that is not a number": lambda text: text.replace('"tokens_per_s": 400.0', '"tokens_per_s": NaN'),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_cache_that_cannot_be_used_is_measured_anew(play: Play, tmp_path: Path, name: str) -> None:
    script = play(level(4), level(4))
    first = calibrate("one", tmp_path, levels=(4,))
    (kept,) = tmp_path.iterdir()
    kept.write_text(BROKEN[name](kept.read_text()))
    assert calibrate("one", tmp_path, levels=(4,)) == first and script.asked == [4, 4]
    assert calibrate("one", tmp_path, levels=(4,)) == first and script.asked == [4, 4], "and mended"
    assert [path.name for path in tmp_path.iterdir()] == [kept.name]


def test_a_folder_that_cannot_be_written_to_is_no_failure(play: Play, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said: list[str] = []
    play(level(4))
    ceiling = calibrate("one", tmp_path / "file" / "lab", say=said.append, levels=(4,))
    assert ceiling is not None and "is not kept" in said[-1] and "\n" not in said[-1]


def test_a_low_ceiling_on_a_busy_machine_is_not_kept(play: Play, tmp_path: Path) -> None:
    busy = 0.8
    play(level(4), level(8, **WRONG), level(8, **WRONG), load_average=busy)
    ceiling = calibrate("one", tmp_path, levels=(4, 8))
    assert ceiling is not None and ceiling.load_average == busy * (psutil.cpu_count() or 1)
    assert not list(tmp_path.iterdir())
    play(level(4), level(8), load_average=busy)
    calibrate("one", tmp_path, levels=(4, 8))
    assert len(list(tmp_path.iterdir())) == 1, "the highest level was reached all the same"


@pytest.mark.slow
def test_really_calibrating_keeps_its_time_and_its_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine that may be busy: the limits are wide, what was counted is exact."""
    for limit in ("BENT", "_P99_LIMIT_S", "_TPOT_LIMIT"):
        monkeypatch.setattr(calibration, limit, 100.0)
    monkeypatch.setattr(calibration, "_FLOOD_TOKENS", 200)
    began = time.perf_counter()
    ceiling = calibrate("one", tmp_path, levels=(2, 8), time_limit_s=30)
    assert time.perf_counter() - began < 30
    assert ceiling is not None and ceiling.streams == 8 and ceiling.at_least
    assert 0 < ceiling.tokens_per_s <= 100 * ceiling.streams
    assert ceiling.flood_tokens_per_s is not None and ceiling.flood_tokens_per_s > 1_000
    monkeypatch.setattr(calibration, "BareProcess", None)
    assert calibrate("one", tmp_path, levels=(2, 8)) == ceiling


def test_a_level_holds_both_accounts_against_each_other() -> None:
    with BareProcess(0.020, 0.005) as server:
        measured = measure_level(server, 4, turns=2, tokens=10)
    assert (measured.streams, measured.failed) == (4, 0)
    assert measured.server_ttft_s >= 0.020 and measured.added_ttft_s > 0
    assert measured.added_ttft_s < 0.5 and abs(measured.tpot_off) < 1


def verdict_on(server: BareProcess, streams: int, tokens: int, pause_s: float = 0.0) -> Verdict:
    """A run against the bare server, whose `progress` stops the event loop for so long four times a second."""
    work = Workload(2 * streams, 8, tokens, 10_000)
    loaded = run_load(
        [server.endpoint], work.generate(), ClosedLoop(streams), progress=lambda done, seen: time.sleep(pause_s)
    )
    seen = repeat_metrics(loaded.records, loaded.duration_s)
    evidence = ClientEvidence(
        loop_delay_s=loaded.loop_lag.delay_s,
        loop_lag_p99_s=loaded.loop_lag.p99_s,
        client_cpu_share=loaded.client_cpu_s / loaded.duration_s,
        streams=streams,
        tokens_per_s=seen["output_throughput"],
        shares_cores=False,
        mean_ttft_s=seen["mean_ttft_ms"] / 1e3,
        mean_tpot_s=seen["mean_tpot_ms"] / 1e3,
    )
    return judge(evidence, ClientCeiling(512, 48_000.0, 0.001))


@pytest.mark.slow
def test_a_blocked_event_loop_is_invalid() -> None:
    with BareProcess(0.050, 0.010) as server:
        verdict = verdict_on(server, streams=8, tokens=40, pause_s=0.300)
    assert verdict.word == "INVALID" and verdict.remedy
    assert any("event loop" in reason and "of the mean TTFT" in reason for reason in verdict.reasons)


@pytest.mark.slow
def test_an_undisturbed_run_is_valid() -> None:
    """Long times, so that a neighbour's load on the machine does not count; five tries, for the worst of neighbours."""
    verdicts = []
    with BareProcess(0.400, 0.050) as server:
        for _ in range(5):
            verdicts.append(verdict_on(server, streams=4, tokens=6))
            if verdicts[-1].word == "VALID":
                break
    assert verdicts[-1] == Verdict("VALID"), verdicts
