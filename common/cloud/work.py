"""What is done on a machine: send the code, make the environment, fetch the model, run, bring results home."""

from __future__ import annotations

import contextlib
import io
import shlex
import subprocess
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.cloud.cost import spent
from common.cloud.errors import MachineError, ProviderError
from common.cloud.home import Fetched, fetch
from common.cloud.prices import DATA
from common.cloud.session import Session
from common.cloud.transport import Done, Transport

EVENING = "run_distributed_benchmark"
SET_UP_S = 2400.0  # an environment with vLLM, or a large model; the deadline stands above it
RUN = """nvme=/opt/dlami/nvme; models="$HOME/models"
if [ -d $nvme ] && { mkdir -p $nvme/models || sudo -n install -d -o "$USER" $nvme/models; } 2>/dev/null; then
  models=$nvme/models; fi
"""
RUN += 'cd "$HOME/lab" && export HF_HOME="${HF_HOME:-$models}" && if [ -f "$HOME/.hf-token" ]; then HF_TOKEN=$(cat '
RUN += '"$HOME/.hf-token"); export HF_TOKEN; fi && '


@dataclass(frozen=True)
class Job:
    """An experiment to be run: its script, its arguments, and what it needs."""

    script: str
    arguments: tuple[str, ...] = ()
    model: str | None = None
    venv: str | None = None
    """An environment that is there already; none is made."""
    env: tuple[tuple[str, str], ...] = ()

    @property
    def fills_its_time(self) -> bool:
        """Whether it takes as long as it is given: the whole evening, where its arguments do not say how long."""
        named = {word.partition("=")[0].replace("_", "-") for word in self.arguments}
        return Path(self.script).stem == EVENING and not named & {"--max-minutes", "--max-usd"}


