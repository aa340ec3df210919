"""How commands and files reach a machine: one call, over ssh. Files travel as tar through the same call."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from common.cloud.errors import MachineError

SECRET = re.compile(r"(^|_)(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?|AUTH)(_|$)|^AWS_|^RUNPOD_|^HF_TOKEN", re.I)
SSH_TROUBLE = 255


@dataclass(frozen=True)
class Done:
    """What a command left: exit code and output."""

    code: int
    out: bytes
    err: str


class Transport(Protocol):
    """A shell on a machine."""

    def run(self, script: str, stdin: bytes = b"", timeout_s: float = 60.0) -> Done:
        """Run a bash script there.

        Raises:
            MachineError: the machine was not reached, or did not answer in time.
        """


@dataclass(frozen=True)
class Ssh:
    """A machine reached by ssh; its host key is kept with the renting and not among the user's."""

    host: str
    port: int
    key: Path
    known_hosts: Path
    user: str = "root"

    def command(self, script: str) -> list[str]:
        """The ssh command line."""
        options = {"BatchMode": "yes", "ConnectTimeout": "15", "StrictHostKeyChecking": "accept-new"}
        options |= {"UserKnownHostsFile": str(self.known_hosts), "ServerAliveInterval": "15", "LogLevel": "ERROR"}
        options |= {"IdentitiesOnly": "yes", "ForwardAgent": "no", "SendEnv": "-*"}
        words = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
        where = ["-i", str(self.key), "-p", str(self.port), f"{self.user}@{self.host}"]
        return ["ssh", *words, *where, f"bash -c {shlex.quote(script)}"]

    def run(self, script: str, stdin: bytes = b"", timeout_s: float = 60.0) -> Done:
        """Run a bash script there; ssh's own trouble is told from the script's."""
        done = call(self.command(script), stdin, timeout_s)
        if done.code == SSH_TROUBLE:
            raise MachineError(f"ssh to {self.host}:{self.port}: {done.err.strip()[-200:] or 'no answer'}")
        return done


def call(command: Sequence[str], stdin: bytes, timeout_s: float, cwd: Path | None = None) -> Done:
    """Run a command here, without the secrets of our environment.

    Raises:
        MachineError: it cannot be started, or takes too long.
    """
    try:
        done = subprocess.run(
            command, input=stdin, capture_output=True, timeout=timeout_s, cwd=cwd, env=harmless(os.environ), check=False
        )
    except subprocess.TimeoutExpired as error:
        raise MachineError(f"no answer within {timeout_s:.0f} s") from error
    except OSError as error:
        raise MachineError(f"{command[0]} cannot be started: {error.strerror}") from error
    return Done(done.returncode, done.stdout, done.stderr.decode(errors="replace"))


def harmless(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment without keys and tokens: children need none of them."""
    return {name: value for name, value in environ.items() if name == "SSH_AUTH_SOCK" or not SECRET.search(name)}
