"""Real engines that tests and scripts share: who asks for what already serves is given that.

Only what ends an engine, or looks at how it ends, starts one of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.core.plan import ParallelPlan
from common.engines.engine import Engine
from common.engines.guarded import Gone
from common.engines.models import find_model
from common.engines.settings import EngineSettings
from common.engines.vllm_engine import VllmEngine, VllmLauncher
from common.machine.devices import Device, find_machine

MOST = 3  # at once: one and two devices, which most tests ask for and which stay, and another: idle ranks cost time too
TIMED_BATCHES = (1, 2, 4, 8, 16, 1024)
# As a script settles them on this machine, with --engine-args of these words: in float32 tokens can be compared exactly
EXACT = ("--dtype", "float32")
ENGINE_ARGS = ("--engine-args", " ".join(EXACT))

Wanted = tuple[ParallelPlan, tuple[Device, ...], EngineSettings]


def settings_of(model: str, **changed: Any) -> EngineSettings:  # noqa: ANN401  # any of the settings
    """What a script pins for a reference model on CPUs."""
    found = find_model(model, say=lambda _: None)
    pinned: dict[str, Any] = {"async_scheduling": False, "extra_args": EXACT}
    return EngineSettings(str(found.folder), found.name, **pinned | changed)


def devices_of(plan: ParallelPlan) -> list[Device]:
    """This machine's devices, shared where the plan needs more."""
    devices = find_machine().devices
    return [devices[rank % len(devices)] for rank in range(plan.devices)]


def _is_common(wanted: Wanted) -> bool:
    plan, _, settings = wanted
    return plan in (ParallelPlan(), ParallelPlan(tp=2)) and settings == settings_of("qwen2-9m")


class Lent:
    """A shared engine; whoever stops it only gives it back."""

    def __init__(self, engine: VllmEngine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # whatever the engine has
        return getattr(self._engine, name)

    def stop(self) -> Gone:
        return Gone(0.0, 0, (), (), (), True)


class SharedEngines:
    """Starts what is not there, and ends what few ask for: another start takes some seconds."""

    def __init__(self, logs: Path) -> None:
        self._launcher = VllmLauncher(logs, TIMED_BATCHES, lambda _: None)
        self._serving: dict[Wanted, VllmEngine] = {}
        self.starts = 0

    def start(self, plan: ParallelPlan, devices: Sequence[Device], settings: EngineSettings) -> Engine:
        """As `VllmLauncher.start`, which stands behind it."""
        wanted = (plan, tuple(devices), settings)
        engine = self._serving.pop(wanted, None)
        if engine is None or engine.death() is not None:
            while len(self._serving) >= MOST:
                self._end(min(self._serving, key=_is_common))  # of equals the one asked for longest ago
            engine = self._launcher.start(plan, devices, settings)
            self.starts += 1
        self._serving[wanted] = engine  # last: asked for latest
        return Lent(engine)

    def of(self, written: str, model: str = "qwen2-9m") -> Engine:
        """The engine of a plan, in float32."""
        plan = ParallelPlan.parse(written)
        return self.start(plan, devices_of(plan), settings_of(model))

    def close(self) -> None:
        """End all of them, and see that they are gone."""
        for wanted in list(self._serving):
            self._end(wanted)

    def _end(self, wanted: Wanted) -> None:
        gone = self._serving.pop(wanted).stop()
        assert gone.clean, (str(wanted[0]), gone)
