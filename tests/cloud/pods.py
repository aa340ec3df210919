"""Pods that are processes of this machine: each a folder, and a process group that runs the start command for real."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import signal
import subprocess
from pathlib import Path

import psutil

from common.cloud.errors import MachineError
from common.cloud.ledger import Ledger
from common.cloud.transport import Done, call, harmless
from common.cloud.watchdog import PIDFILE, is_watched
from tests.cloud.fake_runpod import Pod

NVIDIA_SMI = r"""#!/bin/bash
case "$*" in
  *utilization*) for _ in 1 2 3 4; do echo 0; done ;;
  *driver_version*) for _ in 1 2 3 4; do echo "NVIDIA A100-SXM4-80GB, 580.65.06"; done ;;
  *topo*) echo "GPU0 X NV12 NV12 NV12" ;;
  *) echo "| Driver Version: 580.65.06   CUDA Version: 13.0 |" ;;
esac
"""


class Pods:
    """Starts and ends them; the image's /start.sh, which would start sshd, is a sleep here."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def started(self, pod: Pod) -> None:
        home = self.folder / pod.id
        (home / "bin").mkdir(parents=True)
        (home / "bin" / "nvidia-smi").write_text(NVIDIA_SMI)
        (home / "bin" / "nvidia-smi").chmod(0o755)
        (home / "bin" / "runpodctl").write_text("#!/bin/bash\nexit 1\n")
        (home / "bin" / "runpodctl").chmod(0o755)
        start = re.fullmatch(r"bash -c 'echo (\S+) \| base64 -d \| bash'", pod.body["args"])
        assert start is not None
        script = base64.b64decode(start[1]).decode().replace("exec /start.sh", "exec sleep 100000")
        given = pod.body["env"] | {"RUNPOD_API_KEY": f"key-of-{pod.id}", "RUNPOD_POD_ID": pod.id}
        self.processes[pod.id] = subprocess.Popen(
            ["bash", "-c", script], env=environment(home) | given, cwd=home, start_new_session=True
        )
        (home / "pid").write_text(str(self.processes[pod.id].pid))

    def ended(self, pod: Pod) -> None:
        """The provider pulls the plug: the group and everything that lives in its folder."""
        self._end(pod.id)

    def _end(self, pod_id: str) -> None:
        process = self.processes[pod_id]
        home = str(self.folder / pod_id)
        for other in psutil.process_iter():
            try:
                if other.pid != process.pid and other.environ().get("HOME") == home:
                    other.kill()
            except (psutil.Error, OSError):
                continue
        process.poll()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def end_all(self) -> None:
        """What a test that failed has left."""
        for pod_id, process in self.processes.items():
            if process.poll() is None:
                self._end(pod_id)

    def alive(self) -> list[str]:
        """Also of pods that another process started."""
        pids = {path.parent.name: path.read_text() for path in self.folder.glob("*/pid")}
        return sorted(pod_id for pod_id, pid in pids.items() if pid and _runs(int(pid)))


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def end_watchdogs(folder: Path) -> None:
    """End the watchdogs of all rentings below a folder: after a test that failed they would wait for its deadline."""
    for path in folder.rglob(PIDFILE):
        if is_watched(Ledger(path.parent)):
            with contextlib.suppress(FileNotFoundError, psutil.NoSuchProcess):  # it ends just now, by itself
                watchdog = psutil.Process(int(path.read_text()))
                watchdog.kill()
                watchdog.wait(10)


class LocalShell:
    """A transport to such a pod: a shell in its folder, which is gone with it."""

    def __init__(self, pods: Pods, pod_id: str) -> None:
        self.pods, self.pod_id, self.home = pods, pod_id, pods.folder / pod_id

    def run(self, script: str, stdin: bytes = b"", timeout_s: float = 60.0) -> Done:
        if self.pod_id not in self.pods.alive():
            raise MachineError("no such machine")
        words = [f"{name}={value}" for name, value in environment(self.home).items()]
        return call(["env", "-i", *words, "bash", "-c", script], stdin, timeout_s, cwd=self.home)


def environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in harmless(os.environ).items() if name in ("LANG", "XDG_CACHE_HOME")}
    return kept | {
        "PYTHONPATH": f"{home}/lab",
        "HOME": str(home),
        "PATH": f"{home}/bin:{os.environ['PATH']}",
        "HF_HUB_OFFLINE": "1",
    }
