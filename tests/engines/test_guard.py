"""The guard, on small process trees that behave as badly as engines do."""

from __future__ import annotations

import json
import os
import platform
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from common.engines.guard import ENGINE_NICENESS
from common.engines.guard_link import close_importer, importer_for
from common.engines.guarded import GuardedProcess, free_port, port_is_free

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="engines, and so guards, are Linux only"),
]

# A server with a worker in another session that ignores polite signals, maps shared memory and holds a named
# semaphore: vLLM at its worst.
STUBBORN = """
import _multiprocessing, mmap, os, signal, socket, subprocess, sys, time
if sys.argv[1] == "worker":
    signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.signal(signal.SIGINT, signal.SIG_IGN)
    semaphore = _multiprocessing.SemLock(1, 1, 1, "/" + os.path.basename(sys.argv[3]), False)
    with open(sys.argv[3], "w+b") as file:
        file.truncate(4096); shared = mmap.mmap(file.fileno(), 4096)
        time.sleep(600)
subprocess.Popen([sys.executable, __file__, "worker", *sys.argv[2:]], start_new_session=True)
listener = socket.socket(); listener.bind(("127.0.0.1", int(sys.argv[2]))); listener.listen()
print("up", flush=True)
time.sleep(600)
"""


@pytest.fixture
def stubborn(tmp_path: Path) -> Iterator[tuple[list[str], int, Path]]:
    script = tmp_path / "stubborn.py"
    script.write_text(STUBBORN)
    shared = Path(f"/dev/shm/lab-test-{os.getpid()}-{time.monotonic_ns()}")
    port = free_port()
    yield [sys.executable, str(script), "main", str(port), str(shared)], port, shared
    shared.unlink(missing_ok=True)
    semaphore_of(shared).unlink(missing_ok=True)


def semaphore_of(shared: Path) -> Path:
    """Where glibc keeps the worker's semaphore."""
    return shared.with_name(f"sem.{shared.name}")


def environment(tmp_path: Path) -> dict[str, str]:
    scratch = tmp_path / "scratch"
    scratch.mkdir(exist_ok=True)
    (scratch / "left-behind").write_text("x")
    return {**os.environ, "TMPDIR": str(scratch)}


