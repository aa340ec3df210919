"""A run that must end in time: which cases it can afford, the most valuable first."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from common.experiment.estimate import OVERHEAD_S, estimate
from common.experiment.roofline import Roofline
from common.experiment.spec import Configuration, Spec
from common.store.schema import CaseError

Todo = tuple[int, Spec]  # a case under one engine start


@dataclass
class Budget:
    """Seconds that a run may take.

    An engine starts once and then serves cases of high and low value, so time is kept back: a case is measured only
    where all that is worth more, engine starts included, still fits behind it. Estimates are held against the clock as
    the run goes on; a machine that turns out half as fast gets half as far.
    """

    seconds: float
    roofline: Roofline
    clock: Callable[[], float] = time.monotonic
    _todo: list[Todo] = field(default_factory=list)
    _value: dict[str, int] = field(default_factory=dict)  # by id; less is worth more
    _began_s: float = 0.0
    _estimated_s: float = 0.0  # of what was done

    def affordable(
        self, specs: Sequence[Spec], starts: int, repeat_base_last: bool = False
    ) -> tuple[list[Spec], list[Spec]]:
        """Cases that should fit, and those that should not, both in the order given: the most valuable first.

        What fits is what a dry run promises: the same estimate.
        """
        kept: list[Spec] = []
        left_out: list[Spec] = []
        for spec in specs:
            planned = estimate([*kept, spec], starts, self.roofline, repeat_base_last)
            (kept if planned.seconds <= self.seconds else left_out).append(spec)
        return kept, left_out

    def begin(self, todo: Sequence[Todo], by_value: Sequence[Spec]) -> None:
        """The clock runs from now on."""
        self._todo, self._value = list(todo), {spec.id: place for place, spec in enumerate(by_value)}
        self._began_s = self.clock()

    def affords(self, todo: Todo, running: Todo | None) -> bool:
        """Whether this case leaves time for all that is still to come and worth more; `running`: see `_needed_s`."""
        value = self._value[todo[1].id]
        better = [other for other in self._todo if self._value[other[1].id] < value]
        spent_s = self.clock() - self._began_s
        slower = max(1.0, spent_s / self._estimated_s) if self._estimated_s else 1.0
        once_s = 0.0 if self._estimated_s else self.roofline.once_s
        needed_s = once_s + self._needed_s([todo, *better], running)
        return OVERHEAD_S + spent_s + slower * needed_s <= self.seconds

    def started(self, configuration: Configuration) -> None:
        """Take down that an engine has started."""
        self._estimated_s += self.roofline.start_s(configuration.plan) + (
            0.0 if self._estimated_s else self.roofline.once_s
        )

    def ended(self, todo: Todo, measured: bool) -> None:
        """Take down that a case is not to come any more, because it was measured, or was not."""
        self._todo = [other for other in self._todo if other != todo]
        self._estimated_s += todo[1].seconds(self.roofline) if measured else 0.0

    def broken(self, configuration: Configuration) -> None:
        """Take down that an engine does not start: its cases need no time any more."""
        self._todo = [other for other in self._todo if other[1].configuration != configuration]

    def _needed_s(self, todo: Sequence[Todo], running: Todo | None) -> float:
        """Seconds of cases and of their engine starts; the engine of `running`, any of its cases, is up already."""
        up = None if running is None else (running[0], running[1].configuration)
        engines = {(start, spec.configuration) for start, spec in todo} - {up}
        starts_s = sum(self.roofline.start_s(configuration.plan) for _, configuration in engines)
        return starts_s + sum(spec.seconds(self.roofline) for _, spec in todo)

    @property
    def spent(self) -> CaseError:
        """Why a case is left out."""
        message = f"no time was left for it in {self.seconds / 60:.3g} minutes"
        return CaseError("budget", message, "Give more with --max-minutes or --max-usd")
