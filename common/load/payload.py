"""Requests as bytes, made before the clock starts."""

from __future__ import annotations

from typing import Any

import msgspec

from common.core.workload import Request

CHAT_PATH = "/v1/chat/completions"
_WORDS = (
    *("the", "of", "and", "to", "in", "is", "that", "for", "it", "as", "was", "with", "be", "by", "on", "not"),
    *("he", "his", "but", "at", "are", "this", "have", "from", "or", "had", "an", "they", "which", "one", "you", "we"),
)


def request_head(host: str, port: int, path: str, api_key: str | None) -> bytes:
    """All of the head that does not depend on the request; `request_payload` continues it.

    Raises:
        ValueError: a key with a line break or a character beyond ASCII, which no header can carry.
    """
    if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
        raise ValueError("the API key holds characters that no HTTP header can carry")
    authorization = "" if api_key is None else f"Authorization: Bearer {api_key}\r\n"
    return (
        f"POST {path} HTTP/1.1\r\nHost: {f'[{host}]' if ':' in host else host}:{port}\r\n{authorization}"
        "Content-Type: application/json\r\nAccept: text/event-stream\r\n"
    ).encode()


def request_payload(request: Request, model: str, path: str, ignore_eos: bool = True) -> bytes:
    """The request's own bytes: the content length, the blank line and the JSON body.

    `ignore_eos`, vLLM's own, makes every plan generate the same number of tokens.
    """
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": request.output_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if ignore_eos:
        body["ignore_eos"] = True
    if request.priority:  # a server that does not schedule by priority rejects any but 0
        body["priority"] = request.priority
    if path.endswith(CHAT_PATH):
        text = request.prompt if isinstance(request.prompt, str) else chat_text(request.prompt)
        body["messages"] = [{"role": "user", "content": text}]
    else:
        body["prompt"] = request.batch or request.prompt
    content = msgspec.json.encode(body)
    return b"Content-Length: %d\r\n\r\n%b" % (len(content), content)


def chat_text(token_ids: tuple[int, ...]) -> str:
    """A prompt of about as many tokens in plain words: a chat takes text, and no tokenizer is at hand here.

    The token count therefore differs from the request's; the server's `usage` says what it was.
    """
    return " ".join(_WORDS[token_id % len(_WORDS)] for token_id in token_ids)
