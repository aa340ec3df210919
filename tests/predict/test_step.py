from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.predict.cases import columns, read_cases
from common.predict.hardware import all_reduce_sizes, all_reduce_table, find
from common.predict.step import CONSTANTS, Rows, all_reduce_s, kv_tokens, log_rate, pass_s, sequences

NOTHING = 1e-12
IDEAL = {"memory": 1.0, "compute": 1.0, "links": 1.0, "attention": 1.0, "reserve_gb": 2.0}
CONSTANTS_IDEAL = np.log([IDEAL.get(name, NOTHING) for name in CONSTANTS])


def rows(folder: Path, plans: list[dict[str, int]], **changes: str | int) -> Rows:
    """Llama-3-8B in bf16 on H100s, one row per plan."""
    case: dict[str, Any] = {"id": "a", "group": "g", "gpu": "H100 SXM", "model": "Llama-3-8B", "dtype": "bf16"}
    case |= {"input_len": 128, "output_len": 128, "concurrency": 1, "engine": "vLLM"}
    case |= {"derived_speedup": {"metric": "output_tok_s"}} | changes
    case["rows"] = [{"output_tok_s": 1.0, "gpus": plan.get("tp", 1) * plan.get("pp", 1), **plan} for plan in plans]
    path = folder / "cases.json"
    path.write_text(json.dumps({"cases": [case]}))
    measured, skipped = read_cases(path)
    assert not skipped
    return columns(measured)


def test_one_decoded_token_is_a_read_of_all_weights(tmp_path: Path) -> None:
    """(8.03e9 - 0.525e9 of input embedding) x 2 bytes / 3.35e12 bytes/s = 4.48 ms, and next to no arithmetic."""
    one = np.ones(1)
    found = pass_s(CONSTANTS_IDEAL, rows(tmp_path, [{"tp": 1}]), one, 0 * one, 0 * one).whole
    assert found[0] == pytest.approx(4.48e-3, rel=0.01)


def test_a_long_prompt_is_bound_by_arithmetic(tmp_path: Path) -> None:
    """2 x 8192 x 6.98e9 weights in layers / 989e12 = 115.6 ms; attention and reading add a few per cent."""
    one = np.ones(1)
    found = pass_s(CONSTANTS_IDEAL, rows(tmp_path, [{"tp": 1}]), 0 * one, 8192 * one, 0 * one).whole
    assert 0.1156 < found[0] < 0.1156 * 1.1


def test_two_devices_without_communication_are_twice_as_fast(tmp_path: Path) -> None:
    free = CONSTANTS_IDEAL.copy()
    free[CONSTANTS.index("links")] = np.log(NOTHING)
    rates = np.exp(log_rate(free, rows(tmp_path, [{"tp": 1}, {"tp": 2}, {"tp": 4}])))
    assert rates / rates[0] == pytest.approx([1, 2, 4], rel=0.01)


def test_all_reduce_is_read_from_the_table_between_sizes_and_beyond(tmp_path: Path) -> None:
    """Table of two H100: 4.38 us at 8 KB; 1706 us at 512 MiB, and twice that at twice the bytes."""
    two = rows(tmp_path, [{"tp": 2}])
    assert all_reduce_s(CONSTANTS_IDEAL, two, np.array([8192.0]))[0] == pytest.approx(4.38e-6, rel=0.01)
    large, larger = (all_reduce_s(CONSTANTS_IDEAL, two, np.array([size]))[0] for size in (2.0**29, 2.0**30))
    assert large == pytest.approx(1706e-6, rel=0.01)
    assert 1.7 < larger / large < 2.1


def test_more_bytes_never_take_less_time() -> None:
    for gpu in ("H100", "B200", "A100", "L40S", "T4", "MI300X", "RTX 4090"):
        for devices in (2, 4, 8, 16):
            table = all_reduce_table(find(gpu), devices)
            assert len(table) == len(all_reduce_sizes())
            assert (np.diff(table) >= 0).all()


def test_experts_touched_by_hand(tmp_path: Path) -> None:
    """One token reads 2 of 8 experts; very many tokens read all: so memory time grows, towards four times the MLP."""
    moe = rows(tmp_path, [{"tp": 1}], model="Mixtral-8x7B", gpu="H200")
    fast = CONSTANTS_IDEAL.copy()
    fast[CONSTANTS.index("compute")] = np.log(1e6)
    one = np.ones(1)
    few, many = (pass_s(fast, moe, count * one, 0 * one, 0 * one).whole[0] for count in (1, 64))
    assert few == pytest.approx((12.9e9 - 0.26e9 / 2) * 2 / 4.8e12, rel=0.02)
    assert many == pytest.approx(46.6e9 * 2 / 4.8e12, rel=0.03)


def test_kv_cache_limits_sequences_and_replicas_dilute_the_batch(tmp_path: Path) -> None:
    long = rows(tmp_path, [{"tp": 1}], input_len=100_000, output_len=2_000, concurrency=64)
    assert sequences(CONSTANTS_IDEAL, long)[0] < 6
    assert kv_tokens(CONSTANTS_IDEAL, long)[0] == pytest.approx(
        (0.95 * 79.6 * 2**30 - 2e9 - 16.06e9) / 131_072, rel=0.01
    )
    diluted = rows(tmp_path, [{"dp": 1, "gpus": 1}, {"dp": 4, "gpus": 4}], concurrency=64)
    assert sequences(CONSTANTS_IDEAL, diluted) == pytest.approx([64, 16], rel=0.01)
    rates = np.exp(log_rate(CONSTANTS_IDEAL, diluted))
    assert 1 < rates[1] / rates[0] < 3  # four replicas, each with a quarter of the streams: far from four times


def test_a_pipeline_gains_nothing_from_one_stream(tmp_path: Path) -> None:
    rates = np.exp(log_rate(CONSTANTS_IDEAL, rows(tmp_path, [{"pp": 1}, {"pp": 4}], concurrency=4)))
    assert rates[1] / rates[0] == pytest.approx(1, abs=0.1)  # the batch is shared out: weights are read as often


def test_experts_over_data_parallel_ranks_are_read_once_and_talk(tmp_path: Path) -> None:
    """Two ranks with half the experts each read half as many bytes of them, and exchange all tokens per layer."""
    rows_of = rows(tmp_path, [{"gpus": 2, "dp": 2}, {"gpus": 2, "dp": 2, "ep": 2}], model="Mixtral-8x7B", gpu="H200")
    assert rows_of.expert_devices == pytest.approx([1, 2])
    assert rows_of.held_weights[0] - rows_of.held_weights[1] == pytest.approx(45.1e9, rel=0.01)  # half of 45.1e9 x 2
    many = np.full(2, 64.0)
    copied, shared = pass_s(CONSTANTS_IDEAL, rows_of, many, 0 * many, 0 * many).work
    assert shared == pytest.approx(copied / 2, rel=0.1)
    parts = pass_s(CONSTANTS_IDEAL, rows_of, many, 0 * many, 0 * many)
    assert parts.communication[0] == 0
    assert parts.communication[1] == pytest.approx(
        32 * all_reduce_s(CONSTANTS_IDEAL, rows_of, 128 * 8192.0 + 0 * many)[1]
    )


def test_one_stream_keeps_one_of_two_replicas_busy(tmp_path: Path) -> None:
    rates = np.exp(log_rate(CONSTANTS_IDEAL, rows(tmp_path, [{"gpus": 1}, {"gpus": 2, "dp": 2}], concurrency=1)))
    assert rates[1] == pytest.approx(rates[0])
