"""POST /v1/embeddings."""

from __future__ import annotations

import base64
import struct

from starlette.requests import Request as HTTPRequest
from starlette.responses import Response

from okno.core.errors import BadRequest
from okno.engines.protocol import Embedded
from okno.server import parse
from okno.server.context import Context
from okno.server.errors import ClientGone, JSONBytes, ignored_header
from okno.server.generation import unless_gone
from okno.server.schemas import EmbeddingBody, EmbeddingFields
from okno.server.wire import ignored_fields


async def embeddings(context: Context, request: HTTPRequest) -> Response:
    body = await context.read(request, EmbeddingBody)
    model = context.model(body.model)
    inputs = parse.inputs(body.input, "input")
    check(context, body, inputs)
    normalize = parse.or_default(body.normalize, True)
    work = context.engine.embed(inputs, normalize=normalize)
    embedded = await unless_gone(request.receive, work)
    if embedded is None:
        raise ClientGone
    headers = ignored_header(ignored_fields(body))
    return JSONBytes(embedding_body(embedded, model, body.encoding_format), headers=headers)


def check(context: Context, body: EmbeddingFields, inputs: list[str | tuple[int, ...]]) -> None:
    if any(not item for item in inputs):
        raise BadRequest("`input` holds an empty text; send at least one character.", param="input")
    if body.encoding_format not in (None, "float", "base64"):
        raise BadRequest("`encoding_format` must be `float` or `base64`.", param="encoding_format")
    facts = context.engine.status().facts
    if body.dimensions is not None and (facts is None or body.dimensions != facts.n_embd):
        own = f"{facts.n_embd}" if facts else "the model's own number"
        raise BadRequest(
            f"`dimensions` is {body.dimensions}; this model's vectors have {own} "
            "and are never cut.",
            param="dimensions",
        )


def embedding_body(embedded: Embedded, model: str, encoding: str | None) -> dict[str, object]:
    data = [
        {"object": "embedding", "index": i, "embedding": vector_body(vector, encoding)}
        for i, vector in enumerate(embedded.vectors)
    ]
    body: dict[str, object] = {
        "object": "list",
        "data": data,
        "model": model,
        "usage": {"prompt_tokens": embedded.tokens, "total_tokens": embedded.tokens},
    }
    if embedded.note:
        body["note"] = embedded.note
    return body


def vector_body(vector: bytes, encoding: str | None) -> object:
    """float32 little-endian bytes as base64 text, or as numbers."""
    if encoding == "base64":
        return base64.b64encode(vector).decode()
    return list(struct.unpack(f"<{len(vector) // 4}f", vector))
