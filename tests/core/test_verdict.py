from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from common.core.verdict import ClientCeiling, ClientEvidence, Verdict, held_up, judge

CEILING = ClientCeiling(512, 48_000.0, 0.001, 3e6)
OPEN_ENDED = replace(CEILING, at_least=True)
GOOD = ClientEvidence(
    loop_delay_s=0.0002,
    loop_lag_p99_s=0.0009,
    client_cpu_share=0.2,
    streams=64,
    tokens_per_s=6_000.0,
    lateness_p99_s=0.001,
    slots_in_flight_share=0.999,
    front_end_cpu_share=0.3,
    shares_cores=False,
    mean_ttft_s=0.050,
    mean_tpot_s=0.010,
)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, False),
        ({"loop_delay_s": 0.0060}, True),
        ({"lateness_p99_s": 0.0110}, True),
        ({"lateness_p99_s": 0.0110, "mean_ttft_s": 2.0}, False),
        ({"client_cpu_share": 0.99}, False),  # too much load does not pass by being tried again
    ],
)
def test_what_may_pass_is_measured_again(change: dict[str, float], expected: bool) -> None:
    assert held_up(replace(GOOD, **change)) is expected  # type: ignore[arg-type]


def test_nothing_found_is_valid() -> None:
    assert judge(GOOD, CEILING) == Verdict("VALID", [], "")


@pytest.mark.parametrize(
    ("change", "word", "reason"),
    [
        ({"loop_delay_s": 0.0015}, "VALID", ""),
        (
            {"loop_delay_s": 0.0020},
            "DOUBTFUL",
            "halts of the event loop add 2 ms, 4% of the mean TTFT of 50 ms (limit 3%)",
        ),
        ({"loop_delay_s": 0.0060}, "INVALID", "add 6 ms, 12% of the mean TTFT of 50 ms (limit 10%)"),
        ({"loop_delay_s": 0.0060, "mean_ttft_s": 1.0}, "VALID", ""),
        ({"loop_lag_p99_s": 0.0034}, "VALID", ""),
        (
            {"loop_lag_p99_s": 0.0115},
            "DOUBTFUL",
            "p99 event-loop lag, less the timer's 1 ms, is 10.5 ms, 105% of the mean TPOT of 10 ms (limit 25%)",
        ),
        ({"loop_lag_p99_s": 1.0350}, "DOUBTFUL", "less the timer's 1 ms, is 1034 ms, 10340% of"),
        ({"loop_lag_p99_s": 0.0115, "mean_tpot_s": 0.05}, "VALID", ""),
        ({"loop_lag_p99_s": 0.0115, "mean_tpot_s": None}, "VALID", ""),  # answers of one token
        ({"client_cpu_share": 0.70}, "VALID", ""),
        ({"client_cpu_share": 0.80}, "DOUBTFUL", "the client used 80% of a core (limit 70%)"),
        ({"client_cpu_share": 0.97}, "INVALID", "the client used 97% of a core (limit 95%)"),
        ({"lateness_p99_s": 0.0021}, "DOUBTFUL", "p99 of sends is 2.1 ms behind the schedule (limit 2 ms)"),
        ({"lateness_p99_s": 0.0021, "mean_ttft_s": 0.5}, "VALID", ""),
        ({"lateness_p99_s": 0.0110}, "INVALID", "11 ms behind the schedule (limit 10 ms)"),
        ({"slots_in_flight_share": 0.95}, "DOUBTFUL", "slots were in flight 95% of the time (limit 97%)"),
        ({"slots_in_flight_share": 0.50}, "INVALID", "in flight 50% of the time (limit 90%): less load than stated"),
        ({"front_end_cpu_share": 0.89}, "VALID", ""),
        ({"front_end_cpu_share": 0.97}, "DOUBTFUL", "97% of a core (limit 90%): the front end is the limit, not the"),
        ({"shares_cores": True}, "DOUBTFUL", "client and devices share cores"),
        ({"tokens_per_s": 33_000.0}, "VALID", ""),
        (
            {"tokens_per_s": 36_000.0},
            "DOUBTFUL",
            "36,000 tokens/s is 75% of the client's ceiling of 48,000 (limit 70%)",
        ),
        ({"tokens_per_s": 50_000.0}, "INVALID", "50,000 tokens/s is 104% of the client's ceiling of 48,000"),
        ({"streams": 400}, "DOUBTFUL", "400 streams are 78% of the client's ceiling of 512 (limit 70%)"),
        ({"streams": 600}, "DOUBTFUL", "600 streams are 117%"),  # at a rate that it bears
        ({"streams": 600, "tokens_per_s": 36_000.0}, "INVALID", "600 streams are 117%"),
        ({"loop_delay_s": None}, "DOUBTFUL", "not known of the client: event-loop lag"),
        ({"mean_ttft_s": None, "streams": None}, "DOUBTFUL", "not known of the client: mean TTFT, streams"),
        ({"client_cpu_share": None, "lateness_p99_s": None, "slots_in_flight_share": None}, "VALID", ""),
        ({"front_end_cpu_share": None, "shares_cores": None, "loop_lag_p99_s": None}, "VALID", ""),
    ],
)
def test_each_rule(change: dict[str, Any], word: str, reason: str) -> None:
    verdict = judge(replace(GOOD, **change), CEILING)
    assert verdict.word == word
    assert any(reason in found for found in verdict.reasons) if reason else not verdict.reasons
    assert bool(verdict.remedy) == (word != "VALID")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"tokens_per_s": 47_000.0, "streams": 512}, "VALID"),  # no more than it was seen to bear
        ({"tokens_per_s": 50_000.0}, "DOUBTFUL"),
        ({"tokens_per_s": 50_000.0, "streams": 600}, "DOUBTFUL"),
    ],
)
def test_above_a_ceiling_that_nothing_was_shown_to_exceed(change: dict[str, Any], word: str) -> None:
    verdict = judge(replace(GOOD, **change), OPEN_ENDED)
    assert verdict.word == word
    assert all("largest calibrated load" in reason for reason in verdict.reasons)


