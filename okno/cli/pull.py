"""`okno pull`: a model from the Hugging Face hub, with a plan first."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from okno.cli.obtaining import plan_of
from okno.cli.options import GivenFlags, with_settings
from okno.cli.progress import working
from okno.cli.text import for_stderr
from okno.config.load import load
from okno.convert.wants import Wants
from okno.core.commands import quoted
from okno.core.errors import BadSetting
from okno.inspect.source_hub import Reference, parse_reference

EPILOG = (
    "Downloads go to the cache of huggingface_hub (HF_HOME, HF_HUB_CACHE) with its token (HF_TOKEN "
    "or `hf auth login`) and mirror (HF_ENDPOINT). Only what okno needs is fetched: one GGUF "
    "model, or safetensors with config and tokenizer; never pickles. Ctrl-C keeps what has come: "
    "the same command goes on from there. Every file is checked against the hub's checksum; where "
    "a mirror tells none, that is said, and size and header are checked."
)


@with_settings("models_dir", "config")
def pull(
    given: GivenFlags,
    reference: Annotated[
        str,
        typer.Argument(
            metavar="OWNER/REPO[:QUANT]",
            help="A repository; of several GGUF files one by :Q4_K_M or /FILE; @REVISION for "
            "another branch, tag or commit.",
        ),
    ],
    yes: Annotated[
        bool,
        typer.Option("--yes", "-y", help="Do not ask. Without a terminal nothing is asked anyway."),
    ] = False,
) -> int:
    """Download a model from the Hugging Face hub: first its size and whether it runs here."""
    from okno.cli.offer import offer_of
    from okno.convert.fetch import fetch
    from okno.convert.fetch_plan import plan_fetch

    settings = load(given, os.environ).settings
    plan = plan_fetch(_parsed(reference))
    offer = offer_of(plan, plan_of(settings, Wants()))
    for line in offer.lines:
        _remark(line)
    is_asked = plan.missing_bytes > 0 and not yes and sys.stdin.isatty()
    if is_asked and not typer.confirm("Download?", default=offer.fits is not False, err=True):
        _remark("Nothing was downloaded.")
        return 1
    with working() as progress:
        path = fetch(plan, progress)
    typer.echo(path)
    _remark(f"Here now; `okno serve --model {quoted(reference)}` serves it.")
    return 0


def _parsed(text: str) -> Reference:
    found = parse_reference(text)
    if found is None:
        raise BadSetting(
            f"{text[:200]!r} is no repository. Give OWNER/REPO, OWNER/REPO:QUANT or "
            "OWNER/REPO/FILE, such as IlyaGusev/saiga_llama3_8b_gguf:Q4_K_M. `okno recommend` "
            "names models that run here."
        )
    return found


def _remark(text: str) -> None:
    typer.echo(for_stderr(text), err=True)
