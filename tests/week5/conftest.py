"""Scripts of week5/ in this process, on the real engines that all tests share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from common.experiment import bench, preflight, prepare
from common.machine.ceilings import Ceilings, measure_ceilings
from common.machine.devices import find_machine
from tests.experiment.script import Script, load_script
from tests.shared_engines import SharedEngines


@pytest.fixture(scope="session")
def ceilings() -> Ceilings | None:
    """This machine's, measured once."""
    return measure_ceilings(find_machine())


@pytest.fixture
def real_script(
    engines: SharedEngines,
    ceilings: Ceilings | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[[str], Script]:
    """A script by its name, run from elsewhere.

    vLLM is not asked again whether it knows `ENGINE_ARGS`, and a repeat that was held up is measured again only once.
    """
    monkeypatch.setattr(bench, "AGAIN", 1)
    monkeypatch.setattr(prepare, "VllmLauncher", lambda *_: engines)
    monkeypatch.setattr(prepare, "measure_ceilings", lambda _: ceilings)
    monkeypatch.setattr(preflight, "check_arguments", lambda *_: None)
    monkeypatch.chdir("/")
    return lambda name: Script(load_script(name), monkeypatch, capsys)
