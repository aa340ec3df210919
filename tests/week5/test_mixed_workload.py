"""The mixed-load experiment as a user runs it: real vLLM, with a planted unfairness that it must report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from common.store import files
from tests.experiment.script import Script

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

# With the smallest model a prompt of 2,600 tokens holds everything up for more than half a second
PLANTED = ("--long-tokens", "2600", "--short-rate", "12", "--seconds", "1")


def test_one_very_long_prompt_that_is_not_cut_up_is_seen_in_the_short_ones_tail(
    real_script: Callable[[str], Script], tmp_path: Path
) -> None:
    done = real_script("test_mixed_workload")("--model", "qwen2-9m", *PLANTED, "--results-dir", str(tmp_path))
    assert done.code == 0, done.err
    last = done.last
    result = files.load(Path(last["result"]))
    cases = {case.curve: case for case in result.cases}
    assert set(cases) == {"mix-on", "mix-off"}
    for case in cases.values():
        (ran,) = [check for check in case.checks if check.name == "the engine runs what was asked for"]
        assert ran.passed is True, ran.detail
        assert all(repeat["failed"] == 0 and repeat["token_count_mismatches"] == 0 for repeat in case.repeats)
    assert cases["mix-off"].engine["settings"]["enable_chunked_prefill"] is False
    assert cases["mix-on"].engine["settings"]["max_num_batched_tokens"] == 512

    off = last["summary"]["tp1/mix-off"]
    assert off["short_p99_ttft_slowdown"]["low"] > 1
    assert off["short_p99_ttft_over_alone"]["low"] > 1, "against the same requests' p99 alone"
    for repeat in cases["mix-off"].repeats:
        held_up_ms = repeat["alone_long_p50_ttft_ms"]
        assert repeat["short_p99_ttft_ms"] > held_up_ms / 3, "somebody waited for a good part of the long prompt"
        assert repeat["alone_short_p99_ttft_ms"] < held_up_ms / 3, "and nobody alone"
    # A busy machine may hold the client up: then nothing is compared, and that is said
    if any(case.is_invalid for case in cases.values()):
        assert "The client is INVALID in" in done.out
    else:
        assert "tp1/mix-on over off" in last["summary"]
        assert "beside long requests the short ones' p99 TTFT is" in done.out
