"""Dry runs: what is printed is what would be sent, and nothing is needed and nothing asked."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.cloud import dry
from common.cloud.ledger import new_ledger
from common.cloud.main import main
from common.cloud.options import VERBS
from common.cloud.profiles import read_profiles
from common.cloud.shown import shown
from tests.cloud.test_bad_input import A100, CAPS, GO
from tests.cloud.world import PROFILES, ROOT

SENT = re.compile(r"[ {}]|in us-east-1, |GET \S+$")  # bodies, scripts, addresses: as they would be sent


def wide(text: str) -> list[str]:
    """Lines of prose that do not fit; what has no space in it, as a path, cannot be wrapped."""
    return [line for line in text.splitlines() if len(line) > 80 and len(line.split()) > 1]


@pytest.mark.parametrize("provider", ["runpod", "aws"])
def test_cost_caps_and_deadline_come_first_and_last(offline: Path, provider: str) -> None:
    """Hundreds of lines of requests stand between them."""
    seen = io.StringIO()
    words = ["go", *GO[1:], "--profile", "4xl4", *CAPS, "--dry-run"]
    with contextlib.redirect_stdout(seen), contextlib.redirect_stderr(seen):
        assert main(provider, ROOT / provider / "profiles.toml", words) == 0
    lines = seen.getvalue().splitlines()
    first, last = " ".join(lines[:20]), " ".join(lines[-3:])
    worst = re.match(r"at most \$\d+\.\d\d", first)
    assert worst is not None
    for said in ("the machine ends itself; five minutes before", "caps: $15 and 1.5 hours", "estimate: 8 cases"):
        assert said in " ".join(first.split())
    assert "missing for a real run: " in first
    assert f"in short: {worst[0]}, gone by " in last
    asks = [number for number, line in enumerate(lines) if line.startswith(("GET ", "POST ", "in us-east-1, "))]
    assert len(lines) > 100
    assert min(asks) > next(number for number, line in enumerate(lines) if "what would be asked" in line)


@pytest.mark.parametrize("provider", ["runpod", "aws"])
@pytest.mark.parametrize("verb", VERBS)
def test_dry_run_of_each_verb(
    offline: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, verb: str, provider: str
) -> None:
    """Without keys, boto3, ssh or --yes."""
    monkeypatch.setitem(sys.modules, "boto3", None)
    monkeypatch.setenv("PATH", "")
    own = {"go": (*GO[1:], "--profile", "4xl4", *CAPS), "up": ("--profile", "4xl4", *CAPS)}.get(verb, ())
    own = ("benchmark_scaling",) if verb == "run" else own
    where = ("--results-dir", str(offline))
    assert main(provider, ROOT / provider / "profiles.toml", [verb, "--dry-run", *own, *where]) == 0
    out, said = capfd.readouterr()
    assert wide(said) == []
    assert wide("\n".join(line for line in out.splitlines() if not SENT.match(line))) == []
    err = " ".join(said.split())
    if verb == "price":
        assert "4 x L4" in err
        return
    key = "RUNPOD_API_KEY is not set" if provider == "runpod" else "boto3 is not installed"
    assert f"missing for a real run: {key}" in err
    assert "nothing was asked of any network" in err
    assert len(out.splitlines()) >= 1
    if verb in ("go", "up", "selftest"):
        assert "at most $" in err
        assert "lab_deadman" in out, "the start script, decoded"
    else:
        assert "this verb rents nothing" in err
    if verb in ("go", "up", "run", "sync", "down"):
        assert "missing for a real run: ssh is not installed" in err
        assert "missing for a real run: no ssh key" in err


@pytest.mark.parametrize("verb", ["verify", "up"])
def test_a_dry_run_asks_boto3_for_nothing(offline: Path, capfd: pytest.CaptureFixture[str], verb: str) -> None:
    """boto3 would look for a role of this machine through the network."""
    own = ("--profile", "4xl4", *CAPS) if verb == "up" else ("--results-dir", str(offline))
    assert main("aws", ROOT / "aws" / "profiles.toml", [verb, "--dry-run", *own]) == 0
    assert "missing for a real run: no AWS credentials" in capfd.readouterr().err


def packed_again(printed: str) -> str:
    """A request as it was printed, its scripts put back as base64."""
    head, *scripts = re.split(r"\n  script \d+:\n", printed)
    for number, script in enumerate(scripts, 1):
        text = "".join(f"{line[4:]}\n" for line in script.splitlines() if line.startswith("  | "))
        packed = base64.b64encode(text.encode()).decode()
        said = f"<script {number}, below: {len(packed)} characters of base64, sha256 "
        assert said + hashlib.sha256(text.encode()).hexdigest()[:12] + ">" in head
        head = re.sub(rf"<script {number}, [^>]*>", packed, head)
    return head


@pytest.mark.parametrize("provider", ["runpod", "aws"])
def test_what_a_dry_run_prints_is_what_is_sent(provider: str) -> None:
    profile = read_profiles(ROOT / provider / "profiles.toml", provider)["4xl4"]
    requests = dry.made(provider, profile, "scaling", 1_800_000_000, 3600)
    readable = [shown(request) for request in requests]
    assert max(len(line) for text in readable for line in text.splitlines()) < 500, "no blob"
    assert [packed_again(text) for text in readable] == requests
    (create,) = [text for text in readable if "POST" in text or "RunInstances" in text]
    assert "LAB_DEADLINE=1800000000" in create
    assert "LAB_SECONDS=3600" in create


def test_a_dry_run_shows_what_is_open_and_what_it_can_cost(offline: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ledger, lab_id = new_ledger(offline)
    about = {"purpose": "up", "lab_id": lab_id, "deadline": int(time.time()) + 3600, "provider": "runpod"}
    ledger.write("intent", time.time(), **about, name="llmlab-up-x", usd_per_hour=7.18)
    ledger.write("created", time.time(), id="pod-7")
    assert main("runpod", PROFILES, ["down", "--dry-run", "--results-dir", str(offline)]) == 0
    said = " ".join(capfd.readouterr().err.split())
    assert "open here: llmlab-up-x (pod-7) at $7.18 per hour, at most $7.1" in said
    ledger.save("teardown.json", {"verified": True})
    assert main("runpod", PROFILES, ["down", "--dry-run", "--results-dir", str(offline)]) == 0
    assert "pod-7" not in capfd.readouterr().err


def test_dry_run_of_go_notes_what_is_missing(offline: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main("runpod", PROFILES, [*GO, *A100, *CAPS, "--dry-run"]) == 0
    out, said = capfd.readouterr()
    err = " ".join(said.split())
    assert json.loads(packed_again(out[out.index("{\n") : out.index("\nGET https://api.runpod.io/v2/pods/{id}")]))[
        "gpu"
    ] == {**{"id": "NVIDIA A100-SXM4-80GB", "count": 4, "minCudaVersion": "13.0"}}
    assert "GET https://api.runpod.io/v2/catalog/gpus/NVIDIA%20A100-SXM4-80GB?include=AVAILABILITY&product=POD" in out
    assert "at most $10.5" in err
    assert re.search(r"at \d\d:\d\d:\d\d \S+ on \d{4}-\d\d-\d\d the machine ends itself", err)
    assert "missing for a real run: RUNPOD_API_KEY" in err
    assert "missing for a real run: no ssh key" in err


@pytest.mark.slow
def test_the_script_itself_asks_the_experiment(tmp_path: Path) -> None:
    """runpod/run.py as a person runs it, with the real dry run of a real experiment for four GPUs."""
    words = [str(ROOT / "runpod" / "run.py"), *GO, *A100, *CAPS, "--dry-run", "--results-dir", str(tmp_path)]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "12 cases, 3 engine starts" in done.stderr, "tp 1, 2 and 4, which this machine may not have"
