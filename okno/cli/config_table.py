"""Settings as a table for a terminal, plain when it is piped."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from okno.config.explain import Explained, source_text
from okno.config.render import value_text

HEADINGS = ("Setting", "Value", "Comes from")


def print_table(rows: Sequence[Explained]) -> None:
    """Three columns; what is not a default stands out."""
    if sys.stdout.isatty():
        _print_rich(rows)
    else:
        _print_plain(rows)


def cells(row: Explained) -> tuple[str, str, str]:
    """Setting, value, source."""
    value = "" if row.value is None else value_text(row.value)
    return row.key, value, source_text(row)


def _print_plain(rows: Sequence[Explained]) -> None:
    table = [HEADINGS, *map(cells, rows)]
    widths = [max(len(line[i]) for line in table) for i in range(2)]
    for key, value, source in table:
        typer.echo(f"{key:<{widths[0]}}  {value:<{widths[1]}}  {source}".rstrip())


def _print_rich(rows: Sequence[Explained]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in HEADINGS:
        table.add_column(heading, overflow="fold")
    for row in rows:
        style = "dim" if row.source == "default" else "bold"
        table.add_row(*(Text(cell, style) for cell in cells(row)))
    Console().print(table)
