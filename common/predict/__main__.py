"""`python -m common.predict evaluate CASES.json --calibrate-devices 1 2 --json OUT`, and `learn`: new priors."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from common.machine.command_line import later, optional, wrong_in_one_line
from common.machine.reader import while_read
from common.predict.calibrate import stored_priors
from common.predict.cases import CaseFileError, Measured, Skipped, read_cases
from common.predict.evaluate import Predicted, document, refused, summary
from common.predict.evaluate import evaluate as evaluate_cases
from common.predict.held_out import evaluate_held_out
from common.predict.learn import learn as learn_priors

BAD_INPUT = 2
SHOWN = 10  # skipped rows


def evaluate(
    cases: Annotated[Path, tyro.conf.Positional],
    calibrate_devices: tuple[int, ...] = (1, 2),
    json_out: Annotated[Path | None, tyro.conf.arg(name="json")] = None,
    held_out: Annotated[int | None, optional("FOLDS")] = None,
) -> None:
    """Predict the larger plans of measured cases from the smaller ones, and print the errors.

    Args:
        cases: A file of measured cases (scaling-cases/1).
        calibrate_devices: Device counts whose rows calibrate; all others are predicted.
        json_out: Where rows, skipped rows and summary are written as JSON.
        held_out: In so many folds, each fold's groups predicted by priors that are learnt from the others; by default
            with the priors that are kept, whatever they were learnt from.
    """
    if json_out is not None and json_out.resolve() == cases.resolve():
        raise CaseFileError(f"--json {json_out}: that is the file of cases; name another")
    measured, unread = _read(cases, calibrate_devices)
    rows, outside = _predict(measured, calibrate_devices, held_out)
    skipped = refused(unread, measured, calibrate_devices)
    if json_out is not None:
        _write(json_out, json.dumps(document(rows, skipped)))
    if rows:
        _show(rows)
    unsure = sum(row.confidence != "normal" for row in rows)
    Console().print(
        f"{len(rows)} rows predicted, {unsure} of them with low confidence; {len(skipped)} refused;"
        f" {len(outside)} in groups without a calibrating row."
    )
    more = f"and {len(skipped) - SHOWN} more" + ("" if json_out is None else f": {json_out}")
    said = [f"skipped {one.id}: {one.reason}" for one in skipped[:SHOWN]] + [more] * (len(skipped) > SHOWN)
    for line in said:
        Console(stderr=True).print(line, markup=False, soft_wrap=True)
    if not rows:
        counts = " ".join(map(str, calibrate_devices))
        raise CaseFileError(
            f"{cases}: nothing to predict. A group needs a row on --calibrate-devices {counts} and one on another count"
        )


def learn(
    cases: Annotated[Path, tyro.conf.Positional],
    json_out: Annotated[Path, tyro.conf.arg(name="json")],
    calibrate_devices: tuple[int, ...] = (1, 2),
) -> None:
    """Learn new priors from measured cases; about a minute for sixty groups.

    Args:
        cases: A file of measured cases (scaling-cases/1).
        json_out: Where the priors are written, in the form of data/priors.json.
        calibrate_devices: Device counts whose rows calibrate; the others are what is to be predicted well.
    """
    measured, _ = _read(cases, calibrate_devices)
    try:
        priors = learn_priors(measured, calibrate_devices)
    except ValueError as error:
        raise CaseFileError(f"{cases}: {error}") from error
    _write(json_out, json.dumps({"about": f"learnt from {cases.name}"} | priors.to_json(), indent=1))


def _read(cases: Path, calibrate_devices: Sequence[int]) -> tuple[list[Measured], list[Skipped]]:
    if not calibrate_devices or min(calibrate_devices) < 1:
        raise CaseFileError("--calibrate-devices needs counts from 1, as in --calibrate-devices 1 2")
    return read_cases(cases)


def _predict(
    measured: Sequence[Measured], calibrate_devices: Sequence[int], held_out: int | None
) -> tuple[list[Predicted], list[Skipped]]:
    if held_out is None:
        return evaluate_cases(measured, calibrate_devices, stored_priors())
    try:
        return evaluate_held_out(measured, calibrate_devices, held_out)
    except ValueError as error:
        raise CaseFileError(f"--held-out {held_out}: {error}") from error


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise CaseFileError(f"--json {path}: cannot be written ({error.strerror})") from error


def _show(rows: Sequence[Predicted]) -> None:
    table = Table(title="Absolute relative error of predicted speed-up on n devices")
    for name in ("n", "kind", "rows", "groups", "median", "p90", "inside", "width", "Amdahl", "ours"):
        table.add_column(name, justify="left" if name == "kind" else "right")
    for line in summary(rows):
        shares = [line.get(key) for key in ("median", "p90", "inside", "median_half_width")]
        shares += [line.get(key) for key in ("amdahl_median", "same_rows_median")]
        cells = ["" if share is None else f"{share:.1%}" for share in shares]
        table.add_row(str(line["devices"]), line["kind"], str(line["n"]), str(line["groups"]), *cells)
    Console().print(table)
    Console().print(
        "inside, width: measured values in their interval, half its width. ours: on the rows that Amdahl fits."
    )


def main() -> int:
    """Parse, evaluate, and return the exit code."""
    try:
        with wrong_in_one_line():
            chosen = tyro.extras.subcommand_cli_from_dict(
                {"evaluate": later(evaluate), "learn": later(learn)},
                prog="python -m common.predict",
                description=__doc__,
            )
        chosen()
    except CaseFileError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201  # this is the command line
        return BAD_INPUT
    return 0


if __name__ == "__main__":
    sys.exit(while_read(main))
