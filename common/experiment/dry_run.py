"""What a run would do, without doing it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from common.core.plural import plural
from common.experiment import recordings, report
from common.experiment.estimate import Estimate
from common.experiment.spec import Spec
from common.store.files import ResultPaths, load


def print_dry_run(
    specs: Sequence[Spec],
    skipped: Mapping[str, str],
    planned: Estimate,
    usd_per_hour: float | None,
    begun: ResultPaths | None = None,
) -> int:
    """Print cases, those that are skipped (id and reason), engine starts, minutes and dollars; the exit code.

    `begun` is the interrupted result that the run would go on with.

    Raises:
        StoreError: it cannot be read.
    """
    recording = recordings.used_by(specs)
    if recording is not None:
        sys.stdout.write(f"workload: {recording.form}, {plural(len(recording.entries), 'request')} read\n")
    for note in recordings.notes(specs):
        sys.stdout.write(f"note: {note}\n")
    width = max(24, *(len(case_id) for case_id in (*(spec.id for spec in specs), *skipped)))
    for spec in specs:
        sys.stdout.write(f"{spec.id:{width}} {spec.in_words()}, {plural(spec.repeats, 'repeat')}\n")
    for case_id, reason in skipped.items():
        sys.stdout.write(f"{case_id:{width}} skipped: {reason}\n")
    if begun is not None:
        ids = {spec.id for spec in specs}
        measured = sum(case.status == "ok" and case.id in ids for case in load(begun.json).cases)
        there = f"{measured} of {plural(len(specs), 'case')} {'is' if measured == 1 else 'are'} measured there"
        sys.stdout.write(f"note: the run would go on with {begun.json}: {there} (--no-resume starts afresh)\n")
    usd = planned.usd(usd_per_hour)
    price = "" if usd is None else f", about ${usd:.2f}"
    minutes = planned.seconds / 60
    work = f"{plural(planned.cases, 'case')}, {plural(planned.engine_starts, 'engine start')}"
    work = work if begun is None else f"all of it: {work}"
    sys.stdout.write(f"{work}, about {plural(round(minutes), 'minute')}{price}\n")
    summary: dict[str, Any] = {"cases": planned.cases, "engine_starts": planned.engine_starts}
    summary |= {"minutes": round(minutes, 1), "usd": usd}
    if recording is not None:
        summary["workload"] = recordings.about(recording)
    report.print_last_line(None, "dry-run", summary)
    return 0
