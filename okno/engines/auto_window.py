"""The window a worker opens: what was asked, or what `auto` makes of model, machine and goal.

Decided before a weight is read, with the planner's memory (plan/memory.py) and its search. A
window that was asked is refused only when it needs more than is free; one that okno picks leaves
room for the error of the prediction.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from okno.core.errors import BadSetting, DoesNotFit
from okno.core.header import ModelHeader
from okno.core.load import FlashAttention, Load
from okno.core.machine import Machine
from okno.core.plan import MemoryParts, MemoryPlan, PlannedLoad
from okno.core.window import MAX_BATCH_SIZE, KVType, Window
from okno.plan.advice import Trouble, advise
from okno.plan.attention_choice import settled
from okno.plan.goals import Goal, Prefer
from okno.plan.memory import MemoryModel
from okno.plan.search import SpeedModel, plan_windows
from okno.plan.words import size

AUTO_BATCH = 4
MIN_CTX = 16
MOST_ADVICE = 2


@dataclass(frozen=True, slots=True)
class Asked:
    """What the user asked; None is `auto`. prefer and the limits steer `auto`."""

    batch_size: int | None
    ctx: int | None
    kv_pool_tokens: int | None
    kv_type: KVType
    step_tokens: int
    prefer: Prefer = "speed"
    max_ttft_s: float | None = None
    min_tok_s: float | None = None
    mmap: bool = False
    flash_attention: FlashAttention = "auto"
    gpu_layers: int = -1
    kv_unified: bool = True

    @property
    def goal(self) -> Goal:
        return Goal(
            prefer=self.prefer, max_ttft_s=self.max_ttft_s, min_tok_s=self.min_tok_s,
            batch_size=self.batch_size, ctx=self.ctx, kv_types=(self.kv_type,),
        )  # fmt: skip

    def load(self, window: Window) -> Load:
        """`window`, loaded as asked."""
        return Load(window, self.mmap, self.flash_attention, self.gpu_layers, self.kv_unified)


@dataclass(frozen=True, slots=True)
class Chosen:
    """memory: predicted. notes: a line per thing a person should know."""

    load: Load
    memory: MemoryPlan
    notes: tuple[str, ...]

    @property
    def window(self) -> Window:
        return self.load.window


def choose_window(
    asked: Asked,
    header: ModelHeader,
    machine: Machine,
    memory: MemoryModel,
    speed: SpeedModel | None,
) -> Chosen:
    """The window to open on `machine`, and whether its cache is read by flash attention where that
    is left to okno (speed None: nothing is known of speed, and it is). Raises BadSetting for values
    out of range, DoesNotFit when an asked window needs more than is free, or nothing fits at all.
    """
    check(asked)
    plain = plain_window(asked, header.ctx_train)
    if asked.kv_pool_tokens is None and (asked.batch_size is None or asked.ctx is None):
        return _searched(asked, plain, header, machine, memory, speed)
    load = asked.load(plain)
    needed = memory.memory(load)
    _check_fits(Trouble(header, machine, load, memory), needed)
    beyond = _beyond(asked, plain, header.ctx_train)
    if not needed.fits:
        return Chosen(
            load, needed, (*beyond, f"{_named(plain)} fits only just: {_against_free(needed)}.")
        )
    if speed is None:
        return Chosen(load, needed, beyond)
    planned = settled(header, PlannedLoad(load, needed, speed(load)), memory.memory, speed)
    return Chosen(planned.load, planned.memory, (*beyond, *_without_flash(asked, planned.load)))


def plain_window(asked: Asked, ctx_train: int) -> Window:
    """What was asked, with the trained context and a batch of four where nothing was. Raises
    BadSetting for a pool that holds not even one request."""
    batch = asked.batch_size or AUTO_BATCH
    ctx = asked.ctx or min(ctx_train, asked.kv_pool_tokens or ctx_train)
    pool = asked.kv_pool_tokens or batch * ctx
    if pool < ctx:
        raise BadSetting(
            f"The KV pool of {pool:,} tokens is smaller than the context window of {ctx:,}, so "
            f"one request could not fill its window. Give --kv-pool at least {ctx:,}.",
            kv_pool_tokens=pool, ctx=ctx,
        )  # fmt: skip
    return Window(batch, ctx, pool, asked.kv_type, max(asked.step_tokens, batch))


def check(asked: Asked) -> None:
    """Raise BadSetting for a batch size or ctx that no engine has."""
    if asked.batch_size is not None and not 1 <= asked.batch_size <= MAX_BATCH_SIZE:
        raise BadSetting(
            f"batch_size is {asked.batch_size}; 1 to {MAX_BATCH_SIZE} requests can be decoded at "
            "once. If you mean prompt tokens per step (as textgen and llama-server do), "
            "use --step-tokens.",
            batch_size=asked.batch_size,
        )
    if asked.ctx is not None and asked.ctx < MIN_CTX:
        raise BadSetting(f"ctx is {asked.ctx}; give at least {MIN_CTX} tokens.", ctx=asked.ctx)


def _searched(
    asked: Asked,
    plain: Window,
    header: ModelHeader,
    machine: Machine,
    memory: MemoryModel,
    speed: SpeedModel | None,
) -> Chosen:
    """The planner's pick, with its reasons."""
    plan = plan_windows(header, machine, memory, speed, asked.goal, template=asked.load(plain))
    if plan.pick is None:
        smallest = min(plan.loads, key=lambda planned: planned.memory.needed_bytes)
        trouble = Trouble(header, machine, smallest.load, memory)
        raise _does_not_fit(trouble, smallest.memory, f"{_named(smallest.load.window)}, the least,")
    load = plan.pick.load
    window = load.window
    why = tuple(f"auto: {sentence}" for sentence in plan.why[1:3])
    picked = f"auto: {_named(window)}, for {asked.prefer}"
    beyond = _beyond(asked, window, header.ctx_train)
    return Chosen(load, plan.pick.memory, (picked, *why, *beyond, *_without_flash(asked, load)))


