"""Addresses as settings: defaults, and the one spelling each name, host and origin is kept in.

Browsers and clients send a host in lower case, without the dot at its end, international names in
punycode, and an origin without the port of its scheme. What is written otherwise is brought into
that form, so that a comparison of texts finds it; what never could match is a ValueError.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 7860
DEFAULT_DRAIN_TIMEOUT_S = 30.0
EVERY_ADDRESS = "0.0.0.0"
SCHEME_PORTS = {"http": 80, "https": 443}
NAME = re.compile(r"[a-z0-9_]([a-z0-9._-]*[a-z0-9_])?")
SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")


def is_loopback(host: str) -> bool:
    """True when `host` (a name or an address, no port) can only mean this machine."""
    name = host.strip("[]").removesuffix(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def listen_host(text: str) -> str:
    """The name or address to listen on, an IPv6 address without its brackets."""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if "/" in bare or (":" in bare and not _is_address(bare)):
        raise ValueError(
            "it must be a name or an address alone, such as 127.0.0.1 or ::1; the port goes to "
            "--port"
        )
    return bare


def allowed_host(text: str) -> str:
    """A name under which the server may be addressed, as Host headers bring it: `name`, an
    address, or either with `:port`."""
    if _is_address(text.strip("[]")):
        return ipaddress.ip_address(text.strip("[]")).compressed
    parts = _split(f"//{text}")
    if parts is None or parts.netloc != text:
        raise ValueError(f"{_short(text)} is not a host: give a name alone, such as llm.example")
    return _authority(parts)


def allowed_origin(text: str) -> str:
    """A web origin as browsers send it: `scheme://host[:port]`, or `*` for every page."""
    if text == "*":
        return text
    parts = _split(text)
    if parts is None or not SCHEME.fullmatch(parts.scheme):
        raise ValueError(f"{_short(text)} is no origin: give one such as https://page.example")
    origin = f"{parts.scheme}://{_authority(parts)}"
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError(f"an origin ends after the host: give {origin[:80]}")
    return origin


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _split(text: str) -> SplitResult | None:
    """The parts of a URL; None when it has no host, a user, or a port that is none."""
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return None
    return parts if parts.hostname and "@" not in parts.netloc else None


def _authority(parts: SplitResult) -> str:
    """`host[:port]` in the spelling of browsers."""
    host = parts.hostname or ""
    port = "" if parts.port in (None, SCHEME_PORTS.get(parts.scheme)) else f":{parts.port}"
    if ":" in host:
        return f"[{ipaddress.ip_address(host).compressed}]{port}"
    return f"{_name(host)}{port}"


def _name(host: str) -> str:
    """A host name in lower case and punycode, without the dot at its end."""
    try:
        name = host.removesuffix(".").encode("idna").decode().lower()
    except UnicodeError:
        name = ""
    if not NAME.fullmatch(name):
        raise ValueError(f"{_short(host)} is not a host name")
    return name


def _short(text: str) -> str:
    """The beginning of a text, quoted and printable."""
    return repr(text[:30] + "…") if len(text) > 30 else repr(text)