@dataclass
class Worker:
    """A machine at work."""

    session: Session
    machine_id: str
    transport: Transport
    results: Path

    def set_up(self, root: Path, job: Job, hf_token: str | None) -> None:
        """Send code and token, make the environment, and fetch the model while no engine waits.

        Raises:
            MachineError: it failed, or the machine is gone.
        """
        self._check(self.transport.run("mkdir -p lab && tar -xzf - -C lab", packed(root), 300), "sending the code")
        if hf_token:
            store = 'umask 077; cat > "$HOME/.hf-token"'
            self._check(self.transport.run(store, hf_token.encode()), "storing the token")
        venv = "" if job.venv is None else f"export LAB_VENV={shlex.quote(job.venv)}\n"
        self.stage("bootstrap", venv + (DATA / "bootstrap.sh").read_text(encoding="utf-8"), SET_UP_S)
        if job.model is not None:
            ask = "import sys; from common.engines.models import find_model; find_model(sys.argv[1], print)"
            command = f"{RUN}.venv/bin/python -c {shlex.quote(ask)} {shlex.quote(job.model)}"
            self.stage("download", command, SET_UP_S)

    def run(self, job: Job) -> int:
        """Run the experiment, fetching results all the while; its exit code. Stops before the deadline.

        Raises:
            MachineError: the machine is gone.
        """
        words = [".venv/bin/python", job.script, "--results-dir", "results", *job.arguments]
        exports = "".join(f"export {name}={shlex.quote(value)}; " for name, value in job.env)
        return self.stage("experiment", f"{exports}{RUN}exec {shlex.join(words)}", None)

    def stage(self, kind: str, script: str, limit_s: float | None) -> int:
        """Run a script detached and wait for it; one with a limit must succeed, one without fetches results.

        Raises:
            MachineError: the machine is gone, or a stage that must succeed did not.
        """
        session, pauses = self.session, self.session.pauses
        name = f"{kind}-{sum(one['event'] == 'stage' for one in session.ledger.events())}"
        session.note("stage", name=name)
        session.say(f"{name} begins")
        send = f'mkdir -p "$HOME/lab-run" && cat > "$HOME/lab-run/{name}.sh"'
        starter = (DATA / "stage.sh").read_text(encoding="utf-8")
        self._insist(send, script.encode())
        self._insist(f"set -- {name}\n{starter}")
        began = pulled = heard = session.clock.now()
        while True:
            session.clock.sleep(pauses.stage_poll_s)
            now = session.clock.now()
            try:
                code = self._exit_of(name)
                heard = now
            except MachineError as error:
                code = None
                if now - heard > pauses.silent_s:
                    self._check_exists(error)
                    heard = now
            if code is None and limit_s is None and now - pulled >= pauses.pull_s:
                self.pull()
                session.say(self._so_far(kind, now - began))
                pulled = session.clock.now()
            if code is not None:
                return self._ended(name, code, limit_s)
            if session.left_s < pauses.wind_down_s or (limit_s is not None and now - began > limit_s):
                return self._stop(name, limit_s)

    def pull(self) -> Fetched | None:
        """Fetch results once; None where the machine did not answer, or the disk here did not take them."""
        try:
            fetched = fetch(self.transport, self.session.ledger, self.results)
        except (MachineError, OSError) as error:  # of the machine, or of the disk here
            self.session.say(f"results not fetched this time: {error}")
            return None
        if fetched.files:
            self.session.say(f"{len(fetched.files)} files home")
        self.session.note("fetched", files=len(fetched.files), listed=fetched.listed, complete=fetched.complete)
        return fetched

    def last_pull(self, tries: int = 3) -> bool:
        """Fetch until all that lies there is here; whether it is."""
        for _ in range(tries):
            fetched = self.pull()
            if fetched is not None and fetched.complete:
                return True
            self.session.clock.sleep(self.session.pauses.poll_s)
        return False

    def _ended(self, name: str, code: int, limit_s: float | None) -> int:
        self.session.note("stage_ended", name=name, code=code)
        self._keep_log(name)
        if limit_s is not None and code != 0:
            raise MachineError(f"{name} failed: {self._last_line(name)}")
        self.session.say(f"{name} ended with {code}")
        return code

    def _stop(self, name: str, limit_s: float | None) -> int:
        """Time is over: end the stage; what it has saved is fetched afterwards."""
        self.session.say(f"{name} is stopped: its time is over")
        self.session.note("stage_stopped", name=name)
        with contextlib.suppress(MachineError):
            self.transport.run('kill -TERM -- "-$(cat "$HOME/lab-run/stage.pid")"')
            self.session.clock.sleep(self.session.pauses.poll_s)
        self._keep_log(name)
        if limit_s is not None:
            raise MachineError(f"{name} took too long")
        return -15

    def _so_far(self, kind: str, seconds: float) -> str:
        """Time, dollars, and how long is left."""
        events = self.session.ledger.events()
        usd = spent(events, self.session.clock.now())
        price = "" if usd is None else f", ${usd:.2f} so far"
        return f"{kind}: {seconds / 60:.0f} min{price}, {self.session.left_s / 60:.0f} min to the deadline"

    def _exit_of(self, name: str) -> int | None:
        answer = self.transport.run(f'cat "$HOME/lab-run/{name}.exit" 2>/dev/null || true').out.strip()
        return int(answer) if answer.isdigit() else None

    def _check_exists(self, error: MachineError) -> None:
        """A silent machine may be gone; whether it is, the provider says."""
        with contextlib.suppress(ProviderError):
            found = self.session.provider.get(self.machine_id)
            if found is None or found.state != "running":
                raise MachineError(f"{self.machine_id} is gone: the provider no longer runs it") from error

    def _insist(self, script: str, stdin: bytes = b"") -> None:
        """Do what does no harm twice, until the machine answers."""
        began = self.session.clock.now()
        while True:
            try:
                return self._check(self.transport.run(script, stdin), "starting a stage")
            except MachineError as error:
                if self.session.clock.now() - began > self.session.pauses.silent_s:
                    self._check_exists(error)
                    raise
                self.session.clock.sleep(self.session.pauses.poll_s)

    def _check(self, answer: Done, what: str) -> None:
        if answer.code != 0:
            raise MachineError(f"{what} failed: {answer.err.strip()[-200:]}")

    def _keep_log(self, name: str) -> None:
        with contextlib.suppress(MachineError):
            log = self.transport.run(f'tail -c 4000000 "$HOME/lab-run/{name}.log"', timeout_s=60).out
            (self.session.ledger.folder / f"{name}.log").write_bytes(log)

    def _last_line(self, name: str) -> str:
        try:
            lines = (self.session.ledger.folder / f"{name}.log").read_text(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        return lines[-1][-300:] if lines else "it left no output"


def packed(root: Path) -> bytes:
    """The checkout as tar.gz: what git tracks or does not ignore, without results.

    Raises:
        MachineError: git does not answer.
    """
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise MachineError(f"{root} is no git checkout, so what to send is not known: clone the lab") from error
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name in _sendable(listed.decode().split("\0")):
            if (root / name).is_file():
                tar.add(root / name, name, recursive=False)
    return buffer.getvalue()


def _sendable(names: Sequence[str]) -> list[str]:
    """Not results, and nothing that looks like a key that somebody left in the checkout."""
    secret = (".env", ".pem", ".key", "id_rsa", "id_ed25519", "credentials")
    return sorted(name for name in set(names) if name and not name.startswith("results/") and not name.endswith(secret))
