"""A plan as tables for a terminal: readable in 80 columns and without colour."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from okno.advisor.report import PlanReport
from okno.cli.tables_memory import memory_bars
from okno.core.machine import Device, Machine
from okno.core.plan import PlannedLoad, SpeedPlan
from okno.core.window import KVType
from okno.plan.advice import short_by
from okno.plan.goals import Goal, miss
from okno.plan.search import Plan, fits
from okno.plan.words import (
    interval,
    memory_sentence,
    missed_limits,
    named,
    seconds,
    size,
    span,
    speed_sentence,
)

WIDTH = 100
GIB = 1 << 30
PICK, TIGHT, OVER = "*", "!", "·"
MOST_CTXS = 9


def console(**options: Any) -> Console:
    """Where tables go: the terminal's width up to WIDTH, no colour outside a terminal."""
    out = Console(highlight=False, soft_wrap=False, **options)
    if out.width > WIDTH:
        out.width = WIDTH
    return out


def print_plan(report: PlanReport, out: Console) -> None:
    """The whole answer to `okno plan`."""
    out.print(f"[bold]Machine[/]  {machine_line(report.machine)}", soft_wrap=False)
    out.print(Text.assemble(("Model", "bold"), "    ", model_line(report)))
    for part in _parts(report):
        out.print()
        out.print(part)


def machine_line(machine: Machine) -> str:
    """What it would run on, in a line."""
    devices = ", ".join(map(_device, machine.usable_devices))
    cpu = f"{machine.cpu.name}, {machine.cpu.usable_cores} cores"
    ram = f"{size(machine.ram.free_bytes)} of {size(machine.ram.total_bytes)} free"
    what_if = f" (what if: {'; '.join(machine.overrides)})" if machine.overrides else ""
    return " · ".join(part for part in (devices, cpu, ram) if part) + what_if


def model_line(report: PlanReport) -> str:
    subject = report.subject
    about = " (computed from its shape)" if subject.is_estimated else ""
    return (
        f"{subject.name} · {subject.architecture} · {subject.n_params / 1e9:.3g} B parameters · "
        f"{subject.file_type} · {size(subject.file_bytes)}{about} · trained on "
        f"{subject.ctx_train:,} tokens"
    )


def _parts(report: PlanReport) -> Iterator[RenderableType]:
    plan = report.plan
    if report.asked is None:
        yield from _grids(plan)
    else:
        yield _verdict(report, report.asked)
    if report.shown:
        bars = memory_bars(report.shown.memory)
        yield _titled(f"Memory of {named(report.shown)} ({report.shown.memory.source})", bars)
    if report.asked is None:
        yield _titled("Why" if plan.pick else "Nothing fits", _sentences(plan.why))
    if report.advice:
        yield _titled("What to change", _sentences([advice.text for advice in report.advice]))
    if report.instead:
        yield _titled(f"Best here: {named(report.instead)}", _instead(report.instead))
    yield from _beside(report)


def _grids(plan: Plan) -> Iterator[RenderableType]:
    kv_type = plan.pick.load.window.kv_type if plan.pick else plan.loads[0].load.window.kv_type
    loads = [planned for planned in plan.loads if planned.load.window.kv_type == kv_type]
    yield memory_grid(plan, loads, kv_type)
    if plan.pick and plan.pick.speed:
        yield speed_table(plan, loads)


def memory_grid(plan: Plan, loads: Sequence[PlannedLoad], kv_type: KVType) -> RenderableType:
    """Needed GiB of every window, what fits marked."""
    ctxs = sorted({planned.load.window.ctx for planned in loads})
    shown = ctxs if len(ctxs) <= MOST_CTXS else [*ctxs[: MOST_CTXS - 1], ctxs[-1]]
    table = _table("batch", *(f"{ctx:,}" for ctx in shown))
    by_window = {(p.load.window.batch_size, p.load.window.ctx): p for p in loads}
    near = _nearest(plan, loads)
    for batch in sorted({planned.load.window.batch_size for planned in loads}):
        cells = [_memory_cell(plan, by_window.get((batch, ctx)), near) for ctx in shown]
        table.add_row(str(batch), *cells)
    legend = (
        f"Memory of every window, GiB with {kv_type} KV, by batch size and ctx ({OVER} does not "
        f"fit, {TIGHT} leaves the system no room, {PICK} the pick or next below it)"
    )
    return _titled(legend, [table])


def speed_table(plan: Plan, loads: Sequence[PlannedLoad]) -> RenderableType:
    """Speed against batch size, at the pick's ctx or the widest that fits."""
    assert plan.pick is not None
    assert plan.pick.speed is not None
    speed = plan.pick.speed
    table = _table("batch", "tokens/s in all", "per user", "last first token", "")
    for planned in _speed_rows(plan, loads):
        assert planned.speed is not None
        table.add_row(*_speed_cells(planned, planned.speed, plan))
    legend = (
        f"Speed, {_kinds(loads)}, with 90 % intervals. Each window holds {speed.fill_tokens:,} "
        f"tokens; the last column is the wait of the last of batch-size prompts of "
        f"{speed.prompt_tokens:,} tokens at once, {span(speed.ttft_s)} for a prompt alone."
    )
    return _titled(legend, [table])


