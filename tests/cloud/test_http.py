"""Exchanges with a provider over a connection that breaks."""

from __future__ import annotations

import socket
import threading

import pytest

from common.cloud.http import Call, NoReplyError, send


def test_an_error_whose_text_never_comes_is_no_answer() -> None:
    server = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        connection, _ = server.accept()
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 503 no\r\nContent-Length: 1000\r\n\r\nhalf")
        connection.close()

    thread = threading.Thread(target=answer)
    thread.start()
    with pytest.raises(NoReplyError):
        send(Call("GET", f"http://127.0.0.1:{server.getsockname()[1]}/"))
    thread.join()
    server.close()
