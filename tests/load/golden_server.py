"""A server with known answers: it sends what it was asked for and notes the moment of every send.

Runs in a process of its own (`python golden_server.py`, standard library only) on two ports, prints them, and stops
when its standard input is closed. The `model` of a request chooses how it behaves: a name from `MODES`, then
`:<ttft ms>:<itl ms>`. Requests are told apart by their first prompt token. `/log` returns what happened and forgets it.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
import sys
import time
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

HEAD = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n"
METRICS = """# HELP vllm:generation_tokens_total Number of generation tokens processed.
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{engine="0",model_name="m"} 100.0
vllm:generation_tokens_total{engine="1",model_name="m"} 23.0
# TYPE vllm:generation_tokens_created gauge
vllm:generation_tokens_created{engine="0",model_name="m"} 1.7e9
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
# TYPE vllm:request_prompt_tokens histogram
vllm:request_prompt_tokens_bucket{le="+Inf"} 4.0
vllm:request_prompt_tokens_sum 64.0
vllm:request_prompt_tokens_count 4.0
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{block_size="16",num_gpu_blocks="256"} 1.0
"""
log: dict[str, Any] = {"requests": [], "connections": 0, "most_active": {}}
active: dict[int, int] = {}


class Stream:
    """One answer on its way out."""

    def __init__(self, writer: asyncio.StreamWriter, body: dict[str, Any], entry: dict[str, Any]) -> None:
        _, *timing = body["model"].split(":")
        self.ttft_s, self.itl_s = (float(value) / 1e3 for value in timing or ("2", "1"))
        self.writer = writer
        several = isinstance(body.get("prompt"), list) and isinstance(body["prompt"][0], list)
        self.tokens = int(body["max_tokens"]) * (len(body["prompt"]) if several else 1)
        self.chat = "messages" in body
        self.entry = entry

    def chunk(self, data: bytes) -> None:
        if self.writer.is_closing():
            raise ConnectionResetError  # the client has gone
        self.writer.write(b"%x\r\n%b\r\n" % (len(data), data))

    def event(self, content: dict[str, Any]) -> None:
        self.chunk(b"data: " + json.dumps(content, ensure_ascii=False).encode() + b"\n\n")

    def token_event(self, text: str = " tok") -> dict[str, Any]:
        choice = {"delta": {"content": text}} if self.chat else {"text": text}
        return {"choices": [{"index": 0, "finish_reason": None, **choice}], "usage": None}

    def usage_event(self) -> dict[str, Any]:
        return {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": self.tokens}}

    async def send_tokens(self, count: int, text: str = " tok") -> None:
        due = time.perf_counter() + self.ttft_s
        for _ in range(count):
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            self.entry["send_ns"].append(time.perf_counter_ns())
            self.event(self.token_event(text))
            due += self.itl_s

    def finish(self) -> None:
        self.event({"choices": [{"index": 0, "text": "", "delta": {}, "finish_reason": "length"}]})
        self.event(self.usage_event())
        self.chunk(b"data: [DONE]\n\n")
        self.writer.write(b"0\r\n\r\n")


def start(stream: Stream, extra: str = "") -> None:
    stream.writer.write(f"{HEAD}{extra}\r\n".encode())


async def golden(stream: Stream) -> bool:
    start(stream)
    if stream.chat:
        stream.event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
    await stream.send_tokens(stream.tokens)
    stream.finish()
    return True


async def closes(stream: Stream) -> bool:
    await golden(stream)
    return False


async def says_close(stream: Stream) -> bool:
    start(stream, "Connection: close\r\n")
    await stream.send_tokens(stream.tokens)
    stream.finish()
    return False


async def resets(stream: Stream) -> bool:
    start(stream)
    await stream.send_tokens(2)
    await stream.writer.drain()
    await asyncio.sleep(0.05)  # a reset throws away what the client has not read yet
    connection = stream.writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return False


async def cut_short(stream: Stream) -> bool:
    start(stream)
    await stream.send_tokens(2)
    return False


async def no_done(stream: Stream) -> bool:
    start(stream)
    await stream.send_tokens(2)
    stream.writer.write(b"0\r\n\r\n")
    return True


async def broken_chunk(stream: Stream) -> bool:
    start(stream)
    await stream.send_tokens(2)
    stream.writer.write(b"zz\r\ndata: not a chunk\r\n")
    return False


async def error_event(stream: Stream) -> bool:
    start(stream)
    await stream.send_tokens(1)
    stream.event({"error": {"message": "the engine\ndied", "type": "InternalServerError", "code": 500}})
    stream.chunk(b"data: [DONE]\n\n")
    stream.writer.write(b"0\r\n\r\n")
    return True


async def empty(stream: Stream) -> bool:
    start(stream)
    await stream.send_tokens(3, text="")
    stream.finish()
    return True


async def some_empty(stream: Stream) -> bool:
    start(stream)
    await stream.send_tokens(1, text="")
    stream.entry["send_ns"].clear()
    await stream.send_tokens(stream.tokens)
    await stream.send_tokens(1, text="")
    stream.entry["send_ns"].pop()
    stream.finish()
    return True


async def pairs(stream: Stream) -> bool:
    start(stream)
    await stream.send_tokens(stream.tokens // 2, text="two tokens")
    stream.finish()
    return True


async def unicode(stream: Stream) -> bool:
    start(stream)
    for byte in b"data: " + json.dumps(stream.token_event("né😀"), ensure_ascii=False).encode() + b"\n\n":
        stream.chunk(bytes([byte]))
        await asyncio.sleep(0)
    stream.finish()
    return True


async def gzipped(stream: Stream) -> bool:
    start(stream, "Content-Encoding: gzip\r\n")
    compress = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    plain = stream.chunk
    stream.chunk = lambda data: plain(  # type: ignore[method-assign]
        compress.compress(data) + compress.flush(zlib.Z_SYNC_FLUSH)
    )
    await stream.send_tokens(stream.tokens)
    stream.finish()
    return True


async def bad_request(stream: Stream) -> bool:
    return refuse(stream, "400 Bad Request", json.dumps({"error": {"message": "max_tokens is too large", "code": 400}}))


async def server_error(stream: Stream) -> bool:
    return refuse(stream, "500 Internal Server Error", "it broke " * 100)


async def echoes(stream: Stream) -> bool:
    detail = [{"input": stream.entry["body"]["prompt"], "msg": "not valid"}]
    return refuse(stream, "422 Unprocessable Entity", json.dumps({"detail": detail}))


def refuse(stream: Stream, status: str, body: str) -> bool:
    stream.writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
    return True


async def no_usage(stream: Stream) -> bool:
    stream.usage_event = lambda: {"choices": [], "usage": None}  # type: ignore[method-assign]
    return await golden(stream)


async def wrong_usage(stream: Stream) -> bool:
    start(stream)
    await stream.send_tokens(stream.tokens)
    stream.tokens -= 1
    stream.finish()
    return True


async def picky(stream: Stream) -> bool:
    """Knows no ignore_eos, as servers that are not vLLM."""
    if "ignore_eos" in stream.entry["body"]:
        return refuse(stream, "400 Bad Request", json.dumps({"error": {"message": "unknown field: ignore_eos"}}))
    return await golden(stream)


async def silent(stream: Stream) -> bool:
    await asyncio.sleep(3600)
    return True


async def slow_loris(stream: Stream) -> bool:
    for byte in HEAD.encode():
        if stream.writer.is_closing():
            return False
        stream.writer.write(bytes([byte]))
        await asyncio.sleep(0.1)
    return True


_GOOD = (golden, closes, says_close, some_empty, pairs, unicode, gzipped, picky)
_BAD = (resets, cut_short, no_done, broken_chunk, error_event, empty, bad_request, server_error, silent, slow_loris)
_WRONG = (no_usage, wrong_usage, echoes)
MODES: dict[str, Callable[[Stream], Awaitable[bool]]] = {mode.__name__: mode for mode in (*_GOOD, *_BAD, *_WRONG)}


async def mortal(stream: Stream) -> bool:
    """Takes the whole server along with its twentieth request."""
    if len(log["requests"]) >= 20:
        os._exit(1)
    return await golden(stream)


async def stalls(stream: Stream) -> bool:
    """From the fourteenth request on an answer stops after its second token, and the server serves everything else."""
    if len(log["requests"]) < 14:
        return await golden(stream)
    start(stream)
    await stream.send_tokens(2)
    await asyncio.sleep(3600)
    return True


async def freezes(stream: Stream) -> bool:
    """The whole server stands still at its fourteenth request."""
    if len(log["requests"]) >= 14:
        time.sleep(3600)  # on purpose
    return await golden(stream)


async def thinks(stream: Stream) -> bool:
    """Sends not even the head before the first token, as uvicorn does, and takes its time over that."""
    await asyncio.sleep(0.35)
    return await golden(stream)


async def tattles(stream: Stream) -> bool:
    """Says the key that it refuses."""
    key = stream.entry["head"].partition("Authorization: Bearer ")[2].partition("\r\n")[0]
    return refuse(stream, "401 Unauthorized", json.dumps({"error": {"message": f"Incorrect API key: {key}"}}))


MODES |= {"mortal": mortal, "stalls": stalls, "freezes": freezes, "thinks": thinks, "tattles": tattles}
RIGHT_KEY = "sk-golden-0123456789"


def models_page(path: str, head: str) -> tuple[str, str]:
    """Status and body of the list of models, by the path that stands before it: how servers, and others, answer."""
    listed = json.dumps({"data": [{"id": mode} for mode in MODES]})
    key = head.partition("Authorization: Bearer ")[2].partition("\r\n")[0]
    refusal = json.dumps({"error": {"message": f"Incorrect API key provided: {key}"}})
    return {
        "/open": ("200 OK", listed),
        "/slow": ("200 OK", json.dumps({"data": [{"id": "golden:300:300"}]})),
        "/single": ("200 OK", json.dumps({"data": [{"id": "golden"}]})),
        "/locked": ("200 OK", listed) if key == RIGHT_KEY else ("401 Unauthorized", refusal),
        "/forbidden": ("403 Forbidden", refusal),
        "/html": ("200 OK", "<html>Welcome</html>"),
        "/list": ("200 OK", "[]"),
        "/moved": ("307 Temporary Redirect", ""),
        "/broken": ("502 Bad Gateway", "<html>"),
    }.get(path.removesuffix("/v1/models"), ("404 Not Found", "nothing here"))


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    port = writer.get_extra_info("sockname")[1]
    log["connections"] += 1
    connection = log["connections"]
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = int(head.lower().partition("content-length: ")[2].partition("\r\n")[0] or 0)
            body = await reader.readexactly(length)
            if head.startswith("GET") or "/collective_rpc" in head:
                control(writer, head, body)
            elif not await answer(writer, json.loads(body), {"port": port, "connection": connection, "head": head}):
                break
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def answer(writer: asyncio.StreamWriter, body: dict[str, Any], entry: dict[str, Any]) -> bool:
    entry |= {"id": body["prompt"][0] if "prompt" in body else None, "received_ns": time.perf_counter_ns()}
    entry |= {"send_ns": [], "body": body}
    log["requests"].append(entry)
    port = entry["port"]
    active[port] = active.get(port, 0) + 1
    log["most_active"][port] = max(active[port], log["most_active"].get(port, 0))
    try:
        return await MODES[body["model"].partition(":")[0]](Stream(writer, body, entry))
    finally:
        active[port] -= 1


def control(writer: asyncio.StreamWriter, head: str, body: bytes) -> None:
    path = head.split(" ")[1]
    if path.endswith("/v1/models") and path != "/v1/models":
        status, content = models_page(path, head)
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(content)}\r\n\r\n{content}".encode())
        return
    if path == "/log":
        log["connections"] -= 1  # the question's own
        content = json.dumps(log)
        log.update(requests=[], connections=0, most_active={})
    elif path == "/collective_rpc":
        content = json.dumps({"results": [json.loads(body), None]})
    else:
        models = {"data": [{"id": "m"}, {"id": "lora"}]}
        pages = {"/v1/models": json.dumps(models), "/metrics": METRICS, "/health": "", "/version": '{"version": "9.9"}'}
        content = pages.get(path, "nothing here")
        if path not in pages:
            writer.write(f"HTTP/1.1 404 Not Found\r\nContent-Length: {len(content)}\r\n\r\n{content}".encode())
            return
    writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(content)}\r\n\r\n{content}".encode())


async def main() -> None:
    servers = [await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1024) for _ in range(2)]
    sys.stdout.write(json.dumps([server.sockets[0].getsockname()[1] for server in servers]) + "\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
