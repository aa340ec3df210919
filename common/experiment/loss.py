"""The account of the loss, for the terminal, the last line and a figure: where `common.predict` meets a result."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console

from common.analysis.learning.evidence import Shown
from common.analysis.scaling.figures import DPI
from common.analysis.scaling.loss_figure import largest_bar, loss
from common.analysis.scaling.table import print_scaling, stdout
from common.analysis.views import Account
from common.analysis.wording import about, streams
from common.core.beside import Beside
from common.experiment.report import scaling_summary
from common.predict.calibrate import stored_priors
from common.predict.card_table import beside_sentences, beside_table
from common.predict.knock_out import TOLERANCE, KnockOut, knock_outs
from common.predict.measured import NotPredictableError, predict_result
from common.store.schema import Result

TITLE, FIGURE = "Where the rest of n times goes", "loss"


def print_loss(result: Result, console: Console | None = None) -> None:
    """The scaling table, each plan's loss in four bars, and what became of the knock-out."""
    console = console or stdout()
    print_scaling(result, console)
    console.print()
    told = account(result)
    for line in (*told.table, *told.sentences):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def account(result: Result) -> Account:
    """Each plan's loss in four bars, as a table and as a figure, and what became of the knock-out; or why not."""
    try:
        found = predict_result(result, stored_priors())
    except NotPredictableError as error:
        return Account(TITLE, [], [f"No account of the loss: {error}."], {})
    sentences = [*beside_sentences(found, result), *map(knock_out_line, knock_outs(found))]
    return Account(TITLE, beside_table(found), sentences, {FIGURE: lambda result: _figure(result, found)})


def knock_out_line(one: KnockOut) -> str:
    """What a knock-out shows, in a sentence."""
    verdict = "PASS" if one.passed else "FAIL"
    return (
        f"Knock-out at {streams(one.concurrency)}: {verdict}: slower all-reduces cost {one.plan}"
        f" {one.lost_s * 1e3:.2f} ms a token, and its communication bar grew by {one.bar_s * 1e3:.2f} ms"
        f" ({one.error:+.0%}, limit {TOLERANCE:.0%}); before"
        f" {1 / one.plain_s:.1f} tok/s, with that growth {1 / one.foretold_s:.1f}, measured {1 / one.slowed_s:.1f}."
    )


def shows_loss(result: Result) -> Shown:
    """For the checklist: the largest bar of the largest plan under the most streams, and what became of the test."""
    try:
        found = predict_result(result, stored_priors())
    except NotPredictableError as error:
        return Shown(missing=str(error))
    told, tests = [one for one in found if one.bars is not None and not one.slowed], knock_outs(found)
    if not told or not tests:
        return Shown(missing="no plan was measured beside its base, and with slower all-reduces, at the same load")
    most = max(told, key=lambda one: (one.plan.devices, one.concurrency))
    assert most.bars is not None
    name, share = largest_bar(most.bars)
    passed = sum(one.passed for one in tests)
    lost = f"{most.plan} at {streams(most.concurrency)} loses {most.bars.lost / most.bars.ideal:.0%}"
    return Shown(f"{lost}, {share:.0%} to {name}; knock-out: {passed} of {len(tests)} PASS")


def loss_summary(result: Result) -> dict[str, Any]:
    """The scaling benchmark's summary, and for each load of the knock-out what it cost and what the bar took in."""
    try:
        found = knock_outs(predict_result(result, stored_priors()))
    except NotPredictableError:
        found = []
    tests = {
        f"{one.plan}/c{one.concurrency}": {
            "lost_s_per_token": one.lost_s,
            "bar_s_per_token": one.bar_s,
            "error": one.error,
            "passed": one.passed,
        }
        for one in found
    }
    return {**scaling_summary(result), "knock_out": tests}


def write_loss_figure(result: Result, stem: Path) -> list[Path]:
    """Write `<stem>.loss.png`, the four bars of every plan at every load; its path.

    Raises:
        OSError: it cannot be written.
    """
    path = stem.with_name(f"{stem.name}.{FIGURE}.png")
    drawn = account(result).figures
    for draw in drawn.values():
        draw(result).savefig(path, dpi=DPI)
    return [path] if drawn else []


def _figure(result: Result, found: Sequence[Beside]) -> Figure:
    shown = sorted((one for one in found if one.bars is not None), key=lambda one: one.slowed)
    plans = [(_name(one), one.bars) for one in shown if one.bars is not None]
    return loss(plans, about(result), told=sum(not one.slowed for one in shown))


def _name(one: Beside) -> str:
    return f"{one.plan}{' slowed' if one.slowed else ''}\n{streams(one.concurrency)}"
