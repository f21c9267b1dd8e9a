"""Memory of a draft model, known before either model is loaded.

Its weights, cache and scratch are the engine's own dry run of its header with the large model's
window; the large model's window is chosen from what they leave free. The first choice, made as if
alone, is at least as large as the second one, so what is kept free for the draft model suffices.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from okno.core.errors import DoesNotFit
from okno.core.load import Load
from okno.core.plan import MemoryPlan
from okno.core.window import KVType, Window
from okno.engines.choice import Choice, choose_for
from okno.engines.dry_run import DryRun
from okno.engines.protocol import WorkerOptions
from okno.inspect.header import read_header
from okno.plan.words import size


def choose_beside_draft(options: WorkerOptions, kv_type: KVType) -> Choice:
    """The window for `options` in what the draft model leaves free; a note says what that takes.
    Raises as choose_for does."""
    alone = choose_for(options, kv_type)
    draft = draft_memory(options, alone.chosen.window)
    taken = needed_bytes(draft)
    name = Path(options.draft_path).stem
    try:
        choice = choose_for(options, kv_type, taken)
    except DoesNotFit as error:
        raise DoesNotFit(
            f"{error.message} The draft model {name} needs {size(draft.needed_bytes)} of the "
            "memory; leave out --draft, or give a smaller one.",
            param=error.info.param,
            **error.info.details,
        ) from None
    note = f"draft model {name}: {size(draft.needed_bytes)} with its own KV cache"
    chosen = replace(choice.chosen, notes=(*choice.chosen.notes, note))
    return replace(choice, chosen=chosen, taken=taken)


def draft_memory(options: WorkerOptions, window: Window) -> MemoryPlan:
    """What the draft model takes beside a model with `window`, without a process of its own.
    Raises ModelUnusable for a file that is no sound GGUF."""
    path = Path(options.draft_path)
    header = read_header(path)
    load = Load(replace(window, kv_type="f16"), options.mmap, options.flash_attention,
                options.gpu_layers)  # fmt: skip
    with DryRun(path, header, in_process=True) as dry_run:
        return dry_run.memory(load)


def needed_bytes(plan: MemoryPlan) -> dict[str, int]:
    """Of `plan`, by device."""
    return {device.device: device.parts.needed_bytes for device in plan.devices}