def _speed_rows(plan: Plan, loads: Sequence[PlannedLoad]) -> Iterator[PlannedLoad]:
    """For each batch the pick itself, or the window of the table nearest to its ctx."""
    assert plan.pick is not None
    pick = plan.pick
    for batch in sorted({planned.load.window.batch_size for planned in loads}):
        if batch == pick.load.window.batch_size:
            yield pick
            continue
        same = [p for p in loads if p.load.window.batch_size == batch and p.speed]
        if same:
            ctx = pick.load.window.ctx
            yield min(same, key=partial(_distance, ctx))


def _distance(ctx: int, planned: PlannedLoad) -> int:
    return abs(planned.load.window.ctx - ctx)


def _speed_cells(planned: PlannedLoad, speed: SpeedPlan, plan: Plan) -> tuple[Text | str, ...]:
    is_pick = planned is plan.pick
    mark = PICK if is_pick else ""
    cells = (
        f"{mark}{planned.load.window.batch_size}",
        interval(speed.total_tok_s),
        interval(speed.user_tok_s),
        span(speed.ttft_loaded_s),
        _note(speed, plan.goal),
    )
    return tuple(Text(cell, style="bold" if is_pick else "") for cell in cells)


def _note(speed: SpeedPlan, goal: Goal) -> str:
    """Which limit it misses, or that it was measured."""
    if miss(speed, goal).none:
        return "measured" if speed.total_tok_s.kind == "measured" else ""
    late = speed.ttft_loaded_s.value > goal.ttft_limit_s
    return f"> {seconds(goal.ttft_limit_s)}" if late else f"< {goal.tok_s_floor:g} tok/s"


def _kinds(loads: Sequence[PlannedLoad]) -> str:
    kinds = {p.speed.total_tok_s.kind for p in loads if p.speed}
    return "predicted" if kinds <= {"predicted"} else "predicted unless marked measured"


def _memory_cell(plan: Plan, planned: PlannedLoad | None, near: PlannedLoad | None) -> Text:
    if planned is None:
        return Text(OVER, style="dim")
    amount = f"{planned.memory.needed_bytes / GIB:.{2 if _is_small(plan) else 1}f}"
    if not fits(planned.memory):
        return Text(f"{amount}{OVER}", style="dim")
    if not plan.comfortable(planned):
        return Text(f"{amount}{TIGHT}", style="yellow")
    if planned is near:
        return Text(f"{amount}{PICK}", style="bold green")
    return Text(f"{amount} ", style="green")


def _is_small(plan: Plan) -> bool:
    return min(planned.memory.needed_bytes for planned in plan.loads) < 10 * GIB / 8


def _nearest(plan: Plan, loads: Sequence[PlannedLoad]) -> PlannedLoad | None:
    """The window of the table with the pick's batch and the widest ctx not above its own."""
    if plan.pick is None:
        return None
    pick = plan.pick.load.window
    same = [
        p for p in loads
        if p.load.window.batch_size == pick.batch_size and p.load.window.ctx <= pick.ctx
    ]  # fmt: skip
    return max(same, key=lambda p: p.load.window.ctx, default=None)


def _verdict(report: PlanReport, asked: PlannedLoad) -> RenderableType:
    """Does the asked window fit, and what does it give?"""
    plan, name = report.plan, _first(named(asked))
    lines = [memory_sentence(asked.memory)]
    if not fits(asked.memory):
        head = Text(f"{name} does not fit: {short_by(asked.memory)}.", style="bold red")
    elif not plan.comfortable(asked):
        left = f"fits, but leaves less than {size(plan.room_bytes)} to the system"
        head = Text(f"{name} {left}.", style="bold yellow")
    else:
        head = Text(f"{name} fits.", style="bold green")
    if asked.speed:
        lines.append(speed_sentence(asked.speed, asked.load.window.batch_size))
        lines += missed_limits(asked.speed, plan.goal)
    return Group(head, *_sentences(lines))


def _instead(planned: PlannedLoad) -> list[RenderableType]:
    lines = [memory_sentence(planned.memory)]
    if planned.speed:
        lines.append(speed_sentence(planned.speed, planned.load.window.batch_size))
    return _sentences(lines)


def _beside(report: PlanReport) -> Iterator[RenderableType]:
    """The user's table, words, depth, and what figures rest on."""
    lines = []
    if report.table:
        claim = report.table.claim
        lines.append(
            f"Your table, {claim.name}: {claim.in_words()}: {report.table.verdict}. "
            f"{report.table.text}"
        )
    shown = report.shown
    for words in report.words if shown else ():
        assert shown is not None
        count = words.words_per_token.value * shown.load.window.ctx
        lines.append(
            f"ctx {shown.load.window.ctx:,} holds about {count:,.0f} words of {words.language} "
            f"({words.words_per_token.value:.2f} words a token, {words.words_per_token.kind})."
        )
    lines += [report.depth] if report.depth else []
    lines += report.notes
    if lines:
        yield _titled("Beside it", _sentences(lines))


def _device(device: Device) -> str:
    free = "" if device.free_bytes is None else f"{size(device.free_bytes)} of "
    return f"{device.name} ({device.id}, {free}{size(device.total_bytes)}{' free' if free else ''})"


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _titled(title: str, parts: Sequence[RenderableType]) -> RenderableType:
    return Group(Text(title, style="bold"), *parts)


def _sentences(lines: Sequence[str]) -> list[RenderableType]:
    return [Padding(Text(line), (0, 0, 0, 2), expand=False) for line in lines]


def _first(text: str) -> str:
    return text[0].upper() + text[1:]
