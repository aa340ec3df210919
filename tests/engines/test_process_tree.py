"""Who is still there, as the kernel tells it."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest

from common.engines.process_tree import descendants

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_a_process_is_there_until_its_last_thread_has_ended() -> None:
    """Its main thread is a zombie before; sockets and files are held on to."""
    code = "import ctypes, threading, time; threading.Thread(target=time.sleep, args=(600,)).start()"
    code += "; print(flush=True); ctypes.CDLL(None).pthread_exit(None)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        with process.stdout:
            process.stdout.readline()
        while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
            os.sched_yield()
        assert process.pid in descendants(os.getpid())
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert process.pid not in descendants(os.getpid()), "only to be reaped"
    finally:
        process.kill()
        process.wait()
