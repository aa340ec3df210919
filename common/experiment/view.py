"""Watching a sweep: one live screen on a terminal, plain lines elsewhere. Both are fed by the sweep's events."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from common.experiment.events import (
    CaseDone,
    EngineGone,
    EngineReady,
    EngineStarting,
    Event,
    Measuring,
    RepeatDone,
    Said,
)

MARKS = {"ok": "ok", "failed": "FAILED", "skipped": "skipped"}


class View:
    """Shows events; use as a context manager around the sweep. Everything goes to stderr: stdout is for the result."""

    def __init__(self, planned_s: float | None, usd_per_hour: float | None, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False)
        self._planned_s, self._usd_per_hour = planned_s, usd_per_hour
        self._began = time.monotonic()
        self._rows: dict[str, tuple[str, str]] = {}
        self._engine = self._activity = ""
        self._share = 0.0
        self._live: Live | None = None

    def __enter__(self) -> View:
        if self.console.is_terminal and not self.console.is_dumb_terminal:
            self._live = Live(self._screen(), console=self.console, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, event: Event) -> None:
        """Take in one event."""
        line = self._take(event)
        if self._live is not None:
            self._live.update(self._screen())
        elif line:
            self.console.print(Text(f"[{time.monotonic() - self._began:5.0f} s] {line}"), soft_wrap=True)

    def _take(self, event: Event) -> str:
        """Update the screen's state; returns the line for a plain log, or nothing."""
        match event:
            case EngineStarting():
                self._engine = f"{event.plan}: engine starting (start {event.start + 1})"
            case EngineReady():
                took = f", {event.startup_s:.0f} s with imports, which are made once for all" if event.startup_s else ""
                self._engine = f"{event.plan}: engine up{took}"
            case EngineGone():
                self._engine = f"{event.plan}: engine gone" + ("" if event.clean else ", BUT SOMETHING IS LEFT")
            case Measuring():
                self._share = event.done / event.requests
                done = f"{event.done}/{event.requests} requests"
                self._activity = f"{event.case_id} {event.label}: {done}, {event.chunks_per_s:.0f} tok/s"
                return ""
            case RepeatDone():
                rate = "no answer" if event.output_throughput is None else f"{event.output_throughput:.1f} tok/s"
                self._rows[event.case_id] = ("measuring", rate)
                return f"{event.case_id}: repeat {event.repeat + 1}: {rate}"
            case CaseDone():
                case = event.case
                shown = case.error.message if case.error else self._rows.get(case.id, ("", ""))[1]
                self._rows[case.id] = (MARKS[case.status], shown)
                return f"{case.id}: {MARKS[case.status]}" + (f": {case.error.message}" if case.error else "")
            case Said():
                self._activity = event.text
                return event.text
        return self._engine

    def _screen(self) -> RenderableType:
        table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
        for case_id, (mark, shown) in list(self._rows.items())[-12:]:
            table.add_row(case_id, mark, Text(shown, overflow="ellipsis", no_wrap=True))
        activity = Text(self._activity, overflow="ellipsis", no_wrap=True)
        bar = Padding(ProgressBar(1.0, self._share, width=40), 0)  # alone, a bar does not end its line
        return Group(table, Text(self._engine), activity, bar, Text(self._footer()), Text(_memory()))

    def _footer(self) -> str:
        elapsed_s = time.monotonic() - self._began
        footer = f"{elapsed_s / 60:.1f} min so far"
        if self._planned_s is None:
            return footer
        left_s = max(0.0, self._planned_s - elapsed_s)
        footer += f", about {left_s / 60:.1f} left"
        if self._usd_per_hour is not None:
            usd_so_far, usd_left = (self._usd_per_hour * seconds / 3600 for seconds in (elapsed_s, left_s))
            footer += f"; ${usd_so_far:.2f} so far, about ${usd_left:.2f} left"
        return footer


def _memory() -> str:
    import psutil

    memory = psutil.virtual_memory()
    return f"memory {memory.used / 2**30:.1f} of {memory.total / 2**30:.1f} GiB"


def say_plainly(text: str) -> None:
    """One line before a view exists."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201  # this is the command line
