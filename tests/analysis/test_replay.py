"""Replays in the table, the sentences, the figures and the frames: compared by latency, never by throughput."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from common.analysis.frames import repeats_frame, scaling_frame
from common.analysis.scaling import figures
from common.analysis.scaling.findings import conclusions, speedup_finding
from common.analysis.scaling.load_curves import load_curves
from common.analysis.scaling.reading import read_scaling
from common.analysis.scaling.rows import scaling_rows
from common.analysis.scaling.table import print_scaling
from common.store.export import export_for_vllm_plots
from common.store.files import load, save
from common.store.schema import Case, Result
from tests.analysis.planted import TP1, TP2, TP4, case, full, replay, result

SLOW, FAST = [1_400.0, 1_500.0, 1_600.0], [900.0, 1_000.0, 1_100.0]


def both() -> Result:
    return result([replay(TP1, SLOW), replay(TP2, FAST)])


def printed(read: Result) -> str:
    stream = io.StringIO()
    print_scaling(read, Console(file=stream, width=80, highlight=False))
    return stream.getvalue()


def test_speedup_is_the_base_s_latency_over_the_plans_with_welchs_interval() -> None:
    base, row = scaling_rows(both())
    assert base.is_base and base.speedup is None
    assert row.speedup is not None and row.speedup.low is not None and row.speedup.high is not None
    assert row.speedup.value == pytest.approx(np.exp(np.log(SLOW).mean() - np.log(FAST).mean()))
    oracle = stats.ttest_ind(np.log(SLOW), np.log(FAST), equal_var=False).confidence_interval()
    assert [row.speedup.low, row.speedup.high] == pytest.approx(np.exp([oracle.low, oracle.high]))
    assert row.efficiency is None and row.serial_share is None and row.ideal is None, "latency is not devices' work"
    assert row.load == 0.5
    assert row.e2el_ms == pytest.approx(np.exp(np.log(FAST).mean()))


def test_a_slower_plan_is_a_loss_and_an_equal_one_unresolved() -> None:
    _, slower = scaling_rows(result([replay(TP1, FAST), replay(TP2, SLOW)]))
    assert slower.speedup is not None and slower.speedup.value < 1
    _, equal = scaling_rows(result([replay(TP1, SLOW), replay(TP2, [1_390.0, 1_500.0, 1_620.0])]))
    assert equal.unresolved


def test_replays_of_other_speed_are_not_compared() -> None:
    rows = scaling_rows(result([replay(TP1, SLOW, 1.0), replay(TP1, SLOW), replay(TP2, FAST)]))
    assert [(str(row.case.plan), row.load, row.is_base) for row in rows] == [
        ("tp1", 0.5, True),
        ("tp2", 0.5, False),
        ("tp1", 1.0, True),
    ]


def test_the_table_names_the_scale_and_the_reading_says_what_is_compared() -> None:
    text = printed(both())
    lines = [line.split() for line in text.splitlines()]
    assert ["replay", "tp1", "x0.5", "64.0"] in [line[:4] for line in lines]
    row = next(line for line in lines if line[:2] == ["replay", "tp2"])
    assert row[-3:] == ["1.50", "[1.22,", "1.85]"]
    assert "speed-up is that of the median request's latency" in text
    assert max(map(len, text.split("\n- ")[0].splitlines())) <= 80
    sentences = read_scaling(both())
    assert (
        "In the replay (times x0.5) 2 devices (tp2) answer the median request 1.50 [1.22, 1.85]x as fast: 997 ms"
        " against 1498 ms with tp1."
    ) in sentences
    assert any("compared by latency" in sentence for sentence in sentences)
    assert "replay" not in printed(full())


def test_the_headline_is_throughput_wherever_there_is_any() -> None:
    cases = [case(TP1, "fixed", 8, [80.0, 81.0]), case(TP2, "fixed", 8, [96.0, 97.0])]
    mixed = result([*cases, replay(TP1, SLOW), replay(TP2, FAST)])
    assert speedup_finding(mixed) == "tp2 gives 1.20× at 8 streams; ideal is 2×"
    assert speedup_finding(both()) == "tp2 gives 1.50× in the latency of a replay (times ×0.5)"
    assert len(conclusions(both())) == 3


def test_a_replay_is_no_point_of_the_load_curve() -> None:
    assert load_curves(both()) == []
    assert {load.streams for curve in load_curves(result([*full().cases, *both().cases])) for load in curve.loads} == {
        *(1, 8, 16, 32, 64)
    }


@pytest.mark.parametrize(
    "cases",
    [[replay(TP1, SLOW)], both().cases, [*full().cases, *both().cases], [replay(TP1, SLOW), replay(TP4, [20.0] * 3)]],
    ids=["alone", "two", "beside everything", "fifty times"],
)
def test_figures_draw(cases: list[Case]) -> None:
    for draw in figures.FIGURES.values():
        draw(result(cases)).canvas.draw()
    if len(cases) > 1:
        axes = figures.speedup(result(cases)).axes[0]
        assert "replay,\ntimes ×0.5\n(latency)" in [label.get_text() for label in axes.get_xticklabels()]


def test_frames_have_a_row_with_scale_and_latency() -> None:
    frame = scaling_frame(both()).set_index("plan")
    assert frame.loc["tp2", "time_scale"] == 0.5
    assert frame.loc["tp2", "e2el_ms"] == pytest.approx(996.66, abs=0.01)
    assert frame["streams"].isna().all()
    assert frame["efficiency"].isna().all()
    assert len(repeats_frame(both())) == 6
    assert scaling_frame(full())["time_scale"].isna().all()


def test_a_result_with_replays_is_saved_loaded_and_exported(tmp_path: Path) -> None:
    save(both(), tmp_path / "r.json")
    assert load(tmp_path / "r.json") == both()
    text = export_for_vllm_plots(both(), tmp_path / "r.bench").read_text()
    assert '"median_e2el_ms": 900.0' in text
    assert "max_concurrency" not in text and "request_rate" not in text


def test_a_replay_without_answers_is_a_row_without_numbers() -> None:
    failed = replay(TP2, [])
    failed.status = "failed"
    rows = scaling_rows(result([replay(TP1, SLOW), failed]))
    assert rows[1].speedup is None and rows[1].throughput is None
    mute = replay(TP2, FAST)
    for repeat in mute.repeats:
        del repeat["median_e2el_ms"]
    rows = scaling_rows(result([replay(TP1, SLOW), mute]))
    assert rows[1].throughput is not None and rows[1].speedup is None
    assert "replay" in printed(result([mute, replay(TP1, SLOW)]))
