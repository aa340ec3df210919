"""`python -m common.analysis look`, `report`, `compare` and `share`: read results without running anything."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import tyro

from common.analysis.comparison.compare import RefusedError, compare_files
from common.analysis.comparison.differences import Named
from common.analysis.frames import CHOSEN, RESULTS, chosen_result, load_results
from common.analysis.learning.beliefs import print_beliefs
from common.analysis.learning.questions import print_guess
from common.analysis.newest import empty_words, is_empty, newest_of_ours
from common.analysis.sharing.share import share_results
from common.analysis.views import Account, print_result, save_drawings
from common.experiment.loss import account
from common.machine.command_line import later, wrong_in_one_line
from common.machine.reader import while_read
from common.store.files import StoreError
from common.store.schema import Result

BAD_INPUT = 2


def look(
    file: tyro.conf.Positional[Path | None] = None, result: Path | None = None, out: Path = RESULTS / "figures"
) -> None:
    """Print the table of a result and save its figures.

    Args:
        file: A result file; by default LAB_RESULT, else your newest one with a row, else the newest committed one.
        result: The same, as an option.
        out: Folder for the figures.
    """
    found = load_results(_meant(file or result))[-1]
    print_result(found)
    told = _account(found)
    if told is not None:
        sys.stdout.write("\n".join(["", told.title, *told.table, *told.sentences, ""]))
    print_beliefs(found)
    print_guess(found)
    _say(save_drawings(found, out, told))


def report(
    file: tyro.conf.Positional[Path | None] = None, result: Path | None = None, out: Path = RESULTS / "report"
) -> None:
    """Write a result of any experiment as one HTML file that loads nothing from outside, with the figures beside it.

    It is the experiment's notebook, executed on the result; of one without a notebook, its tables and figures.

    Args:
        file: A result file; by default LAB_RESULT, else your newest one with a row, else the newest committed one.
        result: The same, as an option.
        out: Folder for the page and the figures.
    """
    from common.analysis.html import make_report  # needs nbconvert, which `look` does without

    _say(make_report(_meant(file or result), out, _account))


def compare(
    files: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="A B")],
    factor: tyro.conf.UseAppendAction[tuple[tuple[Named, ...], ...]] = (),
) -> None:
    """Print the ratios B/A of two results of one experiment, with intervals; the last line is JSON.

    Refused (exit 2) where they differ in a factor that is not named: workload and method must always be alike.

    Args:
        files: Two result files, or zips made by `share`; of a zip with several results, share.zip:name.json.
        factor: What they are meant to differ in; several words, or several times.
    """
    if len(files) != 2:
        raise StoreError(f"compare takes two results, A and B: {len(files)} given; name two of them")
    compare_files(*files, list(dict.fromkeys(name for names in factor for name in names)))


def share(
    results: tyro.conf.Positional[tuple[Path, ...]] = (),
    to: Path = Path("share.zip"),
    force: tyro.conf.FlagCreatePairsOff[bool] = False,
    hide: tuple[str, ...] = (),
) -> None:
    """Zip results for somebody else: with requests and export, without logs, names, paths, addresses and keys.

    Names are those of this machine; of a result from another one, name its host and user with --hide.

    Args:
        results: Result files; by default the newest under results/ with a measured row.
        to: The zip.
        force: Replace a zip that is there.
        hide: More words that must not be in it.
    """
    share_results(results or (_newest_to_share(),), to, replace=force, hidden=hide)


def main() -> int:
    """Run a command; 2 when there is nothing to read."""
    commands = {command.__name__: later(command) for command in (look, report, compare, share)}
    try:
        with wrong_in_one_line():
            chosen = tyro.extras.subcommand_cli_from_dict(
                commands, prog="python -m common.analysis", description=__doc__
            )
        chosen()
    except BrokenPipeError:
        raise  # who read has left, and wants no message
    except (StoreError, RefusedError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return BAD_INPUT
    except ModuleNotFoundError as error:
        sys.stderr.write(f"error: {error.name} is missing; pip install -r requirements-look.txt\n")
        return BAD_INPUT
    return 0


def _meant(named: Path | None) -> Path:
    """The result that was named, or chosen by LAB_RESULT, or the newest worth showing; an empty one is said so."""
    if named is not None:
        return _with_rows(named)
    if chosen := os.environ.get(CHOSEN):  # a file of any experiment will do here
        place = Path(chosen).expanduser()
        return _with_rows(chosen_result() if place.is_dir() else place)
    ours, newer = newest_of_ours(RESULTS)
    _note(newer)
    return ours or chosen_result()


def _account(result: Result) -> Account | None:
    """Where the loss went: told by predictions, so in a room above this one; a command may look up."""
    return account(result) if result.experiment == "explain_loss" else None


def _newest_to_share() -> Path:
    ours, newer = newest_of_ours(RESULTS)
    if ours is None:
        raise StoreError(newer or f"no result under {RESULTS}; run a script of week5/ first, or name the file to share")
    _note(newer)
    return ours


def _with_rows(place: Path) -> Path:
    """The place as it is; that its result has nothing to show is said."""
    found = load_results(place)[-1]
    _note(empty_words(found.run_id, found) if is_empty(found) else "")
    return place


def _note(line: str) -> None:
    sys.stderr.write(f"note: {line}\n" if line else "")


def _say(paths: list[Path]) -> None:
    sys.stdout.write("".join(f"{path.absolute()}\n" for path in paths))


if __name__ == "__main__":
    sys.exit(while_read(main))
