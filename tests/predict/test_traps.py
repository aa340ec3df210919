"""The published traps: read as their sources have them, and explained by the step model."""

from __future__ import annotations

import json

import pytest

from common.core.published import Published
from common.predict.cases import read_cases
from common.predict.traps import LINKS, PUBLIC, STARVED, links, starved


@pytest.fixture(scope="module")
def cases() -> dict[str, Published]:
    return {case.workload: case for case in starved()}


def test_rates_and_sources_are_those_of_the_file(cases: dict[str, Published]) -> None:
    stored = [case for case in json.loads(PUBLIC.read_text())["cases"] if case["group"] == STARVED]
    assert len(stored) == len(cases) == 3
    for kept in stored:
        case = cases[f"{kept['input_len']} tokens in, {kept['output_len']} out"]
        assert case.rates == {row["gpus"]: row["output_tok_s"] for row in kept["rows"]}
        assert case.source == kept["url"] and case.source.startswith("https://")


def test_long_requests_are_starved_on_one_gpu_and_short_ones_are_not(cases: dict[str, Published]) -> None:
    short, long = cases["128 tokens in, 128 out"], cases["500 tokens in, 2000 out"]
    assert short.base == 1 and short.speedup(2) < 2.1
    assert long.base == 2 and long.speedup(2) > 10 and long.held[1] < 16 < long.held[2]


def test_without_the_memory_no_speed_up_is_above_its_devices(cases: dict[str, Published]) -> None:
    for case in cases.values():
        assert case.pinned[1] == 1
        assert all(1 < case.pinned[devices] <= devices for devices in (2, 4, 8))
        assert case.pinned[2] < case.pinned[4] < case.pinned[8]


def test_the_model_tells_memory_from_parallelism(cases: dict[str, Published]) -> None:
    long = cases["500 tokens in, 2000 out"]
    assert long.pinned[2] < long.speedup(2) / 5


def test_links_are_the_same_workloads_over_two_kinds() -> None:
    cases = links()
    assert {case.machine for case in cases} == {"A100-80GB-SXM, NVLink", "A100-80GB-PCIe, PCIe gen4 (bridges unknown)"}
    assert len({(case.model, case.engine, case.source) for case in cases}) == 1
    by_kind = [{case.workload for case in cases if kind in case.machine} for kind in ("NVLink", "PCIe")]
    assert by_kind[0] == by_kind[1] and len(by_kind[0]) == 2
    for case in cases:
        assert (case.speedup(8, 4) > 1.8) == ("NVLink" in case.machine)


def test_the_file_of_links_is_one_that_evaluate_reads() -> None:
    measured, skipped = read_cases(LINKS)
    assert len(measured) == 12 and not skipped
    assert {"PCIe" in row.kinds for row in measured} == {True, False}
