"""How a wrong command line is answered: in one line, not in tyro's frame."""

from __future__ import annotations

import contextlib
import functools
import io
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from types import MappingProxyType
from typing import Annotated, Any, TypeVar

import docstring_parser
import tyro

from common.machine.folders import typed

Parsed = TypeVar("Parsed")
LISTED = "', '"  # between the words of an option that takes several
NO_NUMBER = re.compile(
    r"Error parsing (--[\w-]+): (?:no type matching [^']*?\b(INT|FLOAT)\b[^']*|[^']*?\b(int|float)\b[^']*)"
    r"'(.*?)'(?:\]|\.? |$)"
)
SEVERAL = re.compile(r"Error parsing (--[\w-]+): Could not find valid parse for arguments: \['(.*?)'\]")


def optional(shown: str) -> Any:  # noqa: ANN401  # tyro does not name its type
    """What `--help` shows for the value of an option that may be left out; by itself tyro offers None there, twice."""
    return tyro.conf.arg(metavar=shown, help_behavior_hint="")


def several_of(choices: Sequence[str]) -> Any:  # noqa: ANN401  # tyro does not name its type
    """The same for an option that takes some of these words."""
    return optional(f"{{{','.join(choices)}}} [...]")


Count = Annotated[int | None, optional("INT")]
Number = Annotated[float | None, optional("FLOAT")]
Text = Annotated[str | None, optional("TEXT")]


@contextlib.contextmanager
def wrong_in_one_line() -> Iterator[None]:
    """Around tyro's parsing alone: what it says in a frame becomes one `error:` line on stderr; its exit code stays."""
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            yield
    except SystemExit as end:
        if end.code:
            sys.stderr.write(f"error: {typed(one_line(box.getvalue()))}\n")
        raise


def with_whole_lines(kind: type[Parsed]) -> type[Parsed]:
    """The same dataclass, whose options' docstrings `--help` wraps anew: tyro keeps ends of lines that are indented."""
    said: dict[str, str] = {}
    for base in filter(is_dataclass, reversed(kind.__mro__)):
        said |= _docstrings(base)
    for option in fields(kind):  # type: ignore[arg-type]  # tyro takes nothing but dataclasses here
        if option.name in said:
            paragraphs = re.split(r"\n\s*\n", said[option.name])
            text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
            option.metadata = MappingProxyType({**option.metadata, "help": text})
    return kind


@functools.cache  # it reads the source anew, which takes longer than the rest of parsing
def _docstrings(kind: type) -> dict[str, str]:
    found = docstring_parser.parse_from_object(kind).params
    return {one.arg_name: one.description for one in found if one.description}


def later(command: Callable[..., None]) -> Callable[..., functools.partial[None]]:
    """The command with its signature, which when parsed is only bound to its arguments: parsing ends before it runs."""

    @functools.wraps(command)
    def bound(*values: object, **options: object) -> functools.partial[None]:
        return functools.partial(command, *values, **options)

    return bound


def one_line(box: str) -> str:
    """What tyro says in a frame, as one line: up to the reference to --help, which is added shorter."""
    text = " ".join(line.strip("│╭╮╰╯─ ") for line in box.splitlines()[1:])
    if unknown := re.search(r"Unrecognized options: ([^\s,]+)", text):
        near = re.search(r"Perhaps you meant: *(--[\w-]+)", text)
        hint = f"; did you mean {near.group(1)}?" if near else "."
        return f"unknown option {unknown.group(1)}{hint} See --help"
    if "Missing from" in text and (missing := re.findall(r"^. {5}(--[^│|]*?) *[│|]?$", box, re.MULTILINE)):
        return f"missing: {', '.join(missing)}. See --help"
    text = re.sub(r"\s+", " ", text.partition("For full helptext")[0]).strip()
    if number := NO_NUMBER.search(text):
        flag, *kinds, values = number.groups()
        kind = "a whole number" if any(one in ("INT", "int") for one in kinds) else "a number"
        return f"{flag} {' '.join(values.split(LISTED))}: {kind} is needed. See --help"
    if several := SEVERAL.search(text):
        return f"{several[1]} {' '.join(several[2].split(LISTED))}: it does not take that. See --help"
    text = re.sub(r"(?<=one of \()[^)]*'None'[^)]*(?=\))", _typable, text)
    text = re.sub(r"-{5,}|[+|](?= |$)", "", text)  # the frame, where the terminal has no box characters
    text = re.sub(r"Got errors:.*|Argument helptext:.*", "", text).strip().rstrip(".")
    return f"{text}. See --help"


def _typable(choices: re.Match[str]) -> str:
    """The choices of an option that may be left out: tyro has them in a set, with a None that nobody can type."""
    return ", ".join(sorted(set(choices[0].split(", ")) - {"'None'"}))
