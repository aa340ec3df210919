"""The checklist ticks what results show, and names what they do not."""

from __future__ import annotations

import copy
import io
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from common.analysis.frames import latest_reference, load_sound
from common.analysis.learning.checklist import DONE, IMPOSSIBLE, OPEN, Here, Item, checklist
from common.analysis.learning.checklist_table import print_checklist
from common.analysis.learning.configuration import NAME, write_configuration
from common.analysis.learning.cost import note_price, price_file
from common.analysis.learning.evidence import gather
from common.analysis.learning.self_test import answers_file, self_test, store_answers
from common.analysis.learning.shown import verified_plans
from common.core.verdict import Verdict
from common.experiment.loss import shows_loss
from common.store.files import save
from common.store.schema import CaseError, Check, Result
from tests.analysis.mixed_results import mixed_case, mixed_result, on_and_off
from tests.analysis.planted import TP1, TP2, X2, case, full, result

STEM = "20260102T030405Z-2x1core-synthetic-qwen2-9m"
CLIENTS = "20260102T030406Z-2x1core-synthetic-qwen2-9m"  # of the concurrency result


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


def put(results: Path, read: Result, name: str = STEM) -> Path:
    path = results / read.experiment / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    save(read, path)
    return path


def verified() -> Result:
    passed = case(TP2, "verification", 1, [10.0, 11.0])
    passed.checks = [Check("weights are split", True, "50 %"), Check("tokens are the same", True, "64 of 64")]
    return result([case(TP1, "verification", 1, [10.0]), passed], experiment="test_tensor_parallel")


def concurrent() -> Result:
    cases = [case(TP1, "fixed", streams, [10.0 * streams]) for streams in (1, 4, 16)]
    return result(cases, experiment="simulate_concurrent_requests")


def lost() -> Result:
    """A real account of a loss, as if it were one's own: what predicts takes more than a few planted numbers."""
    return replace(load_sound(latest_reference("explain_loss")), run_id=STEM)


def plans() -> Result:
    return replace(full(), experiment="compare_parallel_plans", cost={})


def decide(results: Path) -> Path:
    """The page of a decision from the concurrency result, as far as the checklist reads it."""
    page = results / "decision" / "20260102T040000Z" / "decision.md"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(f"# 2 devices carry it\n\n## The answer\n\nFrom: `{CLIENTS}.json`.\n")
    return page


def items(results: Path, devices: int | None = 2, rented: bool = False) -> dict[str, Item]:
    return {item.name: item for item in checklist(gather(results), Here(results, devices, rented), shows_loss)}


def states(results: Path, devices: int | None = 2) -> dict[str, str]:
    return {name: item.state for name, item in items(results, devices).items()}


def do_everything(results: Path) -> Path:
    """All results, right answers and the configuration; the scaling result's path."""
    put(results, verified())
    put(results, concurrent(), CLIENTS)
    put(results, on_and_off())
    put(results, lost())
    put(results, plans())
    scaling = put(results, full())
    decide(results)
    store_answers(results, scaling, {quiz.key: quiz.right for quiz in self_test(full())})
    write_configuration([(scaling, full())], results)
    return scaling


def test_on_a_fresh_clone_everything_is_open(results: Path) -> None:
    found = states(results)
    assert found.pop("terminated") == IMPOSSIBLE
    assert set(found.values()) == {OPEN}
    assert len(found) == 12


