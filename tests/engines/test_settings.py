"""From settings to vLLM's command line and environment: the same work for every plan, and no secrets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.core.plan import ParallelPlan
from common.engines.settings import EngineSettings, InstalledEngine, parse_engine_args
from common.machine.devices import Device

PLANS = [ParallelPlan(), ParallelPlan(tp=2), ParallelPlan(tp=2, pp=2, dp=2), ParallelPlan(tp=4, ep=True, replicas=2)]
CPU = [Device(0, "cpu", "A CPU", cores=(0, 1)), Device(1, "cpu", "A CPU", cores=(4, 5))]
GPU = [Device(3, "gpu", "A GPU", "GPU-ccc"), Device(1, "gpu", "A GPU", "GPU-aaa")]
SETTINGS = EngineSettings("/models/x", "x")
PLAIN = SETTINGS.command(ParallelPlan(), 1)


def options(command: list[str]) -> dict[str, str]:
    """Option to value; a flag's value is the empty string. An option that is given twice fails the test."""
    found: dict[str, str] = {}
    words = command[command.index("serve") + 2 :]
    for word, following in zip(words, [*words[1:], "--"], strict=True):
        if word.startswith("--"):
            assert word not in found, f"{word} is there twice"
            found[word] = "" if following.startswith("--") else following
    return found


def test_everything_but_the_plan_is_equal_across_plans() -> None:
    by_plan = {"--tensor-parallel-size", "--pipeline-parallel-size", "--data-parallel-size", "--enable-expert-parallel"}
    by_plan |= {"--api-server-count"}
    commands = [options(SETTINGS.command(plan, 8000)) for plan in PLANS]
    shared = [{name: value for name, value in found.items() if name not in by_plan} for found in commands]
    assert all(other == shared[0] for other in shared)


def test_what_the_design_pins_is_pinned_explicitly() -> None:
    found = options(SETTINGS.command(ParallelPlan(), 8000))
    pinned = [
        "max-model-len",
        "max-num-seqs",
        "max-num-batched-tokens",
        "gpu-memory-utilization",
        "dtype",
        "generation-config",
    ]
    assert {f"--{name}" for name in pinned} <= set(found)
    assert found["--generation-config"] == "vllm"
    assert "--no-enable-prefix-caching" in found
    assert "--async-scheduling" in found
    assert "--enforce-eager" in found
    assert found["--host"] == "127.0.0.1", "a development-mode server listens on loopback only"


@pytest.mark.parametrize("plan", PLANS)
def test_the_plan_is_what_vllm_is_told(plan: ParallelPlan) -> None:
    found = options(SETTINGS.command(plan, 8123))
    sizes = [found[f"--{name}-parallel-size"] for name in ("tensor", "pipeline", "data")]
    assert sizes == [str(plan.tp), str(plan.pp), str(plan.dp)], "replicas are engines of their own"
    assert ("--enable-expert-parallel" in found) == plan.ep
    assert found["--port"] == "8123"


def test_switches_follow_the_settings() -> None:
    settings = EngineSettings(
        "/m", "m", eager=False, prefix_caching=True, async_scheduling=False, block_size=32, extra_args=("--foo", "1")
    )
    command = settings.command(ParallelPlan(), 1)
    found = options(command)
    assert found["--block-size"] == "32"
    assert "--enforce-eager" not in found
    assert {"--enable-prefix-caching", "--no-async-scheduling"} <= set(found)
    assert command[-2:] == ["--foo", "1"], "the user's own words come last, so that they win"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, []),
        ({"chunked_prefill": True}, ["--enable-chunked-prefill"]),
        ({"chunked_prefill": False}, ["--no-enable-chunked-prefill"]),
        ({"long_prefill_token_threshold": 128}, ["--long-prefill-token-threshold", "128"]),
        ({"scheduling_policy": "priority"}, ["--scheduling-policy", "priority"]),
    ],
)
def test_what_schedules_requests(changes: dict[str, Any], words: list[str]) -> None:
    """What is left to vLLM is not on the command line: not every model can be told."""
    found = [word for word in replace(SETTINGS, **changes).command(ParallelPlan(), 1) if word not in PLAIN]
    assert found == words


def test_every_option_is_one_that_vllm_knows() -> None:
    """Read from vLLM's sources: importing it takes seconds, and is not possible everywhere."""
    from importlib.util import find_spec

    spec = find_spec("vllm")
    if spec is None or spec.origin is None:
        pytest.skip("vLLM is not installed")
    root = Path(spec.origin).parent
    sources = [root / "engine" / "arg_utils.py", *(root / "entrypoints").rglob("cli_args.py")]
    text = "".join(source.read_text() for source in sources)
    fields = text.replace("_", "-")
    settings = EngineSettings("/m", "m", block_size=16, eager=True, chunked_prefill=False, scheduling_policy="fcfs")
    for option in options(settings.command(ParallelPlan(tp=2, ep=True), 1)):
        name = option.removeprefix("--").removeprefix("no-")
        assert option in text or name in fields, option


def test_gpus_are_named_by_uuid_in_the_plans_order(tmp_path: Path) -> None:
    environment = SETTINGS.environment(ParallelPlan(), GPU, tmp_path)
    assert environment["CUDA_VISIBLE_DEVICES"] == "GPU-ccc,GPU-aaa"
    assert "VLLM_CPU_OMP_THREADS_BIND" not in environment


