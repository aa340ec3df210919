"""What tells whose machine it was is found and replaced; what does not is left alone."""

from __future__ import annotations

import getpass
import json
import platform
import socket
from pathlib import Path

import pytest

from common.analysis.frames import latest_reference
from common.analysis.sharing.privacy import Names, Privacy, names_here, rules_for
from common.analysis.sharing.share import words_of
from common.store.files import load
from common.store.schema import RESULT, Result

ADA = Names(
    frozenset({"rack7-node3.cs.example.edu", "rack7-node3", "", "localhost"}),
    frozenset({"ada", "", "root"}),
    "/data/people/ada",
)
PRIVACY = Privacy(rules_for(ADA))

PRIVATE = [
    # keys
    ("hf_AbCdEfGhIjKlMnOpQrSt", "<key>", "key or token"),
    ("token hf_AbCdEfGhIjKlMnOpQrSt!", "token <key>!", "key or token"),
    ("sk-proj-abcdefghijkl", "<key>", "key or token"),
    ("rpa_ABCDEFGHIJKLMNOP", "<key>", "key or token"),
    ("AKIAIOSFODNN7EXAMPLE", "<key>", "key or token"),
    ("ghp_0123456789abcdefghij0123", "<key>", "key or token"),
    ("--hf-token opensesame --seed 1", "--hf-token <key> --seed 1", "key or token"),
    ("--api_key=opensesame", "--api_key=<key>", "key or token"),
    ("WANDB_API_KEY=opensesame", "WANDB_API_KEY=<key>", "key or token"),
    ('{"password": "opensesame"}', '{"password": "<key>"}', "key or token"),
    ("Authorization: Bearer opensesame", "Authorization: Bearer <key>", "key or token"),
    ("-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----", "<key>", "key or token"),
    # paths
    ("/data/people/ada/.cache/vllm", "<path>", "path"),
    ("open '/srv/my models/x y' failed", "open '<path>' failed", "path"),
    ("/lib/a.so:/home/bob/b.so:/Users/eve/c.so", "<path>:<path>:<path>", "path"),
    ("No such file: /mnt/scratch", "No such file: <path>", "path"),
    ("--config=/etc/x.yaml", "--config=<path>", "path"),
    ("-I/home/bob/include", "-I<path>", "path"),
    ("file:///opt/x and ipc:///tmp/y", "<path> and <path>", "path"),
    (r"C:\Users\ada\x.py and \\nas\share\x", "<path> and <path>", "path"),
    ("(/a)", "(<path>)", "path"),
    # machines
    ("10.0.0.7", "<address>", "network address"),
    ("tcp://192.168.1.20:29500", "tcp://<address>:29500", "network address"),
    ("at 203.0.113.9.", "at <address>.", "network address"),
    ("[fe80::1ff:fe23:4567:890a]:80", "[<address>]:80", "network address"),
    ("ip-10-0-0-7.ec2.internal is down", "<address> is down", "network address"),
    ("http://gpu9.cs.example.edu:8000/v1", "http://<host>:8000/v1", "host name"),
    ("https://eve:pw@huggingface.co/x", "https://<host>/x", "host name"),
    ("rack7-node3.cs.example.edu and RACK7-NODE3", "<host> and <host>", "host name"),
    ("job_rack7-node3_1", "job_<host>_1", "host name"),
    # people
    ("runs of ada", "runs of <user>", "user name"),
    ("ada/llama-ft", "<user>/llama-ft", "user name"),
    ("run_Ada_3", "run_<user>_3", "user name"),
    ("ada@rack7.example.edu", "<mail>", "mail address"),
]


@pytest.mark.parametrize(("text", "clean", "kind"), PRIVATE)
def test_what_is_private_is_found_and_replaced(text: str, clean: str, kind: str) -> None:
    assert kind in PRIVACY.found(text)
    assert PRIVACY.clean(text) == clean
    assert PRIVACY.found(clean) == [], "a clean text stays as it is"
    assert PRIVACY.clean(clean) == clean


@pytest.mark.parametrize(
    "text",
    [
        "",
        "canada",
        "adaptive",
        "tp1/fixed/c16",
        "12 tok/s, 1/2 of it, and/or n/a",
        "Qwen/Qwen3-8B",
        "Debian GNU/Linux 12 (bookworm)",
        "Linux 5.15.167.4-microsoft-standard-WSL2 x86_64",
        "0.32.0+cpu",
        "NVIDIA A100-SXM4-80GB",
        "550.54.15",
        "http://127.0.0.1:8000/health and 127.0.0.1, 0.0.0.0, ::1, http://localhost/x",
        "https://huggingface.co/Qwen/Qwen3-8B",
        "vllm serve no longer answers /health",
        "POST /v1/completions",
        "/dev/shm has 0.1 GiB free",
        "--max-num-batched-tokens 2048 --tokenizer Qwen/Qwen3 --hf-overrides x",
        "hf_overrides",
        "0000:3B:00.0",
        "12:34:56",
        "std::bad_alloc",
        "run as root on localhost",
        "<path> <host> <user> <key>",
        "~/models",
        "tokens per second: 12",
        "08cfc6bcc8b23c9b9dd5bcdc059fdb25558e6cb2",
    ],
)
def test_what_is_harmless_is_left_alone(text: str) -> None:
    assert PRIVACY.found(text) == []
    assert PRIVACY.clean(text) == text


