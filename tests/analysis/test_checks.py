"""The checks of one case, each with a planted reason to doubt it and without."""

from __future__ import annotations

from typing import Any

import pytest

from common.analysis.checks import case_checks
from common.store.schema import Case, Check
from tests.analysis.planted import TP1, case

RATES = [300.0, 301.0, 302.0]


def with_numbers(**numbers: float | list[float]) -> Case:
    """Three repeats of which every one, or each in turn, has these numbers."""
    made = case(TP1, "fixed", 16, RATES)
    for index, repeat in enumerate(made.repeats):
        repeat |= {name: value[index] if isinstance(value, list) else value for name, value in numbers.items()}
    return made


def check(name: str, made: Case) -> Check | None:
    return next((found for found in case_checks(made) if found.name == name), None)


def test_a_case_without_repeats_has_no_checks() -> None:
    assert case_checks(case(TP1, "fixed", 16, [])) == []


@pytest.mark.parametrize(
    ("name", "numbers", "passed"),
    [
        ("first repeat agrees", {}, True),
        ("first repeat agrees", {"output_throughput": [260.0, 300.0, 300.0]}, False),
        ("first repeat agrees", {"output_throughput": [340.0, 300.0, 300.0]}, False),
        ("steady", {"steady_drift": [0.01, -0.02, 0.02]}, True),
        ("steady", {"steady_drift": [-0.12, -0.11, -0.12]}, False),
        ("steady", {"steady_drift": [0.30, -0.20, 0.09]}, True),
        ("server counts the same tokens", {"total_output_tokens": 512.0, "server_output_tokens": 512.0}, True),
        ("server counts the same tokens", {"total_output_tokens": 512.0, "server_output_tokens": 513.0}, False),
        ("server counts the same tokens", {"total_output_tokens": 512.0}, None),
        (
            "server sees the same throughput",
            {
                "steady_output_throughput": 300.0,
                "steady_server_output_throughput": [301.0, 299.0, 303.0],
                "steady_duration": 31.0,
            },
            True,
        ),
        (
            "server sees the same throughput",
            {"steady_output_throughput": 300.0, "steady_server_output_throughput": 310.0, "steady_duration": 31.0},
            False,
        ),
        (
            "server sees the same throughput",
            {"steady_output_throughput": 300.0, "steady_server_output_throughput": 310.0, "steady_duration": 2.0},
            None,
        ),
        ("answers have the asked length", {"token_count_mismatches": 0.0}, None),
        ("answers have the asked length", {"token_count_mismatches": [0.0, 1.0, 0.0]}, False),
        ("one token a chunk", {"tokens_per_chunk": 1.04}, None),
        ("one token a chunk", {"tokens_per_chunk": [1.0, 1.2, 1.0]}, False),
        ("text holds the reported tokens", {"recounted_share": 1.01}, True),
        ("text holds the reported tokens", {}, None),
    ],
)
def test_each_check(name: str, numbers: dict[str, Any], passed: bool | None) -> None:
    found = check(name, with_numbers(**numbers))
    assert (found.passed if found else None) is passed


def test_failed_requests_excuse_the_servers_larger_count() -> None:
    made = with_numbers(total_output_tokens=500.0, server_output_tokens=512.0, failed=1.0)
    assert check("server counts the same tokens", made) is None


def test_text_that_no_tokenizer_cuts_the_same_way_is_undecided() -> None:
    found = check("text holds the reported tokens", with_numbers(recounted_share=[1.0, 1.4, 1.1]))
    assert found is not None and found.passed is None
    assert "1.40 of the reported tokens" in found.detail