def test_everything_done(results: Path) -> None:
    do_everything(results)
    found = items(results)
    assert {name for name, item in found.items() if item.state != DONE} == {"terminated"}
    assert found["devices"].evidence == "2 x SYNTHETIC, 1 core"
    assert found["verified"].evidence == "tp2 passed"
    assert found["concurrency"].evidence == "tp1: 1 to 16 streams, most 160 tok/s at 16"
    assert found["scaling"].evidence == "tp2 1.67 [1.60, 1.74]x, 83% of each device (saturated)"
    assert found["compared"].evidence.startswith("tp2 against tp1 at 16 streams: 1.56 [1.43, 1.70]x the tokens")
    assert found["mixed"].evidence == (
        "tp1, chunked prefill: short requests' longest standstill of an answer 0.25 [0.24, 0.26]x"
    )
    assert found["loss"].evidence == (
        "tp2 at 16 streams loses 30%, 16% to everything else on device and host; knock-out: 2 of 2 PASS"
    )
    assert found["plans"].evidence == "3 plans; best: tp2 for throughput, tp2 for memory"
    assert found["decided"].evidence == "2 devices carry it"
    assert found["cost"].evidence == "$1.20 per hour: $1.67 per million output tokens with tp2"
    assert all(item.file is not None and item.file.is_file() for item in found.values() if item.state == DONE)


@pytest.mark.parametrize(
    ("experiment", "reopened"),
    [
        ("test_tensor_parallel", {"verified"}),
        ("simulate_concurrent_requests", {"concurrency", "decided"}),
        ("test_mixed_workload", {"mixed"}),
        ("benchmark_scaling", {"scaling", "compared", "understood", "configuration", "cost"}),
        ("explain_loss", {"loss"}),
        ("compare_parallel_plans", {"plans"}),
    ],
)
def test_deleting_a_result_reopens_its_items(results: Path, experiment: str, reopened: set[str]) -> None:
    do_everything(results)
    for path in (results / experiment).glob("*.json"):
        path.unlink()
    assert {name for name, state in states(results).items() if state == OPEN} == reopened


def test_references_and_what_others_shared_tick_nothing(results: Path) -> None:
    for place in (results / "reference" / "a-machine", results / "shared-ab12"):
        do_everything(place)
    assert DONE not in states(results).values()


def spoil_by_truncating(text: str) -> str:
    return text[: len(text) // 2]


def spoil_throughput(text: str) -> str:
    content = json.loads(text)
    for one in content["cases"]:
        for repeat in one["repeats"]:
            repeat["output_throughput"] = -5.0
    return json.dumps(content)


def spoil_start(text: str) -> str:
    return text.replace('"start":', '"begin":')


def spoil_shape(text: str) -> str:
    return json.dumps({**json.loads(text), "config": {"model": "m", "model_shape": {"hidden_size": "wide"}}})


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_by_truncating,
        spoil_throughput,
        spoil_start,
        lambda text: "",
        lambda text: "[]",
        lambda text: "null",
        lambda text: "[" * 100_000,
        lambda text: text.replace("benchmark_scaling", "something_else"),
        lambda text: text.replace('"schema_version": 2', '"schema_version": 1'),
        lambda text: text.replace('"output_throughput": 100.0', '"output_throughput": NaN'),
        lambda text: "\udcff".join(text.split()).encode("utf-8", "replace").decode(),
    ],
)
def test_a_spoilt_result_is_named_and_not_ticked(results: Path, spoil: Callable[[str], str]) -> None:
    path = do_everything(results)
    path.write_text(spoil(path.read_text()))
    found = items(results)
    for name in ("scaling", "compared", "cost", "understood", "configuration"):
        assert found[name].state == OPEN, name
    assert any(STEM in line for line in found["scaling"].problems)
    assert len(gather(results).unreadable) == 1


def test_a_spoilt_shape_is_named_by_what_needs_it(results: Path) -> None:
    path = do_everything(results)
    path.write_text(spoil_shape(path.read_text()))
    found = items(results)
    assert found["understood"].state == OPEN
    assert found["configuration"].state == OPEN


@pytest.mark.slow
def test_whatever_stands_in_a_file_nothing_crashes(results: Path) -> None:
    """Edits at random places of valid JSON: numbers, texts, nothing, lists where objects were."""
    chance = random.Random(5)
    path = do_everything(results)
    whole = path.read_text()
    garbage: list[Any] = [None, -1, 1e308, "x", [], {}, [1], {"a": 1}, True, 0]
    for _ in range(60):
        content = json.loads(whole)
        for _ in range(chance.randint(1, 4)):
            place = content
            while True:
                key = chance.choice(list(place) if isinstance(place, dict) else list(range(len(place))))
                inner = place[key]
                if not isinstance(inner, dict | list) or not inner or chance.random() < 0.15:
                    place[key] = copy.deepcopy(chance.choice(garbage))  # a shared one could come to hold itself
                    break
                place = inner
        path.write_text(json.dumps(content))
        assert len(items(results)) == 13


