"""What a sweep needs to know of a case to be, whatever is measured in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from common.core.plan import ParallelPlan
from common.core.recording import Recording
from common.engines.models import Model
from common.engines.settings import EngineSettings
from common.experiment.bench import Bench
from common.experiment.roofline import Roofline
from common.store.schema import Case


@dataclass(frozen=True)
class Configuration:
    """What an engine must be; cases that agree in it share one start.

    `changed` are fields of `EngineSettings` in which it differs from the run's pinned ones. With `kv_like` it has as
    many KV blocks as that plan's engine has, whatever its own memory would hold. `model` is served in place of the
    run's.
    """

    plan: ParallelPlan
    kv_like: ParallelPlan | None = None
    changed: tuple[tuple[str, Any], ...] = ()
    model: Model | None = None

    def settings(self, pinned: EngineSettings) -> EngineSettings:
        """The run's settings with the changes."""
        served = pinned
        if self.model is not None:
            served = replace(pinned, model=str(self.model.folder), served_name=self.model.name)
        return replace(served, **dict(self.changed))


class Spec(Protocol):
    """A case to be. Each kind says how it is measured, how long that takes and how it reads in a dry run."""

    @property
    def id(self) -> str:
        """Unique within a run, the same in the run that resumes it."""

    @property
    def configuration(self) -> Configuration:
        """The engine it is measured on."""

    @property
    def repeats(self) -> int:
        """How often it is measured under one engine start."""

    @property
    def streams(self) -> list[int]:
        """Batch sizes that it will decode at, as far as they are known beforehand."""

    @property
    def context_tokens(self) -> int:
        """Tokens of its longest request, prompt and answer."""

    @property
    def recording(self) -> Recording | None:
        """Where its requests were recorded, if they were."""

    def unmeasured(self) -> Case:
        """The case before anything is known of it."""

    def measure(self, bench: Bench, case: Case, ladder: list[Case]) -> None:
        """Add this start's repeats to `case`, and cases that were found on the way to `ladder`.

        Raises:
            EngineError: the engine died, or answered nothing.
        """

    def seconds(self, roofline: Roofline) -> float:
        """How long one start's repeats will take, warm-up included: an estimate."""

    def in_words(self) -> str:
        """Load and lengths, for a person."""


Engine = TypeVar("Engine")


def order_of_starts(engines: Sequence[Engine], starts: int) -> list[tuple[int, Engine]]:
    """(start, engine) pairs: engines interleaved, every other round reversed, so that drift does not favour one."""
    rounds = [(start, engines if start % 2 == 0 else engines[::-1]) for start in range(starts)]
    return [(start, engine) for start, order in rounds for engine in order]
