"""GET /okno/v1/steps: what the engine ran in its last steps, and why."""

from __future__ import annotations

import asyncio

from starlette.requests import Request as HTTPRequest
from starlette.responses import Response

from okno.core.errors import BadRequest
from okno.engines.protocol import Recalled
from okno.engines.steps import KEPT_STEPS, Piece, StepRecord
from okno.server.context import Context
from okno.server.errors import JSONBytes
from okno.server.query import SHOWN_CHARS, parameters

DEFAULT_LAST = 100


async def steps(context: Context, request: HTTPRequest) -> Response:
    """The last steps of the running worker, oldest first. Without texts and client names."""
    asked = parameters(request, ("last",))
    found = await context.engine.steps(last_of(asked.get("last")))
    restarts = context.engine.status().restarts
    return await asyncio.to_thread(response, found, restarts)  # may be a megabyte: streams go on


def response(found: Recalled, restarts: int) -> Response:
    return JSONBytes(
        {
            "object": "okno.steps",
            "restarts": restarts,
            "count": found.count,
            "steps": [step_body(record) for record in found.steps],
        }
    )


def last_of(text: str | None) -> int:
    """The number of steps asked for. Raises BadRequest."""
    if text is None:
        return DEFAULT_LAST
    if text.isascii() and text.isdigit() and len(text) <= len(str(KEPT_STEPS)):
        last = int(text)
        if 1 <= last <= KEPT_STEPS:
            return last
    raise BadRequest(
        f"`last` is {text[:SHOWN_CHARS]!r}; give a whole number from 1 to {KEPT_STEPS:,}, the "
        "steps that are kept.",
        param="last",
    )


def step_body(record: StepRecord) -> dict[str, object]:
    return {
        "step": record.step,
        "start_s": round(record.start_s, 6),
        "schedule_s": round(record.schedule_s, 6),
        "engine_s": round(record.engine_s, 6),
        "sample_s": round(record.sample_s, 6),
        "rows": record.rows,
        "decode_rows": record.decode_rows,
        "prompt_rows": record.prompt_rows,
        "draft_rows": record.draft_rows,
        "accepted_drafts": record.accepted,
        "filler_rows": record.filler,
        "why": record.why,
        "allowed_prompt_rows": record.allowed,
        "operations": record.operations,
        "live": record.live,
        "waiting": record.waiting,
        "used_cells": record.used_cells,
        "preemptions": record.preemptions,
        "sequences": [piece_body(piece) for piece in record.pieces],
    }


def piece_body(piece: Piece) -> dict[str, object]:
    return {
        "request": piece.request,
        "slot": piece.slot,
        "kind": "decode" if piece.decoding else "prompt",
        "start": piece.start,
        "rows": piece.rows,
        "drafts": piece.drafts,
        "accepted_drafts": piece.accepted,
        "draft_source": piece.source,
    }
