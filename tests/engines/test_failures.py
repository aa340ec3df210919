"""What stands in a log when an engine fails (wording of vLLM 0.32, torch 2.13, NCCL), and what a reader is told."""

from __future__ import annotations

import pytest

from common.engines.failures import EngineError, Failure, explain

CORE = "(EngineCore pid=8178) ERROR 11-21 02:26:28 [core.py:1512] "
SERVER = "(APIServer pid=8112) "
# A start that went well up to the failure: nothing in it may be taken for a reason.
HEALTHY = """\
(APIServer pid=8112) INFO 11-21 02:26:00 [utils.py:345] non-default args: {'model_tag': '/m', 'host': '127.0.0.1', \
'port': 41235, 'model': '/m', 'max_model_len': 1024, 'enforce_eager': True, 'gpu_memory_utilization': 0.9}
(APIServer pid=8112) INFO 11-21 02:26:02 [model.py:587] Resolved architecture: Qwen2ForCausalLM
(EngineCore pid=8178) INFO 11-21 02:26:10 [core.py:101] Initializing a V1 LLM engine (v0.32.0) with config: model='/m'
(Worker pid=8217) WARNING 11-21 02:26:11 [cpu_worker.py:50] libiomp5 is not found in LD_PRELOAD. For best performance
(Worker pid=8217) INFO 11-21 02:26:12 [parallel_state.py:1200] world_size=2 rank=0 local_rank=0 \
distributed_init_method=tcp://127.0.0.1:35467 backend=gloo
(Worker pid=8217) INFO 11-21 02:26:14 [default_loader.py:300] Loading weights took 0.21 seconds
(EngineCore pid=8178) INFO 11-21 02:26:15 [gpu_worker.py:1013] Free memory on device (78.1/79.2 GiB) on startup. \
Desired GPU memory utilization is (0.9, 71.3 GiB). Actual usage is 14.3 GiB for consumed memory (weights + non-torch)
(EngineCore pid=8178) INFO 11-21 02:26:20 [core.py:228] init engine (profile, create kv cache, warmup model) took 5.1 s
(APIServer pid=8112) INFO 11-21 02:26:22 [launcher.py:195] Route: /v1/completions, Methods: POST
"""
AFTERMATH = f"""\
{SERVER}Traceback (most recent call last):
{SERVER}  File "/venv/lib/python3.11/site-packages/vllm/v1/engine/utils.py", line 1431, in wait_for_engine_startup
{SERVER}    raise RuntimeError(
{SERVER}RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {{'EngineCore': 1}}
"""
LEAKS = (
    "/usr/lib/python3.11/multiprocessing/resource_tracker.py:254: UserWarning: resource_tracker: There appear to be"
    " 1 leaked semaphore objects to clean up at shutdown\n  warnings.warn('resource_tracker: There appear to be %d '\n"
)


def trace(error: str) -> str:
    """How the engine core prints what it died of; then the server follows, pointing back."""
    return (
        f"{CORE}EngineCore failed to start.\n{CORE}Traceback (most recent call last):\n"
        f'{CORE}  File "/venv/lib/python3.11/site-packages/vllm/v1/engine/core.py", line 1490, in run_engine_core\n'
        f"{CORE}{error}\n{AFTERMATH}"
    )


