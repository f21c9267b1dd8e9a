"""Who may talk to the server: one ASGI middleware in front of every route, 404s included.

A local server is attacked through the user's own browser: a page rebinds its DNS name to 127.0.0.1
(CVE-2024-28224) or posts a form across origins. So: the Host must name this server, a browser's
Origin must be the page's own or configured, changes are JSON (check_json), and nothing upgrades to
a WebSocket.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from okno.config.network import is_loopback
from okno.core.errors import OknoError
from okno.server.errors import BadEncoding, BodyTooLarge, Forbidden, Unauthorized, error_response
from okno.server.settings import ServerSettings

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
WILDCARDS = frozenset({"0.0.0.0", "::", ""})
OPEN_PATHS = frozenset({"/health"})
DEFAULT_PORTS = {"http": 80, "https": 443}
RESPONSE_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
}
EXPOSED_HEADERS = "okno-ignored, okno-queue-position, okno-estimated-wait-s, retry-after"
CHARSET = re.compile(r"charset\s*=\s*\"?([^\s;\"]*)", re.IGNORECASE)

Headers = Mapping[bytes, list[bytes]]


class Security:
    """The middleware. Refusals are OpenAI-shaped JSON; nothing of the request is read before."""

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self.app = app
        self.settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": "no WebSockets here"})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = grouped(scope)
        origin = text_of(headers, b"origin")
        send = with_headers(send, origin)
        try:
            check_request(scope, headers, self.settings)
        except OknoError as error:
            response = error_response(error, self.settings.retry_after_s)
        else:
            if not is_preflight(scope["method"], headers):
                await self.app(scope, limited(receive, self.settings.max_body_bytes), send)
                return
            response = preflight_response(headers)
        await response(scope, receive, send)


def grouped(scope: Scope) -> dict[bytes, list[bytes]]:
    """Header values by lower-case name, duplicates kept."""
    headers: dict[bytes, list[bytes]] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name, []).append(value)
    return headers


def text_of(headers: Headers, name: bytes) -> str | None:
    values = headers.get(name)
    return values[0].decode("latin-1").strip() if values else None


def check_request(scope: Scope, headers: Headers, settings: ServerSettings) -> None:
    """Raise the OknoError of the first rule that the request breaks."""
    host = check_host(headers, settings)
    check_origin(headers, f"{scope.get('scheme', 'http')}://{host}", settings)
    if b"upgrade" in headers and b"websocket" in headers[b"upgrade"][0].lower():
        raise Forbidden("WebSockets are not served here; use HTTP and server-sent events.")
    check_size(headers, settings)
    if scope["path"] not in OPEN_PATHS and scope["method"] != "OPTIONS":
        check_key(headers, settings)


def check_host(headers: Headers, settings: ServerSettings) -> str:
    """The Host header's value (DNS rebinding shows itself there)."""
    values = headers.get(b"host", [])
    host = text_of(headers, b"host") or ""
    if len(values) != 1 or not host_allowed(host, settings):
        raise Forbidden(
            f"The Host header {host!r} is not a name of this server. "
            f"Call it as {settings.host}, or start it with --allowed-host NAME."
        )
    return host


def host_allowed(host: str, settings: ServerSettings) -> bool:
    """Loopback, the bound address, a configured name; any IP address when bound to all of them
    (rebinding needs a name)."""
    name = host_name(host)
    if name is None:
        return False
    known = {n.lower() for n in (settings.host, *settings.allowed_hosts)} - WILDCARDS
    if is_loopback(name) or name in known or host.lower() in known:
        return True
    return settings.host in WILDCARDS and is_address(name)


def host_name(host: str) -> str | None:
    """The name of `name[:port]` in lower case, without brackets; None when malformed."""
    if not host or any(c in host for c in "/\\@?#% \t"):
        return None
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port
    except ValueError:
        return None
    return parts.hostname.removesuffix(".") if parts.hostname else None


def is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def check_origin(headers: Headers, own: str, settings: ServerSettings) -> None:
    """A browser names the page that calls: one of this server (`own`), or a configured one."""
    values = headers.get(b"origin", [])
    if not values:
        return
    origin = text_of(headers, b"origin") or ""
    allowed = origin in settings.allowed_origins or "*" in settings.allowed_origins
    if len(values) != 1 or origin == "null" or not (allowed or same_page(origin, own)):
        raise Forbidden(
            f"The page {origin!r} may not call this server. "
            "Start it with --allowed-origin ORIGIN to permit that page."
        )


