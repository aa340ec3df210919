"""Where an OpenAI-compatible server is, as people write it."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from common.load.client import Endpoint

DEFAULT_PORTS = {"http": 80, "https": 443}
API, CHAT, COMPLETIONS = "/v1", "/chat/completions", "/completions"


@dataclass(frozen=True)
class Address:
    """A server: `prefix` is where its API begins, `/v1` or a path that ends with it."""

    tls: bool
    host: str
    port: int
    prefix: str = API

    @classmethod
    def parse(cls, url: str) -> Address:
        """Read `http://host:8000`, with or without `/v1`, with or without a slash at the end.

        Raises:
            ValueError: not such an address; one line with the remedy, which repeats no password.
        """
        try:
            parts = urlsplit(url.strip())
            port = parts.port
        except ValueError as error:
            raise ValueError(f"--base-url: {error}; write it like http://localhost:8000") from None
        _check(parts, url)
        host = parts.hostname or ""
        path = parts.path.rstrip("/")
        prefix = path if path.endswith(API) else path + API
        return cls(parts.scheme == "https", host, DEFAULT_PORTS[parts.scheme] if port is None else port, prefix)

    @property
    def origin(self) -> str:
        """`http://host:port`, without a path."""
        return self.endpoint("", chat=False, api_key=None).origin

    @property
    def loopback(self) -> bool:
        """Whether it is on this machine, or looks so: a tunnel does too."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost" or self.host.endswith(".localhost")

    def endpoint(self, model: str, chat: bool, api_key: str | None, name: str = "") -> Endpoint:
        """Where requests for a model go; `name` is what errors call the server."""
        path = self.prefix + (CHAT if chat else COMPLETIONS)
        return Endpoint(self.host, self.port, model, path, api_key, self.tls, name)


def _check(parts: SplitResult, url: str) -> None:
    url = " ".join(url.split())
    if "@" in url:
        raise ValueError("--base-url may hold no user or password: put the key into OPENAI_API_KEY")
    if parts.scheme not in DEFAULT_PORTS:
        raise ValueError(f"--base-url {url}: write http:// or https:// before it, as in http://localhost:8000")
    if not parts.hostname or not parts.hostname.isascii() or " " in url:
        raise ValueError(f"--base-url {url}: no host; write it like http://localhost:8000")
    if not (parts.path.isascii() and parts.path.isprintable()):
        raise ValueError(f"--base-url {url}: its path holds characters that no request can carry")
    if parts.query or parts.fragment:
        raise ValueError("--base-url may hold no ? or #: give the address up to /v1")
    if parts.path.rstrip("/").endswith(COMPLETIONS):
        raise ValueError(f"--base-url {url}: give the address up to /v1, and --chat for /chat/completions")