def test_slices_are_bound_rank_by_rank(tmp_path: Path) -> None:
    environment = SETTINGS.environment(ParallelPlan(), CPU, tmp_path)
    assert environment["VLLM_CPU_OMP_THREADS_BIND"] == "0,1|4,5"
    assert environment["VLLM_CPU_KVCACHE_SPACE"] == "1"
    single = [Device(index, "cpu", "A CPU", cores=(index,)) for index in range(2)]
    assert SETTINGS.environment(ParallelPlan(), single, tmp_path)["VLLM_CPU_OMP_THREADS_BIND"] == "0|1"


def test_no_calls_home_and_scratch_in_one_place(tmp_path: Path) -> None:
    environment = SETTINGS.environment(ParallelPlan(), CPU, tmp_path)
    wanted = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "TMPDIR": str(tmp_path)}
    assert wanted.items() <= environment.items()
    assert environment["VLLM_RPC_BASE_PATH"] == str(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "VLLM_API_KEY",
        "OPENAI_API_KEY",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "RUNPOD_API_KEY",
        "PGPASSWORD",
        "my_api_key",
        "SSH_PRIVATE_KEY",
        "DB_PASSWD",
    ],
)
def test_secrets_stay_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "s3cr3t-value")
    environment = SETTINGS.environment(ParallelPlan(), CPU, tmp_path)
    assert "s3cr3t-value" not in environment.values()


@pytest.mark.parametrize(
    "name", ["TOKENIZERS_PARALLELISM", "NCCL_P2P_DISABLE", "VLLM_LOGGING_LEVEL", "HF_HOME", "PATH"]
)
def test_settings_that_are_no_secrets_get_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "value")
    assert SETTINGS.environment(ParallelPlan(), CPU, tmp_path)[name] == "value"


def test_the_shells_own_environment_is_left_alone(tmp_path: Path) -> None:
    before = dict(os.environ)
    SETTINGS.environment(ParallelPlan(), GPU, tmp_path)
    assert dict(os.environ) == before


def test_the_chosen_interpreter_runs_vllm() -> None:
    assert SETTINGS.command(ParallelPlan(), 1)[0] == sys.executable
    other = EngineSettings("/m", "m", engine=InstalledEngine("/opt/vllm/bin/python", {}))
    assert other.command(ParallelPlan(), 1)[0] == "/opt/vllm/bin/python"
    assert other.command(ParallelPlan(), 1)[1:] == EngineSettings("/m", "m").command(ParallelPlan(), 1)[1:]


def test_this_checkout_comes_first_on_the_engines_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    root = SETTINGS.environment(ParallelPlan(), CPU, tmp_path)["PYTHONPATH"]
    assert (Path(root) / "common" / "engines" / "rank_probe.py").is_file()
    monkeypatch.setenv("PYTHONPATH", "/mine:/yours")
    assert SETTINGS.environment(ParallelPlan(), CPU, tmp_path)["PYTHONPATH"] == f"{root}:/mine:/yours"


def test_engine_args_are_split_as_a_shell_would() -> None:
    text = """--max-model-len 2048 --override '{"a": 1}' --name="two words" """
    assert parse_engine_args(text) == ("--max-model-len", "2048", "--override", '{"a": 1}', "--name=two words")
    assert parse_engine_args("") == ()


@pytest.mark.parametrize(
    "text",
    [
        "--tensor-parallel-size 2",
        "--tensor-parallel-size=2",
        "--tensor_parallel_size 2",
        "--tensor_parallel_size=2",
        "-tp 2",
        "-tp=2",
        "--pipeline-parallel-size 2",
        "-pp 2",
        "--data-parallel-size 2",
        "-dp 2",
        "--host 0.0.0.0",
        "--port 1",
        "--served-model-name x",
        "--served_model_name x",
        "--model x",
        "--worker-extension-cls a.B",
        "--worker_extension_cls a.B",
        "--api-key x",
        "--max-model-len 128 --port 1",
    ],
)
def test_what_the_lab_sets_may_not_be_set_twice(text: str) -> None:
    with pytest.raises(ValueError, match=r"--engine-args may not set --?[a-z]"):
        parse_engine_args(text)


def test_unbalanced_quotes_say_where(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--engine-args"):
        parse_engine_args("--name 'half")


@pytest.mark.slow
def test_no_vllm_is_imported_for_a_command() -> None:
    code = (
        "import sys; from common.engines import settings, failures, models, reference_models, engine, vllm_engine;"
        "print([name for name in ('vllm', 'torch', 'transformers') if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(said.stdout.replace("'", '"')) == []


def test_uneven_stages_are_told_and_those_of_somebody_elses_shell_are_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VLLM_PP_LAYER_PARTITION", "7,1")
    assert "VLLM_PP_LAYER_PARTITION" not in SETTINGS.environment(ParallelPlan(pp=2), CPU, tmp_path)
    uneven = SETTINGS.environment(ParallelPlan.parse("pp5+3"), CPU, tmp_path)
    assert uneven["VLLM_PP_LAYER_PARTITION"] == "5,3"


def test_every_plan_has_one_front_end_per_replica() -> None:
    assert options(SETTINGS.command(ParallelPlan(dp=2), 1))["--api-server-count"] == "1"
    assert "--api-server-count" not in PLAIN, "vLLM starts one without data parallelism"
