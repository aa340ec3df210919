"""week5/decide.py as the one who pays runs it, good and bad input."""

from __future__ import annotations

import re
import shlex
import time
from pathlib import Path
from typing import Any

import pytest

from common.analysis.decision import page
from common.core.model_shape import ModelShape
from common.core.verdict import Verdict
from common.engines.models import Model
from common.experiment.estimate import estimate
from common.experiment.options import STARTS, parse
from common.experiment.roofline import Roofline
from common.store.files import save
from tests.analysis.planted import SHAPE, TP1, TP2
from tests.analysis.planted_concurrency import LADDER, closed, result
from tests.experiment.fakes import MACHINE
from tests.experiment.script import Script, load_script
from week5 import benchmark_scaling
from week5.benchmark_scaling import ScalingOptions
from week5.simulate_concurrent_requests import ConcurrencyOptions

REFERENCE = Path(__file__).resolve().parents[2] / "results" / "reference" / "2x1core-amd-epyc"
GOOD = ("--rate", "20", "--slo", "ttft=1000,tpot=100")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Script:
    """The script without figures, which cost a second each and have a test of their own."""
    monkeypatch.setattr(page, "drawings", lambda decision: {})
    return Script(load_script("decide"), monkeypatch, capsys)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Own results: two plans, a price, a machine of two devices."""
    made = result([closed(TP1, clients) for clients in LADDER] + [closed(TP2, clients, 1.5) for clients in LADDER])
    made.cost = {"usd_per_hour": 2.0}
    path = tmp_path / "results" / made.experiment / "20260101T000000Z-synthetic.json"
    path.parent.mkdir(parents=True)
    save(made, path)
    return tmp_path / "results"


def folder_of_page(results: Path) -> Path:
    """Where the only page stands: in a folder named after its time."""
    (folder,) = (results / "decision").iterdir()
    assert re.fullmatch(r"\d{8}T\d{6}Z", folder.name)
    return folder


def test_an_earlier_page_stays(script: Script, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "gmtime", lambda: time.struct_time((2026, 1, 2, 3, 4, 5, 0, 0, 0)))  # the same second
    pages = []
    for rate in ("20", "40"):
        outcome = script("--rate", rate, *GOOD[2:], "--results-dir", str(results))
        pages.append(Path(outcome.last["result"]))
    assert [page.parent.name for page in pages] == ["20260102T030405Z", "20260102T030405Z-2"]
    assert "20 requests per second" in pages[0].read_text() and "40 requests per second" in pages[1].read_text()


def test_the_page_of_ones_own_results(script: Script, results: Path) -> None:
    outcome = script(*GOOD, "--results-dir", str(results))
    assert outcome.code == 0, outcome
    assert outcome.last["summary"]["chosen"] == "tp1"
    assert outcome.last["summary"]["engines"]["tp1"]["rented_usd_per_month"] == 2 * 2.0 * 730
    written = Path(outcome.last["result"])
    assert written == folder_of_page(results) / "decision.html" and written.is_file()
    assert str(written) in outcome.out.splitlines(), "where it was written is said"
    text = (written.parent / "decision.md").read_text()
    assert "the price is the newest result's" in text
    command = next(line for line in text.splitlines() if line.startswith("python week5/"))
    assert "tp2 and tp1x2 at 16, 32, 64 clients, 3 engine starts of each" in text, "the bill rests on two on a machine"
    options = parse(ScalingOptions, "", shlex.split(command)[2:])
    assert options.tp == ("2",) and options.replicas and options.concurrency == (16, 32, 64)
    sizes: dict[str, Any] = dict(SHAPE)
    shape = ModelShape(**sizes)
    specs, _ = benchmark_scaling.cases(options, Model("synthetic", Path("/m"), shape), MACHINE)
    took = estimate(specs, STARTS["lab"], Roofline(shape, "cpu"), repeat_base_last=True)
    assert f"about {took.seconds / 60:.0f} minutes" in text, "as its dry run says"


def test_one_engine_on_each_machine_is_measured_by_itself(script: Script, results: Path) -> None:
    assert script("--rate", "5", *GOOD[2:], "--results-dir", str(results)).code == 0
    text = (folder_of_page(results) / "decision.md").read_text()
    command = next(line for line in text.splitlines() if line.startswith("python week5/"))
    options = parse(ConcurrencyOptions, "", shlex.split(command)[2:])
    assert options.tp == ("1",) and options.concurrency == (16,) and options.slo == ("ttft=1000", "tpot=100")


def test_the_reference_results_when_they_are_given(script: Script, tmp_path: Path) -> None:
    outcome = script(*GOOD, "--results", str(REFERENCE), "--results-dir", str(tmp_path))
    assert outcome.code == 0, outcome
    engines, chosen = outcome.last["summary"]["engines"], outcome.last["summary"]["chosen"]
    assert {"tp1", "tp2"} <= set(engines)
    assert engines[chosen]["machines"] == min(one["machines"] for one in engines.values())
    assert (folder_of_page(tmp_path) / "decision.md").is_file()
    assert "Bought: left out" in outcome.out


def test_a_plan_without_a_row_that_counts_is_said_on_the_terminal(script: Script, results: Path) -> None:
    broken = closed(TP2, 16)
    broken.client = Verdict("INVALID", ["halts"], "fewer neighbours")
    made = result([closed(TP1, 16), broken])
    save(made, results / "one.json")
    outcome = script(*GOOD, "--results", str(results / "one.json"), "--results-dir", str(results))
    line = "tp2 was measured and does not count: its client is INVALID (tp2/closed/c16)."
    assert line in outcome.out.splitlines() and line in (folder_of_page(results) / "decision.md").read_text()


def test_limits_that_no_plan_keeps_exit_with_1(script: Script, results: Path) -> None:
    outcome = script("--rate", "1", "--slo", "ttft=0.001", "--results-dir", str(results))
    assert outcome.code == 1 and outcome.last["status"] == "no plan"
    assert (folder_of_page(results) / "decision.html").is_file()


@pytest.mark.slow
def test_predictions_alone_end_in_what_to_measure_first(script: Script, tmp_path: Path) -> None:
    words = ("--model", "Qwen/Qwen3-8B", "--gpu", "H100", "--counts", "1", "2", "--usd-per-hour", "5")
    outcome = script("--rate", "20", "--slo", "ttft=500", "tpot=50", *words, "--results-dir", str(tmp_path))
    assert outcome.code == 0, outcome
    assert "PREDICTED, not measured" in outcome.out.splitlines()[0]
    assert all(one["predicted"] for one in outcome.last["summary"]["engines"].values())
    text = (folder_of_page(tmp_path) / "decision.md").read_text()
    last = text.partition("## Measure first")[2]
    assert "minutes, $" in last and "python week5/simulate_concurrent_requests.py --model Qwen/Qwen3-8B" in last
    assert "## What was measured" not in text and "within.png" not in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--rate", "0"), "--rate 0: a number above 0"),
        (("--rate", "-3"), "--rate -3"),
        (("--rate", "nan"), "--rate nan"),
        (("--rate", "inf"), "--rate inf"),
        (("--rate", "many"), "--rate"),
        (("--rate", "1e9"), "--rate 1e+09: a number above 0 and below 1e+07 is needed (requests per second)"),
        (("--slo", "itl=5"), "--slo itl=5: write limits"),
        (("--slo", "ttft=0"), "--slo ttft=0"),
        (("--slo", "ttft=-5"), "--slo ttft=-5"),
        (("--slo", "ttft=nan"), "--slo ttft=nan"),
        (("--usd-per-hour", "-1"), "--usd-per-hour -1"),
        (("--buy-usd", "1000"), "--buy-usd and --months go together"),
        (("--months", "36"), "--buy-usd and --months go together"),
        (("--watts", "500"), "--watts and --usd-per-kwh go together"),
        (("--watts", "500", "--usd-per-kwh", "0.2"), "--watts is for a bought machine"),
        (("--counts", "0"), "--counts: device counts"),
        (("--input-tokens", "0"), "--input-tokens 0"),
        (("--input-tokens", "77"), "nothing was measured under load that counts here (loads of 32 tokens in, 32 out)"),
        (("--model", "another"), "it is of the model synthetic"),
        (("--results", "gone.json"), "cannot read gone.json"),
        (("--model", "Llama-3-8B", "--gpu", "Z9"), "GPU 'Z9' is unknown; known are "),
        (("--model", "mystery", "--gpu", "H100"), "give a config.json"),
        (("--gpu", "H100"), "it was measured on 2 x SYNTHETIC"),
    ],
)
def test_bad_input_is_one_line(script: Script, results: Path, words: tuple[str, ...], said: str) -> None:
    outcome = script(*GOOD, *words, "--results-dir", str(results))
    assert said in outcome.refusal()
    assert not (results / "decision").exists(), "nothing is written"


def test_missing_options_are_named_in_one_short_line(script: Script) -> None:
    assert script().refusal() == "error: missing: --rate FLOAT, --slo LIMIT [LIMIT ...]. See --help"
    assert script("--rate", "20").refusal() == "error: missing: --slo LIMIT [LIMIT ...]. See --help"


def test_a_model_that_does_not_fit_at_all_is_no_question_of_limits(script: Script, tmp_path: Path) -> None:
    words = ("--model", "Llama-3.1-405B", "--gpu", "T4", "--counts", "1", "2", "--results-dir", str(tmp_path))
    said = script(*GOOD, *words).refusal()
    assert "no plan fits on T4" in said and "GB short on each device" in said
    long = script(*GOOD, "--model", "Llama-3-8B", "--gpu", "H100", *words[4:], "--input-tokens", "9000000").refusal()
    assert "the KV cache of one request does not" in long and "would fit" in long
    assert not (tmp_path / "decision").exists()


def test_no_results_at_all(script: Script, tmp_path: Path) -> None:
    said = script(*GOOD, "--results-dir", str(tmp_path / "none")).refusal()
    assert "run week5/simulate_concurrent_requests.py, or name --model and --gpu" in said


def test_results_of_two_machines(script: Script, results: Path) -> None:
    other = result([closed(TP1, 1)])
    other.environment["devices"] = [{"index": 0, "name": "OTHER"}]
    save(other, results / other.experiment / "20260102T000000Z-other.json")
    said = script(*GOOD, "--results", str(results), "--results-dir", str(results)).refusal()
    assert "results of 2 machines (1 x OTHER; 2 x SYNTHETIC, 1 core)" in said


def test_a_truncated_file(script: Script, results: Path) -> None:
    (whole,) = (results / "simulate_concurrent_requests").glob("*.json")
    cut = whole.with_name("20260103T000000Z-cut.json")
    cut.write_bytes(whole.read_bytes()[:-50])
    assert "truncated" in script(*GOOD, "--results", str(cut), "--results-dir", str(results)).refusal()
    outcome = script(*GOOD, "--results-dir", str(results))
    assert outcome.code == 0 and "cut.json is truncated" in (folder_of_page(results) / "decision.md").read_text()
