"""The endpoint that a URL means, and whether it answers before a load is let loose on it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from urllib.parse import urlsplit

import httptools

from okno.bench.client import Address, call
from okno.bench.load_client import LoadRequest, Target, error_message
from okno.config.network import DEFAULT_HOST, DEFAULT_PORT, SCHEME_PORTS
from okno.core.errors import (
    AccessDenied,
    BadRequest,
    BadSetting,
    EngineFailed,
    ModelNotFound,
    NotReady,
    OknoError,
)

DEFAULT_URL = f"http://{DEFAULT_HOST}:{DEFAULT_PORT}"
PROBE_TIMEOUT_S = 300.0  # the first request of a server may load its model
ENDPOINTS = ("/chat/completions", "/completions")
PROBE = LoadRequest("Hello", 1)
LISTED = 8


def target_of(url: str, *, chat: bool, model: str | None, api_key: str | None) -> Target:
    """`http://host:port`, with or without /v1, or the whole address of an endpoint.

    chat: chat completions instead of completions, where the URL does not say which. Raises
    BadSetting for what is no such address.
    """
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port
    except ValueError:
        raise _no_address(url) from None
    if parts.scheme not in SCHEME_PORTS or not parts.hostname or parts.query:
        raise _no_address(url)
    address = Address(
        parts.hostname, port or SCHEME_PORTS[parts.scheme], tls=parts.scheme == "https"
    )
    path = parts.path.rstrip("/")
    if not path.endswith(ENDPOINTS):
        base = path if path.endswith("/v1") else f"{path}/v1"
        path = base + ("/chat/completions" if chat else "/completions")
    return Target(address, path, model, api_key)


async def ready(target: Target) -> Target:
    """`target` with the model's name, after it answered one short request.

    Raises NotReady, AccessDenied, ModelNotFound, BadRequest or EngineFailed: what is wrong and
    what to change.
    """
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            if target.model is None:
                target = replace(target, model=await _first_model(target))
            body = {**PROBE.body(target), "stream": False}
            del body["stream_options"]
            status, answer = await call(target.address, "POST", target.path, body, target.headers)
            if status != 200:
                raise _refusal(target, status, answer, await _models(target))
    except TimeoutError:
        raise NotReady(f"{target.url} did not answer within {PROBE_TIMEOUT_S:g} s.") from None
    except OSError as error:
        raise NotReady(_unreachable(target, error)) from None
    except httptools.HttpParserError as error:
        raise EngineFailed(f"{target.url} answers, but not with HTTP ({error}).") from None
    return target


async def _first_model(target: Target) -> str | None:
    """The first model the server lists; None when it lists none."""
    return next(iter(await _models(target)), None)


async def _models(target: Target) -> list[str]:
    """The names that GET /v1/models lists, as far as it does."""
    base = next(target.path.removesuffix(end) for end in ENDPOINTS if target.path.endswith(end))
    status, body = await call(target.address, "GET", f"{base}/models", None, target.headers)
    if status != 200:
        return []
    try:
        return [str(model["id"]) for model in json.loads(body)["data"]]
    except (ValueError, KeyError, TypeError):
        return []


def _refusal(target: Target, status: int, body: bytes, models: list[str]) -> OknoError:
    """What an answer other than 200 means."""
    said = f"{target.url} answers {status}: {error_message(body)}"
    if status in (401, 403):
        return AccessDenied(f"{said} Give the server's key with --api-key.")
    if status == 404 and target.model and "model" in error_message(body).lower():
        served = ", ".join(models[:LISTED]) or "not told by the server"
        return ModelNotFound(f"{said} Models served there: {served}. Choose one with --model.")
    if status in (404, 405):
        return EngineFailed(
            f"{said} Is it an OpenAI-compatible server? Give its address as http://host:port, or "
            "the whole address that ends in /completions or /chat/completions (--chat)."
        )
    if status == 503:
        return NotReady(f"{said} Try again when it is ready.")
    return BadRequest(f"{said} The request was one short prompt (model {target.model}).")


def _unreachable(target: Target, error: OSError) -> str:
    where = f"http{'s' * target.address.tls}://{target.address.authority}"
    return (
        f"Nothing usable listens at {where}: {error.strerror or error}. Start a server there (okno "
        "serve), or give the address of one: okno bench serve http://host:port."
    )


def _no_address(url: str) -> BadSetting:
    return BadSetting(
        f"{url[:200]} is not the address of a server. Give one such as {DEFAULT_URL}.", param="URL"
    )
