"""`okno recommend`: which models of the catalog serve best on this hardware."""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated

import typer

from okno.cli.options import GOAL_SETTINGS, GivenFlags, with_settings
from okno.cli.whatif import with_whatif
from okno.config.load import load
from okno.inspect.hardware.overrides import Overrides


@with_settings(*GOAL_SETTINGS)
@with_whatif
def recommend(
    given: GivenFlags,
    whatif: Overrides,
    task: Annotated[
        str, typer.Option(metavar="TASK", help="chat, reasoning, code, embedding, reranker, base.")
    ] = "chat",
    language: Annotated[
        str | None,
        typer.Option(metavar="CODE", help="Such as ru: models that list it before others."),
    ] = None,
    licence: Annotated[
        str | None,
        typer.Option("--licence", "--license", metavar="NAME", help="Such as apache or mit."),
    ] = None,
    prompt_tokens: Annotated[
        str | None, typer.Option(metavar="N", help="Length of a prompt.")
    ] = None,
    top: Annotated[int, typer.Option(metavar="N", help="Models to show.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> int:
    """Rank the models of the catalog by what this hardware really gives, before any download."""
    from okno.advisor.recommending import RecommendRequest
    from okno.advisor.recommending import as_json as found_json
    from okno.advisor.recommending import recommend as find_best
    from okno.advisor.request import Words, goal_of

    settings = load(given, os.environ).settings
    words = Words(
        prefer=settings.prefer, max_ttft=settings.max_ttft, min_tok_s=settings.min_tok_s,
        prompt_tokens=prompt_tokens,
    )  # fmt: skip
    found = find_best(RecommendRequest(task, language, licence, top, goal_of(words), whatif))
    if as_json:
        json.dump(found_json(found), sys.stdout, ensure_ascii=False, indent=2)
        typer.echo()
    else:
        from okno.cli.tables import console
        from okno.cli.tables_models import print_recommendation

        print_recommendation(found, console())
    return 0 if found.models else 1
