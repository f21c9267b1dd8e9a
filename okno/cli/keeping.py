"""Keeping in the store what was measured and shown: where the store cannot be used, that is said
and costs nothing else."""

from __future__ import annotations

from collections.abc import Callable

import typer

from okno.cli.text import for_stderr
from okno.core.errors import StoreUnusable


def kept(save: Callable[[], None]) -> bool:
    """Whether `save` could write to the store; if not, why not is said on stderr."""
    try:
        save()
    except StoreUnusable as error:
        remark(f"Not kept for `okno plan`: {error.message}")
        return False
    return True


def remark(text: str) -> None:
    """A line on stderr, beside the result."""
    typer.echo(for_stderr(text), err=True)
