"""What makes one script different from another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.engines.models import Model
from common.experiment.listing import Skipped
from common.experiment.spec import Spec
from common.machine.devices import Machine
from common.store.schema import Result


def any_case_failed(result: Result) -> bool:
    """Whether something that was begun did not come to its end."""
    return any(case.status == "failed" for case in result.cases)


@dataclass(frozen=True)
class Experiment:
    """What makes one script different from another: its name, its cases, how its result is read.

    `failed` says of a result whether the exit code must be 1.
    """

    name: str
    method_version: int
    cases: Callable[[Any, Model, Machine], tuple[Sequence[Spec], Sequence[Skipped]]]
    print_result: Callable[[Result], None]
    summary: Callable[[Result], dict[str, Any]]
    failed: Callable[[Result], bool] = any_case_failed
    write_report: Callable[[Result, Path], list[Path]] | None = None  # files beside `<stem>.json`, given `<stem>`
