"""Somebody's server, as the concurrency experiment drives it: a server of known truth, and all that can be wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

from common.core.verdict import ClientCeiling
from common.engines import remote
from common.experiment import bench, prepare
from common.load import control, counters
from common.store import files
from common.store.requests import load_requests
from common.store.schema import Case, Result
from tests.experiment.script import Outcome, Script, load_script
from tests.load.conftest import GoldenServer
from tests.load.golden_server import RIGHT_KEY
from tests.load.test_client_errors import closed_port

SMALL = ("--concurrency", "2", "3", "--requests", "7", "--input-tokens", "9", "--output-tokens", "5")
WORKTREE = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def module() -> ModuleType:
    return load_script("simulate_concurrent_requests")


@pytest.fixture
def script(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Script:
    monkeypatch.setattr(prepare, "calibrate", lambda *_, **__: ClientCeiling(1_024, 100_000.0, 0.001))
    monkeypatch.setattr(prepare, "VllmLauncher", None)
    monkeypatch.setattr(remote, "SECOND_LOOK_S", 0)
    monkeypatch.setattr(bench, "AGAIN", 0)  # what the servers count must not depend on how busy this machine is
    monkeypatch.setattr(os, "fsync", lambda _: None)  # saving is tested in tests/store
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)
    return Script(module, monkeypatch, capsys)


@contextmanager
def own_server() -> Iterator[int]:
    """A golden server that may be killed; its port."""
    path = Path(__file__).with_name("golden_server.py")
    with subprocess.Popen([sys.executable, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield json.loads(server.stdout.readline())[0]
        finally:
            server.kill()


def drive(script: Script, base_url: str, *more: str, model: str = "golden") -> Outcome:
    return script("--base-url", base_url, "--model", model, *SMALL, "--results-dir", "results", *more)


def the_result(folder: str = "results") -> Result:
    (path,) = Path(folder, "simulate_concurrent_requests").glob("*.json")
    return files.load(path)


def every_file() -> str:
    return "".join(path.read_bytes().decode(errors="replace") for path in Path().rglob("*") if path.is_file())


def case(result: Result, name: str) -> Case:
    return next(case for case in result.cases if case.id == name)


def test_it_sends_what_was_asked_and_nothing_else(script: Script, golden: GoldenServer) -> None:
    outcome = drive(script, f"{golden.base_url}/open")
    assert outcome.code == 0, outcome
    sent = golden.take_log()
    result = the_result()
    assert {case.id: case.status for case in result.cases} == {"server/closed/c2": "ok", "server/closed/c3": "ok"}
    assert result.status == outcome.last["status"] == "complete"
    for clients in (2, 3):
        (repeat,) = case(result, f"server/closed/c{clients}").repeats
        assert (repeat["num_prompts"], repeat["completed"], repeat["max_concurrent_requests"]) == (7, 7, clients)
        assert repeat["total_output_tokens"] == 7 * 5 and repeat["total_input_tokens"] == 7 * 7, "as usage says"
        assert 0.9 < repeat["slot_fairness"] <= 1 and repeat["good_fraction"] == 1
    assert "Prompts had 9 words, by the server's usage 7 tokens on average" in outcome.out
    prompts = [entry["body"]["prompt"] for entry in sent["requests"]]
    assert len(prompts) == 2 * 7 + 2 + 3, "two repeats and a warm-up each"
    assert all(len(prompt.split()) == 9 for prompt in prompts)
    assert len(set(prompts)) == len(prompts), "nothing is sent twice, so no cache helps"
    assert {entry["head"].split(" ")[1] for entry in sent["requests"]} == {"/open/v1/completions"}
    assert all(entry["body"]["stream"] and entry["body"]["ignore_eos"] for entry in sent["requests"])


def test_the_result_says_what_is_known_and_no_address(script: Script, golden: GoldenServer) -> None:
    drive(script, f"{golden.base_url}/open", "--slo", "ttft:900 tpot:80")
    result = the_result()
    assert result.config["external"] and result.config["model"] == "golden" and result.config["base_url"] is None
    assert result.environment["devices"] == [] and "ceilings" not in result.environment
    assert "vllm" not in result.environment["versions"] and "settings" not in result.environment
    assert result.environment["client"]["streams"] == 1_024
    for one in result.cases:
        assert "external" in one.flags and one.client is not None
        assert one.repeats[0]["slo_ttft_ms"] == 900 and one.engine["version"] == "9.9"
        assert one.engine["startup_s"] is None
    text = every_file()
    assert str(golden.ports[0]) not in text and "127.0.0.1" not in text and "/open" not in text


@pytest.mark.parametrize("form", ["/open", "/open/", "/open/v1", "/open/v1/"])
def test_forms_of_an_address(script: Script, golden: GoldenServer, form: str) -> None:
    assert drive(script, golden.base_url + form).code == 0


def test_chat(script: Script, golden: GoldenServer) -> None:
    assert drive(script, f"{golden.base_url}/open", "--chat").code == 0
    sent = golden.take_log()["requests"]
    assert {entry["head"].split(" ")[1] for entry in sent} == {"/open/v1/chat/completions"}
    assert all(len(entry["body"]["messages"][0]["content"].split()) == 9 for entry in sent)


def test_a_single_model_need_not_be_named(script: Script, golden: GoldenServer) -> None:
    outcome = script("--base-url", f"{golden.base_url}/single", *SMALL, "--results-dir", "results")
    assert outcome.code == 0 and the_result().config["model"] == "golden"


def test_with_a_rate_only_the_clock_sends(script: Script, golden: GoldenServer) -> None:
    words = ("--base-url", f"{golden.base_url}/open", "--model", "golden", "--rate", "100", "--burstiness", "inf")
    outcome = script(*words, "--requests", "40", "--output-tokens", "3", "--results-dir", "results")
    assert outcome.code == 0, outcome
    (one,) = the_result().cases
    assert one.id == "server/open/r100" and one.repeats[0]["num_prompts"] == 40
    assert 0.35 < one.repeats[0]["duration"] < 4, "0.4 s by the clock; a busy machine answers late"


def test_the_key_goes_to_the_server_and_nowhere_else(
    script: Script, golden: GoldenServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", RIGHT_KEY)
    outcome = drive(script, f"{golden.base_url}/locked")
    assert outcome.code == 0, outcome
    assert all(f"Authorization: Bearer {RIGHT_KEY}\r\n" in entry["head"] for entry in golden.take_log()["requests"])
    assert RIGHT_KEY not in every_file() + outcome.out + outcome.err


def test_a_server_that_repeats_the_key_is_not_quoted(
    script: Script, golden: GoldenServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", RIGHT_KEY)
    outcome = drive(script, f"{golden.base_url}/locked", model="tattles")
    assert outcome.code == 1
    error = the_result().cases[0].error
    assert error is not None and "repeats the API key" in error.message and "OPENAI_API_KEY" in error.remedy
    everything = every_file() + outcome.out + outcome.err
    assert RIGHT_KEY not in everything and RIGHT_KEY[:8] not in everything


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("/html", "not an OpenAI-compatible server"),
        ("/list", "not an OpenAI-compatible server"),
        ("/nowhere", "answers with 404"),
        ("/broken", "answers with 502"),
        ("/moved", "redirects to another address"),
        ("/locked", "it wants a key. Put a valid key into the environment variable OPENAI_API_KEY"),
        ("/forbidden", "answered 403"),
    ],
)
def test_a_server_that_cannot_be_used(script: Script, golden: GoldenServer, place: str, said: str) -> None:
    assert said in drive(script, golden.base_url + place).refusal()
    assert golden.take_log()["requests"] == [] and not Path("results").exists()


@pytest.mark.parametrize("key", ["sk-wrong-abcdefgh", "two\nlines", "naïve"])
def test_a_wrong_key(script: Script, golden: GoldenServer, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    refusal = drive(script, f"{golden.base_url}/locked").refusal()
    assert "OPENAI_API_KEY" in refusal and key not in refusal


def test_a_wrong_model_is_told_which_are_served(script: Script, golden: GoldenServer) -> None:
    refusal = drive(script, f"{golden.base_url}/open", model="nope").refusal()
    assert "does not serve nope; it serves golden, closes," in refusal and "--model" in refusal
    outcome = script("--base-url", f"{golden.base_url}/open", *SMALL, "--results-dir", "results")
    assert "which model is not said" in outcome.refusal()


def test_nobody_there(script: Script) -> None:
    assert "Connection refused" in drive(script, f"http://127.0.0.1:{closed_port()}").refusal()
    assert "cannot be reached" in drive(script, "http://no-such-host.invalid:80").refusal()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("localhost:8000", "http://"),
        ("ftp://localhost", "http://"),
        ("http://", "no host"),
        ("http://host:99999", "--base-url"),
        ("http://me:secret@host", "OPENAI_API_KEY"),
        ("me:secret@host", "OPENAI_API_KEY"),
        ("http://host/v1?key=secret", "up to /v1"),
        ("http://host/v1/chat/completions", "--chat"),
        ("", "--base-url"),
    ],
)
def test_what_is_no_address(script: Script, url: str, said: str) -> None:
    refusal = drive(script, url).refusal()
    assert said in refusal and "secret" not in refusal


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--tp", "2"), "--tp"),
        (("--engine-args", "--max-model-len 10"), "--engine-args"),
        (("--concurrency", "8"), "--requests 7"),
        (("--concurrency", "0"), "at least 1"),
        (("--requests", "-1"), "at least 1"),
        (("--input-tokens", "0"), "at least 1"),
        (("--slo", "ttft"), "--slo"),
        (("--slo", "ttft:-1"), "--slo"),
        (("--slo", "speed:1"), "--slo"),
        (("--slo", "ttft:1", "ttft:2"), "twice"),
        (("--rate", "0"), "--rate"),
        (("--rate", "nan"), "--rate"),
        (("--burstiness", "2"), "add --rate"),
        (("--rate", "1", "2", "--final-rate", "3"), "single"),
        (("--idle-timeout-s", "0"), "--idle-timeout-s"),
        (("--idle-timeout-s", "nan"), "--idle-timeout-s"),
    ],
)
def test_what_makes_no_sense(script: Script, golden: GoldenServer, words: tuple[str, ...], said: str) -> None:
    assert said in drive(script, f"{golden.base_url}/open", *words).refusal()


def test_chat_needs_a_server(script: Script) -> None:
    assert "--base-url" in script("--chat").refusal()


def test_a_dry_run_asks_nobody(script: Script) -> None:
    outcome = drive(script, f"http://127.0.0.1:{closed_port()}", "--dry-run")
    assert outcome.code == 0 and outcome.last["summary"]["cases"] == 2


def test_answers_without_usage_fail_with_a_remedy(script: Script, golden: GoldenServer) -> None:
    outcome = drive(script, f"{golden.base_url}/open", model="no_usage")
    assert outcome.code == 1
    for one in the_result().cases:
        assert one.status == "failed" and one.error is not None
        assert "no_usage" in one.error.message and "stream_options.include_usage" in one.error.remedy
    assert "no_usage" in outcome.out


def test_a_server_that_dies_leaves_what_was_measured_and_is_gone_on_with(script: Script) -> None:
    """It dies with its twentieth request: after the first case, in the second."""
    words = ("--model", "mortal", "--concurrency", "1", "3", "--requests", "12", "--output-tokens", "5")
    with own_server() as port:
        outcome = script("--base-url", f"http://127.0.0.1:{port}/open", *words, "--results-dir", "results")
    assert outcome.code == 1, outcome
    result = the_result()
    assert {case.id: case.status for case in result.cases} == {"server/closed/c1": "ok", "server/closed/c3": "failed"}
    assert result.status == outcome.last["status"] == "interrupted"
    error = case(result, "server/closed/c3").error
    assert error is not None and error.kind == "server_gone" and "of 12 requests were answered" in error.message
    assert str(port) not in every_file() and "the same command" in error.remedy
    (partial,) = Path("results").rglob("*-partial-*.parquet")
    assert 0 < sum(record.ok for record in load_requests(partial)) < 12
    again = script("--base-url", f"http://127.0.0.1:{port}/open", *words, "--results-dir", "results")
    assert "Connection refused" in again.refusal()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("silent", "before the first token of any; it still lists its models"),
        ("stalls", "in the middle of 3 of their answers; it still lists its models"),
        ("freezes", "nor does it list its models when asked: all of it stands still"),
    ],
)
def test_a_server_that_hangs_is_given_up_early_and_what_was_measured_is_kept(
    script: Script, monkeypatch: pytest.MonkeyPatch, mode: str, kind: str
) -> None:
    """The first case and the second one's warm-up take ten requests; its repeat is hit in the middle."""
    if mode == "freezes":  # the others answer, on a busy machine after a while
        monkeypatch.setattr(control, "QUESTION_TIMEOUT_S", 0.3)
        monkeypatch.setattr(counters, "SCRAPE_TIMEOUT_S", 0.3)
    words = ("--model", mode, "--concurrency", "1", "3", "4", "--requests", "6", "--output-tokens", "5")
    with own_server() as port:
        url = f"http://127.0.0.1:{port}/open"
        began = time.monotonic()
        outcome = script("--base-url", url, *words, "--idle-timeout-s", "1", "--results-dir", "results")
        assert time.monotonic() - began < 30, "a request may take 600 s"
    assert outcome.code == 1 and outcome.last["status"] == "interrupted"
    *measured, hung = the_result().cases
    assert [case.status for case in measured] == ([] if mode == "silent" else ["ok"]), "the rest is for another run"
    assert hung.status == "failed" and hung.error is not None and hung.error.kind == "server_hangs"
    assert hung.error.message.startswith("the server sent nothing for 1 s while"), hung.error.message
    assert kind in hung.error.message and "the same command" in hung.error.remedy
    if mode != "silent":
        (partial,) = Path("results").rglob("*-partial-*.parquet")
        kinds = {record.error_kind for record in load_requests(partial)}
        assert "stalled" in kinds and kinds <= {None, "stalled", "cancelled"}


