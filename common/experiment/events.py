"""What a sweep tells whoever watches it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from common.core.plan import ParallelPlan
from common.store.schema import Case


@dataclass(frozen=True)
class EngineStarting:
    """An engine start begins."""

    plan: ParallelPlan
    start: int


@dataclass(frozen=True)
class EngineReady:
    """An engine serves."""

    plan: ParallelPlan
    startup_s: float | None


@dataclass(frozen=True)
class EngineGone:
    """An engine is ended, and whether nothing of it is left."""

    plan: ParallelPlan
    clean: bool


@dataclass(frozen=True)
class Measuring:
    """A repeat (or warm-up) is under way: requests done, of how many, and output chunks a second so far."""

    case_id: str
    label: str
    done: int
    requests: int
    chunks_per_s: float


@dataclass(frozen=True)
class RepeatDone:
    """A repeat is measured."""

    case_id: str
    repeat: int
    output_throughput: float | None


@dataclass(frozen=True)
class CaseDone:
    """A case is saved: measured under one engine start, failed, or skipped."""

    case: Case


@dataclass(frozen=True)
class Said:
    """One line worth knowing."""

    text: str


Event = EngineStarting | EngineReady | EngineGone | Measuring | RepeatDone | CaseDone | Said
Watcher = Callable[[Event], None]
