"""What must be right before anything is paid for: checked in seconds, refused in one line with the remedy."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from common.core.legality import legal_tp_sizes, nearest_legal, why_illegal
from common.core.model_shape import ModelShape
from common.core.plan import ParallelPlan
from common.engines.interpreter import check_arguments, find_engine
from common.engines.settings import EngineSettings, InstalledEngine
from common.engines.vllm_engine import vllm_is_installed
from common.experiment.options import InputError
from common.experiment.spec import Spec
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
    for size in asked:
        if wrong := why_illegal(ParallelPlan(tp=size), shape):
            legal = ", ".join(map(str, legal_tp_sizes(shape)))
            raise InputError(f"--tp {size}: {wrong}; legal sizes: {legal}")


def context_tokens(shape: ModelShape, machine: Machine, extra_args: Sequence[str] = ()) -> int:
    """Tokens that prompt and answer may have together: the lab's limit, or the user's `--max-model-len`."""
    users = _users_context(shape, extra_args)
    return min(1024 if machine.kind == "cpu" else 4096, shape.max_position_embeddings) if users is None else users


def _users_context(shape: ModelShape, extra_args: Sequence[str]) -> int | None:
    """The user's `--max-model-len`, the last of several as in vLLM; None where there is none.

    A limit in words that only vLLM understands (`auto`, `8k`) counts as the model's own.
    """
    words, found = [part for word in extra_args for part in word.split("=", 1)], None
    for name, value in itertools.pairwise(words):
        if name.replace("_", "-") == "--max-model-len":
            found = int(value) if value.isdecimal() else shape.max_position_embeddings
    return found


def check_lengths(specs: Sequence[Spec], settings: EngineSettings, shape: ModelShape) -> None:
    """Check that every request fits the engine's context: vLLM cuts the answer of one that does not.

    `shape` is the run's own model's.

    Raises:
        InputError: one does not.
    """
    for spec in specs:
        served = spec.configuration.model
        of = served.shape if served else shape
        most, users = of.max_position_embeddings, _users_context(of, settings.extra_args)
        length, limit = spec.context_tokens, spec.configuration.settings(settings).max_model_len
        limit = limit if users is None else users
        if length > limit:
            longer = f', or --engine-args "--max-model-len {length}"' if length <= most else f"; the model takes {most}"
            raise InputError(
                f"{spec.id} sends requests of {length} tokens, prompt and answer, and the engine takes {limit}: ask for"
                f" fewer (--input-tokens, --output-tokens){longer}"
            )


def check_plan(plan: ParallelPlan, shape: ModelShape, machine: Machine) -> None:
    """Check that a plan divides the model.

    Raises:
        InputError: it does not; the nearest that do on this machine's devices are named.
    """
    if wrong := why_illegal(plan, shape):
        have = len(machine.devices)
        needs = f" ({plan} needs {plan.devices})" if plan.devices > have else ""
        raise InputError(f"{wrong}; nearest that do on {have} devices{needs}: {nearest_words(plan, shape, machine)}")


def nearest_words(plan: ParallelPlan, shape: ModelShape, machine: Machine) -> str:
    """The legal plans on this machine's devices that are most like one that is not."""
    return ", ".join(str(near) for near in nearest_legal(plan, shape, len(machine.devices)))


def why_not(plan: ParallelPlan, shape: ModelShape, machine: Machine, oversubscribe: bool) -> CaseError | None:
    """Why a plan cannot run this model on this machine, or None."""
    if not plan.ep and (wrong := why_illegal(ParallelPlan(tp=plan.tp), shape)):
        sizes = ", ".join(map(str, legal_tp_sizes(shape)))
        return CaseError("heads_not_divisible", wrong, f"Legal sizes: {sizes}")
    have = len(machine.devices)
    if wrong := why_illegal(plan, shape):
        return CaseError("plan_not_divisible", wrong, f"Nearest that do: {nearest_words(plan, shape, machine)}")
    if machine.kind == "cpu" and shape.num_experts and plan.dp > 1:
        message = f"{plan} sends tokens to experts of other data-parallel engines, which vLLM cannot do on CPUs"
        return CaseError(
            "no_expert_exchange", message, f"Use replicas ({replace(plan, dp=1, replicas=plan.dp)}), or GPUs"
        )
    if plan.devices <= have or (oversubscribe and machine.kind == "cpu"):
        return None
    remedy = "Rent or free more" if machine.kind == "gpu" else "Use a machine with more cores, or --oversubscribe"
    return CaseError("too_few_devices", f"{plan} needs {plan.devices} devices, this machine has {have}", remedy)


def check_engine(python: Path | None) -> InstalledEngine | None:
    """The vLLM of `--engine-python`; None where it is not given and this environment's is measured.

    Raises:
        InputError: engines do not run on this system.
        ValueError: no interpreter, or one without vLLM.
    """
    if python is None:
        return None
    if sys.platform != "linux":
        raise InputError("--engine-python: engines need Linux; `make look` reads results here")
    return find_engine(python)


def check_engine_args(
    settings: EngineSettings, plan: ParallelPlan, machine: Machine, say: Callable[[str], None]
) -> None:
    """Check `--engine-args`, if there are any, with the parser of the vLLM that will be started.

    Raises:
        ValueError: vLLM does not take them.
    """
    if not settings.extra_args:
        return
    if settings.engine is None and not vllm_is_installed():
        say("--engine-args cannot be checked: vLLM is not installed in this environment")
        return
    say("checking --engine-args with vLLM's own parser")
    if unchecked := check_arguments(settings, plan, machine.devices):
        say(f"--engine-args cannot be checked: {unchecked}")


def check_machine(
    machine: Machine, devices_needed: int, allow_shared: bool, engine: InstalledEngine | None = None
) -> list[str]:
    """Check the machine; returns warnings. `engine` is another environment's vLLM, where one is measured.

    Raises:
        InputError: no vLLM, too little shared memory or open files, or devices that somebody else uses.
    """
    if engine is None and not vllm_is_installed():
        raise InputError(
            "vLLM is not installed in this environment; run `make setup` (Linux), or `make look` to read results"
        )
    warnings = _check_shared_memory() + _check_open_files()
    if engine is not None and not engine.finds_plugin:
        warnings.append(
            "the engine will not find the lab's plugin, so weight bytes per rank stay unknown: run"
            " `pip install --no-deps -e .` in this checkout"
        )
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


def check_memory(
    specs: Sequence[Spec], settings: EngineSettings, shape: ModelShape, machine: Machine, allow_shared: bool
) -> list[str]:
    """Check that nobody else holds the memory of CPU slices, which is the machine's; returns warnings.

    A plan takes at least its weights, once per replica, and every rank's KV cache. `shape` is the run's own model's.

    Raises:
        InputError: less than that is free for one of the plans.
    """
    if machine.kind != "cpu":
        return []
    needed = {}
    for spec in specs:
        plan, served = spec.configuration.plan, spec.configuration.model
        of = served.shape if served else shape
        weights = plan.replicas * plan.dp * of.parameters * of.dtype_bytes
        needed[plan] = weights + plan.devices * settings.cpu_kv_cache_gib * GIB
    plan, free = max(needed, key=needed.__getitem__), memory.available_bytes()
    if needed[plan] <= free:
        return []
    said = (
        f"{free / GIB:.1f} GiB of this machine's memory are free, and weights and KV cache of {plan} alone take"
        f" {needed[plan] / GIB:.1f}"
    )
    if not allow_shared:
        raise InputError(f"{said}: end other programs, choose smaller plans, or --allow-shared")
    return [said]


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
