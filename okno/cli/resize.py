"""`okno resize`: another window for a running server, while its answers go on."""

from __future__ import annotations

import json
import os
from typing import Annotated, Any

import typer

from okno.cli.chat_client import ChatClient
from okno.cli.options import GivenFlags, with_settings
from okno.cli.partner import local_url
from okno.config.load import load
from okno.config.settings import ServeSettings
from okno.core.errors import BadSetting

EPILOG = (
    "What is not given stays as it is. auto: okno's pick for the memory that is free. The weights "
    "stay loaded; answers under way go on in the new window. A window that does not fit, or that "
    "is too small for what answers under way may still need, is refused, and the old one stays. "
    "Without any of the four: the window in effect."
)


@with_settings("api_key", "config")
def resize(
    given: GivenFlags,
    batch_size: Annotated[
        str | None, typer.Option(metavar="N|auto", help="Sequences decoded at once.")
    ] = None,
    ctx: Annotated[
        str | None, typer.Option(metavar="N|auto", help="Tokens one request may see.")
    ] = None,
    kv_type: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE",
            help="Of the KV cache. Another type: answers under way are computed again.",
        ),
    ] = None,
    kv_pool: Annotated[
        str | None,
        typer.Option(metavar="N|auto", help="Tokens of KV cache shared by all sequences."),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help=f"The running server. Default: {local_url(ServeSettings())} (or OKNO_HOST, "
            "OKNO_PORT).",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> int:
    """Change batch size, ctx, KV type or KV pool of a running server."""
    settings = load(given, os.environ).settings
    change: dict[str, Any] = {
        "batch_size": _number(batch_size, "--batch-size"),
        "ctx": _number(ctx, "--ctx"),
        "kv_type": kv_type,
        "kv_pool": _number(kv_pool, "--kv-pool"),
    }
    change = {name: value for name, value in change.items() if value is not None}
    if_gone = "Start one with `okno serve`, or name it with --url."
    client = ChatClient(url or local_url(settings), settings.api_key, if_gone=if_gone)
    try:
        body = client.resize(change) if change else client.window()
    finally:
        client.close()
    if as_json:
        typer.echo(json.dumps(body, ensure_ascii=False, indent=2))
    else:
        from okno.cli.resize_table import print_window

        print_window(body)
    return 0


def _number(text: str | None, flag: str) -> int | str | None:
    """A number, or `auto`. Bounds are the server's."""
    if text is None or text == "auto":
        return text
    try:
        return int(text.replace(",", ""))
    except ValueError:
        raise BadSetting(
            f"{flag} {text[:80]!r} is neither a number nor `auto`.", param=flag
        ) from None
