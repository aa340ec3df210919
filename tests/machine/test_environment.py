"""What a result says about its machine, and what it must not say."""

from __future__ import annotations

import getpass
import json
import socket
from importlib import metadata
from pathlib import Path

import pytest

from common.machine import environment
from common.machine.ceilings import Ceilings
from common.machine.cpus import Core, Cpus
from common.machine.devices import cpu_machine, gpu_machine
from common.machine.environment import describe_environment, machine_fingerprint, machine_name, scrubbed, settings
from tests.machine.replay import A100, L4, RTX_3090, Replay

CPU = cpu_machine(Cpus("AMD EPYC", (Core(0, 0), Core(1, 0))))


def test_a_cpu_machine_is_described_in_json() -> None:
    ceilings = Ceilings(1e11, 1.9e11, 2e10, 3e10, devices=2, seconds=3.0)
    described = json.loads(json.dumps(describe_environment(CPU, ceilings)))
    assert described["device_kind"] == "cpu"
    assert described["devices"][1]["cores"] == [1]
    assert described["host_shares_devices"] is True
    assert described["ceilings"]["memory_scaling"] == pytest.approx(1.5)
    assert described["versions"]["numpy"] == metadata.version("numpy")
    assert described["memory_bytes"] > 0
    assert set(described["container_limits"]) == {"cpus", "memory_bytes"}
    assert "nvidia" not in described


def test_another_interpreters_engine_takes_the_place_of_this_ones() -> None:
    engine = {"python": "3.12.1", "vllm": "9.9.1", "torch": "8.8.1"}
    described = describe_environment(CPU, None, engine=engine)
    assert described["python"] == "3.12.1"
    found = described["versions"]
    assert (found["vllm"], found["torch"]) == ("9.9.1", "8.8.1")
    assert "transformers" not in found, "this environment's is not the one that ran"
    assert "python" not in found
    assert found["aiohttp"] == metadata.version("aiohttp"), "the client runs here"


def test_a_gpu_machine_is_described_in_json() -> None:
    nvml = Replay(A100)
    described = json.loads(json.dumps(describe_environment(gpu_machine(nvml, device_ids=[0, 2]), None, nvml)))
    assert described["ceilings"] is None
    assert described["nvidia"]["driver"] == "550.54.15"
    assert described["nvidia"]["cuda"] == "12.4"
    assert [gpu["index"] for gpu in described["nvidia"]["gpus"]] == [0, 2]
    assert described["nvidia"]["gpus"][0]["power_limit_w"] == 400.0
    assert described["links"] == [{"a": 0, "b": 2, "kind": "nvlink", "nvlinks": 12, "p2p": True}]


def test_settings_without_secrets_and_addresses() -> None:
    environ = {
        "NCCL_P2P_DISABLE": "1",
        "VLLM_LOGGING_LEVEL": "DEBUG",
        "CUDA_VISIBLE_DEVICES": "0",
        "OMP_NUM_THREADS": "1",
        "VLLM_API_KEY": "hunter2",
        "vllm_token": "hunter2",
        "VLLM_S3_SECRET": "hunter2",
        "CUDA_PASSWORD": "hunter2",
        "VLLM_HOST_IP": "10.0.0.7",
        "NCCL_HOSTID": "rack7",
        "HF_TOKEN": "hunter2",
        "PATH": "/usr/bin",
    }
    assert settings(environ) == {
        "CUDA_VISIBLE_DEVICES": "0",
        "NCCL_P2P_DISABLE": "1",
        "OMP_NUM_THREADS": "1",
        "VLLM_LOGGING_LEVEL": "DEBUG",
    }


def test_values_name_no_home_user_or_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: Path("/data/people/ada"))
    monkeypatch.setattr(socket, "gethostname", lambda: "rack7-node3")
    monkeypatch.setattr(getpass, "getuser", lambda: "ada")
    assert scrubbed("/data/people/ada/.cache/vllm") == "~/.cache/vllm"
    assert scrubbed("/lib/a.so:/home/bob/b.so:/Users/eve/c.so") == "/lib/a.so:~/b.so:~/c.so"
    assert scrubbed("tcp://rack7-node3:29500") == "tcp://<host>:29500"
    assert scrubbed("/scratch/ada/cache") == "/scratch/<user>/cache"
    assert scrubbed("canada") == "canada"


def test_nothing_personal_is_left_in_the_whole_description(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: Path("/data/people/ada"))
    monkeypatch.setattr(socket, "gethostname", lambda: "rack7-node3")
    monkeypatch.setenv("VLLM_CACHE_ROOT", "/data/people/ada/cache")
    monkeypatch.setenv("NCCL_DEBUG_FILE", "/tmp/rack7-node3.log")
    monkeypatch.setenv("VLLM_API_KEY", "hunter2")
    text = json.dumps(describe_environment(CPU, None))
    assert "~/cache" in text
    for private in ("/data/people", "rack7-node3", "hunter2"):
        assert private not in text


def test_a_checkout_gives_commit_and_dirty_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"rev-parse": "0123abc", "status": " M README.md"}
    monkeypatch.setattr(environment, "_git", lambda command, *_: answers[command])
    assert environment._revision() == {"git_commit": "0123abc", "git_dirty": True}
    answers["status"] = ""
    assert environment._revision() == {"git_commit": "0123abc", "git_dirty": False}
    monkeypatch.setattr(environment, "_git", lambda *_: None)
    assert environment._revision() == {}


def test_git_that_fails_or_is_missing_is_no_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert environment._git("no-such-command") is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment._git("status") is None


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("AMD EPYC", "2x1core-amd-epyc"),
        ("12th Gen Intel(R) Core(TM) i7-12700H", "2x1core-intel-core-i7-12700h"),
        ("Intel(R) Xeon(R) CPU E5-2670 0 @ 2.60GHz", "2x1core-intel-xeon-e5-2670-0"),
        ("AMD Ryzen 9 7950X 16-Core Processor", "2x1core-amd-ryzen-9-7950x"),
    ],
)
def test_names_of_cpu_machines(model: str, expected: str) -> None:
    assert machine_name(cpu_machine(Cpus(model, (Core(0, 0), Core(1, 0))))) == expected


def test_names_of_gpu_machines() -> None:
    assert machine_name(gpu_machine(Replay(A100))) == "4xa100-sxm4-80gb"
    assert machine_name(gpu_machine(Replay(RTX_3090), device_ids=[1, 2])) == "2xgeforce-rtx-3090"
    mixed = Replay(L4)
    mixed.gpus[2]["nvmlDeviceGetName"] = "NVIDIA A10G"
    assert machine_name(gpu_machine(mixed)) == "3xl4-1xa10g"


def test_the_fingerprint_changes_with_what_matters() -> None:
    one = machine_fingerprint(gpu_machine(Replay(A100)), Replay(A100))
    assert json.loads(json.dumps(one)) == one
    assert one == machine_fingerprint(gpu_machine(Replay(A100)), Replay(A100))
    updated = Replay(A100)
    updated.system["nvmlSystemGetDriverVersion"] = "570.1"
    others = [
        machine_fingerprint(gpu_machine(Replay(A100), device_ids=[0, 1]), Replay(A100)),
        machine_fingerprint(gpu_machine(updated), updated),
        machine_fingerprint(CPU),
    ]
    assert one not in others
    assert machine_fingerprint(CPU)["slices"] == [[0], [1]]
