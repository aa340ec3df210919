"""What the bare server says and reads: bytes made beforehand in vLLM's form, and as much HTTP as clients use."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

MODEL = "bare"
COMPLETIONS_PATH, CHAT_PATH = "/v1/completions", "/v1/chat/completions"
MOST_TOKENS = 1_000_000
_DEFAULT_TOKENS = 16  # OpenAI's
_LARGEST_HEAD, _LARGEST_BODY = 64 << 10, 64 << 20
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)[ \t]*(?:\r\n|$)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection:[ \t]*close", re.IGNORECASE)
_LAST_CHUNK = b"0\r\n\r\n"

STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nserver: bare\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


class Refusal(ValueError):
    """A request that gets no answer but a status and one line; `fatal` where the connection cannot go on."""

    def __init__(self, status: str, message: str, fatal: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.fatal = fatal


@dataclass(frozen=True)
class HttpRequest:
    """One request as read; `last` where its sender wants the connection closed afterwards."""

    method: str
    path: str
    body: bytes
    last: bool


@dataclass(frozen=True)
class Asked:
    """What a completion or chat request asks for."""

    chat: bool
    tokens: int
    usage: bool
    prompt_tokens: int


def take_request(received: bytearray) -> HttpRequest | None:
    """Cut the first complete request off the front of what has been received; `None` while it is incomplete.

    Raises:
        Refusal: too large, without a length, or not HTTP/1.1.
    """
    end = received.find(b"\r\n\r\n", 0, _LARGEST_HEAD)
    if end < 0:
        if len(received) >= _LARGEST_HEAD:
            raise Refusal("431 Request Header Fields Too Large", "the request's head is too large", fatal=True)
        return None
    head = bytes(received[:end])
    words = head.partition(b"\r\n")[0].decode("latin-1").split(" ")
    if len(words) != 3 or words[2] != "HTTP/1.1":
        raise Refusal("400 Bad Request", "this server speaks HTTP/1.1", fatal=True)
    if _CHUNKED.search(head):
        raise Refusal("411 Length Required", "send the request's body with its Content-Length", fatal=True)
    found = _LENGTH.search(head)
    length = int(found.group(1)) if found else 0
    if length > _LARGEST_BODY:
        raise Refusal("413 Content Too Large", f"the body is larger than {_LARGEST_BODY} bytes", fatal=True)
    begin = end + 4
    if len(received) < begin + length:
        return None
    body = bytes(received[begin : begin + length])
    del received[: begin + length]
    return HttpRequest(words[0], words[1].partition("?")[0], body, _CLOSE.search(head) is not None)


def read_asked(path: str, body: bytes) -> Asked:
    """Read the body of a completion or chat request.

    Raises:
        Refusal: not JSON, not for a stream, or for an impossible number of tokens.
    """
    try:
        content = json.loads(body)
    except ValueError:  # RecursionError is none: json's C scanner raises it below
        raise Refusal("400 Bad Request", "the body is not JSON") from None
    except RecursionError:
        raise Refusal("400 Bad Request", "the body is nested too deeply") from None
    if not isinstance(content, dict):
        raise Refusal("400 Bad Request", "the body is not a JSON object")
    if content.get("stream") is not True:
        raise Refusal("400 Bad Request", 'this server only streams: send "stream": true')
    tokens = content.get("max_completion_tokens") or content.get("max_tokens")
    tokens = _DEFAULT_TOKENS if tokens is None else tokens
    if type(tokens) is not int or not 1 <= tokens <= MOST_TOKENS:
        raise Refusal("400 Bad Request", f"max_tokens must be 1 to {MOST_TOKENS}")
    options = content.get("stream_options")
    usage = isinstance(options, dict) and options.get("include_usage") is True
    return Asked(path == CHAT_PATH, tokens, usage, _prompt_tokens(content))


def reply(status: str, content: dict[str, Any] | None = None) -> bytes:
    """A whole answer with a JSON body, or with none."""
    body = b"" if content is None else json.dumps(content).encode()
    head = f"HTTP/1.1 {status}\r\nserver: bare\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def refuse(refusal: Refusal) -> bytes:
    """The answer to a refused request, in OpenAI's form of an error."""
    kind, code = refusal.status.partition(" ")[2].replace(" ", ""), int(refusal.status[:3])
    return reply(refusal.status, {"error": {"message": str(refusal), "type": kind, "param": None, "code": code}})


def models() -> bytes:
    """The answer to `/v1/models`."""
    card = {"id": MODEL, "object": "model", "created": 1_790_000_000, "owned_by": "bare", "root": MODEL}
    return reply("200 OK", {"object": "list", "data": [{**card, "max_model_len": MOST_TOKENS}]})


def token(chat: bool) -> bytes:
    """One token in the middle of an answer, framed as one HTTP chunk: about 260 bytes, as vLLM's."""
    return _TOKENS[chat]


def opening(chat: bool) -> bytes:
    """What comes with the first token: a chat's chunk that only names the role."""
    return _ROLE if chat else b""


def ending(asked: Asked) -> bytes:
    """The last token, the usage where it was asked for, [DONE], and the end of the body."""
    usage = b""
    if asked.usage:
        counts = {"prompt_tokens": asked.prompt_tokens, "total_tokens": asked.prompt_tokens + asked.tokens}
        usage = _event(asked.chat, [], {**counts, "completion_tokens": asked.tokens})
    return _LAST_TOKENS[asked.chat] + usage + _framed(b"[DONE]") + _LAST_CHUNK


def _prompt_tokens(content: dict[str, Any]) -> int:
    """Token ids are counted; text is taken as a token for every four characters."""
    prompt = content.get("prompt")
    if isinstance(prompt, list):
        return len(prompt)
    if isinstance(prompt, str):
        return max(1, len(prompt) // 4)
    return max(1, len(str(content.get("messages", ""))) // 4)


def _choice(chat: bool, finish_reason: str | None) -> dict[str, Any]:
    """A choice with the fields that vLLM 0.32 writes without being asked for more."""
    ends = {"logprobs": None, "finish_reason": finish_reason}
    if not chat:
        more = {"stop_reason": None, "prompt_token_ids": None, "token_ids": None}
        return {"index": 0, "text": " token", **ends, **more}
    return {"index": 0, "delta": {"content": " token"}, **ends, **({"stop_reason": None} if finish_reason else {})}


def _event(chat: bool, choices: list[dict[str, Any]], usage: dict[str, int] | None = None) -> bytes:
    kind = ("chatcmpl-", "chat.completion.chunk") if chat else ("cmpl-", "text_completion")
    content: dict[str, Any] = {"id": kind[0] + 2 * "0123456789abcdef", "object": kind[1], "created": 1_790_000_000}
    content |= {"model": MODEL, "choices": choices} | ({} if usage is None else {"usage": usage})
    return _framed(json.dumps(content, separators=(",", ":")).encode())


def _framed(data: bytes) -> bytes:
    event = b"data: %b\n\n" % data
    return b"%x\r\n%b\r\n" % (len(event), event)


_TOKENS = {chat: _event(chat, [_choice(chat, None)]) for chat in (False, True)}
_LAST_TOKENS = {chat: _event(chat, [_choice(chat, "length")]) for chat in (False, True)}
_ROLE = _event(
    True, [{"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}]
)
