"""A count and its noun."""

from __future__ import annotations


def plural(count: float, noun: str) -> str:
    """`1 request`, `1,600 requests`; whole numbers, and nouns that take an s."""
    return f"{count:,.0f} {noun}{'' if count == 1 else 's'}"
