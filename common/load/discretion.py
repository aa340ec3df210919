"""What a server says of a request must not carry its prompt, or a key, into a record: records are published."""

from __future__ import annotations

SHORTEST_QUOTE = 16  # characters; a server's own words seldom meet a prompt for so long
LEFT_OUT = "the server's message repeats the prompt and is left out"
KEY_LEFT_OUT = "the server's message repeats the API key and is left out"
SHORTEST_PART = 6  # characters of a key; servers show its beginning or its end


def without_prompt(error: str, prompt: str | tuple[int, ...]) -> str:
    """The error, unless it quotes the prompt: servers answer what they cannot validate with the input itself."""
    text = prompt if isinstance(prompt, str) else ", ".join(map(str, prompt))
    size = min(SHORTEST_QUOTE, len(text))
    quotes = size > 0 and any(error[at : at + size] in text for at in range(len(error) - size + 1))
    return LEFT_OUT if quotes else error


def without_key(error: str, api_key: str | None) -> str:
    """The error, unless it quotes the key or its beginning or end: `Incorrect API key provided: sk-abc***wxyz`."""
    if not api_key:
        return error
    size = min(SHORTEST_PART, len(api_key))
    return KEY_LEFT_OUT if api_key[:size] in error or api_key[-size:] in error else error


def without_host(error: str, host: str, name: str) -> str:
    """The error with a server's given name in place of its host's, if it was given one."""
    return error.replace(host, name) if name else error
