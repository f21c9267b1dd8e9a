"""`okno hardware`: what this machine is, what of it is free, and what bounds a model here."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from okno.cli.whatif import with_whatif
from okno.inspect.hardware.overrides import Overrides


@with_whatif
def hardware(
    whatif: Overrides,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
    fast: Annotated[
        bool, typer.Option("--fast", help="Do not ask the engine (half a second) what it can use.")
    ] = False,
) -> None:
    """Show processor, memory and accelerators: total and free, and what limits them."""
    from okno.inspect.hardware.report import hardware_body, surveyed

    found = surveyed(whatif, with_engine=not fast)
    if as_json:
        typer.echo(json.dumps(hardware_body(found), ensure_ascii=False, indent=2))
        return
    from okno.cli.hardware_table import print_hardware

    print_hardware(found)
