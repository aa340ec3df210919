"""What must be right before anything is paid for: checked in seconds, refused in one line with the remedy."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from common.core.model_shape import ModelShape
from common.core.plan import ParallelPlan
from common.engines.settings import EngineSettings
from common.engines.vllm_engine import vllm_is_installed
from common.experiment.cases import CaseSpec
from common.experiment.options import InputError
from common.machine import gpus, memory
from common.machine.devices import Machine
from common.store.schema import CaseError

SHARED_MEMORY_NEEDED_BYTES = 1 << 30
OPEN_FILES_NEEDED = 4_096
GIB = 1 << 30


def check_sizes(shape: ModelShape, asked: Sequence[int]) -> None:
    """Check that every size divides the model.

    Raises:
        InputError: one does not; the legal sizes are named.
    """
    legal = shape.legal_tp_sizes()
    wrong = [size for size in asked if size not in legal]
    if wrong:
        raise InputError(
            f"--tp {wrong[0]} does not divide this model ({shape.num_attention_heads} attention heads,"
            f" {shape.num_key_value_heads} KV heads); legal sizes: {', '.join(map(str, legal))}"
        )


def context_tokens(shape: ModelShape, machine: Machine, extra_args: Sequence[str] = ()) -> int:
    """Tokens that prompt and answer may have together: the lab's limit, or the user's `--max-model-len`.

    A limit in words that only vLLM understands (`auto`, `8k`) counts as the model's own.
    """
    words = [part for word in extra_args for part in word.split("=", 1)]
    for name, value in itertools.pairwise(words):
        if name.replace("_", "-") == "--max-model-len":
            return int(value) if value.isdecimal() else shape.max_position_embeddings
    return min(1024 if machine.kind == "cpu" else 4096, shape.max_position_embeddings)


def check_lengths(specs: Sequence[CaseSpec], settings: EngineSettings) -> None:
    """Check that every request fits the engine's context.

    Raises:
        InputError: one does not.
    """
    if any(word.partition("=")[0].replace("_", "-") == "--max-model-len" for word in settings.extra_args):
        return  # the user has set another limit, which vLLM itself checks
    for spec in specs:
        length = spec.lengths.input_tokens + spec.lengths.output_tokens
        if length > settings.max_model_len:
            raise InputError(
                f"--input-tokens {spec.lengths.input_tokens} and --output-tokens {spec.lengths.output_tokens} are more"
                f" than the engine's {settings.max_model_len}: ask for fewer, or"
                f' --engine-args "--max-model-len {length}"'
            )


def why_not(plan: ParallelPlan, shape: ModelShape, machine: Machine, oversubscribe: bool) -> CaseError | None:
    """Why a plan cannot run this model on this machine, or None."""
    if plan.tp not in (legal := shape.legal_tp_sizes()):
        sizes = ", ".join(map(str, legal))
        return CaseError(
            "heads_not_divisible", f"tp{plan.tp} does not divide the model's heads", f"Legal sizes: {sizes}"
        )
    have = len(machine.devices)
    if plan.devices <= have or (oversubscribe and machine.kind == "cpu"):
        return None
    remedy = "Rent or free more" if machine.kind == "gpu" else "Use a machine with more cores, or --oversubscribe"
    return CaseError("too_few_devices", f"{plan} needs {plan.devices} devices, this machine has {have}", remedy)


def check_machine(machine: Machine, devices_needed: int, allow_shared: bool) -> list[str]:
    """Check the machine; returns warnings.

    Raises:
        InputError: no vLLM, too little shared memory or open files, or devices that somebody else uses.
    """
    if not vllm_is_installed():
        raise InputError(
            "vLLM is not installed in this environment; run `make setup` (Linux), or `make look` to read results"
        )
    warnings = _check_shared_memory() + _check_open_files()
    uuids = [device.uuid for device in machine.devices if device.uuid]
    strangers = gpus.foreign_processes(uuids) if uuids and devices_needed else []
    if strangers:
        who = ", ".join(
            f"{process.name}{f' (pid {process.pid})' if process.pid else ''} {(process.used_bytes or 0) / GIB:.1f} GiB"
            for process in strangers
        )
        if not allow_shared:
            raise InputError(
                f"device memory is in use by {who}: end it, choose others with --device-ids, or --allow-shared"
            )
        warnings.append(f"devices are shared with {who}")
    return warnings


def _check_shared_memory() -> list[str]:
    shared = memory.shm_size_bytes()
    if shared is None:
        return []
    if shared.free_bytes < SHARED_MEMORY_NEEDED_BYTES // 4:
        raise InputError(
            f"/dev/shm has {shared.free_bytes / GIB:.2f} GiB free and ranks need up to 1 GiB: docker run --shm-size=1g,"
            " or remove files of ended programs from it"
        )
    if shared.free_bytes < SHARED_MEMORY_NEEDED_BYTES:
        return [
            f"/dev/shm has {shared.free_bytes / GIB:.2f} GiB free; large plans need 1 GiB (docker run --shm-size=1g)"
        ]
    return []


def _check_open_files() -> list[str]:
    limit = memory.open_files_limit()
    if limit is None or limit >= OPEN_FILES_NEEDED:
        return []
    if limit < 512:
        raise InputError(f"only {limit} files may be open: run `ulimit -n {OPEN_FILES_NEEDED}` first")
    return [f"only {limit} files may be open; for more than {limit // 2} streams run `ulimit -n {OPEN_FILES_NEEDED}`"]
