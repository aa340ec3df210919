from __future__ import annotations

import pytest

from common.load.address import Address


@pytest.mark.parametrize(
    ("url", "address", "origin"),
    [
        ("http://localhost:8000", Address(False, "localhost", 8000), "http://localhost:8000"),
        ("http://localhost:8000/", Address(False, "localhost", 8000), "http://localhost:8000"),
        ("http://localhost:8000/v1", Address(False, "localhost", 8000), "http://localhost:8000"),
        (" http://localhost:8000/v1// ", Address(False, "localhost", 8000), "http://localhost:8000"),
        ("HTTPS://Host", Address(True, "host", 443), "https://host:443"),
        ("http://host/openai", Address(False, "host", 80, "/openai/v1"), "http://host:80"),
        ("https://host:1/openai/v1", Address(True, "host", 1, "/openai/v1"), "https://host:1"),
        ("http://[::1]:8000/v1", Address(False, "::1", 8000), "http://[::1]:8000"),
        ("http://127.0.0.1", Address(False, "127.0.0.1", 80), "http://127.0.0.1:80"),
    ],
)
def test_forms(url: str, address: Address, origin: str) -> None:
    found = Address.parse(url)
    assert found == address and found.origin == origin
    assert found.endpoint("m", chat=True, api_key=None).path == found.prefix + "/chat/completions"
    assert found.endpoint("m", chat=False, api_key="k").path == found.prefix + "/completions"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "host",
        "host:80",
        "ws://host",
        "http://",
        "http:///v1",
        "http://:80",
        "http://h:x",
        "http://h:70000",
        "http://[::1",
        "http://h/v1?x=1",
        "http://h/#a",
        "http://h/v1/completions",
        "http://h/v1/chat/completions/",
        "http://u@h",
        "http://ho st",
        "http://h/\r\nX: y",
        "http://hôte",
    ],
)
def test_what_is_none(url: str) -> None:
    with pytest.raises(ValueError, match="--base-url") as caught:
        Address.parse(url)
    assert "\r" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "loopback"), [("localhost", True), ("127.3.2.1", True), ("[::1]", True), ("10.0.0.1", False), ("h", False)]
)
def test_loopback(host: str, loopback: bool) -> None:
    assert Address.parse(f"http://{host}:1").loopback is loopback
