"""Requests and lines as a person reads them.

A script that travels as base64 is named where it stood, and printed below; prose is wrapped.
"""

from __future__ import annotations

import base64
import hashlib
import re
import textwrap

from common.cloud.session import Say

PACKED = re.compile(r"(?<=echo )[A-Za-z0-9+/]{60,}={0,2}(?= \| base64 -d)")
WIDTH = 80


def shown(request: str) -> str:
    """A request with its scripts decoded; put back as base64, they give the very request that would be sent."""
    scripts: list[str] = []

    def named(found: re.Match[str]) -> str:
        scripts.append(base64.b64decode(found[0]).decode())
        checksum = hashlib.sha256(scripts[-1].encode()).hexdigest()[:12]
        return f"<script {len(scripts)}, below: {len(found[0])} characters of base64, sha256 {checksum}>"

    lines = [PACKED.sub(named, request)]
    for number, script in enumerate(scripts, 1):
        lines.append(f"  script {number}:")
        lines += [f"  | {line}" for line in script.splitlines()]
    return "\n".join(lines)


def lines(text: str) -> list[str]:
    """Prose in lines of at most 80 columns; what has no space in it, as an address, stays whole."""
    return textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def wrapped(say: Say) -> Say:
    """The same in such lines."""

    def each(text: str) -> None:
        for line in lines(text):
            say(line)

    return each