def same_page(origin: str, own: str) -> bool:
    """True when the page at `origin` was served by the very scheme, host and port it calls."""
    page = authority(origin)
    return page is not None and page == authority(own)


def authority(origin: str) -> tuple[str, str, int] | None:
    """(scheme, host, port) of `scheme://host[:port]`; None when it is anything else."""
    try:
        parts = urlsplit(origin)
        port = parts.port or DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return None
    extra = parts.path or parts.query or parts.fragment or parts.username
    if port is None or not parts.hostname or extra:
        return None
    return parts.scheme, parts.hostname, port


def check_json(request: Request) -> None:
    """Changes are JSON in UTF-8, said once. A form cannot say so, a script only after a preflight.

    Asked by every endpoint (app.bound), after routing: a wrong path or method stays a 404 or 405.
    """
    if request.method in SAFE_METHODS:
        return
    given = request.headers.getlist("content-type")
    kind, _, parameters = (given[0] if len(given) == 1 else "").partition(";")
    if kind.strip().lower() != "application/json":
        shown = ", ".join(given)[:80] or "nothing"
        raise Forbidden(f"Content-Type {shown!r} is refused; send one, `application/json`.")
    charset = CHARSET.search(parameters)
    if charset and charset[1].lower() not in ("utf-8", "utf8", "us-ascii"):
        raise BadEncoding(f"The charset {charset[1][:40]!r} is refused; send UTF-8.")


def check_size(headers: Headers, settings: ServerSettings) -> None:
    """No compressed bodies; no body that announces too many bytes."""
    encoding = (text_of(headers, b"content-encoding") or "identity").lower()
    transfer = (text_of(headers, b"transfer-encoding") or "chunked").lower()
    if encoding != "identity" or transfer != "chunked":
        raise BadEncoding("Compressed bodies are refused; send plain JSON.")
    length = text_of(headers, b"content-length")
    if length and length.isdecimal() and int(length[:20]) > settings.max_body_bytes:
        raise body_too_large(settings.max_body_bytes)


def check_key(headers: Headers, settings: ServerSettings) -> None:
    """`Authorization: Bearer KEY` or `x-api-key: KEY`, compared in constant time."""
    if settings.api_key is None:
        return
    bearer = (headers.get(b"authorization") or [b""])[0]
    scheme, _, given = bearer.partition(b" ")
    if scheme.lower() != b"bearer":
        given = (headers.get(b"x-api-key") or [b""])[0]
    if not hmac.compare_digest(given.strip(), settings.api_key.encode()):
        raise Unauthorized("The API key is missing or wrong; send `Authorization: Bearer KEY`.")


def is_preflight(method: str, headers: Headers) -> bool:
    return method == "OPTIONS" and b"access-control-request-method" in headers


def preflight_response(headers: Headers) -> Response:
    """The page may send whatever headers it asks for (SDKs bring dozens of their own): it was
    let through by its origin, and none of them means anything here."""
    asked = text_of(headers, b"access-control-request-headers")
    return Response(
        status_code=204,
        headers={
            "access-control-allow-methods": "GET, POST, PATCH, OPTIONS",
            "access-control-allow-headers": asked or "authorization, content-type, x-api-key",
            "access-control-max-age": "600",
            "vary": "access-control-request-headers",
        },
    )


def with_headers(send: Send, origin: str | None) -> Send:
    """`send` that adds the security headers (where the route set none) and, for a page that was
    let through, the CORS ones."""

    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in RESPONSE_HEADERS.items():
                headers.setdefault(name, value)
            if origin and message["status"] != 403:
                headers["access-control-allow-origin"] = origin
                headers["access-control-expose-headers"] = EXPOSED_HEADERS
                headers.add_vary_header("origin")
        await send(message)

    return wrapped


def limited(receive: Receive, limit_bytes: int) -> Receive:
    """`receive` that raises BodyTooLarge as soon as the body has grown past the limit."""
    seen_bytes = 0

    async def wrapped() -> Message:
        nonlocal seen_bytes
        message = await receive()
        if message["type"] == "http.request":
            seen_bytes += len(message.get("body", b""))
            if seen_bytes > limit_bytes:
                raise body_too_large(limit_bytes)
        return message

    return wrapped


def body_too_large(limit_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"The body is larger than {limit_bytes:,} bytes; send less in one request.",
        limit_bytes=limit_bytes,
    )
