"""`compare` as a reader runs it: planted ratios are found again, and what may not be compared is refused."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from common.analysis.__main__ import main
from common.analysis.comparison.compare import compare_files
from common.analysis.comparison.compared import compared_cases, coverage
from common.analysis.comparison.differences import differences
from common.store.files import save
from common.store.schema import CaseError, Check, Result
from tests.analysis.pairs import judged, side
from tests.analysis.planted import TP1, X2, case, skipped

LAST_WEEK = "20260101T030405Z-2x1core-synthetic-qwen2-9m"


@dataclass(frozen=True)
class Said:
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def last(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out.splitlines()[-1])
        return found

    def line(self, begin: str) -> str:
        return next(line for line in self.out.splitlines() if line.startswith(begin))


Run = Callable[..., Said]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Saves results and compares them."""

    def compare(a: Result, b: Result, *words: str) -> Said:
        places = []
        for name, made in (("a", a), ("b", b)):
            places.append(str(tmp_path / f"{name}.json"))
            save(made, Path(places[-1]))
        monkeypatch.setattr(sys, "argv", ["analysis", "compare", *places, *words])
        capsys.readouterr()
        try:
            code = main()
        except SystemExit as end:
            code = int(end.code or 0)
        return Said(code, *capsys.readouterr())

    return compare


def other_machine(speed: float = 1.0, **changes: object) -> Result:
    made = side(speed, run_id=LAST_WEEK, **changes)  # type: ignore[arg-type]
    for device in made.environment["devices"]:
        device["name"] = "B GPU"
    return made


# --- ratios


def test_a_planted_ratio_is_found_with_an_interval_that_holds_it(run: Run) -> None:
    said = run(side(), other_machine(1.5), "--factor", "machine")
    assert said.code == 0, said
    assert said.err == ""
    found = said.last["ratios"]["tp2/fixed/c16"]
    assert found["output_throughput"]["value"] == pytest.approx(1.5, rel=1e-5)
    assert found["median_tpot_ms"]["value"] == pytest.approx(1 / 1.5, rel=1e-5)
    assert found["median_ttft_ms"]["value"] == pytest.approx(1 / 1.5, rel=1e-5)
    for numbers in found.values():
        assert numbers["low"] < numbers["value"] < numbers["high"]
        assert numbers["resolved"] is True
        assert numbers["n"] == 3
    cells = said.line("tp2/fixed/c16").split()
    assert cells[:2] == ["tp2/fixed/c16", "1.50"]
    assert "0.67" in cells
    assert "unresolved" not in said.out.split("95 % interval;")[0]


def test_the_interval_is_welchs_on_logarithms(run: Run) -> None:
    """By hand: equal logs' variances s^2/3 on both sides, four degrees of freedom, t = 2.7764."""
    rates = (90.0, 100.0, 111.11111)  # logs -0.10536, 0, 0.10536 around log 100
    numbers = run(side(rates=rates), side(1.2, rates=rates, run_id=LAST_WEEK)).last["ratios"]["tp1/fixed/c16"]
    margin = 2.7764 * (2 * 0.10536**2 / 3) ** 0.5
    assert numbers["output_throughput"]["low"] == pytest.approx(1.2 * 2.71828**-margin, rel=1e-4)
    assert numbers["output_throughput"]["high"] == pytest.approx(1.2 * 2.71828**margin, rel=1e-4)


def test_swapped_files_give_reciprocal_ratios(run: Run) -> None:
    there = run(side(), other_machine(1.3), "--factor", "machine").last["ratios"]
    back = run(other_machine(1.3), side(), "--factor", "machine").last["ratios"]
    assert there.keys() == back.keys()
    for id, metrics in there.items():
        for name, numbers in metrics.items():
            assert numbers["value"] * back[id][name]["value"] == pytest.approx(1, rel=1e-5)
            assert numbers["low"] * back[id][name]["high"] == pytest.approx(1, rel=1e-5)


def test_a_file_and_itself_are_one_run_and_nothing_is_resolved(run: Run) -> None:
    said = run(side(), side())
    assert said.code == 0
    assert "one and the same run: every ratio is 1" in said.out
    for of_two_runs in ("This is a repeat", "tells the two machines apart", "not interleaved"):
        assert of_two_runs not in said.out
    for metrics in said.last["ratios"].values():
        for numbers in metrics.values():
            assert (numbers["value"], numbers["resolved"]) == (1.0, False)
    assert said.out.count("unresolved") == 7, "three metrics of two cases, and the legend"