@pytest.mark.parametrize(("status", "said"), [("interrupted", "(interrupted, "), ("running", "(running, or killed, ")])
def test_an_unfinished_run_is_named_with_what_is_missing(results: Path, status: str, said: str) -> None:
    read = full()
    read.status = status  # type: ignore[assignment]
    put(results, read)
    found = items(results)["scaling"]
    assert found.state == OPEN
    (line,) = found.problems
    assert line.startswith(f"{STEM}.json is unfinished {said}")
    assert "tp1x2/saturated/c16 failed: no memory for the second replica" in line


def test_a_run_whose_split_failed_is_named_with_its_reason(results: Path) -> None:
    failed = case(TP2, "fixed", 1, [])
    failed.status, failed.error = "failed", CaseError("nccl", "NCCL error: unhandled system error", "Try again")
    put(results, result([case(TP1, "fixed", 1, [10.0, 11.0]), failed]))
    (line,) = items(results)["scaling"].problems
    assert line == (
        f"{STEM}.json: no plan over several devices was measured; tp2/fixed/c1 failed: NCCL error: unhandled system"
        " error"
    )


def test_no_more_files_are_named_below_a_command_than_a_screen_takes(results: Path) -> None:
    for second in range(8):
        put(results, result([], experiment="test_tensor_parallel"), f"20260102T03040{second}Z-x-y")
    lines = printed(results).partition("TP verified:\n")[2].partition("\n\n")[0].splitlines()
    assert lines[0].strip() == "python week5/test_tensor_parallel.py"
    assert len(lines) == 1 + 5 + 1
    assert lines[-1].strip() == "- and 3 more"
    assert "20260102T030407Z" in lines[1], "the newest first"


def printed(results: Path) -> str:
    """What a terminal of 80 columns shows."""
    evidence = gather(results)
    stream = io.StringIO()
    found = checklist(evidence, Here(results, 2), shows_loss)
    print_checklist(found, evidence, results, Console(file=stream, width=80))
    return stream.getvalue()


def test_a_truncated_result_is_named_once_however_many_items_it_reopens(results: Path) -> None:
    path = do_everything(results)
    path.write_text(path.read_text()[:3000])
    text = printed(results)
    assert text.count("is truncated") == 1
    assert f"\nnot counted: benchmark_scaling: {STEM}.json is truncated" in text
    assert text.count("see below") >= 2, "an item without evidence says where to look"


def test_unfinished_runs_are_named_once_and_only_where_they_are_needed(results: Path) -> None:
    for second in range(8):
        read = full()
        read.status = "interrupted"
        put(results, read, f"20260102T03040{second}Z-x-y")
    text = printed(results)
    assert text.count("is unfinished") == 5
    assert text.count("not counted: and 3 more") == 1
    do_everything(results)
    assert "is unfinished" not in printed(results)


def test_what_a_terminal_obeys_does_not_reach_it(results: Path) -> None:
    read = verified()
    read.cases[1].checks[0] = Check("weights", False, "\x1b[2J gone")
    put(results, read)
    text = printed(results)
    assert "?[2J gone" in text
    assert "\x1b" not in text


@pytest.mark.parametrize(("rates", "passes"), [([10.0, 40.0], False), ([10.0, 40.0, 90.0], True), ([0.0] * 3, False)])
def test_concurrency_takes_a_knees_three_loads_with_answers(results: Path, rates: list[float], passes: bool) -> None:
    cases = [case(TP1, "closed", streams, [1.0]) for streams in (1, 4, 16)[: len(rates)]]
    for one, rate in zip(cases, rates, strict=True):
        one.repeats[0]["output_throughput"] = rate
        one.id = one.id.replace("tp1/", "server/")
    put(results, result(cases, experiment="simulate_concurrent_requests"))
    found = items(results)["concurrency"]
    assert (found.state == DONE) is passes
    assert not passes or found.evidence == "server: 1 to 16 streams, most 90 tok/s at 16"


