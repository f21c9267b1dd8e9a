"""okno's own routes and those of llama-server: health, metrics, tokens, properties, slots."""

from __future__ import annotations

from dataclasses import asdict

from starlette.requests import Request as HTTPRequest
from starlette.responses import PlainTextResponse, Response

import okno
from okno.core.errors import BadRequest, ModelNotFound
from okno.engines.client import EngineStatus
from okno.server import parse
from okno.server.context import Context
from okno.server.errors import BodyTooLarge, JSONBytes, ignored_header
from okno.server.metrics import CONTENT_TYPE
from okno.server.replies import token_text
from okno.server.schemas import (
    MAX_TEXT_CHARS,
    MAX_TEXT_TOKENS,
    DetokenizeFields,
    TemplateFields,
    TokenizeFields,
)

GREETING = """okno serves `{model}` here.

API (OpenAI-compatible): {base}v1
Health: {base}health   Metrics: {base}metrics
The web page comes with a later version.
"""


async def root(context: Context, request: HTTPRequest) -> Response:
    return PlainTextResponse(GREETING.format(model=context.model(None), base=request.base_url))


async def health(context: Context, request: HTTPRequest) -> Response:
    """200 only when the model is loaded and tokens move, or nothing waits."""
    status = context.engine.status()
    ok = status.state == "ready" and not status.stalled
    headers = {} if ok else {"retry-after": "1"}
    return JSONBytes(health_body(status), status=200 if ok else 503, headers=headers)


def health_body(status: EngineStatus) -> dict[str, object]:
    if status.state == "ready":
        return {"status": "stalled" if status.stalled else "ok"}
    body: dict[str, object] = {"status": status.state}
    if status.state == "loading":
        body["progress"] = round(status.progress, 4)
    reason = status.error.message if status.error else status.last_death
    if reason:
        body["reason"] = reason
    return body


async def metrics(context: Context, request: HTTPRequest) -> Response:
    return Response(context.metrics.text(), headers={"content-type": CONTENT_TYPE})


async def models(context: Context, request: HTTPRequest) -> Response:
    return JSONBytes({"object": "list", "data": [model_body(context)]})


async def model(context: Context, request: HTTPRequest) -> Response:
    asked = request.path_params["model"]
    if asked == "":
        raise ModelNotFound("Name a model; /v1/models lists them.", param="model")
    context.model(asked)
    return JSONBytes(model_body(context))


def model_body(context: Context) -> dict[str, object]:
    status = context.engine.status()
    names = context.names()
    body: dict[str, object] = {
        "id": names[0],
        "object": "model",
        "created": int(context.started_s),
        "owned_by": "okno",
        "aliases": names[1:],
    }
    if status.window:
        body["max_model_len"] = status.window.ctx
    if facts := status.facts:
        body["meta"] = {
            "architecture": facts.architecture,
            "n_params": facts.n_params,
            "size": facts.size_bytes,
            "n_vocab": facts.n_vocab,
            "n_embd": facts.n_embd,
            "n_ctx_train": facts.ctx_train,
        }
        if facts.adapters:
            body["adapters"] = [{"name": a.name, "scale": a.scale} for a in facts.adapters]
    return body


async def props(context: Context, request: HTTPRequest) -> Response:
    status = context.engine.status()
    window = status.window
    defaults = context.settings.defaults
    settings = {
        **asdict(defaults.sampling),
        "max_tokens": defaults.max_tokens,
        "stop": defaults.stop,
        "n_ctx": window.ctx if window else None,
    }
    return JSONBytes(
        {
            "version": okno.__version__,
            "state": status.state,
            "model_alias": context.model(None),
            "model_path": status.facts.path if status.facts else None,
            "total_slots": window.batch_size if window else None,
            "default_generation_settings": settings,
            "has_chat_template": status.facts.has_chat_template if status.facts else None,
            "model": asdict(status.facts) if status.facts else None,
            "window": asdict(window) if window else None,
            "memory": asdict(status.memory) if status.memory else None,
            "notes": list(status.notes),
        }
    )


async def slots(context: Context, request: HTTPRequest) -> Response:
    """The engine's sequences. Without texts and client names: those belong to other users."""
    found = await context.engine.inspect()
    window = context.engine.status().window
    return JSONBytes(
        {
            "slots": [
                {
                    "id": slot.seq,
                    "state": slot.state,
                    "is_processing": slot.state == "live",
                    "request": slot.request,
                    "n_ctx": window.ctx if window else None,
                    "prompt_tokens": slot.prompt_tokens,
                    "computed_tokens": slot.computed_tokens,
                    "generated_tokens": slot.generated_tokens,
                }
                for slot in found.slots
            ],
            "waiting": found.waiting,
            "used_cells": found.used_cells,
            "pool_cells": found.pool_cells,
            "steps": found.steps,
        }
    )


async def tokenize(context: Context, request: HTTPRequest) -> Response:
    body = await context.read(request, TokenizeFields)
    context.model(body.model)
    check_size("content", len(body.content), MAX_TEXT_CHARS, "characters")
    found = await context.engine.tokenize(
        body.content,
        add_special=bool(body.add_special),
        parse_special=parse.or_default(body.parse_special, True),
        with_pieces=bool(body.with_pieces),
    )
    if not body.with_pieces:
        return JSONBytes({"tokens": found.tokens})
    pairs = zip(found.tokens, found.pieces, strict=True)
    return JSONBytes({"tokens": [{"id": t, "piece": piece_body(p)} for t, p in pairs]})


def check_size(param: str, size: int, limit: int, unit: str) -> None:
    """These calls stand between the steps of running answers, so they must stay short."""
    if size > limit:
        raise BodyTooLarge(
            f"`{param}` has {size:,} {unit}; at most {limit:,} are accepted in one request.",
            param=param,
        )


def piece_body(piece: bytes) -> str | list[int]:
    """A token's text; its bytes as numbers where they are no UTF-8 alone (as llama-server)."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return list(piece)


async def detokenize(context: Context, request: HTTPRequest) -> Response:
    body = await context.read(request, DetokenizeFields)
    context.model(body.model)
    check_size("tokens", len(body.tokens), MAX_TEXT_TOKENS, "tokens")
    for token in body.tokens:
        parse.check_token(token, "tokens")
    found = await context.engine.detokenize(body.tokens)
    return JSONBytes({"content": token_text(found.text)})


async def apply_template(context: Context, request: HTTPRequest) -> Response:
    body = await context.read(request, TemplateFields)
    context.model(body.model)
    go_on = bool(body.continue_final_message)
    turns = parse.messages(body.messages, go_on)
    if not turns:
        raise BadRequest("`messages` is empty; send at least one message.", param="messages")
    found = await context.engine.tokenize(messages=turns, continue_last=go_on)
    headers = ignored_header(parse.ignored_in(body.messages))
    return JSONBytes({"prompt": found.prompt}, headers=headers)
