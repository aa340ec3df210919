"""A Ctrl-C that falls into a finalizer, where Python passes over it."""

from __future__ import annotations

import gc
import signal
import sys
import time

import pytest

from common.machine.interrupts import none_lost


class PressedWhileCollected:
    """Ctrl-C is pressed while it is collected."""

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


def test_in_a_finalizer_it_comes_again_and_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    passed, began = False, time.monotonic()
    with pytest.raises(KeyboardInterrupt), none_lost():
        PressedWhileCollected()
        gc.collect()
        passed = True
        time.sleep(5)
    assert passed, "Python itself passes over it"
    assert time.monotonic() - began < 4, "a wait is ended, too"
    assert capfd.readouterr().err == ""


def test_another_exception_there_is_told_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def __del__(self) -> None:
            raise ValueError("broken")

    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: told.append(unraisable.exc_type))
    with none_lost():
        Broken()
        gc.collect()
    assert told == [ValueError]


def test_afterwards_the_hook_is_what_it_was_and_nothing_comes_late() -> None:
    before = sys.unraisablehook
    with none_lost():
        PressedWhileCollected()
        gc.collect()
    assert sys.unraisablehook is before
    time.sleep(0.2)