def wait_for(condition: object, seconds: float = 10.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def gives_way(pid: int) -> bool:
    """Whether a process stands behind others for a core, its session too where cores are shared out by session."""
    session = Path(f"/proc/{pid}/autogroup")
    of_session = session.read_text().split()[2:] if session.exists() else []
    return psutil.Process(pid).nice() == ENGINE_NICENESS and of_session in ([], [str(ENGINE_NICENESS)])


def test_stop_ends_the_tree_and_proves_it(tmp_path: Path, stubborn: tuple[list[str], int, Path]) -> None:
    command, port, shared = stubborn
    process = GuardedProcess(command, environment(tmp_path), tmp_path / "log", port)
    wait_for(lambda: process.owns_port() and shared.exists())
    assert process.alive
    pids = process.pids()
    assert len(pids) == 2
    assert gives_way(pids[0])
    gone = process.stop()
    assert gone.clean
    assert gone.killed == 1, "the worker ignores SIGINT and SIGTERM"
    assert gone.shared_memory_removed == (str(shared), str(semaphore_of(shared)))
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert port_is_free(port)
    assert not (tmp_path / "scratch").exists()
    assert not process.alive


def test_other_peoples_shared_memory_stays(tmp_path: Path, stubborn: tuple[list[str], int, Path]) -> None:
    """A file that was there before, though our worker maps it, and one that somebody makes meanwhile."""
    command, port, shared = stubborn
    shared.write_bytes(b"\0" * 4096)
    foreign = Path(f"{shared}-foreign")
    try:
        with GuardedProcess(command, environment(tmp_path), tmp_path / "log", port) as process:
            wait_for(process.owns_port)
            foreign.write_text("not ours")
        assert shared.exists()
        assert foreign.read_text() == "not ours"
    finally:
        foreign.unlink()


def owned_by_a_script(
    tmp_path: Path, server: tuple[list[str], int, Path], importer: dict[str, Any] | None
) -> tuple[subprocess.Popen[str], list[int]]:
    """A script that serves and waits; the pids of its guard, of the importer if there is one, and of the tree."""
    command, port, shared = server
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
        import time
        from pathlib import Path
        from common.engines.guarded import GuardedProcess
        log, importer = Path({str(tmp_path / "log")!r}), {importer!r}
        process = GuardedProcess({command!r}, {environment(tmp_path)!r}, log, {port}, importer)
        while not process.owns_port() or not Path({str(shared)!r}).exists():
            time.sleep(0.02)
        importer = process._guard.importer
        print(process._guard.pid, importer.pid if importer else "", *process.pids(), flush=True)
        time.sleep(600)
        """)
    )
    owner = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    with owner.stdout:
        return owner, [int(pid) for pid in owner.stdout.readline().split()]


def test_what_is_made_until_the_last_moment_goes_too(tmp_path: Path) -> None:
    """A script killed while its engine starts: one that maps files faster than anybody looks."""
    marker = f"lab-test-{os.getpid()}-{time.monotonic_ns()}"
    busy = f"""
    import mmap, time
    for number in range(100_000):
        with open(f"/dev/shm/{marker}-{{number}}", "w+b") as file:
            file.truncate(4096)
            kept = mmap.mmap(file.fileno(), 4096) if number == 0 else [kept, mmap.mmap(file.fileno(), 4096)]
        time.sleep(0.01)
    """
    script = f"""
    import os, signal, sys, time
    from pathlib import Path
    from common.engines.guarded import GuardedProcess
    process = GuardedProcess([sys.executable, "-c", {textwrap.dedent(busy)!r}], {environment(tmp_path)!r},
                             Path({str(tmp_path / "log")!r}), 1)
    while not list(Path("/dev/shm").glob("{marker}-*")):
        time.sleep(0.01)
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGKILL)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False, timeout=30)
    wait_for(lambda: not list(Path("/dev/shm").glob(f"{marker}-*")))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_script_takes_its_engine_along(
    tmp_path: Path, stubborn: tuple[list[str], int, Path], number: signal.Signals
) -> None:
    _, port, shared = stubborn
    owner, pids = owned_by_a_script(tmp_path, stubborn, None)
    assert len(pids) == 3
    owner.send_signal(number)
    owner.wait()
    wait_for(lambda: not any(psutil.pid_exists(pid) for pid in pids))
    assert port_is_free(port)
    assert not shared.exists()
    assert not semaphore_of(shared).exists()


def test_a_killed_guard_takes_the_engine_along(tmp_path: Path) -> None:
    port = free_port()
    process = GuardedProcess(["sleep", "600"], environment(tmp_path), tmp_path / "log", port)
    wait_for(process.pids)
    pids = process.pids()
    psutil.Process(process._guard.pid).kill()
    wait_for(lambda: not any(psutil.pid_exists(pid) for pid in pids))
    assert not process.alive
    process.stop()


def test_the_end_of_the_command_is_reported(tmp_path: Path) -> None:
    with GuardedProcess(["sh", "-c", "exit 7"], environment(tmp_path), tmp_path / "log", free_port()) as process:
        wait_for(lambda: not process.alive)
        assert process.returncode == 7


def test_survivors_of_a_dead_main_process_are_ended(tmp_path: Path) -> None:
    command = ["sh", "-c", "setsid sleep 600 & kill -9 $$"]
    with GuardedProcess(command, environment(tmp_path), tmp_path / "log", free_port()) as process:
        wait_for(lambda: not process.alive)
        assert process.returncode == -signal.SIGKILL
        assert process.stop().clean
        assert process.pids() == []


# --- forked from an importer


def importer(tmp_path: Path, imports: str = "json") -> dict[str, Any]:
    """One that imports a module of the standard library, or of `tmp_path`, instead of vLLM."""
    code = f"""
    from common.engines import importer
    importer.IMPORTED, importer.libraries_to_preload = [{imports!r}], lambda: None
    importer.main()
    """
    env = {name: value for name, value in environment(tmp_path).items() if name != "TMPDIR"}
    path = os.pathsep.join([str(tmp_path), env.get("PYTHONPATH", "")])
    return {"command": [sys.executable, "-c", textwrap.dedent(code)], "env": env | {"PYTHONPATH": path}}


def module(tmp_path: Path, name: str, code: str) -> list[str]:
    """The command that runs some code as a module, which is found where the importer looks."""
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(code))
    return [sys.executable, "-m", name]


