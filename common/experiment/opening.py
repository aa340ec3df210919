"""The result that a run writes to: the interrupted one of the same work on the same machine, or a new one."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Container, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from common.core.recording import Recording
from common.engines.models import Model
from common.engines.settings import EngineSettings
from common.experiment import recordings
from common.experiment.options import Options
from common.experiment.view import say_plainly
from common.machine.devices import Machine
from common.machine.environment import machine_fingerprint, machine_name, scrubbed
from common.store import files
from common.store.schema import Result

# A resumed run may change these; of another interpreter the versions count, and its path is nobody's business
NOT_PART_OF_THE_WORK = (
    *("results_dir", "resume", "dry_run", "dry_run_gpus", "usd_per_hour", "engine_python", "guess"),
    *("max_minutes", "max_usd", "idle_timeout_s", "goal"),
)
YOUR_PATHS = ("--results-dir", "--workload", "--engine-python", "--base-url")


@dataclass(frozen=True)
class Work:
    """Everything that makes two runs the same work, or not; `others` are models measured beside the run's."""

    experiment: str
    method_version: int
    options: Options
    model: Model
    machine: Machine
    settings: EngineSettings
    recording: Recording | None = None
    others: Sequence[Model] = ()


def open_result(work: Work) -> tuple[Result, files.ResultPaths]:
    """The interrupted run of the same work on the same machine, or a new result."""
    config, keyed = _told_apart(work)
    return open_keyed(_place(work), work.method_version, config, keyed)


def unfinished(work: Work) -> files.ResultPaths | None:
    """The interrupted run that `open_result` would go on with.

    Raises:
        StoreError: a file in the experiment's folder cannot be read.
    """
    return _place(work).unfinished(_told_apart(work)[1])


def _place(work: Work) -> Place:
    return Place(work.options.results_dir, work.experiment, work.machine, work.options.resume)


def _told_apart(work: Work) -> tuple[dict[str, Any], list[Any]]:
    """What a result says of its work, and all that makes two runs the same work."""
    asked = asked_for(work.options)
    asked["workload"] = None if work.recording is None else recordings.about(work.recording)
    config = {
        **asked,
        "model": work.model.name,
        "model_shape": asdict(work.model.shape),
        "engine_settings": asdict(work.settings) | {"model": None, "engine": None},
    }
    config |= {"other_models": {model.name: asdict(model.shape) for model in work.others}} if work.others else {}
    keyed = [work.method_version, {**config, "folder": str(work.model.folder)}, machine_fingerprint(work.machine)]
    keyed += [work.settings.engine.versions] if work.settings.engine else []
    return config, keyed


def asked_for(options: Options) -> dict[str, Any]:
    """The options that make a run the work that it is."""
    return {key: value for key, value in asdict(options).items() if key not in NOT_PART_OF_THE_WORK}


@dataclass(frozen=True)
class Place:
    """Where a run's result belongs, and whether an unfinished one is gone on with."""

    results: Path
    experiment: str
    machine: Machine
    resume: bool

    def unfinished(self, keyed: Sequence[Any]) -> files.ResultPaths | None:
        """The interrupted result whose `keyed`, all that makes two runs the same work, is equal.

        Raises:
            StoreError: a file in the experiment's folder cannot be read.
        """
        return files.find_interrupted(self.results, self.experiment, _key(keyed)) if self.resume else None


def _key(keyed: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(keyed, sort_keys=True, default=str).encode()).hexdigest()


def open_keyed(
    place: Place, method_version: int, config: dict[str, Any], keyed: Sequence[Any]
) -> tuple[Result, files.ResultPaths]:
    """The interrupted result whose `keyed`, all that makes two runs the same work, is equal, or a new one."""
    if found := place.unfinished(keyed):
        say_plainly(f"going on with {found.json} (--no-resume starts afresh)")
        result = files.load(found.json)
        return replace(result, status="running"), found
    short_name = str(config["model"]).rpartition("/")[2]
    paths = files.new_paths(place.results, place.experiment, machine_name(place.machine), short_name)
    argv = [scrubbed(word) for word in _without(sys.argv[1:], YOUR_PATHS)]
    config = json.loads(json.dumps(config, default=str)) | {"results_dir": None}
    return Result(place.experiment, method_version, paths.json.stem, _key(keyed), argv, config, {}), paths


def _without(words: Sequence[str], options: Container[str]) -> list[str]:
    """A command line without these options and their values; both `--x y` and `--x=y`, with `-` or `_`."""
    kept: list[str] = []
    value_follows = False
    for word in words:
        name, separator, _ = word.partition("=")
        named = name.replace("_", "-") in options
        if not named and not value_follows:
            kept.append(word)
        value_follows = named and not separator
    return kept
