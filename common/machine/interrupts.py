"""A Ctrl-C is never lost, wherever in the code it falls."""

from __future__ import annotations

import _thread
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

AGAIN_S = 0.05


@contextmanager
def none_lost() -> Iterator[None]:
    """Within, a Ctrl-C that falls into a finalizer comes again a moment later.

    Python runs `__del__` wherever garbage is collected, and passes over what is raised there: without this a Ctrl-C in
    the collection before a repeat is a line about an ignored exception, and the run goes on.
    """
    told = sys.unraisablehook
    again: list[threading.Timer] = []

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            told(unraisable)
            return
        again.append(threading.Timer(AGAIN_S, _press))  # here it would be passed over once more
        again[-1].daemon = True
        again[-1].start()

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = told
        for timer in again:
            timer.cancel()


def _press() -> None:
    """Send a real signal, which ends a wait in the kernel too."""
    if sys.platform == "win32":
        _thread.interrupt_main()
    else:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