@pytest.fixture(scope="module")
def committed() -> Result:
    return load(latest_reference())


@pytest.mark.slow
@pytest.mark.parametrize("user", ["a", "me", "root", "ubuntu", "fixed", "max", "epyc", "tp1", "model", "ok", "path"])
def test_a_name_that_results_use_themselves_does_not_destroy_them(committed: Result, user: str) -> None:
    """`epyc` is what the hardware is called, `fixed` a curve, `max` a part of every other option."""
    document = json.loads(RESULT.dump_json(committed))
    names = Names(frozenset({user}), frozenset({user}), f"/home/{user}")
    privacy = Privacy(rules_for(names, words_of([committed])))
    assert privacy.clean_json(document) == document
    assert privacy.found_json(document) == []
    assert privacy.clean(f"/home/{user}/x and /srv/{user}/y") == "<path> and <path>", "in a path it goes all the same"


def test_the_committed_result_holds_nothing_private_and_is_not_changed() -> None:
    document = json.loads(latest_reference().read_text())
    assert PRIVACY.found_json(document) == []
    assert PRIVACY.clean_json(document) == document


def test_documents_are_cleaned_in_every_place() -> None:
    document = {
        "/data/people/ada/x": [1, None, {"deep": ["ada", True, 2.5]}],
        "hf_token": "opensesame",
        "args": ["--hf-token", "opensesame", "--seed", "1"],
        "resume": "10.1.2.3",
    }
    assert sorted(set(PRIVACY.found_json(document))) == ["key or token", "network address", "path", "user name"]
    clean = PRIVACY.clean_json(document)
    assert clean == {
        "<path>": [1, None, {"deep": ["<user>", True, 2.5]}],
        "hf_token": "<key>",
        "args": ["--hf-token", "<key>", "--seed", "1"],
        "resume": "<address>",
    }
    assert PRIVACY.found_json(clean) == []


def test_hidden_words_are_taken_literally() -> None:
    privacy = Privacy(rules_for(ADA, hidden=["pod-7", "Grace H.", "", "path"]))
    assert privacy.clean("pod-7 of Grace H. at /x") == "<word> of <word> at <path>"
    assert "hidden word" in privacy.found("on POD-7")


def test_what_was_replaced_is_counted() -> None:
    privacy = Privacy(rules_for(ADA))
    privacy.clean("ada, ada and /x on 127.0.0.1")
    assert privacy.replaced == {"user name": 2, "path": 1}


def test_a_home_at_the_root_and_one_with_signs_of_its_own() -> None:
    assert Privacy(rules_for(Names(frozenset(), frozenset(), "/"))).clean("a / b, tp1/x") == "a / b, tp1/x"
    privacy = Privacy(rules_for(Names(frozenset(), frozenset(), "/home/a.b (c)")))
    assert privacy.clean("in /home/a.b (c)/d, /home/axb") == "in <path>, <path>"


def test_names_come_from_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "node3.lan")
    monkeypatch.setattr(socket, "getfqdn", lambda: "node3.example.edu")
    monkeypatch.setattr(platform, "node", lambda: "node3")
    monkeypatch.setattr(getpass, "getuser", lambda: "ada")
    monkeypatch.setenv("SUDO_USER", "bob")
    monkeypatch.setenv("HOME", "/people/lovelace")
    names = names_here()
    assert {"node3.lan", "node3.example.edu", "node3"} <= names.hosts
    assert {"ada", "bob", "lovelace"} <= names.users
    assert names.home == "/people/lovelace"


def test_a_user_without_a_name_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> str:
        raise KeyError("getpwuid(): uid not found: 1000")

    monkeypatch.setattr(getpass, "getuser", unknown)
    monkeypatch.setattr(Path, "home", lambda: Path("/"))
    assert rules_for(names_here())


@pytest.mark.parametrize(
    "text", ["/" * 20_000, "a/" * 20_000, "1." * 20_000, ":" * 20_000, "token=" * 5_000, "x" * 50_000]
)
def test_long_texts_take_no_long_time(text: str) -> None:
    PRIVACY.clean(text)
