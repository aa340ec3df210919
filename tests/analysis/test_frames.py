"""Results found and laid out; no data stays no data."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.analysis import frames
from common.store.files import StoreError, save
from tests.analysis.planted import TP1, TP2, TP4, WEIGHT_BYTES, case, full, result, skipped


def store(folder: Path, day: int) -> Path:
    made = full()
    made.run_id = f"202601{day:02}T030405Z-2x1core-synthetic-qwen2-9m"
    path = folder / "benchmark_scaling" / f"{made.run_id}.json"
    (path.with_suffix(".bench")).mkdir(parents=True)
    (path.with_suffix(".bench") / "summary.json").write_text("[]")
    save(made, path)
    return path


def test_results_are_found_by_age_and_nothing_else_is(tmp_path: Path) -> None:
    newer, older = store(tmp_path / "reference" / "b", 9), store(tmp_path / "reference" / "a", 8)
    (tmp_path / "schema.json").write_text("{}")
    assert frames.newest(tmp_path, "benchmark_scaling") == newer
    assert [made.run_id for made in frames.load_results(tmp_path)] == [older.stem, newer.stem]
    assert [made.run_id for made in frames.load_results(older)] == [older.stem]


def test_a_missing_result_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="run week5/benchmark_scaling"):
        frames.newest(tmp_path, "benchmark_scaling")
    with pytest.raises(StoreError, match="no results under"):
        frames.load_results(tmp_path)
    with pytest.raises(StoreError, match="cannot read"):
        frames.load_results(tmp_path / "none.json")


def test_a_reader_chooses_by_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "RESULTS", tmp_path)
    committed = store(tmp_path / "reference" / "machine", 7)
    own = store(tmp_path, 3)
    monkeypatch.delenv(frames.CHOSEN, raising=False)
    assert frames.chosen_result() == frames.latest_reference() == committed
    assert "committed reference, not your own" in frames.named(committed)
    assert frames.named(own) == f"{own.name} (named by LAB_RESULT)"
    monkeypatch.setenv(frames.CHOSEN, str(own))
    assert frames.chosen_result() == own
    monkeypatch.setenv(frames.CHOSEN, str(own.parent.parent / "benchmark_scaling"))
    assert frames.chosen_result() == own


def test_scaling_frame_holds_the_estimates() -> None:
    frame = frames.scaling_frame(full()).set_index("id")
    row = frame.loc["tp2/saturated/c64"]
    assert row["speedup"] == pytest.approx(200 / 120, rel=1e-3)
    assert row["speedup_low"] < row["speedup"] < row["speedup_high"]
    assert row["efficiency"] == pytest.approx(row["speedup"] / 2)
    assert row["weight_bytes_per_device"] == WEIGHT_BYTES / 2
    assert row["usd_per_million_output_tokens"] == pytest.approx(1.2 / 3600 / row["throughput"] * 1e6)
    assert row["sampling_unit"] == "within-start"
    assert frame.loc["tp2/fixed/c1", "unresolved"] is True


def test_what_was_not_measured_is_absent_and_not_zero() -> None:
    frame = frames.scaling_frame(result([case(TP1, "fixed", 1, [10.0]), skipped(TP4, "fixed", 1)])).set_index("id")
    missing = frame.loc["tp4/fixed/c1", ["throughput", "throughput_low", "ttft_ms", "speedup", "kv_cache_tokens"]]
    assert missing.isna().all()
    assert frame.loc["tp4/fixed/c1", "reason"] == "tp4 needs 4 devices, this machine has 2"
    assert frame[["throughput_low", "speedup", "usd_per_million_output_tokens"]].loc["tp1/fixed/c1"].isna().all()


def test_repeats_frame_keeps_every_raw_repeat() -> None:
    frame = frames.repeats_frame(full())
    assert len(frame) == 10 * 3 + 6  # ten measured cases, six rungs of the ladder
    rungs = frame[(frame["curve"] == "ladder") & (frame["plan"] == "tp2")]
    assert list(rungs["streams"]) == [16, 32, 64]
    assert list(rungs["output_throughput"]) == [152.0, 180.0, 199.0]


def test_memory_frame_sets_weights_beside_their_share() -> None:
    frame = frames.memory_frame(full()).set_index("plan")
    assert list(frame.index) == ["tp1", "tp1x2", "tp2"]
    assert list(frame["weight_bytes_per_device"]) == list(frame["expected_weight_bytes"])
    assert frame.loc["tp2", "expected_weight_bytes"] == WEIGHT_BYTES / 2
    assert frame.loc["tp2", "kv_cache_tokens"] == 2 * 524_288


def test_an_empty_result_gives_empty_frames() -> None:
    empty = result([])
    assert "speedup_low" in frames.scaling_frame(empty).columns and frames.scaling_frame(empty).empty
    assert "streams" in frames.repeats_frame(empty).columns and frames.repeats_frame(empty).empty
    assert "startup_s" in frames.memory_frame(empty).columns and frames.memory_frame(empty).empty
    assert frames.repeats_frame(result([skipped(TP2, "fixed", 1)])).empty