@pytest.mark.slow
def test_a_server_that_is_slow_is_not_given_up(script: Script, golden: GoldenServer) -> None:
    """Tokens come every 0.3 s, an answer takes longer than the idle time-out; so does the time between requests."""
    words = ("--model", "golden:300:300", "--rate", "0.45", "--burstiness", "inf", "--requests", "2")
    more = ("--output-tokens", "8", "--idle-timeout-s", "2", "--results-dir", "results")
    assert script("--base-url", f"{golden.base_url}/slow", *words, *more).code == 0


def test_a_guess_is_taken_here_too(script: Script, golden: GoldenServer) -> None:
    outcome = drive(script, f"{golden.base_url}/open", "--guess", "1.5")
    guess = the_result().guess
    assert guess is not None and guess.value == 1.5
    assert guess.question == "How many times the tokens per second of 2 streams will 3 streams give (server)?"
    assert "you guessed  1.5x" in outcome.out and "measured" in outcome.out
    refusal = drive(script, f"{golden.base_url}/open", "--guess", "2", "--concurrency", "2").refusal()
    assert "compare nothing that could be guessed" in refusal


@pytest.mark.slow
def test_an_interrupted_run_goes_on_once_the_server_is_back(
    script: Script, golden: GoldenServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from common.experiment import bench
    from common.load import client

    real, calls = client.run_load, []

    def interrupted(*arguments: object, **options: object) -> object:
        calls.append(1)
        if len(calls) == 4:  # warm-up and repeat of the first case, warm-up of the second
            raise KeyboardInterrupt
        return real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(bench, "run_load", interrupted)
    assert drive(script, f"{golden.base_url}/open").code == 130
    first = case(the_result(), "server/closed/c2").repeats
    outcome = drive(script, f"{golden.base_url}/open")
    assert outcome.code == 0 and "going on with" in outcome.err
    assert case(the_result(), "server/closed/c2").repeats == first
    assert the_result().status == "complete"


WITHOUT_VLLM = """
import runpy, sys
sys.argv = sys.argv[1:]
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in ('vllm', 'torch', 'transformers'):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
from common.engines import remote
from common.experiment import bench, prepare
from common.load import control, counters
prepare.calibrate = lambda *_, **__: None  # ten seconds
runpy.run_path(sys.argv[0], run_name='__main__')
"""


@pytest.mark.slow
def test_it_works_where_vllm_cannot_be_imported(golden: GoldenServer, tmp_path: Path) -> None:
    """As a process, with an import system that has neither vLLM nor torch."""
    script = WORKTREE / "week5" / "simulate_concurrent_requests.py"
    words = [str(script), "--base-url", f"{golden.base_url}/open", "--model", "golden", *SMALL]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_VLLM, *words, "--results-dir", str(tmp_path / "results")],
        env={**os.environ, "PYTHONPATH": str(WORKTREE)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["status"] == "complete"
