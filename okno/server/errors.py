"""Errors as HTTP: the status, OpenAI's body, Retry-After. A client never sees a stack trace."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
from starlette.responses import Response

from okno.core.errors import ContextExceeded, OknoError


class ClientGone(Exception):
    """The client closed its connection; nobody is left to answer."""


class Forbidden(OknoError):
    """Refused by the Host, Origin, content-type or WebSocket rule (see security.py)."""

    code = "forbidden"
    status = 403


class Unauthorized(OknoError):
    """The API key is missing or wrong."""

    code = "invalid_api_key"
    status = 401


class RouteNotFound(OknoError):
    """No such path; the message names the nearest ones."""

    code = "route_not_found"
    status = 404


class MethodNotAllowed(OknoError):
    """The path exists, the method does not; the message names those that do."""

    code = "method_not_allowed"
    status = 405


class BodyTimeout(OknoError):
    """The body did not arrive in time."""

    code = "request_timeout"
    status = 408


class BodyTooLarge(OknoError):
    """The body (details: limit_bytes), or the text of a call that must stay short."""

    code = "payload_too_large"
    status = 413


class BadEncoding(OknoError):
    """A compressed body, or one in another character set."""

    code = "unsupported_encoding"
    status = 415


ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    500: "server_error",
    503: "unavailable_error",
}


def error_body(error: OknoError) -> dict[str, object]:
    """OpenAI's error object, with the numbers of the message beside it.

    ContextExceeded keeps llama-server's type (n_prompt_tokens, n_ctx) and OpenAI's code, because
    clients look for either.
    """
    info = error.info
    kind = ERROR_TYPES.get(error.status, "invalid_request_error")
    code = info.code
    if isinstance(error, ContextExceeded):
        kind, code = info.code, "context_length_exceeded"
    named = {"message": info.message, "type": kind, "param": info.param, "code": code}
    return {"error": {**info.details, **named}}


def error_headers(error: OknoError, retry_after_s: float) -> dict[str, str]:
    """Retry-After (whole seconds, rounded up) for 503 and 429; the scheme for 401."""
    if error.status in (429, 503):
        wait = error.info.details.get("retry_after_s", retry_after_s)
        seconds = float(wait) if isinstance(wait, int | float) else retry_after_s
        return {"retry-after": str(max(1, math.ceil(seconds)))}
    if error.status == 401:
        return {"www-authenticate": "Bearer"}
    return {}


def error_response(error: OknoError, retry_after_s: float) -> Response:
    return JSONBytes(
        error_body(error), status=error.status, headers=error_headers(error, retry_after_s)
    )


def ignored_header(names: Sequence[str]) -> dict[str, str]:
    """The header that names the fields of a request that had no effect."""
    return {"okno-ignored": ", ".join(names)} if names else {}


class JSONBytes(Response):
    """A JSON response encoded by msgspec."""

    media_type = "application/json"

    def __init__(
        self, content: object, *, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(msgspec.json.encode(content), status_code=status, headers=headers)