def test_a_copy_of_a_committed_reference_ticks_nothing(results: Path) -> None:
    reference = latest_reference()
    copied = results / "benchmark_scaling" / f"{STEM}.json"
    copied.parent.mkdir(parents=True)
    copied.write_bytes(reference.read_bytes())
    found = items(results)
    assert DONE not in {item.state for item in found.values()}
    assert found["scaling"].problems == [
        f"{STEM}.json is a copy of a committed reference; what you measure yourself counts"
    ]


def test_practice_on_the_bare_server_ticks_nothing_and_displaces_nothing(results: Path) -> None:
    put(results, concurrent())
    practised = replace(concurrent(), config={"model": "bare", "external": True})
    put(results, practised, "20270101T000000Z-server-bare")
    found = items(results)["concurrency"]
    assert found.file is not None and found.file.name == f"{STEM}.json"
    found.file.unlink()
    found = items(results)["concurrency"]
    assert found.state == OPEN and "practise" in found.problems[0]


def test_one_curve_is_not_enough(results: Path) -> None:
    put(results, result([case(TP1, "fixed", 1, [10.0, 11.0]), case(TP2, "fixed", 1, [15.0, 16.0])]))
    found = items(results)
    assert found["scaling"].state == OPEN
    assert "only the fixed curve" in found["scaling"].problems[0]
    assert found["compared"].state == DONE


def test_what_was_measured_by_an_invalid_client_is_not_said_to_be_missing(results: Path) -> None:
    read = full()
    for one in read.cases:
        if one.curve in ("fixed", "weak") and one.repeats:
            one.client = Verdict("INVALID", ["the event loop stood still"], "end other programs and measure again")
    put(results, read)
    found = items(results)
    assert found["scaling"].problems == [
        f"{STEM}.json: the client was INVALID in tp1/fixed/c1, tp2/fixed/c1, tp1x2/fixed/c1, tp1/fixed/c16 and 4 more;"
        " end other programs and measure again; tp1x2/saturated/c16 failed: no memory for the second replica"
    ]
    assert "the client was INVALID in tp1/fixed/c1" in found["compared"].problems[0]


def test_an_invalid_client_is_no_reason_where_nothing_was_split(results: Path) -> None:
    alone = case(TP1, "fixed", 1, [10.0, 11.0])
    alone.client = Verdict("INVALID", ["the event loop stood still"], "measure again")
    put(results, result([alone]))
    assert items(results)["scaling"].problems == [f"{STEM}.json: no plan over several devices was measured"]


def test_an_older_sound_result_counts_where_a_newer_one_is_broken(results: Path) -> None:
    put(results, full())
    newer = results / "benchmark_scaling" / "20270101T000000Z-x-y.json"
    newer.write_text("{")
    found = items(results)["scaling"]
    assert found.state == DONE
    assert any("20270101T000000Z-x-y.json is truncated" in line for line in found.problems)


@pytest.mark.parametrize(
    ("checks", "passes"),
    [
        ([True, True], True),
        ([True, None], False),
        ([True, False], False),
        ([None], False),
        ([], False),
    ],
)
def test_tp_is_verified_by_checks_that_passed(results: Path, checks: list[bool | None], passes: bool) -> None:
    read = verified()
    read.cases[1].checks = [Check(f"check {index}", passed, "") for index, passed in enumerate(checks)]
    assert (verified_plans(read) == [TP2]) is passes
    put(results, read)
    found = items(results)["verified"]
    assert (found.state == DONE) is passes


def test_replicas_verify_nothing(results: Path) -> None:
    read = verified()
    read.cases[1].plan = X2
    put(results, read)
    assert items(results)["verified"].state == OPEN


