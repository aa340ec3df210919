from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.predict import held_out
from common.predict.__main__ import main
from common.predict.calibrate import Priors, stored_priors
from common.predict.cases import CaseFileError, Measured, columns, read_cases
from common.predict.evaluate import amdahl, evaluate, paid_once, refused, summary
from common.predict.hardware import DATA
from common.predict.step import log_rate

PUBLIC = DATA / "public_cases.json"
# What the public table gave when the priors were stored, rounded up: (median, p90) of the absolute error by devices
THRESHOLDS = {4: (0.06, 0.15), 8: (0.09, 0.20)}


def case(**changes: Any) -> dict[str, Any]:  # noqa: ANN401  # anything may stand in a file
    """A case of Llama-3-8B on H100s: 100, 180, 300 and 400 tokens/s on 1, 2, 4 and 8 devices."""
    made: dict[str, Any] = {"id": "a", "group": "g", "gpu": "H100 SXM", "model": "Llama-3-8B", "dtype": "bf16"}
    made |= {"input_len": 128, "output_len": 128, "concurrency": 16, "engine": "vLLM"}
    made |= {"derived_speedup": {"metric": "output_tok_s", "speedup": [9, 9, 9, 9]}}
    made["rows"] = [{"tp": n, "gpus": n, "output_tok_s": x} for n, x in ((1, 100), (2, 180), (4, 300), (8, 400))]
    return {key: value for key, value in (made | changes).items() if value is not None}


def written(folder: Path, *cases: object) -> Path:
    """A case file."""
    path = folder / "cases.json"
    path.write_text(json.dumps({"cases": list(cases)}))
    return path


def planted(folder: Path, change: Callable[[list[Measured]], np.ndarray[Any, Any]]) -> list[Measured]:
    """Eight workloads on 1, 2, 4, 8 devices, their rates replaced by what `change` makes of them."""
    loads = [(128, 128, 1), (128, 128, 16), (512, 512, 4), (512, 512, 64), (2048, 256, 8), (1024, 1024, 32)]
    cases = [
        case(id=f"w{number}", input_len=asked, output_len=answered, concurrency=streams)
        for number, (asked, answered, streams) in enumerate(loads)
    ]
    measured, skipped = read_cases(written(folder, *cases))
    assert not skipped
    return [replace(row, rate=float(rate)) for row, rate in zip(measured, change(measured), strict=True)]


def test_a_group_that_follows_the_step_model_is_recovered(tmp_path: Path) -> None:
    """Constants one width away from the priors, slow links among them: found again from 1 and 2 devices."""
    priors = stored_priors()
    for links in (-1.0, 2.0):
        constants = priors.centres + 0.7 * priors.widths * np.array([1, -1, 1, 1, -1, 1, links, 0, -1, 0, 0])
        rows = planted(tmp_path, lambda made, c=constants: np.exp(log_rate(c, columns(made))))  # type: ignore[misc]
        predicted, _ = evaluate(rows, (1, 2), priors)
        errors = np.abs([row.relative_scaling_error for row in predicted])
        assert len(errors) == 12
        assert np.median(errors) < 0.05
        assert np.max(errors) < 0.20


def test_a_group_with_a_serial_share_is_recovered(tmp_path: Path) -> None:
    def serial(made: list[Measured]) -> np.ndarray[Any, Any]:
        rates = np.exp(log_rate(stored_priors().centres, columns(made)))
        one = {row.id: rate for row, rate in zip(made, rates, strict=True) if row.devices == 1}
        return np.array([one[row.id] / (0.4 + 0.6 / row.devices) for row in made])

    predicted, _ = evaluate(planted(tmp_path, serial), (1, 2), stored_priors())
    errors = np.abs([row.relative_scaling_error for row in predicted])
    assert np.median(errors) < 0.08
    assert np.mean([row.low <= row.measured <= row.high for row in predicted]) >= 0.75


