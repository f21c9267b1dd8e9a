"""The window a worker opens: what was asked, or what `auto` makes of model and free memory.

Until the planner exists: the model's trained context and batch 4, cut down so that the KV pool
and 1 GiB of room fit into the memory that is free once the weights are loaded. The batch is cut
first, then the context is halved.
"""

from __future__ import annotations

from dataclasses import dataclass

from okno.core.errors import BadSetting, DoesNotFit
from okno.core.window import MAX_BATCH_SIZE, KVType, Window

AUTO_BATCH = 4
AUTO_ROOM_BYTES = 1 << 30
MIN_CTX = 256
BYTES_PER_ELEMENT: dict[KVType, float] = {
    "f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Asked:
    """What the user asked; None is `auto`."""

    batch_size: int | None
    ctx: int | None
    kv_pool_tokens: int | None
    kv_type: KVType
    step_tokens: int


def choose_window(
    asked: Asked, *, ctx_train: int, kv_elements_per_token: int, free_bytes: int
) -> tuple[Window, tuple[str, ...]]:
    """The window, and a line per decision that `auto` took.

    kv_elements_per_token: K and V elements of one token over all layers. free_bytes: with the
    weights already loaded. Raises BadSetting for values out of range, DoesNotFit when an asked
    window needs more than is free.
    """
    _check(asked)
    token_bytes = kv_elements_per_token * BYTES_PER_ELEMENT[asked.kv_type]
    batch = asked.batch_size or AUTO_BATCH
    ctx = asked.ctx or ctx_train
    fits = int((free_bytes - AUTO_ROOM_BYTES) / token_bytes) if token_bytes else 2**31
    if asked.batch_size is None and asked.kv_pool_tokens is None:
        batch = max(1, min(batch, fits // ctx))
    if asked.ctx is None:
        while ctx // 2 >= MIN_CTX and (asked.kv_pool_tokens or batch * ctx) > fits:
            ctx //= 2
        ctx = min(ctx, asked.kv_pool_tokens or ctx)
    pool = asked.kv_pool_tokens or batch * ctx
    if pool < ctx:
        raise BadSetting(
            f"The KV pool of {pool:,} tokens is smaller than the context window of {ctx:,}, so "
            f"one request could not fill its window. Give --kv-pool at least {ctx:,}.",
            kv_pool_tokens=pool, ctx=ctx,
        )  # fmt: skip
    _check_fits(batch, ctx, pool, token_bytes, free_bytes)
    window = Window(batch, ctx, pool, asked.kv_type, max(asked.step_tokens, batch))
    return window, _notes(asked, window, ctx_train)


def _check(asked: Asked) -> None:
    if asked.batch_size is not None and not 1 <= asked.batch_size <= MAX_BATCH_SIZE:
        raise BadSetting(
            f"batch_size is {asked.batch_size}; 1 to {MAX_BATCH_SIZE} requests can be decoded at "
            "once. If you mean prompt tokens per step (as textgen and llama-server do), "
            "use --step-tokens.",
            batch_size=asked.batch_size,
        )
    if asked.ctx is not None and asked.ctx < 16:
        raise BadSetting(f"ctx is {asked.ctx}; give at least 16 tokens.", ctx=asked.ctx)


def _check_fits(batch: int, ctx: int, pool: int, token_bytes: float, free_bytes: int) -> None:
    needed = int(pool * token_bytes)
    if needed > free_bytes:
        most = int(free_bytes / token_bytes)
        raise DoesNotFit(
            f"A window of batch {batch} x ctx {ctx:,} needs {needed / 2**20:,.0f} MiB for the KV "
            f"cache; {max(0, free_bytes) / 2**20:,.0f} MiB are free beside the weights. "
            f"Possible here: {max(0, most):,} tokens in all, for example "
            f"--batch-size 1 --ctx {max(0, most) // 256 * 256}. A smaller --kv-type helps too.",
            needed_bytes=needed, free_bytes=free_bytes,
        )  # fmt: skip


def _notes(asked: Asked, window: Window, ctx_train: int) -> tuple[str, ...]:
    notes = []
    if asked.ctx is None:
        reason = "the model's trained context" if window.ctx == ctx_train else "what memory allows"
        notes.append(f"ctx auto: {window.ctx:,} ({reason})")
    elif asked.ctx > ctx_train:
        notes.append(
            f"ctx {window.ctx:,} is beyond the {ctx_train:,} tokens the model was trained on; "
            "answers may lose coherence there"
        )
    if asked.batch_size is None:
        reason = "the default" if window.batch_size == AUTO_BATCH else "what memory allows"
        notes.append(f"batch size auto: {window.batch_size} ({reason})")
    return tuple(notes)
