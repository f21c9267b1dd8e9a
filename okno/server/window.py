"""`GET` and `PATCH /okno/v1/window`: the window that serves, and another one while it serves."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Literal

import msgspec
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response

from okno.core.errors import BadRequest, NotReady
from okno.core.window import CHANGE_BOUNDS, KVType, Window, WindowChange
from okno.engines.protocol import Resized
from okno.server.context import Context
from okno.server.errors import JSONBytes
from okno.server.query import parameters
from okno.server.schemas import about

RETRY_AFTER_S = 2
Auto = Literal["auto"]


def _bounds(name: str) -> str:
    low, high = CHANGE_BOUNDS[name]
    return f"{low:,} to {high:,}, or `auto`"


class WindowFields(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What to change. null means: as if left out."""

    batch_size: Annotated[
        int | Auto | None, about(f"Sequences decoded at once: {_bounds('batch_size')}.")
    ] = None
    ctx: Annotated[int | Auto | None, about(f"Tokens one request may see: {_bounds('ctx')}.")] = (
        None
    )
    kv_type: Annotated[
        KVType | None,
        about("`f16`, `bf16`, `f32`, `q8_0` or `q4_0`. Another type than before: what was computed "
              "is computed again."),
    ] = None  # fmt: skip
    kv_pool: Annotated[
        int | Auto | None,
        about(f"Tokens of KV cache shared by all: {_bounds('kv_pool')}, which is batch size x ctx. "
              "Left out: as before, and one that was batch size x ctx follows the two."),
    ] = None  # fmt: skip


async def window(context: Context, request: HTTPRequest) -> Response:
    """The window in effect."""
    parameters(request, ())
    status = context.engine.status()
    if status.window is None or status.memory is None:
        raise NotReady("The model is loading; its window is not known yet.",
                       retry_after_s=RETRY_AFTER_S)  # fmt: skip
    return JSONBytes(
        {
            "object": "okno.window",
            "window": window_body(status.window),
            "memory": asdict(status.memory),
            "notes": list(status.notes),
        }
    )


async def change_window(context: Context, request: HTTPRequest) -> Response:
    """Another window for the loaded model; requests go on. Answers when it is there."""
    parameters(request, ())
    fields = await context.read(request, WindowFields)
    change = WindowChange(fields.batch_size, fields.ctx, fields.kv_type, fields.kv_pool)
    if change == WindowChange():
        names = ", ".join(f"`{name}`" for name in WindowFields.__struct_fields__)
        raise BadRequest(f"There is nothing to change; give one of {names}.")
    change.check()
    return JSONBytes(resized_body(await context.engine.resize(change)))


def window_body(window: Window) -> dict[str, object]:
    """By the names that PATCH takes."""
    return {
        "batch_size": window.batch_size,
        "ctx": window.ctx,
        "kv_type": window.kv_type,
        "kv_pool": window.kv_pool_tokens,
        "step_tokens": window.step_tokens,
    }


def resized_body(done: Resized) -> dict[str, object]:
    counts = done.counts
    return {
        "object": "okno.window.resized",
        "changed": done.window != done.before,
        "before": window_body(done.before),
        "window": window_body(done.window),
        "pause_s": round(counts.pause_s, 6),
        "staged": counts.staged,
        "state_bytes": counts.state_bytes,
        "live": {
            "moved": counts.moved,
            "waiting_again": counts.waiting_again,
            "recomputed": counts.recomputed,
        },
        "parked": {"before": counts.parked_before, "kept": counts.parked},
        "predicted_bytes": done.needed_bytes,
        "memory": asdict(done.memory),
        "notes": list(done.notes),
    }
