"""The account of the loss at its smallest, on real vLLM."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.experiment.script import Script, load_script
from tests.shared_engines import ENGINE_ARGS


@pytest.mark.vllm
def test_a_delay_of_each_all_reduce_is_found_again(real_script: Callable[[str], Script], tmp_path: Path) -> None:
    """2 ms in each of the small model's all-reduces are most of a step: no noise of this machine hides them.

    Prompts get passes of their own, and half a step of so small a model is the front end's: the script's own limit of a
    tenth is for the larger one.
    """
    words = ["--model", "qwen2-9m", "--tp", "1", "2", "--concurrency", "4", "--delay-us", "2000"]
    words += ["--output-tokens", "16", "--repeats", "2", "--results-dir", str(tmp_path)]
    done = real_script("explain_loss")(*words, *ENGINE_ARGS)
    assert done.code == 0, done.err
    last = done.last
    cases = json.loads(Path(last["result"]).read_text())["cases"]
    slowed = next(case for case in cases if case["id"] == "tp2/slowed/c4")
    assert slowed["engine"]["all_reduce_wait_us"] == {"all_reduce_before": 1000, "all_reduce": 3000}
    found = last["summary"]["knock_out"].get("tp2/c4")
    if found is None and any(case["client"]["word"] == "INVALID" for case in cases):
        pytest.skip("the machine is too busy: a case's client is INVALID, and from such nothing is concluded")
    assert Path(last["result"]).with_suffix(".loss.png").is_file()
    assert abs(found["error"]) <= 0.3, done.out
    assert found["passed"] == (abs(found["error"]) <= 0.1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--delay-us", "0"), "--delay-us 0: above 0"),
        (("--delay-us", "nan"), "--delay-us nan: above 0"),
        (("--tp", "1"), "can run tp1: give two sizes, as in --tp 1 2"),
        (("--concurrency", "100000000"), "--concurrency 100000000: at most"),
        (("--concurrency", "0"), "--concurrency 0: at least 1"),
    ],
)
def test_bad_input_is_one_line(
    words: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    script = Script(load_script("explain_loss"), monkeypatch, capsys)
    assert message in script("--model", "qwen2-9m", *words, "--results-dir", str(tmp_path)).refusal()
    assert not list(tmp_path.iterdir())
