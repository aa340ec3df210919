"""Reads requests from a file: ShareGPT conversations, prompts, or a trace. The form is found from the content.

Files are read from the front and no further than needed, a piece at a time; only the checksum goes over all of it.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import itertools
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, TextIO

from common.core.plural import plural
from common.core.recording import RecordedRequest, Recording
from common.load.workload_forms import Content, EntryError, Form, Limits, columns_of, form_of

LONGEST_ENTRY = 16 << 20  # characters of one line, or of one entry of a list
MOST_ENTRIES = 100_000  # looked at, where hardly any can be used
FORMS = (
    'a ShareGPT list of {"conversations": [...]}, lines of {"prompt": ..., "output_tokens": ...}, or a trace with'
    " timestamp, input_length and output_length as JSON lines or CSV"
)
_GZIP = b"\x1f\x8b"
_GLANCE, _PIECE = 64, 256 << 10
_GAP = re.compile(r"[\s,]*")

Entry = tuple[str, Content]  # where it stands, and what it says


class WorkloadError(ValueError):
    """A workload file cannot be used; the message is one line and ends with the remedy."""


def read_workload(path: Path, limits: Limits) -> Recording:
    """The first `limits.wanted` usable requests of a file, gzip-compressed or not.

    A trace's times count from its first usable request, and its requests are sorted by time: where they go back, all of
    it is read.

    Raises:
        WorkloadError: no such file, none of the forms, an entry that makes no sense, or nothing that can be sent.
    """
    try:
        checksum = _sha256(path)
        with _text(path) as text:
            form, requests, left_out, looked_at = _collect(_entries(text), limits)
    except WorkloadError as problem:
        raise WorkloadError(f"--workload {path}: {problem}") from problem
    notes = [_left_out_note(left_out, looked_at)] if left_out else []
    if form.name == "trace":
        requests, went_back = _by_time(requests)
        requests = requests[: limits.wanted]
        notes += ["The workload's timestamps went back: its requests were sorted by time."] if went_back else []
    kept = tuple(requests)
    return Recording(form.name, checksum, kept, limits.vocab_size, form.block_tokens, dict(left_out), tuple(notes))


def _collect(entries: Iterable[Entry], limits: Limits) -> tuple[Form, list[RecordedRequest], Mapping[str, int], int]:
    """The form of the first entry, the requests of all, those left out by reason, and how many were looked at."""
    form: Form | None = None
    requests: list[RecordedRequest] = []
    left_out: Counter[str] = Counter()
    looked_at, goes_back = 0, False  # where times go back, the earliest request may be the file's last
    for place, content in itertools.islice(entries, MOST_ENTRIES):
        form = form or form_of(content, limits)
        if form is None:
            raise WorkloadError(f"{place} is of no known form; give {FORMS}")
        try:
            outcome = form.read(content)
        except EntryError as problem:
            raise WorkloadError(f"{place} {problem}") from problem
        looked_at += 1
        if isinstance(outcome, str):
            left_out[outcome] += 1
        else:
            goes_back |= form.name == "trace" and bool(requests) and _at(outcome) < _at(requests[-1])
            requests.append(outcome)
        if len(requests) >= limits.wanted and not goes_back:
            break
    if form is None:
        raise WorkloadError(f"is empty; give {FORMS}")
    if not requests:
        raise WorkloadError(
            f"none of its {plural(looked_at, 'request')} can be sent ({_counts(left_out)}); {_way_out(left_out)}"
        )
    return form, requests, left_out, looked_at


def _by_time(requests: list[RecordedRequest]) -> tuple[list[RecordedRequest], bool]:
    """Sorted, with times from the first on; and whether they had to be sorted."""
    ordered = sorted(requests, key=_at)
    first_s = _at(ordered[0])
    return [replace(request, at_s=_at(request) - first_s) for request in ordered], ordered != requests


def _at(request: RecordedRequest) -> float:
    return request.at_s or 0.0


def _counts(left_out: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in left_out.items())


def _left_out_note(left_out: Mapping[str, int], looked_at: int) -> str:
    return f"Of the workload's first {plural(looked_at, 'request')} some were left out: {_counts(left_out)}."


def _way_out(left_out: Mapping[str, int]) -> str:
    if any(reason.startswith("longer") for reason in left_out):
        return 'ask for a longer context with --engine-args "--max-model-len N", as far as the model goes'
    return "give a file with longer prompts and answers"


# --- from bytes to entries


def _sha256(path: Path) -> str:
    if path.exists() and not path.is_file():
        raise WorkloadError("is not a file; give one file")
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as problem:
        raise WorkloadError(f"cannot be read: {problem.strerror}; check the path") from problem


@contextmanager
def _text(path: Path) -> Iterator[TextIO]:
    """The file as text, unpacked if it is packed; what breaks while it is read is one line."""
    try:
        with path.open("rb") as raw:
            packed = raw.read(len(_GZIP)) == _GZIP
            raw.seek(0)
            unpacked = gzip.GzipFile(fileobj=raw) if packed else raw
            with io.TextIOWrapper(unpacked, encoding="utf-8-sig", newline="") as text:
                yield text
    except UnicodeDecodeError as problem:
        raise WorkloadError(f"is not UTF-8 text; give {FORMS}") from problem
    except (EOFError, zlib.error, gzip.BadGzipFile) as problem:
        raise WorkloadError("is a damaged gzip file; copy it again") from problem
    except OSError as problem:
        raise WorkloadError(f"cannot be read: {problem.strerror}; check the path") from problem


def _entries(text: TextIO) -> Iterator[Entry]:
    """Entries of a JSON list, of JSON lines, or of a CSV table with a header."""
    head = ""
    while not head and (piece := text.read(_GLANCE)):
        head = piece.lstrip()
    if "\0" in head:
        raise WorkloadError(f"is not text; give {FORMS}")
    text.seek(0)
    if not head:
        return iter(())
    containers = {"[": _json_list, "{": _json_lines}
    return containers.get(head[0], _table)(text)


def _lines(text: TextIO) -> Iterator[tuple[int, str]]:
    for number in itertools.count(1):
        line = text.readline(LONGEST_ENTRY + 1)
        if not line:
            return
        if len(line) > LONGEST_ENTRY:
            raise WorkloadError(f"line {number} has more than {LONGEST_ENTRY:,} characters; put one request on a line")
        yield number, line


def _json_lines(text: TextIO) -> Iterator[Entry]:
    for number, line in _lines(text):
        if not line.strip():
            continue
        place = f"line {number}"
        try:
            content = _JSON.decode(line)
        except (ValueError, RecursionError) as problem:
            _refuse_number(place, problem)
            raise WorkloadError(
                f"{place} is not a JSON object of its own: {_reason(problem)}; {_hint(line)}"
            ) from problem
        yield place, _object(place, content)


def _json_list(text: TextIO) -> Iterator[Entry]:
    """Entries one at a time: what is read but not yet understood is kept, up to the longest an entry may be."""
    buffer = text.read(_PIECE)
    while "[" not in buffer:
        buffer += text.read(_PIECE)
    at = buffer.index("[") + 1
    line, number = 1 + buffer.count("\n", 0, at), 1
    while True:
        begin = _end_of_gap(buffer, at)
        line += buffer.count("\n", at, begin)
        place = f"entry {number} (line {line})"
        if buffer[begin : begin + 1] == "]":
            return
        try:
            content, at = _JSON.raw_decode(buffer, begin)
        except (ValueError, RecursionError) as problem:
            _refuse_number(place, problem)
            buffer, at = buffer[begin:], 0
            more = "" if len(buffer) > LONGEST_ENTRY else text.read(max(_PIECE, len(buffer)))
            if not more:
                raise WorkloadError(f"{place} is not complete JSON: {_reason(problem)}; {_CUT_SHORT}") from problem
            buffer += more
            continue
        yield place, _object(place, content)
        line += buffer.count("\n", begin, at)
        number += 1


def _end_of_gap(buffer: str, at: int) -> int:
    found = _GAP.match(buffer, at)
    assert found is not None, "the pattern matches nothing, too"
    return found.end()


def _table(text: TextIO) -> Iterator[Entry]:
    last = ""

    def lines() -> Iterator[str]:
        nonlocal last
        for _, last in _lines(text):
            yield last

    rows = csv.reader(lines())
    try:
        names = [name.strip().lower().replace(" ", "_") for name in next(row for row in rows if row)]
        if columns_of(names) is None:
            raise WorkloadError(f"line {rows.line_num} is neither JSON nor the header of a trace; give {FORMS}")
        for row in rows:
            if not row:
                continue
            if len(row) != len(names):
                raise WorkloadError(
                    f"line {rows.line_num} has {plural(len(row), 'column')}, the header {len(names)}; {_hint(last)}"
                )
            yield f"line {rows.line_num}", dict(zip(names, row, strict=True))
    except csv.Error as problem:
        raise WorkloadError(f"line {rows.line_num} is no CSV: {problem}; {_hint(last)}") from problem


def _object(place: str, content: object) -> Content:
    if not isinstance(content, dict):
        raise WorkloadError(f"{place} is not a JSON object; give {FORMS}")
    return content


def _refuse_number(place: str, problem: Exception) -> None:
    """Refuse what is JSON in form and holds a number that is none, or one that no computer reads.

    Raises:
        WorkloadError: it does.
    """
    if isinstance(problem, EntryError):
        raise WorkloadError(f"{place} {problem}") from problem
    if isinstance(problem, ValueError) and not isinstance(problem, json.JSONDecodeError):  # int()'s limit
        raise WorkloadError(f"{place} holds a number of thousands of digits: correct it, or take it out") from problem


def _hint(line: str) -> str:
    """What to do about a line that cannot be read: a file that was cut short ends without an end of line."""
    if line.endswith(("\n", "\r")):
        return "correct that line, or take it out"
    return f"it is the last and {_CUT_SHORT}, or take that line out"


def _no_constant(name: str) -> NoReturn:
    raise EntryError(f"holds {name}, which is no number: correct it, or take it out")


def _reason(problem: BaseException) -> str:
    if isinstance(problem, RecursionError):
        return "nested too deep"
    return str(getattr(problem, "msg", problem))


_JSON: Any = json.JSONDecoder(parse_constant=_no_constant)
_CUT_SHORT = "seems cut short: copy the file again"