def test_amdahl_by_hand(tmp_path: Path) -> None:
    """100 and 160 tokens/s: a serial share of 1/4, so 228.6 on 4 devices and 290.9 on 8."""
    rows, _ = read_cases(
        written(
            tmp_path,
            case(rows=[{"gpus": n, "output_tok_s": x} for n, x in zip((1, 2, 4, 8), (100, 160, 1, 1), strict=True)]),
        )
    )
    assert amdahl(rows[:2], rows[2]) == pytest.approx(100 / (0.25 + 0.75 / 4))
    assert amdahl(rows[:2], rows[3]) == pytest.approx(100 / (0.25 + 0.75 / 8))
    assert amdahl(rows[:1], rows[3]) is None


@pytest.mark.parametrize(
    ("counts", "rates", "expected"),
    [
        ((1, 2, 4, 8), (100, 160), (100 / (0.625 - 0.8 / 4), 100 / (0.625 - 0.8 * 3 / 8))),  # serial: 0.8 of 1/4
        ((1, 2, 4, 8), (100, 200), (400, 800)),  # nothing is serial
        ((1, 2, 4, 8), (100, 80), (80, 80)),  # slower: no part of the work is shared
        ((2, 4, 8, 1), (160, 100 / 0.4375), (100 / 0.34375, 100)),  # no single device: Amdahl's serial share of 1/4
        ((1, 2, 4, 8), (100, 201), (None, None)),  # memory was short on one device
        ((1, 1, 4, 8), (100, 160), (None, None)),
    ],
)
def test_a_cost_paid_once_by_hand(
    tmp_path: Path, counts: tuple[int, ...], rates: tuple[float, float], expected: tuple[float | None, float | None]
) -> None:
    """Time on n devices: that of the larger point, less the parallel share times (1/m - 1/n)."""
    pairs = zip(counts, (*rates, 1, 1), strict=True)
    rows, _ = read_cases(written(tmp_path, case(rows=[{"gpus": n, "output_tok_s": x} for n, x in pairs])))
    for row, rate in zip(rows[2:], expected, strict=True):
        assert paid_once(rows[:2], row) == (None if rate is None else pytest.approx(rate))


def test_latencies_count_as_rates_and_speedups_in_the_file_are_not_read(tmp_path: Path) -> None:
    rows = [{"tp": n, "gpus": n, "tpot_ms": x} for n, x in ((1, 20.0), (2, 12.0), (4, 8.0))]
    measured, _ = read_cases(
        written(tmp_path, case(rows=rows, derived_speedup={"metric": "1/tpot_ms", "speedup": [7]}))
    )
    assert [row.rate for row in measured] == pytest.approx([1 / 20, 1 / 12, 1 / 8])
    (predicted,), _ = evaluate(measured, (1, 2), stored_priors())
    assert predicted.measured == pytest.approx(1 / 8)
    assert predicted.relative_scaling_error == pytest.approx(predicted.predicted * 8 - 1)
    assert predicted.low < predicted.predicted < predicted.high


def test_groups_without_a_calibrating_row_are_outside_and_not_refused(tmp_path: Path) -> None:
    measured, skipped = read_cases(written(tmp_path, case(), case(id="b", group="h", rows=case()["rows"][2:])))
    predicted, outside = evaluate(measured, (1, 2), stored_priors())
    assert {row.id for row in predicted} == {"a"}
    assert [one.id for one in outside] == ["b", "b"]
    assert not skipped