REASONS = [
    pytest.param(
        "heads_not_divisible",
        f"{SERVER}pydantic_core._pydantic_core.ValidationError: 1 validation error for VllmConfig\n"
        f"{SERVER}  Value error, Total number of attention heads (28) must be divisible by tensor parallel size (8)."
        " [type=value_error, input_value=ArgsKwargs((), {'model_co...}), input_type=ArgsKwargs]\n",
        "Total number of attention heads (28) must be divisible by tensor parallel size (8)",
        id="heads",
    ),
    pytest.param(
        "out_of_memory",
        trace(
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 130.00 MiB. GPU 0 has a total capacity of"
            " 22.06 GiB of which 56.38 MiB is free. Including non-PyTorch memory, this process has 22.00 GiB memory in"
            " use."
        ),
        "out of memory",
        id="cuda-oom",
    ),
    pytest.param(
        "out_of_memory",
        trace(
            "ValueError: Free memory on device cuda:0 (10.12/79.19 GiB) on startup is less than desired GPU memory"
            " utilization (0.9, 71.27 GiB). Decrease GPU memory utilization or reduce GPU memory used by other"
            " processes."
        ),
        "out of memory",
        id="gpu-memory-in-use",
    ),
    pytest.param(
        "out_of_memory",
        trace(
            "ValueError: Available memory on node 0 (2.1/7.8 GiB) on startup is less than desired CPU memory"
            " utilization (0.9, 7.0 GiB). On the CPU backend, the `--gpu-memory-utilization` flag controls the fraction"
            " of CPU memory reserved (despite its name)."
        ),
        "memory",
        id="cpu-memory-in-use",
    ),
    pytest.param(
        "no_room_for_kv_cache",
        trace(
            "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when"
            " initializing the engine (this flag also controls CPU memory reservation on the CPU backend)."
        ),
        "no room for the KV cache",
        id="no-kv-blocks",
    ),
    pytest.param(
        "no_room_for_kv_cache",
        trace(
            "ValueError: To serve at least one request with the model's max seq len (32768), (1.75 GiB KV cache is"
            " needed, which is larger than the available KV cache memory (0.63 GiB). Based on the available memory, the"
            " estimated maximum model length is 11792."
        ),
        "no room for the KV cache",
        id="kv-cache-too-small",
    ),
    pytest.param(
        "out_of_memory",
        trace(
            "RuntimeError: [enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory:"
            " you tried to allocate 68719476736 bytes. Error code 12 (Cannot allocate memory)"
        ),
        "the machine ran out of memory",
        id="cpu-allocator",
    ),
    pytest.param(
        "shared_memory_too_small",
        "Fatal Python error: Bus error\n\nThread 0x00007f1b (most recent call first):\n",
        "/dev/shm is full or too small",
        id="bus-error",
    ),
    pytest.param(
        "shared_memory_too_small",
        trace(
            "RuntimeError: unable to allocate shared memory(shm) for file </torch_8217_118_0>: No space left on device"
            " (28)"
        ),
        "/dev/shm is full or too small",
        id="torch-shm",
    ),
    pytest.param(
        "shared_memory_too_small",
        trace("OSError: [Errno 28] No space left on device: '/psm_9fd1c0aa'"),
        "/dev/shm is full or too small",
        id="python-shm",
    ),
    pytest.param(
        "shared_memory_too_small",
        "pod:412:598 [0] misc/shmutils.cc:87 NCCL WARN Error: failed to extend /dev/shm/nccl-HMpEZQ to 33030532 bytes,"
        " error: No space left on device (28)\n"
        + trace("RuntimeError: NCCL error: unhandled system error (run with NCCL_DEBUG=INFO for details)"),
        "/dev/shm is full or too small",
        id="nccl-shm",
    ),
    pytest.param(
        "driver_too_old",
        trace(
            "RuntimeError: The NVIDIA driver on your system is too old (found version 12040). Please update your GPU"
            " driver by downloading and installing a new version from the URL: http://www.nvidia.com/Download"
        ),
        "driver is too old",
        id="driver-torch",
    ),
    pytest.param(
        "driver_too_old",
        trace("RuntimeError: CUDA driver version is insufficient for CUDA runtime version"),
        "driver is too old",
        id="driver-runtime",
    ),
    pytest.param(
        "nccl",
        trace("RuntimeError: NCCL error: unhandled cuda error (run with NCCL_DEBUG=INFO for details)"),
        "NCCL error: unhandled cuda error",
        id="nccl",
    ),
    pytest.param(
        "distributed_init",
        trace(
            "torch.distributed.DistNetworkError: The client socket has timed out after 600000ms while trying to connect"
            " to (127.0.0.1, 35467)."
        ),
        "could not find each other",
        id="rendezvous",
    ),
    pytest.param(
        "distributed_init",
        trace("torch.distributed.DistStoreError: Timed out after 601 seconds waiting for clients. 1/2 clients joined."),
        "could not find each other",
        id="rendezvous-store",
    ),
    pytest.param(
        "incomplete_model",
        f"{SERVER}OSError: /models/x does not appear to have a file named config.json. Checkout"
        " 'https://huggingface.co//models/x/tree/main' for available files.\n",
        "the model folder has no config.json",
        id="no-config",
    ),
    pytest.param(
        "incomplete_model",
        trace("RuntimeError: Cannot find any model weights with `/models/x`"),
        "weights",
        id="no-weights",
    ),
    pytest.param(
        "worker_died",
        f"{CORE}Worker proc VllmWorker-1 died unexpectedly (exit code: -9), shutting down executor.\n"
        f"{SERVER}ERROR 11-21 02:27:01 [async_llm.py:787] AsyncLLM output_handler failed.\n"
        f"{SERVER}vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue. See stack trace (above)"
        " for the root cause.\n",
        "Worker proc VllmWorker-1 died unexpectedly",
        id="worker-killed",
    ),
    pytest.param(
        "bad_engine_args",
        "usage: main.py [-h] [-v]\n               {chat,complete,serve}\n               ...\n"
        "main.py: error: unrecognized arguments: --foo\n",
        "vLLM does not know unrecognized arguments: --foo",
        id="unknown-argument",
    ),
    pytest.param(
        "bad_engine_args",
        "usage: vllm serve [model_tag] [options]\n"
        "main.py serve: error: argument --dtype: invalid choice: 'nope' (choose from 'auto', 'bfloat16', 'float32')\n",
        "argument --dtype: invalid choice: 'nope'",
        id="wrong-argument",
    ),
    pytest.param(
        "engine_error",
        trace("ValueError: The quantization method 'fp9' is not known here."),
        "The quantization method 'fp9' is not known here.",
        id="anything-else",
    ),
    pytest.param(
        "engine_error",
        trace("KeyError: 'model.layers.0.mlp.experts'") + LEAKS,
        "'model.layers.0.mlp.experts'",
        id="anything-else-before-leaks",
    ),
]