@pytest.fixture
def forked(tmp_path: Path, stubborn: tuple[list[str], int, Path]) -> Iterator[tuple[list[str], int, Path]]:
    """The stubborn server as a module."""
    command, port, shared = stubborn
    yield [sys.executable, "-m", "stubborn", *command[2:]], port, shared
    close_importer()


def test_engines_are_forked_one_after_another_and_each_goes_whole(
    tmp_path: Path, forked: tuple[list[str], int, Path]
) -> None:
    command, port, shared = forked
    imported_s, importers = [], set()
    for _ in range(2):
        process = GuardedProcess(command, environment(tmp_path), tmp_path / "log", port, importer(tmp_path))
        wait_for(lambda process=process: process.owns_port() and shared.exists())
        pids = process.pids()
        assert len(pids) == 2, "the server and its worker"
        assert gives_way(pids[0])
        assert psutil.Process(pids[1]).nice() == ENGINE_NICENESS
        guard, forked_from = process._guard.pid, process._guard.importer
        assert guard is not None and forked_from is not None
        gone = process.stop()
        assert gone.clean and gone.killed == 1, "the worker ignores SIGINT and SIGTERM"
        assert gone.shared_memory_removed == (str(shared), str(semaphore_of(shared)))
        assert not any(psutil.pid_exists(pid) for pid in pids)
        wait_for(lambda guard=guard: not psutil.pid_exists(guard))
        assert process.stop() == replace(gone, seconds=process.stop().seconds) and process.pids() == []
        imported_s.append(process.imported_before_s)
        importers.add(forked_from.pid)
    assert imported_s[0] == 0.0 < imported_s[1], "the second had nothing to import"
    (kept,) = importers
    assert psutil.pid_exists(kept)
    close_importer()
    assert not psutil.pid_exists(kept)


def test_an_importer_answers_in_a_fork_and_goes_on(tmp_path: Path) -> None:
    kept = importer_for(importer(tmp_path), tmp_path / "log")
    for _ in range(2):
        assert (
            json.loads(kept.answer({"question": "versions"}, 20.0))["versions"]["python"] == platform.python_version()
        )
    assert kept.answer({"question": "no such"}, 20.0) == b"", "a fork that fails says nothing"
    assert kept.alive
    close_importer()
    assert kept.answer({"question": "versions"}, 20.0) == b"", "one that has ended does not either"


def test_an_answer_that_does_not_come_is_not_waited_for(tmp_path: Path) -> None:
    module(tmp_path, "costly", "import time; time.sleep(600)")
    with pytest.raises(TimeoutError):
        importer_for(importer(tmp_path, imports="costly"), tmp_path / "log").answer({"question": "versions"}, 0.3)
    close_importer()


def test_engines_beside_each_other_share_an_importer_and_end_apart(tmp_path: Path) -> None:
    module(tmp_path, "costly", "import time; time.sleep(1)")
    waits = module(tmp_path, "waits", "import time; time.sleep(600)")
    wanted = importer(tmp_path, imports="costly")

    def start(name: str) -> GuardedProcess:
        (tmp_path / name).mkdir()
        return GuardedProcess(waits, environment(tmp_path / name), tmp_path / name / "log", free_port(), wanted)

    first, second = start("first"), start("second")
    wait_for(lambda: first.pids() and second.pids())
    assert first.imported_before_s == 0.0 and second.imported_before_s < 0.5, "both waited for the same imports"
    (one,), (other,) = first.pids(), second.pids()
    assert first.stop().clean
    assert not psutil.pid_exists(one) and psutil.pid_exists(other) and second.alive
    third = start("third")
    wait_for(third.pids)
    assert third.imported_before_s > 1.0
    close_importer()
    assert second.alive and third.alive, "the importer is needed for the next start only"
    assert third.stop().clean and second.stop().clean
    assert not psutil.pid_exists(other)


@pytest.mark.parametrize("killed", ["script", "guard"])
def test_whoever_is_killed_the_engine_goes_too(
    tmp_path: Path, forked: tuple[list[str], int, Path], killed: str
) -> None:
    _, port, shared = forked
    owner, (guard, kept, server, worker) = owned_by_a_script(tmp_path, forked, importer(tmp_path))
    os.kill(owner.pid if killed == "script" else guard, signal.SIGKILL)
    try:
        if killed == "guard":  # nobody is left to end a worker that ignores every signal but one
            wait_for(lambda: not psutil.pid_exists(guard) and not psutil.pid_exists(server))
            assert psutil.pid_exists(kept), "it serves the script's next engine"
            os.kill(worker, signal.SIGKILL)
            owner.kill()
        wait_for(lambda: not any(psutil.pid_exists(pid) for pid in (guard, kept, server, worker)))
    finally:
        owner.kill()
        owner.wait()
    assert port_is_free(port)
    assert killed == "guard" or not shared.exists()


