from __future__ import annotations

import io

import pytest
from rich.console import Console

from common.core.plan import ParallelPlan
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
from common.experiment.load_spec import Lengths, LoadSpec
from common.experiment.view import View
from common.store.schema import Case, CaseError

TP2 = ParallelPlan(tp=2)


def case(case_id: str, status: str = "ok", message: str | None = None) -> Case:
    made = LoadSpec(TP2, "fixed", 4, Lengths(8, 4, 10_240), 3, 3).at(4)
    made.id = case_id
    assert status in ("ok", "failed", "skipped")
    made.status = status  # type: ignore[assignment]
    made.error = None if message is None else CaseError("kind", message, "remedy")
    return made


STORY: list[Event] = [
    Said("note: only 1024 files may be open"),
    EngineStarting(TP2, 0),
    EngineReady(TP2, 31.6),
    Measuring("tp2/fixed/c4", "repeat 1", 3, 12, 98.4),
    RepeatDone("tp2/fixed/c4", 0, 96.25),
    CaseDone(case("tp2/fixed/c4")),
    RepeatDone("tp2/fixed/c8", 0, None),
    CaseDone(case("tp2/fixed/c8", "failed", "Worker proc VllmWorker-1 died unexpectedly")),
    CaseDone(case("tp4/fixed/c4", "skipped", "tp4 needs 4 devices, this machine has 2")),
    EngineGone(TP2, False),
]


def shown(events: list[Event], console: Console, usd_per_hour: float | None = None) -> None:
    with View(600.0, usd_per_hour, console) as view:
        for event in events:
            view(event)


def test_not_a_terminal_gets_plain_lines() -> None:
    out = io.StringIO()
    shown(STORY, Console(file=out, force_terminal=False, width=80))
    lines = out.getvalue().splitlines()
    assert "\x1b" not in out.getvalue()
    assert [line.partition("] ")[2] for line in lines] == [
        "note: only 1024 files may be open",
        "tp2: engine starting (start 1)",
        "tp2: engine up, 32 s with imports, which are made once for all",
        "tp2/fixed/c4: repeat 1: 96.2 tok/s",
        "tp2/fixed/c4: ok",
        "tp2/fixed/c8: repeat 1: no answer",
        "tp2/fixed/c8: FAILED: Worker proc VllmWorker-1 died unexpectedly",
        "tp4/fixed/c4: skipped: tp4 needs 4 devices, this machine has 2",
        "tp2: engine gone, BUT SOMETHING IS LEFT",
    ]


def test_markup_in_a_message_is_shown_and_not_obeyed() -> None:
    out = io.StringIO()
    shown([Said("[red]a[/red] and [/nothing]")], Console(file=out, force_terminal=False, width=80))
    assert "[red]a[/red] and [/nothing]" in out.getvalue()


def screen(view: View, width: int = 80) -> list[str]:
    out = Console(width=width, record=True, file=io.StringIO())
    out.print(view._screen())
    return out.export_text().splitlines()


@pytest.mark.parametrize("price", [None, 123.45])
def test_the_live_screen_fits_into_80_columns(price: float | None) -> None:
    view = View(360_000.0, price, Console(width=80, record=True, file=io.StringIO(), force_terminal=True))
    for event in STORY[:-1]:
        view(event)
    view(CaseDone(case("tp2pp2dp2epx4/saturated", "failed", "a very long reason " * 20)))
    view(Measuring("tp2pp2dp2epx4/saturated", "warm-up", 100, 4_096, 123_456.7))
    lines = screen(view)
    assert max(len(line) for line in lines) <= 80
    assert sum("tp2pp2dp2epx4/saturated" in line for line in lines) == 2, "a row, and what is under way; no wrapping"
    text = "\n".join(lines)
    assert "96.2 tok/s" in text
    assert "100/4096 requests" in text
    assert "FAILED" in text, "no meaning by colour alone"
    assert "min so far" in text
    assert ("$" in text) == (price is not None)
    assert "GiB" in text


def test_a_terminal_gets_one_live_screen() -> None:
    out = io.StringIO()
    shown(STORY, Console(file=out, force_terminal=True, width=80, color_system=None))
    assert "\x1b[" in out.getvalue()
    assert "engine gone" in out.getvalue()


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    out = io.StringIO()
    shown(STORY, Console(file=out, force_terminal=True, width=80, color_system=None))
    assert "\x1b[" not in out.getvalue()
    assert "tp2/fixed/c4: ok" in out.getvalue()


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    view = View(60.0, None, Console(width=80, file=io.StringIO(), force_terminal=True))
    for event in STORY:
        view(event)
    out = io.StringIO()
    Console(width=80, file=out, force_terminal=True).print(view._screen())
    codes = [part.partition("m")[0] for part in out.getvalue().split("\x1b[")[1:]]
    assert not any(code.startswith(("3", "4", "9")) for code in codes), codes


def test_many_cases_do_not_push_the_screen_over_the_edge() -> None:
    view = View(60.0, None, Console(width=80, file=io.StringIO(), force_terminal=True))
    for number in range(100):
        view(CaseDone(case(f"tp2/fixed/c{number}")))
    lines = screen(view)
    assert len(lines) <= 20
    assert "tp2/fixed/c99" in "\n".join(lines)


def test_everything_goes_to_stderr_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    with View(60.0, None) as view:
        view(Said("hello"))
    out, err = capsys.readouterr()
    assert out == ""
    assert "hello" in err


def test_an_error_inside_closes_the_screen() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with pytest.raises(ZeroDivisionError), View(60.0, None, console):
        raise ZeroDivisionError
    with View(60.0, None, console):
        pass