def test_a_repeat_is_no_claim_about_being_the_same_run(run: Run) -> None:
    said = run(side(), side(1.01, run_id=LAST_WEEK))
    assert "No difference: the same machine as far as is recorded, the same settings. This is a repeat." in said.out
    assert "one and the same run" not in said.out


def test_models_of_other_names_are_paired_by_case(run: Run) -> None:
    other = side(2.0, run_id=LAST_WEEK)
    other.config |= {"model": "Qwen/Qwen3-8B", "model_shape": other.config["model_shape"] | {"hidden_size": 4096}}
    assert run(side(), other).code == 2
    found = run(side(), other, "--factor", "model")
    assert found.code == 0
    assert found.last["ratios"]["tp1/fixed/c16"]["output_throughput"]["value"] == pytest.approx(2, rel=1e-5)


def test_one_repeat_on_a_side_gives_a_ratio_without_an_interval(run: Run) -> None:
    said = run(side(rates=[100.0]), side(rates=[120.0], run_id=LAST_WEEK))
    numbers = said.last["ratios"]["tp1/fixed/c16"]["output_throughput"]
    assert numbers == {"value": 1.2, "n": 1, "resolved": False}
    assert "no interval" in said.out


def test_a_metric_that_one_side_lacks_or_that_is_zero_is_left_empty(run: Run) -> None:
    a, b = side(), side(run_id=LAST_WEEK)
    for repeat in a.cases[0].repeats:
        del repeat["median_tpot_ms"]
    for repeat in b.cases[0].repeats:
        repeat["median_ttft_ms"] = 0.0
    assert set(run(a, b).last["ratios"]["tp1/fixed/c16"]) == {"output_throughput"}


def test_the_steady_window_is_used_where_both_sides_have_it_in_every_repeat(run: Run) -> None:
    a, b = side(), side(run_id=LAST_WEEK)
    for made, speed in ((a, 1.0), (b, 1.4)):
        for one in made.cases:
            for repeat in one.repeats:
                repeat["steady_output_throughput"] = speed * repeat["output_throughput"]
                repeat["steady_median_ttft_ms"] = repeat["steady_median_tpot_ms"] = 10 * speed
    said = run(a, b)
    assert "Over the steady window, which both sides have in every repeat." in said.out
    steady = said.last["ratios"]["tp1/fixed/c16"]
    assert set(steady) == {"steady_output_throughput", "steady_median_ttft_ms", "steady_median_tpot_ms"}
    assert {numbers["value"] for numbers in steady.values()} == {1.4}
    assert said.line("tp1/fixed/c16").split()[1] == "1.40"

    del b.cases[0].repeats[1]["steady_output_throughput"]
    said = run(a, b)
    assert set(said.last["ratios"]["tp1/fixed/c16"]) == {
        *("output_throughput", "steady_median_ttft_ms", "steady_median_tpot_ms")
    }
    assert said.last["ratios"]["tp1/fixed/c16"]["output_throughput"]["value"] == 1.0
    assert "- over the steady window: tp1/fixed/c16: median_ttft_ms, median_tpot_ms" in said.out


# --- what is refused


def _driver(made: Result) -> None:
    made.environment["nvidia"]["driver"] = "570.1"


def _vllm(made: Result) -> None:
    made.environment["versions"]["vllm"] = "0.31.0"


def _model(made: Result) -> None:
    made.config["model"] = "other"


def _settings(made: Result) -> None:
    made.config["engine_settings"]["max_num_seqs"] = 8


def _workload(made: Result) -> None:
    made.cases[0].workload = case(TP1, "fixed", 17, []).workload


def _method(made: Result) -> None:
    made.method_version = 2


@pytest.mark.parametrize(
    ("change", "factor"), [(_driver, "machine"), (_vllm, "vllm"), (_model, "model"), (_settings, "settings")]
)
def test_a_factor_that_is_not_named_refuses_and_named_it_passes(
    run: Run, change: Callable[[Result], None], factor: str
) -> None:
    b = side(1.5, run_id=LAST_WEEK)
    change(b)
    others = [name for name in ("machine", "vllm", "model", "settings") if name != factor]
    for words in ((), ("--factor", *others)):
        said = run(side(), b, *words)
        assert said.code == 2
        assert len(said.err.splitlines()) == 1
        assert f"error: the runs differ in {factor}, which is not named" in said.err
        assert f"--factor {' '.join([*others, factor] if words else [factor])}; else make the runs alike" in said.err
        assert f"- {factor}, NOT ALLOWED: " in said.out
        assert "1.50" not in said.out, "no ratio"
        assert said.last["ratios"] == {}
        assert [one["allowed"] for one in said.last["differences"]] == [False]
    said = run(side(), b, "--factor", factor)
    assert said.code == 0
    assert f"- {factor}, allowed: " in said.out
    assert said.last["factors"] == [factor]
    assert said.last["ratios"]