@pytest.mark.parametrize("imports_for_s", [0.0, 0.5])
def test_a_script_killed_while_its_importer_imports_leaves_nothing(tmp_path: Path, imports_for_s: float) -> None:
    """Also where it had not begun to: that takes it a moment."""
    module(tmp_path, "slow", "import time; time.sleep(600)")
    code = f"""
    import time
    from pathlib import Path
    from common.engines.guarded import GuardedProcess
    process = GuardedProcess(["x"], {{}}, Path({str(tmp_path / "log")!r}), 1, {importer(tmp_path, "slow")!r})
    print(process._guard.importer.pid, flush=True)
    time.sleep(600)
    """
    owner = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    with owner.stdout:
        importing = int(owner.stdout.readline())
    time.sleep(imports_for_s)
    assert psutil.pid_exists(importing)
    owner.kill()
    owner.wait()
    wait_for(lambda: not psutil.pid_exists(importing))


def test_a_stop_while_it_imports_leaves_nothing_to_begin_later(tmp_path: Path) -> None:
    module(tmp_path, "slow", "import time; time.sleep(600)")
    began = module(tmp_path, "begun", f"open({str(tmp_path / 'begun')!r}, 'w').close()")
    process = GuardedProcess(
        began, environment(tmp_path), tmp_path / "log", free_port(), importer(tmp_path, imports="slow")
    )
    importing = process._guard.importer
    assert importing is not None and process.alive and process.pids() == []
    gone = process.stop()
    assert gone.clean and gone.seconds < 10
    assert not psutil.pid_exists(importing.pid) and not (tmp_path / "begun").exists()
    close_importer()


def test_what_a_forked_command_is_given_and_how_it_ended(tmp_path: Path) -> None:
    code = """
    import os, sys, tempfile
    print(sys.argv[1:], os.environ["OWN"], "PYTHONPATH" in os.environ, tempfile.gettempdir(), flush=True)
    sys.exit(7)
    """
    command = [*module(tmp_path, "tells", code), "one", "--two"]
    env = environment(tmp_path) | {"OWN": "mine"}
    env.pop("PYTHONPATH", None)
    with GuardedProcess(command, env, tmp_path / "log", free_port(), importer(tmp_path)) as process:
        wait_for(lambda: not process.alive)
        assert process.returncode == 7
    assert (tmp_path / "log").read_text() == f"['one', '--two'] mine False {tmp_path / 'scratch'}\n"
    close_importer()


def test_an_importer_that_cannot_import_ends_its_command_and_the_next_gets_another(tmp_path: Path) -> None:
    module(tmp_path, "broken", "raise SystemExit(3)")
    (tmp_path / "well.py").write_text("")
    well = module(tmp_path, "well", "")
    for imports, code in (("broken", 3), ("json", 0)):
        wanted = importer(tmp_path, imports)
        with GuardedProcess(well, environment(tmp_path), tmp_path / "log", free_port(), wanted) as process:
            wait_for(lambda process=process: not process.alive)
            assert process.returncode == code
            assert process.imported_before_s == 0.0
    close_importer()


def test_an_importer_that_died_meanwhile_is_replaced(tmp_path: Path) -> None:
    wanted, command = importer(tmp_path), module(tmp_path, "quick", "")
    for _ in range(2):
        with GuardedProcess(command, environment(tmp_path), tmp_path / "log", free_port(), wanted) as process:
            wait_for(lambda process=process: not process.alive)
            assert process.returncode == 0
        assert process._guard.importer is not None
        kept = psutil.Process(process._guard.importer.pid)
        kept.kill()
        wait_for(lambda kept=kept: kept.status() == psutil.STATUS_ZOMBIE)
    close_importer()


def test_a_strangers_port_is_not_ours(tmp_path: Path) -> None:
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        port = stranger.getsockname()[1]
        with GuardedProcess(["sleep", "600"], environment(tmp_path), tmp_path / "log", port) as process:
            wait_for(process.pids)
            assert not process.owns_port()
            assert not process.stop().clean, "the port is not free, and the proof says so"
