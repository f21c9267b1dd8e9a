"""What to change when a window does not fit: each change with its bytes, and what then fits.

Every answer is computed with the same memory model as the refusal, never inferred.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from okno.core.header import ModelHeader
from okno.core.load import Load
from okno.core.machine import Machine
from okno.core.plan import MemoryPlan
from okno.core.window import KVType
from okno.plan.goals import KV_RANK
from okno.plan.memory import MemoryModel
from okno.plan.search import (
    ctx_ladder,
    fits,
    largest_batch,
    takes_kv_type,
    usable_kv_types,
    widest_ctx,
    window_of,
)
from okno.plan.words import size

Change = Literal["kv_type", "ctx", "batch_size", "offload", "mmap", "quantisation", "model"]
MemoryOf = Callable[[ModelHeader], MemoryModel]
SMALLER_KV: tuple[KVType, ...] = ("q8_0", "q4_0")
MOST_MODELS = 3


@dataclass(frozen=True, slots=True)
class Advice:
    """One change to what was asked. saved_bytes: less needed than as asked, over all devices
    (offload: less on the device that was too small). fits: this change alone is enough. load: with
    the change made. model: the name of another quantisation or model."""

    change: Change
    text: str
    load: Load
    saved_bytes: int
    needed_bytes: int
    fits: bool
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Trouble:
    """A load that does not fit. variants: the same model in other quantisations; others: other
    models of the catalog, best first. memory_of: the memory model of any of them."""

    header: ModelHeader
    machine: Machine
    load: Load
    memory: MemoryModel
    memory_of: MemoryOf | None = None
    variants: Sequence[ModelHeader] = ()
    others: Sequence[ModelHeader] = ()
    room_bytes: int = 0

    def fits(self, plan: MemoryPlan) -> bool:
        return fits(plan, self.room_bytes)

    @property
    def needed_bytes(self) -> int:
        return self.memory.memory(self.load).needed_bytes


def advise(trouble: Trouble) -> tuple[Advice, ...]:
    """What to change; what is enough by itself comes first, each kind in the order in which it
    costs least quality: window, KV type, offload, quantisation, model."""
    found = [
        *_narrower(trouble), *_smaller_batch(trouble), *_smaller_kv(trouble), *_mmap(trouble),
        *_offload(trouble), *_variants(trouble), *_others(trouble),
    ]  # fmt: skip
    return tuple(sorted(found, key=lambda advice: not advice.fits))


def short_by(memory: MemoryPlan, room_bytes: int = 0) -> str:
    """`2.1 GiB too much on cuda0`, for every device that has not enough; empty when it fits."""
    unified = [one.device for one in memory.devices if one.unified]
    pool = f"{' and '.join(['cpu', *unified])} together" if unified else "cpu"
    return " and ".join(
        f"{size(over)} too much on {pool if device == 'cpu' else device}"
        for device, over in memory.over_bytes(room_bytes).items()
    )


def _made(
    trouble: Trouble, change: Change, load: Load, text: str, memory: MemoryModel | None = None,
    model: str | None = None,
) -> Advice:  # fmt: skip
    plan = (memory or trouble.memory).memory(load)
    saved = trouble.needed_bytes - plan.needed_bytes
    fitting = trouble.fits(plan)
    effect = f"{text}: {size(plan.needed_bytes)}, {_difference(saved)}"
    end = "; then it fits." if fitting else f"; not enough alone ({short_by(plan)})."
    return Advice(change, effect + end, load, saved, plan.needed_bytes, fitting, model)


def _difference(saved_bytes: int) -> str:
    return f"{size(abs(saved_bytes))} {'less' if saved_bytes >= 0 else 'more'}"


def _narrower(trouble: Trouble) -> Iterator[Advice]:
    """The widest ctx that fits with this batch; with none, how much the narrowest saves."""
    window = trouble.load.window
    rungs = tuple(c for c in ctx_ladder(trouble.header.ctx_train or window.ctx) if c < window.ctx)
    if not rungs:
        return
    ctx = widest_ctx(trouble.memory.memory, trouble.load, rungs, trouble.room_bytes) or rungs[0]
    load = window_of(trouble.load, window.batch_size, ctx, window.kv_type)
    yield _made(trouble, "ctx", load, f"--ctx {ctx}")


def _smaller_batch(trouble: Trouble) -> Iterator[Advice]:
    window = trouble.load.window
    if window.batch_size == 1:
        return
    most = largest_batch(trouble.memory.memory, trouble.load, trouble.room_bytes) or 1
    load = window_of(trouble.load, min(most, window.batch_size - 1), window.ctx, window.kv_type)
    yield _made(trouble, "batch_size", load, f"--batch-size {load.window.batch_size}")


def _smaller_kv(trouble: Trouble) -> Iterator[Advice]:
    window = trouble.load.window
    usable = usable_kv_types(trouble.header, trouble.load)
    for kv_type in SMALLER_KV:
        if kv_type in usable and KV_RANK[kv_type] < KV_RANK[window.kv_type]:
            load = replace(trouble.load, window=replace(window, kv_type=kv_type))
            yield _made(trouble, "kv_type", load, f"--kv-type {kv_type}")


def _mmap(trouble: Trouble) -> Iterator[Advice]:
    """Mapped weights can be taken back by the system: slower, but they need no free memory."""
    if trouble.load.mmap:
        return
    advice = _made(trouble, "mmap", replace(trouble.load, mmap=True), "--mmap")
    if advice.saved_bytes > 0:
        yield replace(
            advice, text=f"{advice.text} Mapped weights are read from disk again when memory is "
            "short, which is slow."
        )  # fmt: skip


def _offload(trouble: Trouble) -> Iterator[Advice]:
    """The most layers that fit on the accelerators, the rest on the CPU."""
    if not trouble.machine.usable_devices or trouble.load.gpu_layers == 0:
        return
    n_layer = trouble.header.n_layer

    def is_over(layers: int) -> bool:
        plan = trouble.memory.memory(replace(trouble.load, gpu_layers=layers))
        accelerators = [one for one in plan.devices if one.device != "cpu"]
        return not fits(replace(plan, devices=tuple(accelerators)))

    layers = bisect_right(range(n_layer + 1), 0, key=is_over) - 1
    load = replace(trouble.load, gpu_layers=max(0, layers))
    advice = _made(
        trouble, "offload", load,
        f"--gpu-layers {load.gpu_layers} ({load.gpu_layers} of {n_layer} layers on the "
        "accelerator, the rest on the CPU, which is slower)",
    )  # fmt: skip
    before, after = (_on_accelerators(trouble.memory.memory(one)) for one in (trouble.load, load))
    yield replace(advice, saved_bytes=before - after)


def _on_accelerators(plan: MemoryPlan) -> int:
    return sum(one.parts.needed_bytes for one in plan.devices if one.device != "cpu")


def _variants(trouble: Trouble) -> Iterator[Advice]:
    """The largest other quantisation of the same model that fits, else the smallest there is."""
    smaller = [h for h in trouble.variants if h.weights_bytes < trouble.header.weights_bytes]
    yield from _best_of(trouble, "quantisation", smaller, 1)


def _others(trouble: Trouble) -> Iterator[Advice]:
    found = [a for a in _best_of(trouble, "model", trouble.others, MOST_MODELS) if a.fits]
    yield from found


def _best_of(
    trouble: Trouble, change: Change, headers: Sequence[ModelHeader], most: int
) -> Iterator[Advice]:
    """The first `most` that fit, largest first for quantisations, as given for models."""
    if trouble.memory_of is None or not headers:
        return
    if change == "quantisation":
        headers = sorted(headers, key=lambda header: -header.weights_bytes)
    fitting, advice = [], None
    for header in headers:
        if not takes_kv_type(header, trouble.load):
            continue
        advice = _with_model(trouble, change, header, trouble.memory_of(header))
        if advice.fits:
            fitting.append(advice)
        if len(fitting) == most:
            break
    yield from fitting or ([advice] if advice else [])


def _with_model(
    trouble: Trouble, change: Change, header: ModelHeader, memory: MemoryModel
) -> Advice:
    """`header` in the asked window, not wider than it was trained on."""
    window = trouble.load.window
    ctx = min(window.ctx, header.ctx_train or window.ctx)
    load = window_of(trouble.load, window.batch_size, ctx, window.kv_type)
    name = header.file_type if change == "quantisation" else f"{header.name} {header.file_type}"
    text = f"{name} weights" if change == "quantisation" else f"The model {name} at ctx {ctx:,}"
    return _made(trouble, change, load, text, memory, name)