def test_a_failed_check_is_named(results: Path) -> None:
    read = verified()
    read.cases[1].checks[0] = Check("weights are split", False, "each rank holds all of them")
    put(results, read)
    (line,) = items(results)["verified"].problems
    assert "weights are split: each rank holds all of them" in line


def test_one_device_makes_comparisons_impossible_and_not_the_rest(results: Path) -> None:
    found = states(results, devices=1)
    assert {name for name, state in found.items() if state == OPEN} == {"concurrency", "mixed", "decided", "cost"}
    do_everything(results)
    assert states(results, devices=1)["scaling"] == DONE, "measured elsewhere and brought home"
    assert set(states(results, devices=None).values()) == {DONE, IMPOSSIBLE}


def test_a_rented_machine_is_open_until_each_is_proven_gone(results: Path) -> None:
    assert items(results, rented=True)["terminated"].state == OPEN
    first, second = results / "cloud" / "a1", results / "cloud" / "b2"
    for folder in (first, second):
        folder.mkdir(parents=True)
    (first / "teardown.json").write_text('{"verified": true}')
    found = items(results)["terminated"]
    assert found.state == OPEN
    assert found.problems == ["cloud/b2 has no teardown.json: nothing proves that it is gone"]
    for text in ("", "{", "[]", '{"verified": false}', '{"verified": "yes"}', "[" * 100_000):
        (second / "teardown.json").write_text(text)
        found = items(results)["terminated"]
        assert found.state == OPEN, text
        assert "cloud/b2/teardown.json" in found.problems[0]
    (second / "teardown.json").write_text('{"verified": true}')
    found = items(results)["terminated"]
    assert (found.state, found.evidence) == (DONE, "2 machines, each proven gone")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"result": "x"}', '{"result": "x", "answers": [1]}', "\x00"])
def test_spoilt_answers_are_named(results: Path, text: str) -> None:
    do_everything(results)
    answers_file(results).write_text(text)
    found = items(results)["understood"]
    assert found.state == OPEN
    assert len(found.problems) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is cut off"),
        ("# 2 devices carry it\n\n## The an", "is cut off"),
        ("# 2 devices carry it\n\nPREDICTED, not measured\n", "predictions alone?"),
        (f"# 2 devices carry it\n\nFrom: `{CLIENTS}.json`, `20260102T0-somebodys.json`.\n", "is not yours, gone or"),
        ("\x00", "is cut off"),
    ],
)
def test_a_decision_that_rests_on_no_result_of_ones_own_is_named(results: Path, text: str, said: str) -> None:
    do_everything(results)
    decide(results).write_text(text)
    found = items(results)["decided"]
    assert found.state == OPEN
    assert said in found.problems[0]


def test_pages_decided_from_other_results_are_one_line(results: Path) -> None:
    do_everything(results)
    text = "# 2 devices carry it\n\nFrom: `20260102T0-somebodys.json`.\n"
    oldest = decide(results)
    oldest.write_text(text)
    for day in ("03", "04"):
        page = results / "decision" / f"202601{day}T040000Z" / "decision.md"
        page.parent.mkdir()
        page.write_text(text)
    assert items(results)["decided"].problems == [
        "20260104T040000Z/decision.md rests on a result that is not yours, gone or not complete (and 2 older);"
        " decide again"
    ]


def test_a_mixed_load_on_one_engine_compares_nothing(results: Path) -> None:
    put(results, mixed_result([mixed_case("on")]))
    found = items(results)["mixed"]
    assert (found.state, found.problems) == (
        OPEN,
        [f"{STEM}.json: no two engines could be compared (measured: on)"],
    )


def test_plans_are_compared_on_the_same_devices(results: Path) -> None:
    cases = [case(TP1, "fixed", 1, [10.0, 11.0]), case(TP2, "fixed", 1, [15.0, 16.0])]
    put(results, result(cases, experiment="compare_parallel_plans"))
    assert "no two plans for the same devices" in items(results)["plans"].problems[0]
    put(results, result([*cases, case(X2, "fixed", 1, [10.0, 11.0])], experiment="compare_parallel_plans"))
    assert items(results)["plans"].state == DONE


