"""The routes, and what becomes of errors. `create_app` is all that others need."""

from __future__ import annotations

import difflib
import logging
import time
from collections.abc import Awaitable, Callable

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from okno.core.errors import OknoError
from okno.engines.client import EngineClient
from okno.server import native
from okno.server.chat import chat
from okno.server.completions import completions
from okno.server.config import config, config_schema
from okno.server.context import Context
from okno.server.embeddings import embeddings
from okno.server.errors import ClientGone, MethodNotAllowed, RouteNotFound, error_response
from okno.server.hardware import hardware
from okno.server.metrics import Metrics
from okno.server.plan import plan, recommend
from okno.server.security import Security, check_json
from okno.server.settings import ServerSettings
from okno.server.steps import steps
from okno.server.window import change_window, window

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
    ("GET", "/okno/v1/window", window),
    ("PATCH", "/okno/v1/window", change_window),
    ("GET", "/okno/v1/hardware", hardware),
    ("POST", "/okno/v1/plan", plan),
    ("GET", "/okno/v1/recommend", recommend),
    ("GET", "/okno/v1/steps", steps),
    ("GET", "/okno/v1/config", config),
    ("GET", "/okno/v1/config/schema", config_schema),
)

LATER = {
    "/completion": "llama-server's own completion comes",
    "/api": "Ollama's API comes",
    "/v1/responses": "OpenAI's responses come",
    "/v1/messages": "Anthropic's messages come",
    "/docs": "a reference page comes",
}


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
    """`handler` as an endpoint. Changes are JSON: no route is reached by what a form can send."""

    async def endpoint(request: Request) -> Response:
        check_json(request)
        return await handler(context, request)

    endpoint.__name__ = getattr(handler, "__name__", "endpoint")
    return endpoint


def add_error_handlers(app: FastAPI, settings: ServerSettings) -> None:
    async def known(request: Request, error: Exception) -> Response:
        assert isinstance(error, OknoError)
        return error_response(error, settings.retry_after_s)

    async def routing(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        response = error_response(routing_error(request, error), settings.retry_after_s)
        response.headers.update(error.headers or {})
        return response

    async def left(request: Request, error: Exception) -> Response:
        return Response(status_code=499)

    async def unknown(request: Request, error: Exception) -> Response:
        message = "The server made a mistake; its log has the details."
        return error_response(OknoError(message), settings.retry_after_s)

    app.add_exception_handler(OknoError, known)
    app.add_exception_handler(HTTPException, routing)
    app.add_exception_handler(ClientGone, left)
    app.add_exception_handler(Exception, unknown)


def routing_error(request: Request, error: HTTPException) -> OknoError:
    """404 with what to use instead, 405 with the methods that exist."""
    path = request.url.path
    if error.status_code == 405:
        methods = ", ".join(sorted((error.headers or {}).get("Allow", "").split(", ")))
        return MethodNotAllowed(
            f"{path[:200]} is not called with {request.method} but with {methods}."
        )
    if error.status_code == 404:
        return RouteNotFound(f"There is no {path[:200]} here; {instead_of(path)}.")
    return OknoError(f"The request failed with status {error.status_code}.")


def instead_of(path: str) -> str:
    for start, what in LATER.items():
        if path == start or path.startswith(f"{start}/"):
            return f"{what} with a later version; use /v1/chat/completions"
    paths = list(dict.fromkeys(p for _, p, _ in ROUTES))
    near = difflib.get_close_matches(path[:200], paths, n=2, cutoff=0.5)
    return f"the nearest: {' and '.join(near)}" if near else "the API is under /v1"
