"""What the HTTP layer is told: names, address, limits. Derived nowhere else, never changed."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

from okno.core.errors import BadSetting

MIB = 1024 * 1024


def is_loopback(host: str) -> bool:
    """True when `host` (a name or an address, no port) can only mean this machine."""
    name = host.strip("[]").removesuffix(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Settings of one HTTP server. Sizes in bytes, times in seconds.

    model: the name reported; aliases: further names accepted in requests.
    allowed_hosts: Host names accepted besides loopback and `host`. allowed_origins: full origins
    ("https://page.example") that may call from a browser; "*" accepts every one.
    retry_after_s: the Retry-After of a 503 whose error brings none. keep_alive_s: silence after
    which a stream gets an SSE comment. stalled_reader_s: how long a client may leave its socket
    full before its request is cancelled. drain_timeout_s: how long SIGTERM waits for streams.
    """

    model: str = "default"
    aliases: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: int = 7860
    api_key: str | None = field(default=None, repr=False)
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    max_body_bytes: int = 32 * MIB
    max_header_bytes: int = 32 * 1024
    max_headers: int = 128
    header_timeout_s: float = 15.0
    body_timeout_s: float = 60.0
    keep_alive_s: float = 15.0
    stalled_reader_s: float = 60.0
    drain_timeout_s: float = 30.0
    retry_after_s: float = 2.0

    def __post_init__(self) -> None:
        if not is_loopback(self.host) and not self.api_key:
            raise BadSetting(
                f"Listening on {self.host} makes the server reachable from other machines, so it "
                "needs an API key: add --api-key KEY, or listen on 127.0.0.1.",
                param="api_key",
            )
        if not 0 <= self.port <= 65535:
            raise BadSetting(
                f"Port {self.port} does not exist; choose 1 to 65535 with --port, "
                "or 0 for any free one.",
                param="port",
            )
        self._check_limits()

    def _check_limits(self) -> None:
        for name in (
            "max_body_bytes", "max_header_bytes", "max_headers", "header_timeout_s",
            "body_timeout_s", "keep_alive_s", "stalled_reader_s", "retry_after_s",
        ):  # fmt: skip
            if getattr(self, name) <= 0:
                raise BadSetting(f"`{name}` must be above 0.", param=name)
        if self.drain_timeout_s < 0:
            raise BadSetting("`drain_timeout_s` must not be negative.", param="drain_timeout_s")
