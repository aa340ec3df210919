"""Bad input: each refused in one line with the remedy, before any network call; dry runs need nothing."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from common.cloud import estimate
from common.cloud.estimate import ABOUT_THE_WEEK
from common.cloud.main import Setting, main
from tests.cloud.evening import Place
from tests.cloud.world import PROFILES, ROOT
from tests.experiment.script import load_script

NO_DOLLARS = ("0", "nan", "1e9", "$5", "-3", "inf", "", "9999")
NO_HOURS = ("0", "-1", "25", "1h", "nan")
NO_TOKENS = ("banana", "nan", "-3", "0", "inf", "1e400")
GO = ("go", "--exp", "benchmark_scaling", "--exp-args", "--model qwen2-9m")
CAPS = ("--max-usd", "15", "--max-hours", "1.5")
A100 = ("--profile", "4xa100")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((*GO, *A100), "--max-usd 15 --max-hours 1.5"),
        ((*GO, *A100, "--max-usd", "15"), "both caps"),
        *(((*GO, *A100, "--max-usd", bad, "--max-hours", "1"), "--max-usd") for bad in NO_DOLLARS),
        *(((*GO, *A100, "--max-usd", "5", "--max-hours", bad), "--max-hours") for bad in NO_HOURS),
        ((*GO, "--profile", "4xa101", *CAPS), "did you mean"),
        ((*GO, "--profile", "4xa10g", *CAPS), "4xl4"),
        ((*GO, *CAPS), "name a machine"),
        ((*GO, "--gpu", "A100", "--count", "4", *CAPS), "'NVIDIA A100-SXM4-80GB' (A100 SXM 80GB, NVLink)"),
        ((*GO, "--gpu", "A1000", "--count", "4", *CAPS), "the nearest are"),
        ((*GO, "--gpu", "p3.8xlarge", *CAPS), "retired"),
        *(((*GO, "--gpu", "NVIDIA L4", "--count", bad, *CAPS), "--count") for bad in ("0", "-1", "2.5", "9", "four")),
        ((*GO, *A100, "--count", "2", *CAPS), "--count goes with --gpu"),
        ((*GO, *A100, "--disk-gb", "20", *CAPS), "disk of 20 GB"),
        ((*GO, *A100, "--disk-gb", "much", *CAPS), "whole number"),
        ((*GO, *A100, "--image", "runpod/pytorch", *CAPS), "no tag"),
        ((*GO, *A100, "--tier", "SPOT", *CAPS), "SECURE or COMMUNITY"),
        ((*GO, *A100, "--region", "us-east-1", *CAPS), "of AWS"),
        ((*GO, *A100, "--env", "TOKEN=x", *CAPS), "looks like a secret"),
        ((*GO, *A100, "--env", "X=hf_abcdefghij", *CAPS), "looks like a secret"),
        ((*GO, *A100, "--env", "novalue", *CAPS), "NAME=VALUE"),
        (("go", *A100, *CAPS), "--exp run_distributed_benchmark"),
        (("go", *A100, "--exp", "decide", *CAPS), "one of benchmark_scaling"),
        (("go", *A100, "--exp", "../../etc/passwd", *CAPS), "unknown experiment"),
        (("go", *A100, "--exp", "benchmark_scaling", "--exp-args", "--results-dir /x", *CAPS), "set here"),
        (("go", *A100, "--exp", "benchmark_scaling", "--exp-args", "--model 'open", *CAPS), "quotation"),
        ((*GO[:-1], "--model meta-llama/Llama-3.1-405B", *A100, "--disk-gb", "4000", *CAPS), "does not fit"),
        ((*GO[:-1], "--model meta-llama/Llama-3.3-70B-Instruct", *A100, *CAPS), "--disk-gb 2"),
        ((*GO, *A100, *CAPS, "--profle", "x"), "unknown option --profle"),
        ((*GO, *A100, *CAPS, "--max-users", "x"), "unknown option"),
        (("gone",), "did you mean"),
        *((("cost", "--mtok", bad), f"--mtok {bad}: a plain number above 0") for bad in NO_TOKENS),
        (("cost", "--mtok", "nan", "--dry-run"), "--mtok nan: a plain number above 0"),
        (("run", "benchmark_scalling"), "unknown experiment"),
        (("run", "benchmark_scaling", "--env", "TOKEN=x"), "looks like a secret"),
        (("run",), "which experiment?"),
        ((*GO, *A100, *CAPS), "--yes"),
        ((*GO, *A100, *CAPS, "--yes"), "ssh-keygen"),
        (("verify", "--yes"), "RUNPOD_API_KEY is not set"),
        (("sweep",), "--yes"),
    ],
)  # fmt: skip
def test_refused_before_any_network(
    offline: Path, capfd: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    words = words if words[0] == "gone" else (*words, "--results-dir", str(offline / "results"))
    assert main("runpod", PROFILES, list(words), Setting()) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert len(err.strip().splitlines()) == 1, err
    assert err.startswith("error: ")
    assert said in err
    assert not (offline / "results").exists(), "nothing is written down either"


@pytest.mark.parametrize("run_s", [9000.0, 780.0 + 4000.0])
def test_an_estimate_over_the_caps_is_3(offline: Path, monkeypatch: pytest.MonkeyPatch, run_s: float) -> None:
    """Also one within both caps that would not be over before the winding down."""
    long = estimate.Estimate(80, 20, run_s, 0.0, "as planned")
    monkeypatch.setattr("common.cloud.checks.estimate", lambda *_: long)
    assert main("runpod", PROFILES, [*GO, *A100, *CAPS, "--dry-run"]) == 3


@pytest.mark.parametrize("caps", [("1", "1"), ("0.01", "1"), ("15", "0.15"), ("15", "0.0001")])
@pytest.mark.parametrize("more", [("--dry-run",), ("--yes",)])
@pytest.mark.parametrize("gpu", ["NVIDIA A100-SXM4-80GB", "NVIDIA RTX A6000"])
def test_a_cap_that_is_too_small_is_3(
    offline: Path, capfd: pytest.CaptureFixture[str], caps: tuple[str, str], more: tuple[str, ...], gpu: str
) -> None:
    """Of a card without a dated price only the hours are known."""
    if "A100" not in gpu and caps[1] == "1":
        return
    words = [*GO, "--gpu", gpu, "--count", "4", "--max-usd", caps[0], "--max-hours", caps[1], *more]
    assert main("runpod", PROFILES, words) == 3
    assert "under 10 nothing gets done: raise the cap" in capfd.readouterr().err


@pytest.mark.parametrize("key", ["short", "with space in the middle", "line\nend-of-the-key"])
def test_a_broken_key_is_never_repeated(
    offline: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], key: str
) -> None:
    monkeypatch.setenv("RUNPOD_API_KEY", key)
    assert main("runpod", PROFILES, ["verify", "--yes"]) == 2
    assert key not in capfd.readouterr().err


@pytest.mark.parametrize("spoiled", ["open to others", "no public half"])
def test_ssh_keys(offline: Path, capfd: pytest.CaptureFixture[str], spoiled: str) -> None:
    key = offline / "key"
    key.write_text("private")
    key.chmod(0o644 if spoiled == "open to others" else 0o600)
    assert main("runpod", PROFILES, [*GO, *A100, *CAPS, "--yes", "--ssh-key", str(key)]) == 2
    assert ("chmod 600" if spoiled == "open to others" else "ssh-keygen -y") in capfd.readouterr().err


def test_profiles_of_a_person(offline: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for text, said in {
        "[a]\ngpu = 'NVIDIA L4'\ngpus = 4\ndisk = 100\n": "did you mean disk_gb",
        "[a]\ngpu = 'NVIDIA L4'\ngpus = 'four'\ndisk_gb = 100\n": "gpus",
        "[a\n": "cannot be read",
        "[a]\ngpu = 'NVIDIA L4'\ngpus = 4\ndisk_gb = 100\nimage = 'runpod/pytorch'\n": "no tag",
    }.items():
        profiles = offline / "profiles.toml"
        profiles.write_text(text)
        assert main("runpod", profiles, [*GO, "--profile", "a", *CAPS, "--dry-run"]) == 2
        assert said in capfd.readouterr().err


def planned_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have experiments plan themselves in this process: a start of a script is two seconds."""

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        out, err = io.StringIO(), io.StringIO()
        with monkeypatch.context() as asked, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            asked.setattr(sys, "argv", command[1:])
            asked.setenv("HF_HUB_OFFLINE", "1")
            code = load_script(Path(command[1]).stem).main()
        return subprocess.CompletedProcess(command, code or 0, out.getvalue(), err.getvalue())

    monkeypatch.setattr(estimate, "subprocess", SimpleNamespace(run=run))


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["run_distributed_benchmark", "test_mixed_workload", "compare_parallel_plans"])
def test_experiments_plan_themselves_for_the_machine_that_is_rented(
    experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four GPUs and the model that they get by default, asked on a machine that has none of it."""
    words = ("--max-minutes", "70") if experiment == "run_distributed_benchmark" else ()
    if not words:  # a process of its own is tried once
        planned_here(monkeypatch)
    planned = estimate.estimate(ROOT, f"week5/{experiment}.py", words, 4, 0.0)
    assert planned.cases >= 2
    assert planned.engine_starts >= 1
    assert 60 < planned.run_s < 80 * 60


def test_clocks_that_differ_are_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.fake.clock = type("Ahead", (), {"now": lambda _: 2e9})()
    assert place.go() == 2
    assert place.fake.ours() == []


def test_no_capacity_offers_the_next_smaller_machine(place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    place.fake.faults = frozenset({"no_capacity"})
    wanted = ["--profile", "8xa100", "--exp", "benchmark_scaling", "--max-usd", "30", "--max-hours", "1.5", "--yes"]
    assert place("go", *wanted, "--ssh-key", str(place.folder / "id_ed25519")) == 4
    err = capfd.readouterr().err
    assert "--profile 4xa100, $7.1" in err
    assert "NVLink" in err


def test_a_wrong_key(place: Place, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RUNPOD_API_KEY", "rpa_another_key_than_the_right_one")
    assert place("verify", "--yes") == 9, "what cannot be asked is not known to be gone"
    assert place("doctor") == 2
    assert "The key is wrong" in capfd.readouterr().err


def test_experiments_that_can_be_rented_for() -> None:
    measuring = {
        path.stem for path in (ROOT / "week5").glob("*.py") if "common.experiment.run import run" in path.read_text()
    }
    known = {path.stem for path in (ROOT / "week5").glob("*.py")} - set(ABOUT_THE_WEEK)
    assert known == measuring
