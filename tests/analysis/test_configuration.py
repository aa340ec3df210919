"""`my_configuration.md` says what was measured, keeps notes, and knows when its result is gone."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.analysis.learning.configuration import NOTES, configuration, documented, write_configuration
from common.core.verdict import Verdict
from common.store.files import save
from common.store.schema import Result
from tests.analysis.planted import TP1, TP2, X2, case, full, result


def put(results: Path, read: Result) -> tuple[Path, Result]:
    path = results / read.experiment / f"{read.run_id}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    save(read, path)
    return path, read


def test_each_goal_has_its_plan() -> None:
    text = configuration(full(), "benchmark_scaling/x.json")
    lines = text.splitlines()
    assert "From `benchmark_scaling/x.json`: 2 x SYNTHETIC, 1 core | qwen2-9m | vLLM 0.0.0 | 2026-01-02." in lines
    table = [line for line in lines if line.startswith("|")][2:]
    # 1 stream: 31, 32 and 30 tok/s, and neither rival is told from tp2
    assert table[0] == "| shortest time per token | tp2 | 1 stream | 31.3 ms per token | tp1, tp1x2 |"
    assert table[1].startswith("| most tokens per second | tp2 | 64 streams | 200 [190, 210] tok/s |")
    assert table[2] == "| most from each device | tp1 | 32 streams | 120 tok/s per device | - |"
    assert "At $1.20 per hour tp2 costs $1.667 per million output tokens at 64 streams." in text
    assert any(line.startswith("vllm serve qwen2-9m --tensor-parallel-size 2") for line in lines)


def test_what_an_invalid_client_measured_is_no_finding_and_is_said_to_be_left_out() -> None:
    read = full()
    for one in read.cases:
        if one.plan == TP2 and one.repeats:
            one.client = Verdict("INVALID", ["the event loop stood still"], "measure again")
    text = configuration(read, "x.json")
    assert (
        "| shortest time per token | tp1 | 1 stream | 32.3 ms per token | tp1x2 (left out, their client INVALID: tp2) |"
        in text
    )
    assert "| 120 tok/s per device | - (left out, their client INVALID: tp2) |" in text
    assert "- No plan splits a decoding step under a client to be believed." in text
    assert "- tp1 saturates at 32 streams (120 tok/s)." in text, "and nothing of tp2"


def test_replicas_are_served_one_by_one() -> None:
    rates = ((TP1, 100.0), (X2, 190.0), (TP2, 150.0))
    text = configuration(result([case(plan, "fixed", 16, [rate, rate + 1]) for plan, rate in rates]), "x.json")
    assert "# 2 of these, each on devices and a port of its own\n# qwen2-9m stands for its folder" in text
    assert "models\nvllm serve qwen2-9m --tensor-parallel-size 1" in text


def test_notes_survive_writing_again(tmp_path: Path) -> None:
    measured = [put(tmp_path, full())]
    path = write_configuration(measured, tmp_path)
    assert documented(measured, tmp_path)[1] == path
    path.write_text(path.read_text().partition(NOTES)[0] + f"{NOTES}\nWe chose tp2.\n{NOTES} twice\n")
    assert documented(measured, tmp_path)[1] == path, "notes are no change"
    write_configuration(measured, tmp_path)
    assert path.read_text().endswith(f"{NOTES}\nWe chose tp2.\n{NOTES} twice\n")


def test_a_changed_number_is_not_what_the_result_says(tmp_path: Path) -> None:
    measured = [put(tmp_path, full())]
    path = write_configuration(measured, tmp_path)
    path.write_text(path.read_text().replace("200 [", "999 ["))
    said, file, problems = documented(measured, tmp_path)
    assert (said, file) == ("", None)
    assert "is not what its result says" in problems[0]
    assert "is gone" in documented([], tmp_path)[2][0]


ALONE = [case(TP1, "fixed", 1, [100.0, 101.0])]


@pytest.mark.parametrize("cases", [[], [case(TP1, "fixed", 1, [])], ALONE])
def test_nothing_measured_writes_nothing(tmp_path: Path, cases: list[object]) -> None:
    with pytest.raises(ValueError, match="no complete result compares plans"):
        write_configuration([put(tmp_path, result(cases))], tmp_path)  # type: ignore[arg-type]
    assert not (tmp_path / "my_configuration.md").exists()