def test_an_interval_widens_where_confidence_is_low(tmp_path: Path) -> None:
    both = [case(), case(id="b", group="h", input_len="not recorded")]
    measured, _ = read_cases(written(tmp_path, *both))
    rates = np.exp(log_rate(stored_priors().centres, columns(measured)))
    as_expected = [replace(row, rate=float(rate)) for row, rate in zip(measured, rates, strict=True)]
    predicted, _ = evaluate(as_expected, (1, 2), stored_priors())
    sure, unsure = (next(row for row in predicted if row.id == name and row.devices == 4) for name in "ab")
    assert unsure.confidence.startswith("low: input_len not in the source: assumed")
    assert sure.confidence == "normal"
    assert unsure.high / unsure.predicted > sure.high / sure.predicted


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"gpu": 100}, "'gpu' is 100: text is needed"),
        ({"dtype": ["bf16"]}, "'dtype' is [\"bf16\"]: text is needed"),
        ({"input_len": 1e22}, "'input_len' is 1e+22"),
        ({"output_len": [128]}, "'output_len' is [128]"),
        ({"output_len": float("nan")}, "'output_len' is NaN"),
        ({"concurrency": -4}, "'concurrency' is -4"),
        ({"concurrency": "-4"}, "'concurrency' is \"-4\""),
        ({"concurrency": float("inf")}, "'concurrency' is Infinity"),
        ({"rows": [{"gpus": "2", "output_tok_s": 5}]}, "row 0: 'gpus' is \"2\": a whole number"),
        ({"rows": [{"gpus": 10**400, "output_tok_s": 5}]}, "row 0: 'gpus' is 1000"),
        ({"rows": [{"gpus": 2, "output_tok_s": "5"}]}, "row 0: has no positive 'output_tok_s': it is \"5\""),
        ({"rows": [{"gpus": 2, "output_tok_s": 10**400}]}, "row 0: has no positive 'output_tok_s': it is 1000"),
        ({"rows": [{"gpus": 2, "output_tok_s": 5e300}]}, "row 0: has no positive 'output_tok_s': it is 5e+300"),
        (
            {"rows": [{"gpus": 6, "tp": 6, "pp": 3, "output_tok_s": 5}]},
            "row 0: tp6pp3 is a plan of 18 devices, and 'gpus' is 6",
        ),
        ({"rows": [{"gpus": 8, "pp": 3, "output_tok_s": 5}]}, "row 0: pp3 does not divide 8 devices"),
        ({"rows": [{"gpus": 8, "tp": 1, "ep": 3, "output_tok_s": 5}]}, "row 0: ep3 does not divide 8 devices"),
        ({"rows": [{"gpus": 3, "tp": 3, "output_tok_s": 5}]}, "row 0: tp3 does not divide this model (32 attention"),
        ({"rows": [{"gpus": 3, "output_tok_s": 5}]}, "row 0: tp3 does not divide this model (32 attention"),
        ({"rows": [{"gpus": 33, "pp": 33, "output_tok_s": 5}]}, "row 0: pp33 has more stages than this model has"),
        ({"id": "good"}, "another case of its group has the same 'id'"),
        ({"gpu": None}, "has no 'gpu'"),
        ({"model": None}, "has no 'model'"),
        ({"rows": []}, "has no 'rows'"),
        ({"input_len": 0}, "'input_len' is 0: lengths are 1 token or more"),
        ({"output_len": -5}, "'output_len' is -5"),
        ({"rows": [{"output_tok_s": 5}]}, "row 0: 'gpus' is null"),
        ({"rows": [{"gpus": 2, "output_tok_s": -5}]}, "row 0: has no positive 'output_tok_s'"),
        ({"rows": [{"gpus": 2.5, "output_tok_s": 5}]}, "row 0: 'gpus' is 2.5"),
        ({"rows": [{"gpus": 2, "output_tok_s": float("nan")}]}, "row 0: has no positive"),
        ({"rows": ["x"]}, "row 0: is not a JSON object"),
        ({"concurrency": 0}, "'concurrency' is 0"),
        ({"rows": "all"}, "'rows' is not a list"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_reason(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    measured, skipped = read_cases(written(tmp_path, case(id="good"), case(**{"id": "bad"} | changes)))
    assert [row.devices for row in measured if row.id == "good"] == [1, 2, 4, 8]
    assert len(measured) == 4
    assert skipped[0].id == changes.get("id", "bad")
    assert reason in skipped[0].reason


@pytest.mark.parametrize(
    ("changes", "assumed"),
    [
        ({"gpu": "abacus", "interconnect": "NVLink"}, "figures of the GPU"),
        ({"gpu": "B900-PCIe"}, "figures of the GPU"),
        ({"model": "mystery"}, "model shape"),
        ({"model": "someone/new-9B-chat"}, "model shape"),
        ({"concurrency": None}, "concurrency"),
        ({"output_len": "dataset"}, "output_len"),
        ({"engine": None, "dtype": None, "derived_speedup": None}, ""),
    ],
)
def test_what_is_unknown_is_assumed_and_said(tmp_path: Path, changes: dict[str, Any], assumed: str) -> None:
    measured, skipped = read_cases(written(tmp_path, case(**changes)))
    assert not skipped
    predicted, _ = evaluate(measured, (1, 2), stored_priors())
    assert [row.devices for row in predicted] == [4, 8]
    for row in predicted:
        assert assumed in row.confidence
        assert 0.5 < row.predicted / row.measured < 2
        assert row.low < row.predicted < row.high


def test_odd_plans_and_repeated_rows_are_all_predicted(tmp_path: Path) -> None:
    rows = [
        {"gpus": 1, "output_tok_s": 100},
        {"gpus": 1, "output_tok_s": 110},
        {"gpus": 2, "pp": 2, "output_tok_s": 120},
    ]
    rows += [{"gpus": 3, "pp": 3, "output_tok_s": 210}, {"gpus": 6, "tp": 2, "pp": 3, "output_tok_s": 300}]
    rows += [
        {"gpus": 4, "tp": 2, "dp": 2, "output_tok_s": 290},
        {"gpus": 64, "tp": 32, "pp": 2, "output_tok_s": 700},
    ] * 2
    measured, skipped = read_cases(written(tmp_path, case(rows=rows), case(id="b", rows=rows, concurrency=1)))
    predicted, outside = evaluate(measured, (1, 2), stored_priors())
    assert not skipped
    assert not outside
    assert len(predicted) == 12
    assert all(np.isfinite([row.predicted, row.low, row.high]).all() for row in predicted)


def test_experts_without_such_a_row_to_calibrate_are_predicted_without_a_claim(tmp_path: Path) -> None:
    rows = [{"gpus": n, "ep": ep, "output_tok_s": x} for n, ep, x in ((1, 1, 100), (2, 1, 180), (4, 4, 300))]
    measured, _ = read_cases(written(tmp_path, case(rows=rows, model="Qwen3-30B-A3B")))
    (row,), _ = evaluate(measured, (1, 2), stored_priors())
    assert "no throughput claim" in row.confidence
    rows[1]["ep"] = 2
    measured, _ = read_cases(written(tmp_path, case(rows=rows, model="Qwen3-30B-A3B")))
    (row,), _ = evaluate(measured, (1, 2), stored_priors())
    assert row.confidence == "normal"


def test_a_single_device_says_little_of_more(tmp_path: Path) -> None:
    measured, _ = read_cases(written(tmp_path, case()))
    one, two = (evaluate(measured, counts, stored_priors())[0][-1] for counts in ((1,), (1, 2)))
    assert "only single devices calibrate" in one.confidence
    assert one.high / one.low > 2 * two.high / two.low


def test_only_what_was_asked_for_is_refused(tmp_path: Path) -> None:
    broken = {"gpus": 4}
    cases = [case(rows=[*case()["rows"][:2], broken]), case(id="b", group="h", rows=[*case()["rows"][2:], broken])]
    measured, skipped = read_cases(written(tmp_path, *cases))
    assert [one.id for one in skipped] == ["a", "b"]
    (one,) = refused(skipped, measured, (1, 2))
    assert (one.id, one.reason) == ("a", "row 2: has no positive 'output_tok_s'")


@pytest.mark.parametrize("field", ["id", "group", "gpu", "model", "rows"])
def test_a_case_that_is_the_only_one_of_its_group_does_not_vanish(tmp_path: Path, field: str) -> None:
    broken = {key: value for key, value in case(id="b", group="h").items() if key != field}
    measured, skipped = read_cases(written(tmp_path, case(), broken))
    (one,) = refused(skipped, measured, (1, 2))
    assert one.id == ("case 1" if field == "id" else "b")
    assert one.reason == f"has no '{field}'"


@pytest.mark.parametrize(
    ("plan", "model", "engine"),
    [
        ({"tp": 3, "gpus": 3}, "someone/new-9B-chat", "vLLM"),  # its heads are only guessed
        ({"tp": 3, "gpus": 3}, "Llama-3-8B", "llama.cpp"),  # splits unevenly
        ({"pp": 3, "gpus": 3}, "Llama-3-8B", "vLLM"),  # vLLM gives its 32 layers to three stages
        ({"tp": 1, "ep": 4, "gpus": 4}, "Qwen3-30B-A3B", "vLLM"),  # written in place of tp
        ({"tp": 2, "dp": 2, "ep": 4, "gpus": 4}, "Qwen3-30B-A3B", "vLLM"),
        ({"tp": 1, "ep": 4, "pp": 2, "gpus": 8}, "Qwen3-30B-A3B", "vLLM"),
        ({"tp": None, "gpus": 4}, "Llama-3-8B", "vLLM"),
    ],
)
def test_plans_that_were_measured_are_not_refused(
    tmp_path: Path, plan: dict[str, Any], model: str, engine: str
) -> None:
    rows = [*case()["rows"][:2], plan | {"output_tok_s": 210}]
    measured, skipped = read_cases(written(tmp_path, case(rows=rows, model=model, engine=engine)))
    assert not skipped
    assert measured[-1].devices == plan["gpus"]
    assert not any("plan" in one for one in measured[-1].assumed)


def test_what_a_plan_leaves_open_is_said(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [*case()["rows"][:2], {"tp": 2, "gpus": 8, "output_tok_s": 210}]
    measured, _ = read_cases(written(tmp_path, case(rows=rows)))
    (row,), _ = evaluate(measured, (1, 2), stored_priors())
    assert row.confidence.startswith(
        "low: plan (tp2 on 8 devices: the rest taken as tensor parallel) not in the source"
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "not a readable JSON file"),
        ("{", "not a readable JSON file"),
        ("[" * 100_000, "not a readable JSON file"),
        ("[]", "its list of cases is empty"),
        ('{"cases": []}', "its list of cases is empty"),
        ('{"cases": 3}', "holds no list 'cases'"),
        ('"text"', "holds no list 'cases'"),
        ("null", "holds no list 'cases'"),
        ("[1]", "no case can be read (case 0: is not a JSON object)"),
        ('{"cases": [{"id": "a"}]}', "no case can be read (a: has no 'group')"),
        ('{"schema": "scaling-cases/2", "cases": [1]}', 'its schema is "scaling-cases/2", and only scaling-cases/1'),
        ('{"schema_version": 1, "cases": [1]}', "a result of this lab"),
    ],
)
def test_a_file_that_holds_no_cases_is_refused_with_the_remedy(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "cases.json"
    path.write_text(content)
    with pytest.raises(CaseFileError) as refusal:
        read_cases(path)
    text = str(refusal.value)
    assert text.startswith(f"{path}: {said}")
    assert "\n" not in text
    assert "predict_scaling.py --measured" in text or "public_cases.json" in text


def test_a_file_written_on_windows_is_read(tmp_path: Path) -> None:
    path = written(tmp_path, case())
    path.write_text(path.read_text(), encoding="utf-8-sig")
    assert len(read_cases(path)[0]) == 4


def test_the_public_table_keeps_its_thresholds() -> None:
    measured, skipped = read_cases(PUBLIC)
    assert not skipped
    predicted, _ = evaluate(measured, (1, 2), stored_priors())
    for devices, (median, p90) in THRESHOLDS.items():
        line = next(one for one in summary(predicted) if (one["devices"], one["kind"]) == (devices, "all"))
        assert line["median"] <= median
        assert line["p90"] <= p90
        assert line["inside"] >= 0.8
        assert line["median_half_width"] <= 0.25


def test_every_public_case_has_its_source() -> None:
    cases = json.loads(PUBLIC.read_text())["cases"]
    assert len(cases) >= 30
    assert all(one["url"].startswith("https://") for one in cases)


@pytest.mark.slow
def test_the_command_writes_every_row_and_is_quick(tmp_path: Path) -> None:
    """Two hundred cases well inside a minute, and the whole document as promised."""
    measured = json.loads(PUBLIC.read_text())["cases"]
    many = [one | {"id": f"{one['id']}-{n}", "group": f"{one['group']}-{n}"} for n in range(6) for one in measured]
    out = tmp_path / "out.json"
    started = time.monotonic()
    command = [sys.executable, "-m", "common.predict", "evaluate", str(written(tmp_path, *many))]
    done = subprocess.run(
        [*command, "--calibrate-devices", "1", "2", "--json", str(out)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started < 30
    content = json.loads(out.read_text())
    wanted = ["id", "group", "plan", "devices", "measured", "predicted", "low", "high", "relative_scaling_error"]
    assert set(content) == {"rows", "skipped", "summary"}
    assert all(list(row) == [*wanted, "confidence"] for row in content["rows"])
    assert len(content["rows"]) == 6 * sum(row["gpus"] not in (1, 2) for one in measured for row in one["rows"])
    assert content["skipped"] == []


def test_priors_survive_being_stored() -> None:
    assert Priors.from_json(stored_priors().to_json()).to_json() == stored_priors().to_json()


def test_where_nothing_is_predicted_the_command_says_what_is_needed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["common.predict", "evaluate", str(PUBLIC), "--calibrate-devices", "64"])
    assert main() == 2
    said = capsys.readouterr().err
    assert "nothing to predict. A group needs a row on --calibrate-devices 64 and one on another count" in said


@pytest.mark.parametrize(
    "arguments",
    [
        ["no-such-file.json"],
        [str(PUBLIC), "--calibrate-devices", "0"],
        [str(PUBLIC), "--json", str(PUBLIC.parent / "." / PUBLIC.name)],
        [str(DATA / "models.json")],
        [str(PUBLIC), "--held-out", "1"],
        [str(PUBLIC), "--held-out", "1000"],
    ],
)
def test_the_command_refuses_in_one_line(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = PUBLIC.read_text()
    monkeypatch.setattr(sys, "argv", ["common.predict", "evaluate", *arguments])
    assert main() == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert PUBLIC.read_text() == before


def test_a_held_out_group_is_predicted_by_priors_that_never_saw_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured, _ = read_cases(written(tmp_path, *(case(id=name, group=name) for name in "abcde")))
    learnt_from: list[set[str]] = []

    def learn(rows: list[Measured], _devices: tuple[int, ...], _rounds: int) -> Priors:
        learnt_from.append({row.group for row in rows})
        return stored_priors()

    monkeypatch.setattr(held_out, "learn", learn)
    predicted, outside = held_out.evaluate_held_out(measured, (1, 2), 2)
    assert learnt_from == [{"b", "d"}, {"a", "c", "e"}]
    assert sorted((row.group, row.devices) for row in predicted) == [(name, n) for name in "abcde" for n in (4, 8)]
    assert not outside


def test_the_example_in_the_guide_is_read_and_predicted(tmp_path: Path) -> None:
    text = (Path(__file__).resolve().parents[2] / "README.md").read_text()
    (example,) = [block for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL) if "scaling-cases/1" in block]
    path = tmp_path / "cases.json"
    path.write_text(example)
    measured, skipped = read_cases(path)
    assert not skipped
    (row,), _ = evaluate(measured, (1, 2), stored_priors())
    assert (row.plan, row.devices, row.confidence) == ("tp2pp2", 4, "normal")
