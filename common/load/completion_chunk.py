"""What the lab reads of one streamed chunk of OpenAI's `/v1/completions` or `/v1/chat/completions`."""

from __future__ import annotations

from typing import Any

import msgspec


class Delta(msgspec.Struct, gc=False):
    """A chat choice's addition; reasoning models name their text differently (vLLM: `reasoning`)."""

    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None

    @property
    def generated(self) -> str:
        """The text, whatever its name; empty for a role."""
        return (self.content or "") + (self.reasoning or "") + (self.reasoning_content or "")


class Choice(msgspec.Struct, gc=False):
    """One choice; `text` or `delta` holds the generated text."""

    text: str | None = None
    delta: Delta | None = None
    finish_reason: str | None = None

    @property
    def generated(self) -> str:
        """What the choice adds to the answer."""
        return self.text or (self.delta.generated if self.delta is not None else "")


class Usage(msgspec.Struct, gc=False):
    """The server's own token counts, not yet believed: servers send odd ones."""

    prompt_tokens: Any = None
    completion_tokens: Any = None


class Chunk(msgspec.Struct, gc=False):
    """One event. A server that fails in mid-stream sends `error`, older vLLMs an `object` named so."""

    choices: list[Choice] | None = None
    usage: Usage | None = None
    error: Any = None
    object: str | None = None


decode_chunk = msgspec.json.Decoder(Chunk).decode
decode_chunks = msgspec.json.Decoder(list[Chunk]).decode
