"""Why a window was picked, in sentences with its numbers and those of its neighbours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from okno.core.plan import Figure, MemoryPlan, PlannedLoad, SpeedPlan
from okno.plan.goals import (
    KV_RANK,
    MEANING,
    Goal,
    key_of,
    miss,
    useful_ctx,
)

GIB = 1 << 30
MIB = 1 << 20


def size(count_bytes: float) -> str:
    """`512 MiB`, `4.0 GiB`; below 100 MiB with a decimal."""
    mib = count_bytes / MIB
    if abs(mib) >= 1024:
        return f"{count_bytes / GIB:,.1f} GiB"
    return f"{mib:.1f} MiB" if abs(mib) < 100 else f"{mib:.0f} MiB"


def rate(tok_s: float) -> str:
    """Tokens/s: two significant digits below 10, whole numbers above."""
    return f"{tok_s:.2g}" if tok_s < 10 else f"{tok_s:,.0f}"


def seconds(value_s: float) -> str:
    """`7.3 ms`, `0.35 s`, `12 s`, `4 min`."""
    return _in_unit(value_s, *_unit(value_s))


def interval(figure: Figure) -> str:
    """`61 (55-68)` tokens/s, thousands as `1.1k`."""
    return f"{_short(figure.value)} ({_short(figure.low)}-{_short(figure.high)})"


def span(figure: Figure) -> str:
    """`16 s (9.1-28)`, `12 min (8-20)`: the interval in the unit of the value."""
    scale, unit = _unit(figure.value)
    low, high = (_short(bound / scale) for bound in (figure.low, figure.high))
    return f"{_in_unit(figure.value, scale, unit)} ({low}-{high})"


def _unit(value_s: float) -> tuple[float, str]:
    """Seconds in the unit, and its name."""
    if value_s < 0.1:
        return 1e-3, "ms"
    return (60.0, "min") if value_s >= 180 else (1.0, "s")


def _in_unit(value_s: float, scale: float, unit: str) -> str:
    return f"{_short(value_s / scale)} {unit}"


def _short(value: float) -> str:
    return f"{value / 1000:.1f}k" if value >= 1000 else rate(value)


def named(planned: PlannedLoad) -> str:
    """`batch 4 x ctx 8,192`, with the KV type where it is not 16-bit."""
    window = planned.load.window
    kv = "" if KV_RANK[window.kv_type] == KV_RANK["f16"] else f" with {window.kv_type} KV"
    return f"batch {window.batch_size} x ctx {window.ctx:,}{kv}"


def reasons(
    pick: PlannedLoad | None, fitting: Sequence[PlannedLoad], goal: Goal, ctx_train: int
) -> tuple[str, ...]:
    """Why `pick` is the best of `fitting` (windows of one search) for `goal`."""
    if pick is None:
        return ("No window of this model fits into the free memory.",)
    return tuple(_reasons(pick, fitting, goal, ctx_train))


def _reasons(
    pick: PlannedLoad, fitting: Sequence[PlannedLoad], goal: Goal, ctx_train: int
) -> Iterator[str]:
    yield f"{_sentence(named(pick))} is the pick for {goal.prefer}: {MEANING[goal.prefer]}."
    yield memory_sentence(pick.memory)
    if pick.speed:
        yield speed_sentence(pick.speed, pick.load.window.batch_size)
        missed = missed_limits(pick.speed, goal)
        if missed:
            yield "Nothing that fits meets all limits; this comes nearest."
        yield from missed
    else:
        yield "Speed is not known here, so limits do not count; `okno calibrate` measures it."
    if pick.load.flash_attention == "off":
        yield "Flash attention is off: this window is predicted to be faster without."
    yield from _about_batch(pick, fitting, goal, ctx_train)
    yield from _about_ctx(pick, goal, ctx_train)
    yield from _about_kv(pick, fitting, goal, ctx_train)


def memory_sentence(memory: MemoryPlan) -> str:
    """What it needs of what is free, per device."""
    parts = []
    for device in memory.devices:
        free = "" if device.free_bytes is None else f" of {size(device.free_bytes)} free"
        parts.append(f"{size(device.parts.needed_bytes)}{free} on {device.device}")
    margin = f", give or take {size(memory.margin_bytes)}" if memory.margin_bytes else ""
    return f"It needs {' and '.join(parts)}{margin}."


def speed_sentence(speed: SpeedPlan, batch_size: int) -> str:
    """Rates and the first token, with the kind of figure they are."""
    users = "" if batch_size == 1 else f", {rate(speed.user_tok_s.value)} for each of {batch_size}"
    last = "" if batch_size == 1 else (
        f", {seconds(speed.ttft_loaded_s.value)} for the last of {batch_size} at once"
    )  # fmt: skip
    return (
        f"{_sentence(speed.total_tok_s.kind)}: {rate(speed.total_tok_s.value)} tokens/s in all"
        f"{users}; first token of a {speed.prompt_tokens:,}-token prompt after "
        f"{seconds(speed.ttft_s.value)}{last}."
    )


def missed_limits(speed: SpeedPlan, goal: Goal) -> tuple[str, ...]:
    """The limits that a window misses, and by what."""
    found = []
    late, slow = speed.ttft_loaded_s.value, speed.user_tok_s.value
    if late > goal.ttft_limit_s:
        whose = "asked" if goal.max_ttft_s else "okno's default"
        found.append(
            f"The first token of the last prompt comes after {seconds(late)}, later than "
            f"{seconds(goal.ttft_limit_s)} ({whose}); shorter prompts or a smaller model help."
        )
    if 0 < slow < goal.tok_s_floor:
        whose = "asked" if goal.min_tok_s else "reading speed"
        found.append(
            f"Each user gets {rate(slow)} tokens/s, less than {rate(goal.tok_s_floor)} ({whose}); "
            "a smaller model or quantisation helps."
        )
    return tuple(found)


def _about_batch(
    pick: PlannedLoad, fitting: Sequence[PlannedLoad], goal: Goal, ctx_train: int
) -> Iterator[str]:
    """What the next larger batch would give."""
    if goal.batch_size is not None:
        return
    batch_size = pick.load.window.batch_size
    larger = [planned for planned in fitting if planned.load.window.batch_size > batch_size]
    if not larger:
        yield f"No larger batch than {batch_size} fits."
        return
    nearest = min(planned.load.window.batch_size for planned in larger)
    same = [planned for planned in larger if planned.load.window.batch_size == nearest]
    kv_type = pick.load.window.kv_type
    alike = [planned for planned in same if planned.load.window.kv_type == kv_type]
    best = max(alike or same, key=key_of(goal, ctx_train))
    yield _against(pick, best, goal, ctx_train)


def _against(pick: PlannedLoad, other: PlannedLoad, goal: Goal, ctx_train: int) -> str:
    """Why not `other`, the best window of the next batch size."""
    name = f"Batch {other.load.window.batch_size}"
    if other.load.window.kv_type != pick.load.window.kv_type:
        name += f" with {other.load.window.kv_type} KV"
    if other.load.window.ctx < pick.load.window.ctx and _is_narrow(other, goal, ctx_train):
        return f"{name} would fit only with ctx {other.load.window.ctx:,}."
    if pick.speed is None or other.speed is None:
        return f"{name} would fit with ctx {other.load.window.ctx:,}."
    if miss(pick.speed, goal).none and not miss(other.speed, goal).none:
        if other.speed.user_tok_s.value < goal.tok_s_floor:
            return (
                f"{name} would leave each user {rate(other.speed.user_tok_s.value)} tokens/s, "
                f"below {rate(goal.tok_s_floor)}."
            )
        return (
            f"{name} would let the last of {other.load.window.batch_size} wait "
            f"{seconds(other.speed.ttft_loaded_s.value)} for a first token, more than "
            f"{seconds(goal.ttft_limit_s)}."
        )
    return (
        f"{name} would give {rate(other.speed.total_tok_s.value)} tokens/s in all and "
        f"{rate(other.speed.user_tok_s.value)} per user, with ctx {other.load.window.ctx:,}."
    )


def _is_narrow(planned: PlannedLoad, goal: Goal, ctx_train: int) -> bool:
    """Its ctx is what rules it out."""
    return goal.prefer in ("context", "quality") or (
        planned.load.window.ctx < useful_ctx(goal, ctx_train)
    )


def _about_ctx(pick: PlannedLoad, goal: Goal, ctx_train: int) -> Iterator[str]:
    ctx = pick.load.window.ctx
    if goal.depth_ctx and goal.prefer == "quality" and ctx >= min(goal.depth_ctx, ctx_train):
        yield f"Beyond ctx {goal.depth_ctx:,} the measured depth curve gains nothing."
    elif ctx == ctx_train:
        yield f"The model was trained on no more than these {ctx:,} tokens."
    elif ctx > ctx_train:
        yield (
            f"The model was trained on {ctx_train:,} tokens; beyond, answers may lose coherence."
        )
    elif goal.ctx is None:
        yield f"A wider window does not fit with batch {pick.load.window.batch_size}."


def _about_kv(
    pick: PlannedLoad, fitting: Sequence[PlannedLoad], goal: Goal, ctx_train: int
) -> Iterator[str]:
    """Why fewer than 16 bits."""
    kv_type = pick.load.window.kv_type
    if goal.kv_types or KV_RANK[kv_type] == KV_RANK["f16"]:
        return
    finer = [p for p in fitting if KV_RANK[p.load.window.kv_type] > KV_RANK[kv_type]]
    if not finer:
        yield f"KV is {kv_type} because nothing fits with more bits."
        return
    best = max(finer, key=key_of(goal, ctx_train))
    if best.load.window.ctx < pick.load.window.ctx:
        yield f"KV is {kv_type} because with more bits the best is {named(best)}."


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]
