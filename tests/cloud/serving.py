"""The stand-in for Runpod behind a socket of this machine, for real processes."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from common.cloud.http import Call, NoReplyError
from tests.cloud.fake_runpod import FakeRunpod


@contextlib.contextmanager
def serve(fake: FakeRunpod) -> Iterator[str]:
    """The account behind a socket of this machine; its address."""

    class Handler(BaseHTTPRequestHandler):
        def _handle(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            text = self.rfile.read(size) if size else b""
            headers = {"Authorization": self.headers.get("Authorization", "")}
            try:
                reply = fake.exchange(Call(self.command, f"http://x{self.path}", headers, json.loads(text or b"null")))
            except NoReplyError:
                self.close_connection = True
                return
            self.send_response_only(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)

        do_GET = do_POST = do_DELETE = _handle

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