@pytest.mark.parametrize(("change", "factor"), [(_workload, "workload"), (_method, "method")])
def test_other_work_or_another_method_is_refused_whatever_is_named(
    run: Run, change: Callable[[Result], None], factor: str
) -> None:
    b = side(run_id=LAST_WEEK)
    change(b)
    said = run(side(), b, "--factor", "machine", "vllm", "model", "settings")
    assert said.code == 2
    assert f"{factor} must be alike: measure one of them again" in said.err
    assert "--factor" not in said.err
    assert said.last["ratios"] == {}


def test_factors_may_be_said_in_one_or_in_several(run: Run) -> None:
    b = other_machine()
    _vllm(b)
    outs = {
        run(side(), b, *words).out
        for words in (
            ("--factor", "machine", "vllm"),
            ("--factor", "machine", "--factor", "vllm"),
            ("--factor", "machine", "vllm", "--factor", "vllm"),
        )
    }
    assert len(outs) == 1
    assert "Several things differ (machine, vllm): the ratios do not tell which of them it is." in outs.pop()


def test_only_the_nameable_factors_can_be_named(run: Run) -> None:
    assert run(side(), side(), "--factor", "workload").code == 2


# --- what the intervals cover


def test_words_for_one_start_on_each_side(run: Run) -> None:
    said = run(side(), other_machine(), "--factor", "machine")
    assert "over repeats inside one engine start on each side: another start may differ by more" in said.out
    assert "One machine on each side: how much machines of one kind differ is not covered." in said.out


def test_words_for_several_starts_on_each_side(run: Run) -> None:
    said = run(side(one_start=False), side(one_start=False, rates=(90.0, 95.0, 99.0, 100.0), run_id=LAST_WEEK))
    assert "over several engine starts on each side (3 and 4 of A and B)" in said.out
    assert "Nothing recorded tells the two machines apart" in said.out
    assert "not interleaved: drift of the machine between them is not covered" in said.out


def test_words_for_starts_on_one_side_only(run: Run) -> None:
    said = run(side(), side(one_start=False, run_id=LAST_WEEK))
    assert "samples of A are repeats inside one start, of B 3 or more starts: another start may differ" in said.out


def test_a_sample_is_a_start_where_there_are_several() -> None:
    a, b = side(one_start=False), side(one_start=False)
    for made in (a, b):
        for one in made.cases:
            one.repeats += [repeat | {"repeat": 1.0} for repeat in one.repeats]
    (ratio, *_) = compared_cases(a, b)[0].ratios.values()
    assert ratio.n == 3, "six repeats of three starts"


def test_many_intervals_come_with_a_warning_about_chance() -> None:
    a, b = side(), side()
    assert not any("by chance" in line for line in coverage(compared_cases(a, b), differences(a, b)))
    for made in (a, b):
        made.cases += [case(TP1, "fixed", streams, [9.0, 10.0]) for streams in range(20, 32)]
    (line,) = [line for line in coverage(compared_cases(a, b), differences(a, b)) if "by chance" in line]
    assert line == "Of 42 intervals of 95 % about 2 miss the truth by chance alone."


# --- cases that cannot be compared, or not be trusted


def test_an_invalid_client_takes_its_ratio_away_and_says_why(run: Run) -> None:
    b = side(1.5, run_id=LAST_WEEK)
    judged("INVALID", "the event loop was late by 80 ms", remedy="Give the client cores of its own.")(b.cases[1])
    judged("VALID")(b.cases[0])
    said = run(side(), b)
    assert set(said.last["ratios"]) == {"tp1/fixed/c16"}
    assert (
        "- not compared: tp2/fixed/c16: in B: client INVALID: the event loop was late by 80 ms. Give the client cores"
        " of its own" in said.out
    )


def test_a_doubtful_client_is_marked_and_explained(run: Run) -> None:
    a, b = side(), side(1.5, run_id=LAST_WEEK)
    for made in (a, b):
        for one in made.cases:
            judged("DOUBTFUL", "client and devices share cores")(one)
    b.cases[1].checks = [Check("first repeat agrees", False, "-12 %"), Check("fine", True, ""), Check("?", None, "")]
    said = run(a, b)
    assert said.line("tp1/fixed/c16").split()[1] == "?"
    explained = "? doubtful: tp1/fixed/c16, tp2/fixed/c16: in A and B: client DOUBTFUL: client and devices share cores"
    assert explained in said.out
    assert "? doubtful: tp2/fixed/c16: in B: first repeat agrees: -12 %" in said.out
    assert "fine" not in said.out


