"""A count and its noun."""

from __future__ import annotations


def plural(count: float, noun: str) -> str:
    """`1 request`, `1,600 requests`; for nouns that take an s."""
    return f"{count:,g} {noun}{'' if count == 1 else 's'}"