def test_a_loss_without_a_knock_out_is_not_accounted_for(results: Path) -> None:
    read = lost()
    read.cases = [one for one in read.cases if one.curve != "slowed"]
    put(results, read)
    assert "with slower all-reduces, at the same load" in items(results)["loss"].problems[0]


def test_cost_is_asked_of_what_has_tokens_per_second_and_needs_no_new_measurement(results: Path) -> None:
    put(results, verified())
    put(results, on_and_off())
    found = items(results)["cost"]
    assert (found.state, found.evidence, found.problems) == (OPEN, "no result yet", [])
    assert found.command.startswith("python week5/benchmark_scaling.py"), "there is nothing to price yet"
    unpriced = full()
    unpriced.cost = {}
    path = put(results, unpriced)
    found = items(results)["cost"]
    assert (found.state, found.evidence, found.problems) == (OPEN, "no result has a price yet", [])
    assert found.command == "python week5/checklist.py --usd-per-hour 0.05"
    note_price([(path, unpriced)], results, 0.6)
    found = items(results)["cost"]
    assert (found.state, found.file) == (DONE, path)
    assert found.evidence == "$0.60 per hour: $0.833 per million output tokens with tp2 (noted afterwards)"
    path.unlink()
    assert items(results)["cost"].state == OPEN
    assert "gone or not complete" in items(results)["cost"].problems[0]


def test_what_an_invalid_client_measured_has_no_price(results: Path) -> None:
    invalid = Verdict("INVALID", ["the event loop stood still"], "close other programs")
    unpriced = full()
    unpriced.cost = {}
    for one in unpriced.cases:
        one.client = invalid if one.plan == TP2 else None
    path = put(results, unpriced)
    note_price([(path, unpriced)], results, 0.6)
    assert items(results)["cost"].evidence.startswith("$0.60 per hour: $0.980 per million output tokens with tp1x2")
    for one in unpriced.cases:
        one.client = invalid
    put(results, unpriced)
    assert items(results)["cost"].state == OPEN
    with pytest.raises(ValueError, match="no complete result"):
        note_price([(path, unpriced)], results, 0.6)
    price_file(results).unlink()
    unpriced.cost = {"usd_per_hour": 1.2}
    put(results, unpriced)
    assert (items(results)["cost"].state, items(results)["cost"].evidence) == (OPEN, "no result yet")


def test_a_price_noted_later_is_that_of_its_own_result_alone(results: Path) -> None:
    first = put(results, full())
    note_price([(first, full())], results, 0.6)
    assert items(results)["cost"].evidence.startswith("$0.60 per hour"), "said last"
    dearer = full()
    dearer.cost = {"usd_per_hour": 2.4}
    put(results, dearer, "20270101T000000Z-x-y")
    assert items(results)["cost"].evidence.startswith("$2.40 per hour"), "of the newest result that has one"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"result": 1}', "\x00"])
@pytest.mark.parametrize("price", [None, "much", -1.0, 0.0, 1e9, float("nan")])
def test_a_spoilt_price_is_named(results: Path, text: str, price: object) -> None:
    unpriced = full()
    unpriced.cost = {}
    put(results, unpriced)
    price_file(results).parent.mkdir(parents=True)
    for note in (text, json.dumps({"result": f"benchmark_scaling/{STEM}.json", "usd_per_hour": price})):
        price_file(results).write_text(note)
        found = items(results)["cost"]
        assert found.state == OPEN
        assert "price.json" in found.problems[0] and "again" in found.problems[0]


@pytest.mark.parametrize("spoil", ["", "# Mine\n", "From `benchmark_scaling/gone.json`: x.\n"])
def test_a_configuration_that_no_result_says_is_named(results: Path, spoil: str) -> None:
    do_everything(results)
    (results / NAME).write_text(spoil)
    found = items(results)["configuration"]
    assert found.state == OPEN
    assert NAME in found.problems[0]
