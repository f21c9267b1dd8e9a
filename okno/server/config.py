"""GET /okno/v1/config: the settings in effect and where they come from; and their schema."""

from __future__ import annotations

from dataclasses import asdict

from starlette.requests import Request as HTTPRequest
from starlette.responses import Response

from okno.config.schema import schema
from okno.core.window import Window
from okno.server.context import Context
from okno.server.errors import JSONBytes
from okno.server.query import parameters

SHOWN_OF_WINDOW = {
    "load.batch_size": "batch_size",
    "load.ctx": "ctx",
    "load.kv_pool": "kv_pool_tokens",
    "load.kv_type": "kv_type",
    "load.step_tokens": "step_tokens",
}


async def config(context: Context, request: HTTPRequest) -> Response:
    """Every setting: value, source, and for the window what the engine really has (`in_effect`,
    null until the model is loaded). Secrets never."""
    parameters(request, ())
    window = in_effect(context.engine.status().window)
    settings = [
        asdict(one) | ({"in_effect": window.get(one.key)} if one.key in SHOWN_OF_WINDOW else {})
        for one in context.settings.config
    ]
    return JSONBytes(
        {"object": "okno.config", "file": context.settings.config_file, "settings": settings}
    )


def in_effect(window: Window | None) -> dict[str, object]:
    """The window by the keys of the settings that ask for it."""
    if window is None:
        return {}
    return {key: getattr(window, name) for key, name in SHOWN_OF_WINDOW.items()}


async def config_schema(context: Context, request: HTTPRequest) -> Response:
    """The JSON schema of generation_config.yaml."""
    parameters(request, ())
    return JSONBytes(schema())