@pytest.mark.parametrize(("kind", "log", "said"), REASONS)
def test_the_reason_is_found_and_said_in_one_line(kind: str, log: str, said: str) -> None:
    failure = explain(HEALTHY + log, "vllm serve ended with exit code 1")
    assert failure.kind == kind, failure
    assert said in failure.message
    assert "{0}" not in failure.message + failure.remedy
    assert "\n" not in failure.message + failure.remedy
    assert len(failure.remedy) > 10


def test_a_healthy_log_gives_no_reason() -> None:
    failure = explain(HEALTHY + LEAKS, "vllm serve ended with exit code -9")
    assert failure == Failure("engine_error", "vllm serve ended with exit code -9", "The log has the rest")


def test_an_empty_log_gives_what_is_known_otherwise() -> None:
    assert explain("", "vllm serve was not up after 240 s").message == "vllm serve was not up after 240 s"


def test_the_root_cause_wins_over_the_line_that_points_to_it() -> None:
    failure = explain(HEALTHY + trace("ValueError: the true reason"), "ended")
    assert "See root cause above" not in failure.message
    assert "the true reason" in failure.message


def test_braces_in_a_log_do_no_harm() -> None:
    failure = explain(HEALTHY + trace("ValueError: got {'a': {0}} and {b}"), "ended")
    assert "got {'a': {0}} and {b}" in failure.message


def test_the_error_reads_as_message_and_remedy() -> None:
    error = EngineError(Failure("kind", "it broke", "Mend it"))
    assert str(error) == "it broke. Mend it (see week5/README.md#kind)"
    assert error.failure.kind == "kind"
