"""`okno tokens`: how many tokens a text really takes, and how many of its words a window holds."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from okno.cli.obtaining import BITS_SETTINGS, obtained, wants_of
from okno.cli.options import GivenFlags, with_settings
from okno.cli.tokens_count import (
    SCRIPTS,
    Count,
    Script,
    counts_of,
    texts_of,
    tokens_by_script,
)
from okno.config.load import load
from okno.core.errors import BadSetting
from okno.core.paths import expanded
from okno.engines.tokenise import tokenise
from okno.inspect.models import DEMO

MAX_BYTES = 64 * 1024 * 1024
WINDOWS = (1024, 2048, 4096, 8192)
LABELS: dict[Script, str] = {
    "cyrillic": "Russian (Cyrillic)",
    "latin": "English (Latin)",
    "other": "figures and other",
}


@with_settings("model", "models_dir", *BITS_SETTINGS.values(), "config")
def tokens(
    given: GivenFlags,
    file: Annotated[str, typer.Argument(metavar="FILE", help="Text in UTF-8; - reads stdin.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Count words, characters and tokens of a text by a model's own tokenizer."""
    settings = load(given, os.environ).settings
    model = obtained(str(settings.model or DEMO), settings, wants_of(settings))
    text = _read(file)
    counts, is_exact = count(model.path, text)
    report = _report(model.name, counts, is_exact=is_exact)
    if as_json:
        typer.echo(json.dumps(report, ensure_ascii=False, indent=2))
        return
    _print_table(model.name, counts, is_exact=is_exact)


def count(model: Path, text: str) -> tuple[dict[Script, Count], bool]:
    """Counts by script and in all (`all`), and whether the tokens of the scripts are exact.

    Where a tokenizer changes the text, each script is tokenised alone, in proportion to the total.
    Raises ModelUnusable.
    """
    by_script = texts_of(text)
    whole, *parts = tokenise(model, [text, *(by_script[script] for script in SCRIPTS)])
    if whole.lengths is not None:
        return counts_of(text, tokens_by_script(text, whole.lengths)), True
    alone = sum(part.n_tokens for part in parts) or 1
    shares = {
        script: round(part.n_tokens * whole.n_tokens / alone)
        for script, part in zip(SCRIPTS, parts, strict=True)
    }
    most = max(SCRIPTS, key=lambda script: shares[script])
    shares[most] += whole.n_tokens - sum(shares.values())
    return counts_of(text, shares), False


def total(counts: dict[Script, Count]) -> Count:
    return Count(
        sum(count.words for count in counts.values()),
        sum(count.characters for count in counts.values()),
        sum(count.tokens for count in counts.values()),
    )


def _read(file: str) -> str:
    """The text. Raises BadSetting for what cannot be read as UTF-8 text."""
    try:
        if file == "-":
            data = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with expanded(file, BadSetting).open("rb") as opened:
                data = opened.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise BadSetting(f"{file} cannot be read: {reason}.", param="file") from None
    if len(data) > MAX_BYTES:
        raise BadSetting(f"{file} has more than {MAX_BYTES >> 20} MiB. Give a part of it.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadSetting(
            f"{file} is not UTF-8 text (byte {error.start}). Convert it, for example with iconv."
        ) from None


def _report(name: str, counts: dict[Script, Count], *, is_exact: bool) -> dict[str, object]:
    whole = total(counts)
    return {
        "model": name,
        **_as_json(whole),
        "by_script": {script: _as_json(counts[script]) for script in SCRIPTS},
        "by_script_is_exact": is_exact,
        "words_in_window": {str(n): round(n * whole.words_per_token) for n in WINDOWS},
    }


def _as_json(count: Count) -> dict[str, int | float]:
    return {
        "words": count.words,
        "characters": count.characters,
        "tokens": count.tokens,
        "words_per_token": round(count.words_per_token, 4),
    }


def _print_table(name: str, counts: dict[Script, Count], *, is_exact: bool) -> None:
    whole = total(counts)
    rows = [(LABELS[script], counts[script]) for script in SCRIPTS if counts[script].characters]
    typer.echo(f"{'':<20}{'words':>10}{'characters':>12}{'tokens':>10}{'words per token':>17}")
    for label, found in [*rows, ("in all", whole)]:
        line = f"{label:<20}{found.words:>10,}{found.characters:>12,}{found.tokens:>10,}"
        typer.echo(f"{line}{found.words_per_token:>17.2f}")
    if whole.words:
        held = (f"{n:,}: {round(n * whole.words_per_token):,} words" for n in WINDOWS)
        typer.echo(f"A window of {name} holds of this text: {'; '.join(held)}.")
    if not is_exact:
        typer.echo(
            "The tokens by script are in proportion: this tokenizer changes the text.", err=True
        )
