"""Encrypted connections: the same client, a certificate that is checked."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.core.arrivals import ClosedLoop
from common.engines.failures import EngineError
from common.engines.remote import RemoteServer
from common.load.address import Address
from common.load.client import run_load
from tests.load import golden_server
from tests.load.conftest import make_requests

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate with the openssl command")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key and certificate of an authority of our own, good for localhost alone."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    words += ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    made = [path.with_name("key.pem"), path.with_name("cert.pem")]
    subprocess.run([*words, "-keyout", made[0], "-out", made[1]], check=True, capture_output=True)
    path.write_text(made[0].read_text() + made[1].read_text())
    return path


@pytest.fixture(scope="module")
def port(certificate: Path) -> Iterator[int]:
    """The golden server behind TLS, in a thread: here its times do not matter."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    ports: list[int] = []
    up, loop = threading.Event(), asyncio.new_event_loop()

    async def serve() -> None:
        server = await asyncio.start_server(golden_server.serve, "localhost", 0, ssl=context)
        ports.append(server.sockets[0].getsockname()[1])
        up.set()
        try:
            await asyncio.Event().wait()
        finally:
            server.close()

    thread = threading.Thread(target=lambda: loop.run_until_complete(asyncio.gather(task, return_exceptions=True)))
    task = loop.create_task(serve())
    thread.start()
    assert up.wait(10)
    yield ports[0]
    loop.call_soon_threadsafe(task.cancel)
    thread.join(10)
    loop.close()


@pytest.fixture
def trusted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))


@pytest.mark.usefixtures("trusted")
def test_a_server_with_a_good_certificate(port: int) -> None:
    address = Address.parse(f"https://localhost:{port}/open")
    assert RemoteServer(address, "golden").serves() == "golden"
    loaded = run_load([address.endpoint("golden", chat=False, api_key=None)], make_requests(8), ClosedLoop(3))
    assert [(record.error, record.output_tokens) for record in loaded.records] == [(None, 4)] * 8
    assert all(0 < (record.ttft_s or 0) < 5 for record in loaded.records)


@pytest.mark.usefixtures("trusted")
def test_a_server_that_closes_every_connection(port: int) -> None:
    address = Address.parse(f"https://localhost:{port}/open")
    loaded = run_load([address.endpoint("closes", chat=False, api_key=None)], make_requests(4), ClosedLoop(2))
    assert [record.error for record in loaded.records] == [None] * 4


def test_an_unknown_authority_is_refused(port: int) -> None:
    address = Address.parse(f"https://localhost:{port}/open")
    with pytest.raises(EngineError, match=r"certificate cannot be trusted: self.signed certificate") as caught:
        RemoteServer(address, "golden").serves()
    assert "SSL_CERT_FILE" in caught.value.failure.remedy
    endpoint = address.endpoint("golden", chat=False, api_key="sk-secret-key", name="the server")
    (record,) = run_load([endpoint], make_requests(1), ClosedLoop(1)).records
    assert record.error_kind == "refused" and "certificate" in str(record.error).lower()
    assert "localhost" not in str(record.error)


@pytest.mark.usefixtures("trusted")
def test_a_certificate_for_another_name_is_refused(port: int) -> None:
    address = Address.parse(f"https://127.0.0.1:{port}/open")
    with pytest.raises(EngineError, match="certificate cannot be trusted"):
        RemoteServer(address, "golden").serves()


@pytest.mark.usefixtures("trusted")
def test_the_wrong_scheme(port: int) -> None:
    with pytest.raises(EngineError, match=r"cannot be reached|not an OpenAI"):
        RemoteServer(Address.parse(f"http://localhost:{port}/open"), "golden").serves()
