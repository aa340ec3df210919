"""A result file: what one run of an experiment measured, in a form that explains itself.

The dataclasses are the schema: pydantic validates files against them, and `python -m common.store.schema` writes
them out as JSON Schema (`results/schema.json`).
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter

from common.core.arrivals import Arrivals
from common.core.mix import MixedWorkload
from common.core.plan import ParallelPlan
from common.core.stats import Estimate
from common.core.verdict import Verdict
from common.core.workload import RecordedWorkload, Workload

SCHEMA_VERSION = 2

Status = Literal["ok", "failed", "skipped"]
RunStatus = Literal["running", "interrupted", "complete"]


@dataclass(frozen=True)
class CaseError:
    """Why a case failed or was skipped, and what to do about it."""

    kind: str
    message: str
    remedy: str


@dataclass(frozen=True)
class Check:
    """One thing that was verified; `passed` is None where it could not be."""

    name: str
    passed: bool | None
    detail: str


@dataclass
class Case:
    """One plan x workload x arrivals.

    `repeats` are flat and raw, one dict per repeat, with the keys of `vllm bench serve` (milliseconds, tokens per
    second), `start` (which engine start) and `repeat`; everything else in the file is in SI units. `id` names the case
    within its run. `model` is the model where it is not the run's own (`config["model"]`): its shape stands in
    `config["other_models"]`, and it is compared only with cases of the same.
    """

    id: str
    plan: ParallelPlan
    curve: str
    workload: Workload | RecordedWorkload | MixedWorkload
    arrivals: Arrivals
    status: Status = "ok"
    flags: list[str] = field(default_factory=list)
    error: CaseError | None = None
    predicted: list[Estimate] = field(default_factory=list)
    repeats: list[dict[str, float]] = field(default_factory=list)
    summary: list[Estimate] = field(default_factory=list)
    engine: dict[str, Any] = field(default_factory=dict)
    monitor: dict[str, float] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    client: Verdict | None = None
    model: str | None = None

    @property
    def is_invalid(self) -> bool:
        """Whether the client, not the engine, made the case's numbers: they are shown, and compared with nothing."""
        return self.client is not None and self.client.word == "INVALID"


@dataclass(frozen=True)
class Guess:
    """What a person expected before the run began: the answer to `question`, which the numbers of `case` give."""

    question: str
    unit: str
    case: str
    value: float


@dataclass
class Result:
    """One run of an experiment."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    experiment: str
    method_version: int
    run_id: str
    resume_key: str
    argv: list[str]
    config: dict[str, Any]
    environment: dict[str, Any]
    status: RunStatus = "running"
    cases: list[Case] = field(default_factory=list)
    cost: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    guess: Guess | None = None
    schema_version: int = SCHEMA_VERSION


RESULT = TypeAdapter(Result)


def json_schema() -> str:
    """The schema as JSON Schema, indented, with a final newline."""
    return json.dumps(RESULT.json_schema(), indent=2) + "\n"


if __name__ == "__main__":
    sys.stdout.write(json_schema())
