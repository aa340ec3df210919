"""A run against a server that somebody else runs: no engine is started, and vLLM need not be installed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any

from common.core.plural import plural
from common.engines.engine import StartsEngines
from common.engines.failures import EngineError
from common.engines.remote import RemoteLauncher, RemoteServer
from common.engines.settings import EngineSettings
from common.experiment import report
from common.experiment.bench import EXTERNAL
from common.experiment.events import EngineGone, EngineReady, EngineStarting, Event, Said, Watcher
from common.experiment.experiment import Experiment
from common.experiment.guessing import check_guess, question_of, say_question, take_guess
from common.experiment.opening import Place, asked_for, open_keyed
from common.experiment.options import InputError, Options
from common.experiment.prepare import Prepared, Say, calibrated
from common.experiment.run import run
from common.experiment.spec import Spec
from common.load.address import Address
from common.machine.devices import Machine, find_machine
from common.machine.environment import describe_environment, machine_fingerprint
from common.store import files
from common.store.schema import Result

API_KEY = "OPENAI_API_KEY"
SHARES = "host_shares_devices"
OURS_ONLY = (
    *("tp", "cores_per_device", "device_ids", "engine_args", "engine_python", "workload", "time_scale"),
    *("oversubscribe", "allow_shared"),
)
ONE_START = "a server of somebody else's is not started anew: intervals are over repeats inside one start"

Cases = Callable[[Any, tuple[str, ...]], Sequence[Spec]]


@dataclass(frozen=True)
class Asked:
    """A server as it was asked for on the command line; its key comes from the environment alone."""

    base_url: str
    model: str | None
    chat: bool
    idle_timeout_s: float
    api_key: str | None = field(default_factory=lambda: os.environ.get(API_KEY), repr=False)

    def server(self) -> RemoteServer:
        """The server, before it was asked anything.

        Raises:
            ValueError: no address, or a key that no request can carry.
        """
        key = (self.api_key or "").strip() or None
        if key is not None and not (key.isascii() and key.isprintable()):
            raise InputError(f"{API_KEY} holds characters that no request can carry: copy the key again")
        return RemoteServer(Address.parse(self.base_url), self.model, self.chat, key, self.idle_timeout_s)


def run_external(experiment: Experiment, options: Options, cases: Cases, asked: Asked) -> int:
    """Run cases against somebody's server and return the exit code.

    `cases` gives them for the options and the flags that each must have.

    0: all cases ok; 1: a case failed, the server died or hangs; 2: bad input, or it cannot be used; 130: interrupted.
    """

    def prepare(experiment: Experiment, options: Options, held: contextlib.ExitStack) -> Prepared | int:
        return _prepare(experiment, options, held, asked, cases)

    return run(experiment, options, prepare)


def _prepare(
    experiment: Experiment, options: Options, held: contextlib.ExitStack, asked: Asked, cases: Cases
) -> Prepared | int:
    """Check everything that can be wrong, the server last; an exit code where that was all there was to do.

    Raises:
        ValueError: one line, with the remedy.
    """
    _refuse_what_is_ours(options)
    server = asked.server()
    machine = find_machine()
    flags = (EXTERNAL, SHARES) if server.address.loopback and machine.kind == "cpu" else (EXTERNAL,)
    specs = cases(options, flags)
    question = question_of(experiment.name, [spec.unmeasured() for spec in specs])
    check_guess(options.guess, question, experiment.name)
    if options.dry_run:
        say_question(question, experiment.name)
        files.check_writable(options.results_dir, experiment.name)
        return _print_dry_run(specs)
    try:
        server = replace(server, model=server.serves())
    except EngineError as error:
        failure = error.failure
        raise InputError(f"--base-url {asked.base_url}: {failure.message}. {failure.remedy}") from error
    result, paths = _open(experiment, options, server, machine)
    held.enter_context(files.hold(paths))
    if options.preset != "smoke" and ONE_START not in result.warnings:
        result.warnings.append(ONE_START)
    take_guess(result, question, options.guess)

    def launcher(say: Say) -> StartsEngines:
        return RemoteLauncher(server)

    def describe(result: Result, say: Say) -> dict[str, Any]:
        return _environment(machine) | {"client": calibrated(machine, result, say)}

    settings = EngineSettings(model="", served_name=str(server.model))  # nothing is started with them
    return Prepared(machine, settings, None, specs, None, result, paths, launcher, describe, 1, False, told=_told)


def _told(watch: Watcher) -> Watcher:
    """Nothing is started or ended, and no plan is known: those events are said in other words, or not at all."""

    def pass_on(event: Event) -> None:
        match event:
            case EngineStarting() | EngineGone():
                return
            case EngineReady():
                watch(Said("the server answers and serves the model"))
            case _:
                watch(event)

    return pass_on


def _refuse_what_is_ours(options: Options) -> None:
    defaults = Options()
    for name in OURS_ONLY:
        if getattr(options, name) != getattr(defaults, name):
            flag = "--" + name.replace("_", "-")
            raise InputError(f"{flag} is for engines that this script starts: leave it out, or --base-url")


def _open(
    experiment: Experiment, options: Options, server: RemoteServer, machine: Machine
) -> tuple[Result, files.ResultPaths]:
    """A result says nothing of where the server is, nor a path that it serves as a model's name."""
    asked = asked_for(options)
    address = hashlib.sha256(repr(server.address).encode()).hexdigest()
    keyed = [experiment.method_version, {**asked, "base_url": address}, server.model, machine_fingerprint(machine)]
    name = str(server.model)
    shown = PurePath(name).name if name.startswith(("/", "~")) else name
    config = {**asked, "base_url": None, "model": shown or "model", "external": True, "tls": server.address.tls}
    place = Place(options.results_dir, experiment.name, machine, options.resume)
    result, paths = open_keyed(place, experiment.method_version, config, keyed)
    result.argv = [shown if word == name else word for word in result.argv]
    return result, paths


def _environment(machine: Machine) -> dict[str, Any]:
    """Of the client's machine alone: which devices, links and vLLM the server has is not known."""
    described = describe_environment(machine, None)
    unknown = ("devices", "links", "device_kind", "host_shares_devices", "ceilings", "settings", "nvidia")
    kept = {key: value for key, value in described.items() if key not in unknown}
    own = {name: version for name, version in described["versions"].items() if name in ("numpy", "uvloop", "aiohttp")}
    return kept | {"versions": own, "devices": []}


def _print_dry_run(specs: Sequence[Spec]) -> int:
    for spec in specs:
        sys.stdout.write(f"{spec.id:24} {spec.in_words()}, {plural(spec.repeats, 'repeat')}\n")
    sys.stdout.write(f"{plural(len(specs), 'case')}, no engine starts; how long the server takes is not known\n")
    report.print_last_line(None, "dry-run", {"cases": len(specs), "engine_starts": 0, "minutes": None, "usd": None})
    return 0