def test_doubts_that_differ_in_numbers_alone_are_one_line(run: Run) -> None:
    a, b = side(), side(run_id=LAST_WEEK)
    for place, made in enumerate(b.cases):
        made.checks = [Check("first repeat agrees", False, f"throughput -{12 + place}.5% from the mean (limit 10%)")]
    lines = [line for line in run(a, b).out.splitlines() if "doubtful" in line]
    assert lines == [
        "- ? doubtful: tp1/fixed/c16, tp2/fixed/c16: in B: first repeat agrees: throughput -12.5% from the mean"
        " (limit 10%) (the first one's numbers)"
    ]


def test_a_damaged_file_does_not_speak_of_resuming(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = tmp_path / "20260101T000000Z-m-x.json"
    cut.write_text('{"schema_version": 2, "cas')
    for words in (("compare", str(cut), str(cut)), ("share", str(cut), "--to", str(tmp_path / "x.zip"))):
        monkeypatch.setattr(sys, "argv", ["analysis", *words])
        assert main() == 2
        line = capsys.readouterr().err
        assert "truncated or not JSON; give another file, or measure again" in line and "resume" not in line


def test_cases_that_did_not_run_are_named_with_their_reason(run: Run) -> None:
    a, b = side(), side(run_id=LAST_WEEK)
    a.cases.append(case(X2, "fixed", 1, [10.0, 11.0]))
    b.cases.append(skipped(X2, "fixed", 1))
    b.cases[-1].flags = []
    b.cases[1].status, b.cases[1].error = "failed", CaseError("died", "the worker died", "Look")
    said = run(a, b)
    assert set(said.last["ratios"]) == {"tp1/fixed/c16"}
    assert "not compared: tp1x2/fixed/c1: in B: skipped: tp1x2 needs 2 devices, this machine has 2" in said.out
    assert "not compared: tp2/fixed/c16: in B: failed: the worker died" in said.out


def test_nothing_measured_in_both_is_said_and_is_no_crash(run: Run) -> None:
    b = side(run_id=LAST_WEEK)
    for one in b.cases:
        one.repeats = []
    said = run(side(), b)
    assert said.code == 2
    assert "no case was measured in both" in said.out and "nothing could be compared" in said.err
    assert said.last["ratios"] == {}


def test_no_common_case_is_one_line(run: Run) -> None:
    b = side(run_id=LAST_WEEK)
    b.cases = [case(TP1, "fixed", 3, [1.0])]
    a = side()
    for made in (a, b):
        made.cases.append(case(TP1, "ladder", 32, [1.0]))
    said = run(a, b)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("error: ")
    assert "have no case in common; measure the same plans and curves" in said.err
    assert len(said.err.splitlines()) == 1


def test_another_experiment_is_one_line(run: Run) -> None:
    said = run(side(), side(experiment="compare_plans"), "--factor", "machine")
    assert (said.code, said.out) == (2, "")
    assert "is of benchmark_scaling" in said.err
    assert "of compare_plans: compare two of one experiment" in said.err


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"schema_version": 99}',
        b'{"schema_version": 2, "experiment": 3}',
    ],
)
def test_a_broken_file_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    good, broken = tmp_path / "good.json", tmp_path / "broken.json"
    save(side(), good)
    broken.write_bytes(content)
    for pair in ((good, broken), (broken, good), (good, tmp_path / "none.json"), (tmp_path, good)):
        monkeypatch.setattr(sys, "argv", ["analysis", "compare", *map(str, pair)])
        assert main() == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert len(err.splitlines()) == 1
        assert err.startswith("error: ")


def _strings_for_devices(made: Result) -> None:
    made.environment["devices"] = ["A GPU"]


def _list_for_versions(made: Result) -> None:
    made.environment["versions"] = [1]


def _list_for_settings(made: Result) -> None:
    made.config["engine_settings"] = [1]


def _no_start(made: Result) -> None:
    del made.cases[0].repeats[0]["start"]


@pytest.mark.parametrize("change", [_strings_for_devices, _list_for_versions, _list_for_settings, _no_start])
def test_a_file_that_the_lab_did_not_write_is_one_line(run: Run, change: Callable[[Result], None]) -> None:
    b = side()
    change(b)
    said = run(side(), b)
    assert (said.code, said.out) == (2, "")
    assert "lacks what the lab writes about devices, settings or starts" in said.err


