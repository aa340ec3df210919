"""On CPUs an engine imports vLLM once: its core and its ranks are forked from a process that has done so already.

vLLM's CPU back end starts each of them as a new interpreter ("spawn"), one after another, with 8 s of imports each: two
thirds of a start. Here the core is forked from a fork server, which imports while the API server does, and has no
threads that a fork could lose; ranks are forked from the core, as vLLM itself does it for offline engines on GPUs.

What vLLM tells a new interpreter by its environment, and libraries read only as they are loaded, is done here instead:
libraries to preload are there when the fork server begins, and a rank binds libgomp's threads to its device's cores.
Measured on two cores (126M parameters, eager): a start takes 11 to 13 s instead of 26, of tp4 15 s instead of 45; the
tokens are the same and so is throughput (0.99 to 1.09 times, six ABBA pairs at 1 and at 16 streams). Where a piece is
missing, as with another OpenMP or another version of vLLM, all is left to vLLM. Can go when vLLM forks on CPUs.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from multiprocessing import context, forkserver
from pathlib import Path

IMPORT_ONCE = "LAB_IMPORT_ONCE"  # "1" in the environment of an engine on CPUs; a user's "0" leaves vLLM as it is
BOUND_TO = "GOMP_CPU_AFFINITY"  # where vLLM writes a rank's cores, as in "2 3"
IMPORTED = ("vllm.v1.engine.core", "vllm.v1.executor.multiproc_executor", "vllm.v1.worker.cpu_worker")
# Modules that ask for a context; where they are imported already, they hold the name themselves
ASKING = ("vllm.utils.system_utils", "vllm.v1.executor.multiproc_executor")


def begin() -> None:
    """Called first in an engine's process: from here on its children are forked, if the environment asks for it."""
    preloaded = libraries_to_preload() if os.environ.get(IMPORT_ONCE) == "1" else None
    if preloaded is None:
        return
    os.environ["LD_PRELOAD"] = preloaded
    multiprocessing.set_forkserver_preload([*IMPORTED])
    forkserver.ensure_running()  # it imports from now on, beside this process
    _give_out(_CoreContext())


def libraries_to_preload() -> str | None:
    """`LD_PRELOAD` as vLLM sets it for its ranks: torch's libgomp, and vLLM's tcmalloc where it brings one.

    `None` where there is no libgomp, or where another OpenMP is preloaded already.
    """
    given = os.environ.get("LD_PRELOAD", "")
    torch, vllm = find_spec("torch"), find_spec("vllm")
    if "omp" in given or torch is None or torch.origin is None or vllm is None or vllm.origin is None:
        return None
    home = Path(torch.origin).parent
    gomp = [*home.parent.glob("torch.libs/libgomp*.so*"), *home.glob("lib/libgomp*.so*")]
    if not gomp:
        return None
    tcmalloc = sorted(Path(vllm.origin).parent.glob("libs/libtcmalloc*.so*"))[:1]
    return ":".join(map(str, [*tcmalloc, *([given] if given else []), gomp[0]]))


def bind_threads(cores: Sequence[int]) -> None:
    """Give this process as many OpenMP threads as cores, each on one of them; nothing may have used OpenMP before."""
    import torch

    torch.set_num_threads(len(cores))
    gomp = ctypes.CDLL("libgomp.so.1")  # the one that is loaded
    region = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(
        lambda _: os.sched_setaffinity(0, {cores[gomp.omp_get_thread_num()]})
    )
    gomp.GOMP_parallel(region, None, len(cores), 0)


class _Rank(context.ForkProcess):
    """A rank, forked from the core."""

    def run(self) -> None:
        if cores := [int(core) for core in os.environ.get(BOUND_TO, "").split()]:
            bind_threads(cores)
        super().run()


class _RankContext(context.ForkContext):
    Process = _Rank


class _Core(context.ForkServerProcess):
    """An engine core, or another direct child: forked from the fork server, with its parent's environment."""

    def start(self) -> None:
        self._environment = dict(os.environ)
        super().start()

    def run(self) -> None:
        with contextlib.suppress(ImportError):  # vLLM's processes name themselves; later it finds no room for names
            import setproctitle

            setproctitle.getproctitle()
        for name in os.environ.keys() - self._environment.keys():
            del os.environ[name]
        os.environ.update(self._environment)
        _give_out(_RankContext())
        super().run()


class _CoreContext(context.ForkServerContext):
    Process = _Core


def _give_out(given: context.BaseContext) -> None:
    """Let vLLM's processes in this one be started by `given`, if this vLLM asks in the way that is known here."""
    import vllm.utils.system_utils as asked

    if not hasattr(asked, "get_mp_context"):
        return
    answer: Callable[[], context.BaseContext] = lambda: given  # noqa: E731
    for name in ASKING:
        if hasattr(module := sys.modules.get(name), "get_mp_context"):
            module.get_mp_context = answer  # type: ignore[union-attr]
