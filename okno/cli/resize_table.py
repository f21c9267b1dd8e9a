"""A window in effect, or what a resize did, for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from okno.cli.tables import console
from okno.plan.words import seconds, size

ROWS = {"batch_size": "batch size", "ctx": "ctx", "kv_pool": "KV pool", "kv_type": "KV type"}


def print_window(body: Mapping[str, Any], out: Console | None = None) -> None:
    """The answer of `GET` or `PATCH /okno/v1/window`."""
    out = out or console()
    before, now = body.get("before"), body["window"]
    table = Table(box=None, pad_edge=False)
    table.add_column("window")
    for heading in ("before", "now") if before else ("now",):
        table.add_column(heading, justify="right")
    for name, text in ROWS.items():
        columns = (before[name], now[name]) if before else (now[name],)
        table.add_row(text, *map(_shown, columns))
    out.print(table)
    for sentence in _said(body):
        out.print(sentence)
    for note in body["notes"]:
        out.print(note, style="dim", markup=False)


def _shown(value: int | str) -> str:
    return f"{value:,}" if isinstance(value, int) else value


def _said(body: Mapping[str, Any]) -> Iterator[str]:
    if body.get("changed") is False:
        yield "That is the window it has; nothing was done."
    elif "before" in body:
        yield from _changes(body)
    memory = body["memory"]
    yield (
        f"The worker takes {size(memory['process_bytes'])}, of it weights "
        f"{size(memory['weights_bytes'])} and KV cache {size(memory['kv_bytes'])}; "
        f"{size(memory['free_bytes'])} are free."
    )


def _changes(body: Mapping[str, Any]) -> Iterator[str]:
    staged = ", the old one closed first: both do not fit" if body["staged"] else ""
    yield f"Paused for {seconds(body['pause_s'])}{staged}."
    live, parked = body["live"], body["parked"]
    if live["moved"]:
        copied = f" ({size(body['state_bytes'])} copied)" if body["state_bytes"] else ""
        yield f"{_answers(live['moved'])} went on where they were{copied}."
    if live["waiting_again"]:
        yield f"{_answers(live['waiting_again'])} wait for a place again and go on then."
    if live["recomputed"]:
        yield f"{_answers(live['recomputed'])} are computed again and go on then."
    if parked["before"] or parked["kept"]:
        yield f"Parked prefixes: {parked['before']} before, {parked['kept']} now."


def _answers(count: int) -> str:
    return f"{count:,} of the answers under way"