def test_without_calibration_it_is_doubtful() -> None:
    verdict = judge(GOOD, None)
    assert verdict.word == "DOUBTFUL" and verdict.reasons == ["the client is not calibrated on this machine"]


def test_nothing_known_is_never_valid() -> None:
    assert judge(ClientEvidence(), CEILING).word == "DOUBTFUL"
    assert judge(ClientEvidence(), None).word == "DOUBTFUL"


def test_the_remedy_for_halts_is_a_quiet_machine_and_then_other_cores_where_cores_are_shared() -> None:
    changes: list[dict[str, Any]] = [{"loop_delay_s": 1.0}, {"loop_lag_p99_s": 1.0}]
    for halts in changes:
        shared, own = (judge(replace(GOOD, shares_cores=one, **halts), CEILING).remedy for one in (True, False))
        assert own == "close other programs on the client's machine and measure again"
        assert shared.startswith(f"{own}; if that does not help, leave the client a core that the server does not use")


def test_all_reasons_are_given_worst_first_with_the_worst_ones_remedy() -> None:
    verdict = judge(replace(GOOD, shares_cores=True, front_end_cpu_share=0.95, client_cpu_share=0.99), None)
    assert verdict.word == "INVALID"
    assert [reason.split()[1] for reason in verdict.reasons] == ["client", "API", "and", "client"]
    assert verdict.remedy == judge(replace(GOOD, client_cpu_share=0.99), CEILING).remedy


@pytest.mark.parametrize("numbers", [(0, 1.0), (-1, 1.0), (1, 0.0), (1, float("nan")), (1, float("inf"))])
def test_an_impossible_ceiling_is_refused(numbers: tuple[int, float]) -> None:
    with pytest.raises(ValueError, match="a ceiling has"):
        ClientCeiling(*numbers, added_ttft_s=0.0)