def _without_flash(asked: Asked, load: Load) -> tuple[str, ...]:
    if load.flash_attention == asked.flash_attention:
        return ()
    return (
        "auto: flash attention off, in steps of at most "
        f"{load.window.step_tokens} tokens: predicted to be faster for this window",
    )


def _check_fits(trouble: Trouble, needed: MemoryPlan) -> None:
    exact = replace(needed, margin_bytes=0)
    if not exact.fits:
        raise _does_not_fit(trouble, exact, _named(trouble.load.window))


def _does_not_fit(trouble: Trouble, needed: MemoryPlan, what: str) -> DoesNotFit:
    """Both numbers, and what would fit."""
    ways = [advice.text for advice in advise(trouble) if advice.fits][:MOST_ADVICE]
    possible = " Possible here: " + " Or: ".join(ways) if ways else (
        " No window of this model fits; a smaller quantisation or another model is needed."
    )  # fmt: skip
    free = sum(one.free_bytes or 0 for one in needed.devices if not one.unified)
    return DoesNotFit(
        f"A window of {what} does not fit: {_against_free(needed)}.{possible}",
        needed_bytes=needed.needed_bytes,
        free_bytes=free,
    )


def _against_free(memory: MemoryPlan) -> str:
    """`3.1 GiB needed (weights 0.5 GiB, KV 2.0 GiB), 2.0 GiB free on cpu`; with the margin, where
    that counts."""
    margin = f" and {size(memory.margin_bytes)} of margin" if memory.margin_bytes else ""
    return "; ".join(
        f"{size(device.parts.needed_bytes)} needed (weights "
        f"{size(device.parts.weights_bytes + device.parts.repacked_bytes)}, KV "
        f"{size(device.parts.kv_bytes + device.parts.state_bytes)}"
        f"{_extras(device.parts)}){margin}, "
        f"{size(device.free_bytes or 0)} free on {device.device}"
        f"{', which is main memory too' if device.unified else ''}"
        for device in memory.devices
    )


def _extras(parts: MemoryParts) -> str:
    """What is beside the model, where one setting asks for it by that."""
    amounts = (
        ("--lora", parts.adapter_bytes), ("what guesses", parts.draft_bytes),
        ("--swap-space", parts.swap_bytes),
    )  # fmt: skip
    return "".join(f", {name} {size(n_bytes)}" for name, n_bytes in amounts if n_bytes)


def _named(window: Window) -> str:
    return f"batch {window.batch_size} x ctx {window.ctx:,}"


def _beyond(asked: Asked, window: Window, ctx_train: int) -> tuple[str, ...]:
    if asked.ctx is None or not ctx_train or asked.ctx <= ctx_train:
        return ()
    return (
        f"ctx {window.ctx:,} is beyond the {ctx_train:,} tokens the model was trained on; "
        "answers may lose coherence there",
    )
