"""What a server says of a request must not carry the request's prompt into a record: records are published."""

from __future__ import annotations

SHORTEST_QUOTE = 16  # characters; a server's own words seldom meet a prompt for so long
LEFT_OUT = "the server's message repeats the prompt and is left out"


def without_prompt(error: str, prompt: str | tuple[int, ...]) -> str:
    """The error, unless it quotes the prompt: servers answer what they cannot validate with the input itself."""
    text = prompt if isinstance(prompt, str) else ", ".join(map(str, prompt))
    size = min(SHORTEST_QUOTE, len(text))
    quotes = size > 0 and any(error[at : at + size] in text for at in range(len(error) - size + 1))
    return LEFT_OUT if quotes else error
