"""On CPUs a run imports vLLM once: its engines are forked from a process that has done so already.

vLLM's CPU back end starts the API server, the core and each rank as a new interpreter, one after another, with 8 s of
imports each: most of a start. Here a script keeps one interpreter, the importer, which has no threads that a fork
could lose. Each engine's guard is forked from it, the API server from its guard, the core from that, and ranks from
the core, as vLLM itself forks them on GPUs.

What vLLM tells a new interpreter by its environment, and libraries read only as they are loaded, is done here instead:
libraries to preload are there when the importer begins, and a rank binds libgomp's threads to its device's cores.
Tokens are the same and so is throughput (0.99 to 1.09 times, six ABBA pairs at 1 and at 16 streams, 126M parameters).
Where a piece is missing, as with another OpenMP or another version of vLLM, the rest is left to vLLM. Can go when vLLM
forks on CPUs.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import os
import runpy
import select
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from multiprocessing import context
from pathlib import Path

from common.engines import interpreter_answers
from common.engines.guard import ENGINE_NICENESS, Spec, guard
from common.engines.guard_link import ANSWER, WORD_BYTES
from common.engines.process_tree import end_with_parent, nice_session

IMPORT_ONCE = "LAB_IMPORT_ONCE"  # "1" in the environment of an engine on CPUs; a user's "0" leaves vLLM as it is
BOUND_TO = "GOMP_CPU_AFFINITY"  # where vLLM writes a rank's cores, as in "2 3"
IMPORTED = (
    *("vllm.entrypoints.cli.main", "vllm.entrypoints.openai.api_server", "vllm.entrypoints.llm"),
    *("vllm.v1.engine.core", "vllm.v1.executor.multiproc_executor", "vllm.v1.worker.cpu_worker"),
)


def main() -> None:
    """Import, then fork what is asked for over standard input, a socket: a guard with its engine, or an answer."""
    if preloaded := libraries_to_preload():
        os.environ["LD_PRELOAD"] = preloaded
        os.execv(sys.executable, [sys.executable, "-m", "common.engines.importer"])
    os.nice(ENGINE_NICENESS)
    gc.disable()  # of what is imported nothing is garbage: a second of eight
    with _ending_with_script():
        began_s = time.monotonic()
        for name in IMPORTED:
            with contextlib.suppress(ImportError):  # its engine will say what is wrong with this vLLM
                importlib.import_module(name)
        imported_s = (began_s, time.monotonic())
    gc.enable()
    gc.collect()
    gc.freeze()  # what engines never write they share
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # guards are not waited for: they tell the script how it went
    with socket.socket(fileno=0) as script:
        while (asked := socket.recv_fds(script, WORD_BYTES, 2))[1]:  # nothing once the script is gone
            word, files = asked[:2]
            if os.fork() == 0:
                _take(files)
                if word == ANSWER:
                    _answer()
                _guard(imported_s)
            for file in files:
                os.close(file)


@contextlib.contextmanager
def _ending_with_script() -> Iterator[None]:
    """End at once when the script does, also one that ended before this began: its end of the socket is closed then.

    The kernel's own signal for a parent's end also comes when only its thread has ended.
    """
    other_end = select.poll()
    other_end.register(0, 0)  # that it is closed is told unasked

    def look(_number: int, _frame: object) -> None:
        if other_end.poll(0):
            os._exit(1)

    signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, 0.5, 0.5)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)


def _take(files: Sequence[int]) -> None:
    """Have these as standard input and output, and nothing of the importer's."""
    os.setsid()
    for standard, file in enumerate(files):
        os.dup2(file, standard)
        os.close(file)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def _answer() -> None:
    """Answer what stands on standard input; does not return."""
    end_with_parent()
    interpreter_answers.main()
    os._exit(0)


def _guard(imported_s: tuple[float, float]) -> None:
    """Be a guard, or the engine that is forked from it; does not return."""
    with contextlib.suppress(ImportError):
        import setproctitle

        setproctitle.setproctitle(f"{sys.executable} -m common.engines.guard")
    guard(_fork_engine, imported_s=imported_s)
    os._exit(0)


def _fork_engine(spec: Spec) -> int:
    """Its pid; in the fork itself this does not return."""
    parent = os.getpid()
    if (pid := os.fork()) == 0:
        end_with_parent()
        if os.getppid() != parent:
            os._exit(1)
        _become(spec)
        sys.exit()
    return pid


def libraries_to_preload() -> str | None:
    """`LD_PRELOAD` as vLLM sets it for its ranks: torch's libgomp, and vLLM's tcmalloc where it brings one.

    `None` where there is no libgomp, or where an OpenMP is preloaded already.
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


def _become(engine: Spec) -> None:
    """Run a command `[python, "-m", module, ...]` in this process, as if it had been started so."""
    os.setsid()
    nice_session(ENGINE_NICENESS)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    nothing, log = os.open(os.devnull, os.O_RDONLY), os.open(engine["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for standard, file in enumerate((nothing, log, log)):
        os.dup2(file, standard)
    command = engine["command"]
    with contextlib.suppress(ImportError):  # before the environment grows: later there is no room for a name
        import setproctitle

        setproctitle.setproctitle(" ".join(command))
    preloaded = os.environ.get("LD_PRELOAD", "")
    os.environ.clear()
    os.environ.update(engine["env"] | ({"LD_PRELOAD": preloaded} if preloaded else {}))
    tempfile.tempdir = None  # asked for again, in the engine's own environment
    if "libgomp" in preloaded:
        _give_out(_ForkContext())
    sys.argv = command[2:]
    runpy.run_module(command[2], run_name="__main__", alter_sys=True)


def bind_threads(cores: Sequence[int]) -> None:
    """Give this process as many OpenMP threads as cores, each on one of them; nothing may have used OpenMP before."""
    import torch

    torch.set_num_threads(len(cores))
    gomp = ctypes.CDLL("libgomp.so.1")  # the one that is loaded
    region = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(
        lambda _: os.sched_setaffinity(0, {cores[gomp.omp_get_thread_num()]})
    )
    gomp.GOMP_parallel(region, None, len(cores), 0)


class _Forked(context.ForkProcess):
    """A core, or a rank with cores of its own."""

    def run(self) -> None:
        # As in a new interpreter. The event loop's wake-up file is shared with the API server, which would take a
        # signal to this process for its own.
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if cores := [int(core) for core in os.environ.get(BOUND_TO, "").split()]:
            bind_threads(cores)
        super().run()


class _ForkContext(context.ForkContext):
    Process = _Forked


def _give_out(given: context.BaseContext) -> None:
    """Let vLLM's processes be started by `given`, in forks too, if this vLLM asks in the way that is known here."""
    import vllm.utils.system_utils as asked

    known = getattr(asked, "get_mp_context", None)
    for module in list(sys.modules.values()):  # whoever has imported the function holds the name itself
        if known is not None and vars(module).get("get_mp_context") is known:
            module.get_mp_context = lambda: given  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
