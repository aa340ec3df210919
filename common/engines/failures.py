"""Why an engine failed, in one line with the remedy, read from its log."""

from __future__ import annotations

import re
from dataclasses import dataclass

GUIDE = "week5/README.md"  # has a paragraph for every kind: what it means, how to check, how to mend


@dataclass(frozen=True)
class Failure:
    """A failure: what kind, what happened, what to do."""

    kind: str
    message: str
    remedy: str

    @property
    def advice(self) -> str:
        """The remedy as it stands in a result, and where the guide says more."""
        return f"{self.remedy} (see {GUIDE}#{self.kind.replace('_', '-')})"


class EngineError(RuntimeError):
    """An engine did not start, or died."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"{failure.message}. {failure.advice}")
        self.failure = failure


# "(Worker_TP1 pid=123) ERROR 11-21 01:53:36 [core.py:12] ", as vLLM's processes mark their lines
_LOG_PREFIX = r"(?:\([^)]*\) )?(?:ERROR [^\]]*\] )?"
_ECHOES = ("Engine core initialization failed", "EngineDeadError", "Worker failed with error", "DeprecationWarning")

# First match wins, so the specific stand before the general. {0} is the pattern's first group.
_KNOWN = (
    (r"(Total number of attention heads \(\d+\) must be divisible by tensor parallel size \(\d+\))",
     "heads_not_divisible", "{0}", "Choose a TP size that divides the heads"),
    (r"/dev/shm[^\n]*No space left on device|No space left on device[^\n]*(?:/dev/shm|/psm_|/sem\.)|(Bus error)"
     r"|unable to (?:open|write|mmap|allocate) shared memory",
     "shared_memory_too_small", "/dev/shm is full or too small",
     "Give it 1 GiB or more (docker run --shm-size=1g), and remove files of ended programs from it"),
    (r"(Available memory on node .{0,160}? less than desired)",
     "out_of_memory", "the machine has too little memory free for the engine's share",
     "End other programs, or use --engine-args '--gpu-memory-utilization 0.5'"),
    (r"CUDA out of memory|torch\.OutOfMemoryError|(Free memory on device .{0,120}? less than desired)",
     "out_of_memory", "the device ran out of memory",
     "Use more devices, a smaller model, or --engine-args '--gpu-memory-utilization 0.8 --max-model-len 1024'"),
    (r"No available memory for the cache blocks|(KV cache is needed, which is larger than the available)",
     "no_room_for_kv_cache", "the weights leave no room for the KV cache",
     "Use more devices per engine, or a smaller --max-model-len in --engine-args"),
    (r"Cannot allocate memory|MemoryError|DefaultCPUAllocator: (can't allocate memory)",
     "out_of_memory", "the machine ran out of memory", "Use a smaller model or fewer ranks"),
    (r"CUDA driver version is insufficient|(driver on your system is too old)",
     "driver_too_old", "the NVIDIA driver is too old for this vLLM", "Update it to 580 or newer (CUDA 13)"),
    (r"(NCCL error[^\n]{0,160})", "nccl", "{0}",
     "Try again with NCCL_P2P_DISABLE=1 in the environment; if that helps, the links between these GPUs are at fault"),
    (r"(Connection refused|Timed out) .{0,80}init_process_group|Dist(?:Network|Store)Error: ([^\n]+)",
     "distributed_init", "the ranks could not find each other", "Check that loopback connections are allowed"),
    (r"(Cannot find any model weights)", "incomplete_model", "the model folder has no weights",
     "Download the model again"),
    (r"does not appear to have a file named (\S+)", "incomplete_model", "the model folder has no {0}",
     "Download the model again"),
    (r"(Worker proc \S+ died unexpectedly)", "worker_died", "{0}",
     "Something killed a rank: look for the kernel's out-of-memory killer (dmesg) and for who else was on the machine"),
    (r"(unrecognized arguments: [^\n]+)", "bad_engine_args", "vLLM does not know {0}", "Mend --engine-args"),
    (r"(?:vllm|main\.py)(?: serve)?: error: ([^\n]+)", "bad_engine_args", "vLLM refuses its arguments: {0}",
     "Mend --engine-args"),
    (r"\bValue error, ([^\n]{1,300})", "bad_engine_args", "vLLM refuses its settings: {0}",
     "Mend --engine-args, or choose another model"),
)  # fmt: skip


def explain(log: str, otherwise: str) -> Failure:
    """The first known reason in a log, or `otherwise`."""
    for pattern, kind, message, remedy in _KNOWN:
        if match := re.search(pattern, log):
            found = next((group for group in match.groups() if group), "")
            return Failure(kind, message.format(found.strip()), remedy)
    if root := _root_cause(log):
        return Failure("engine_error", f"vLLM said: {root}", "The log has the rest")
    return Failure("engine_error", otherwise, "The log has the rest")


def _root_cause(log: str) -> str | None:
    """The end of the first traceback: later ones, in other processes, only say that an earlier one failed."""
    for line in log.splitlines():
        match = re.match(rf"{_LOG_PREFIX}(?:\w+\.)*(\w*(?:Error|Exception): .{{1,300}})", line)
        if match and not any(echo in line for echo in _ECHOES):
            return match.group(1).strip()
    return None
