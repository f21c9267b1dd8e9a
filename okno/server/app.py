"""The routes, and what becomes of errors. `create_app` is all that others need."""

from __future__ import annotations

import difflib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route

from okno.core.errors import OknoError
from okno.engines.client import EngineClient
from okno.server import native
from okno.server.chat import chat
from okno.server.completions import completions
from okno.server.context import Context
from okno.server.embeddings import embeddings
from okno.server.errors import ClientGone, MethodNotAllowed, RouteNotFound, error_response
from okno.server.metrics import Metrics
from okno.server.security import Security
from okno.server.settings import ServerSettings

log = logging.getLogger(__name__)

Handler = Callable[[Context, Request], Awaitable[Response]]

ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("GET", "/", native.root),
    ("GET", "/health", native.health),
    ("GET", "/metrics", native.metrics),
    ("GET", "/props", native.props),
    ("GET", "/slots", native.slots),
    ("GET", "/models", native.models),
    ("GET", "/v1/models", native.models),
    ("GET", "/v1/models/{model:path}", native.model),
    ("POST", "/v1/chat/completions", chat),
    ("POST", "/chat/completions", chat),
    ("POST", "/v1/completions", completions),
    ("POST", "/v1/embeddings", embeddings),
    ("POST", "/tokenize", native.tokenize),
    ("POST", "/detokenize", native.detokenize),
    ("POST", "/apply-template", native.apply_template),
)


def create_app(engine: EngineClient, settings: ServerSettings) -> FastAPI:
    """The ASGI application over `engine`. It starts and closes nothing: `serve` does (run.py)."""
    app = FastAPI(
        title="okno", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False
    )
    context = Context(engine, settings, Metrics(engine), time.time())
    for method, path, handler in ROUTES:
        app.add_route(path, bound(context, handler), methods=[method])
    add_error_handlers(app, settings)
    app.add_middleware(Security, settings=settings)
    return app


def bound(context: Context, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        return await handler(context, request)

    endpoint.__name__ = getattr(handler, "__name__", "endpoint")
    return endpoint


def add_error_handlers(app: FastAPI, settings: ServerSettings) -> None:
    async def known(request: Request, error: Exception) -> Response:
        assert isinstance(error, OknoError)
        return error_response(error, settings.retry_after_s)

    async def routing(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        found = routing_error(app, request, error.status_code)
        response = error_response(found, settings.retry_after_s)
        response.headers.update(error.headers or {})
        return response

    async def left(request: Request, error: Exception) -> Response:
        return Response(status_code=499)

    async def unknown(request: Request, error: Exception) -> Response:
        message = "The server made a mistake; its log has the details."
        return error_response(OknoError(message), settings.retry_after_s)

    handlers: dict[Any, Any] = {
        OknoError: known, HTTPException: routing, ClientGone: left, Exception: unknown,
    }  # fmt: skip
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


def routing_error(app: FastAPI, request: Request, status: int) -> OknoError:
    """404 with the nearest routes, 405 with the methods that exist."""
    path = request.url.path
    if status == 405:
        methods = sorted({m for m, p, _ in ROUTES if matches(app, p, request)})
        return MethodNotAllowed(
            f"{path[:200]} is not called with {request.method} but with {', '.join(methods)}."
        )
    if status == 404:
        paths = list(dict.fromkeys(p for _, p, _ in ROUTES))
        near = difflib.get_close_matches(path[:200], paths, n=2, cutoff=0.5)
        hint = f"the nearest: {' and '.join(near)}" if near else "the API is under /v1"
        return RouteNotFound(f"There is no {path[:200]} here; {hint}.")
    return OknoError(f"The request failed with status {status}.")


def matches(app: FastAPI, path: str, request: Request) -> bool:
    """True when the route registered as `path` is the one the request's path leads to."""
    routes = [r for r in app.router.routes if isinstance(r, Route) and r.path == path]
    return any(r.matches(request.scope)[0] is not Match.NONE for r in routes)
