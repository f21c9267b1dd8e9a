"""Whether a window is served with flash attention or without.

With it a step skips the cells of other sequences and stores no scores; without it a cell costs a
fraction as much on a CPU below 64 rows, but every row computes every cell of the pool. So few
sequences do better without, many with it, and where the border lies is a matter of the model's
heads and the machine: of its calibration.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from okno.core.header import ModelHeader
from okno.core.load import Load
from okno.core.plan import MemoryPlan, PlannedLoad, SpeedPlan
from okno.core.window import Window

LEAST_GAIN, LEAST_ALONE = 1.05, 0.9
STEP_TOKENS = 64
# Flash attention keeps no scores; without it a window may take so much more memory.
MORE_SHARE, MORE_BYTES = 0.25, 64 * 2**20


def settled(
    header: ModelHeader,
    planned: PlannedLoad,
    memory: Callable[[Load], MemoryPlan],
    speed: Callable[[Load], SpeedPlan],
    room_bytes: int = 0,
) -> PlannedLoad:
    """`planned` without flash attention, where that was left to okno, is predicted to be at least
    LEAST_GAIN times as fast (never where a full batch loses), and fits, leaving room_bytes, in not
    much more memory. Steps are smaller without it; that alone is no reason."""
    load = planned.load
    if load.flash_attention != "auto" or planned.speed is None or not _may_go_without(header, load):
        return planned
    without = replace(load, flash_attention="off", window=_in_small_steps(load.window))
    quicker = speed(without)
    if not _is_better(planned.speed, quicker):
        return planned
    if not _is_measured(quicker) and not _differs(planned.speed, speed, load):
        return planned
    needed = memory(without)
    more_bytes = needed.needed_bytes - planned.memory.needed_bytes
    allowed_bytes = max(MORE_BYTES, MORE_SHARE * planned.memory.needed_bytes)
    if more_bytes > allowed_bytes or needed.over_bytes(room_bytes):
        return planned
    return PlannedLoad(without, needed, quicker)


def _may_go_without(header: ModelHeader, load: Load) -> bool:
    """Quantised values need flash attention; of latent ones (MLA) the cost is not measured."""
    is_latent = any(layer.k_width and not layer.v_width for layer in header.layers)
    return load.window.kv_type == "f16" and not is_latent and not header.is_embedding_model


def _is_better(with_it: SpeedPlan, without: SpeedPlan) -> bool:
    """What was measured one way is served that way, both ways the faster; else by predictions."""
    if _is_measured(with_it) != _is_measured(without):
        return _is_measured(without)
    if _is_measured(with_it):
        return without.total_tok_s.value >= LEAST_GAIN * with_it.total_tok_s.value
    return _gain(with_it, without) >= LEAST_GAIN


def _differs(with_it: SpeedPlan, speed: Callable[[Load], SpeedPlan], load: Load) -> bool:
    """In steps of the same size the prediction knows a gain: a data sheet does not."""
    return _gain(with_it, speed(replace(load, flash_attention="off"))) > 1.0


def _is_measured(speed: SpeedPlan) -> bool:
    return "measured" in (speed.alone_tok_s.kind, speed.total_tok_s.kind)


def _in_small_steps(window: Window) -> Window:
    """The scores take step_tokens rows of all cells, and more rows than these gain nothing."""
    rows = min(window.step_tokens, max(STEP_TOKENS, window.batch_size))
    return replace(window, step_tokens=rows)


def _gain(with_it: SpeedPlan, without: SpeedPlan) -> float:
    """How many times as many requests are answered in a time in full batches, but no gain at all
    where one by one loses more than a tenth. By the calibration alone: what serving has taught, it
    taught of the one way that was served."""
    alone = with_it.request_s / without.request_s
    full = with_it.full_request_s / without.full_request_s
    return full if alone >= LEAST_ALONE else alone