def test_an_environment_of_other_forms_is_a_difference_and_no_crash(run: Run) -> None:
    b = side(run_id=LAST_WEEK)
    b.environment |= {"cpu": "x86", "links": "nvlink", "nvidia": ["580"], "ceilings": None, "shared_memory": 3}
    said = run(side(), b, "--factor", "machine")
    assert said.code == 0
    assert {"cpu", "links", "nvidia"} <= {one["name"].partition(".")[0] for one in said.last["differences"]}


# --- as it is read


def printed(a: Result, b: Result, folder: Path, terminal: bool = False) -> str:
    for name, made in (("a", a), ("b", b)):
        save(made, folder / f"{name}.json")
    stream = io.StringIO()
    console = Console(file=stream, width=80, force_terminal=terminal, highlight=False)
    compare_files(folder / "a.json", folder / "b.json", ["machine"], console)
    return stream.getvalue()


def test_the_table_fits_eighty_columns_whatever_is_in_it(tmp_path: Path) -> None:
    wild = side(1e4, rates=(1.0, 30.0, 900.0), run_id=LAST_WEEK)
    a = side()
    for made in (a, wild):
        made.cases[0].id = "tp16pp4dp2epx2/saturated"
        judged("DOUBTFUL", "shared")(made.cases[0])
    for text in (printed(side(), other_machine(0.01), tmp_path), printed(a, wild, tmp_path)):
        table = [line for line in text.splitlines() if "fixed/c16" in line or "─" in line or "saturated" in line[:30]]
        assert len(table) >= 3
        assert max(map(len, table)) <= 80
        assert "…" not in text


@pytest.mark.parametrize("no_color", [True, False])
def test_colour_obeys_the_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_color: bool) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    else:
        monkeypatch.delenv("NO_COLOR", raising=False)
    text = printed(side(), side(1.2, run_id=LAST_WEEK), tmp_path, terminal=True)
    assert "\x1b[3" not in text.replace("\x1b[3m", "")  # no colour either way: words say everything


def test_a_strangers_file_cannot_command_the_terminal(run: Run) -> None:
    b = other_machine()
    b.environment["devices"][0]["name"] = "\x1b]0;owned\x07[red]B[/red]"
    b.environment["os"] = "\x1b[2J\nerror: all is well"
    b.cases[0].id = side().cases[0].id
    said = run(side(), b, "--factor", "machine")
    assert said.code == 0
    assert "\x1b" not in said.out
    assert "[red]B[/red]" in said.out, "markup is text"
    assert "\nerror: all is well" not in said.out


def test_the_last_line_is_the_whole_answer_for_scripts(run: Run, tmp_path: Path) -> None:
    b = other_machine(1.5)
    b.cases.append(case(TP1, "fixed", 1, [1.0]))
    last = run(side(), b, "--factor", "machine").last
    assert set(last) == {"a", "b", "factors", "differences", "ratios"}
    assert (last["a"], last["b"]) == (str(tmp_path / "a.json"), str(tmp_path / "b.json"))
    found = {one["name"]: one for one in last["differences"]}
    assert found["devices"] == {
        "factor": "machine",
        "name": "devices",
        "a": "2 x A GPU",
        "b": "2 x B GPU",
        "cases": [],
        "only_shown": False,
        "allowed": True,
    }
    assert found["cases only in B"]["only_shown"] is True


def test_long_values_are_cut_and_equal_lists_said_once(run: Run) -> None:
    b = side(run_id=LAST_WEEK)
    b.environment["settings"]["NCCL_P2P_LEVEL"] = "x" * 500
    b.environment["nvidia"]["gpus"] = [gpu | {"power_limit_w": 300.0} for gpu in b.environment["nvidia"]["gpus"]]
    said = run(side(), b, "--factor", "machine", "settings")
    assert max(len(line) for line in said.out.splitlines()[4:8]) < 250
    assert "nvidia.gpus.power_limit_w: 2 x 400 -> 2 x 300" in said.out


def test_what_is_absent_is_said_in_words(run: Run) -> None:
    b = side(run_id=LAST_WEEK)
    b.config |= {"repeats": 5, "engine_settings": b.config["engine_settings"] | {"extra_args": ["-x", "1"]}}
    b.environment["container_limits"]["cpus"] = 4.0
    out = run(side(), b, "--factor", "machine", "settings").out
    assert "option repeats: default -> 5" in out
    assert 'extra_args: none -> ["-x", "1"]' in out
    assert "container_limits.cpus: unknown -> 4" in out
