"""The commented sample of generation_config.yaml: every setting with its default, commented out."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from okno.config.explain import plain
from okno.config.render import value_text
from okno.config.tree import PARTS, Entry, entries

WIDTH = 88
HEAD = """\
# Settings of okno: how texts are generated, how a model is loaded, where the server listens.
#
# Every line below is a default. Remove its `#` to change it, or let okno do it:
#     okno config set temperature 0.7
#     okno config set load.ctx 8192
# A request wins over the command line, that over OKNO_* variables, those over this file, this file
# over what comes with the model. `okno config explain` shows where each value comes from.
"""
TITLES = {
    "": "Generation: what a request gets that does not say (Hugging Face's names)",
    "load": "Loading: which model, which window, which engine",
    "server": "The server",
}


def sample() -> str:
    """The whole file. As it stands it sets nothing."""
    return "\n".join([HEAD, *(line for part in PARTS for line in _part(part))])


def _part(part: str) -> Iterator[str]:
    yield f"# --- {TITLES[part]} ---"
    indent = ""
    if part:
        yield f"{part}:"
        indent = "  "
    for entry in entries():
        if entry.part == part and not entry.flag.hidden:
            yield from _setting(entry, indent)
    yield ""


def _setting(entry: Entry, indent: str) -> Iterator[str]:
    lead = f"{indent}# "
    yield ""
    yield from textwrap.wrap(
        help_text(entry), WIDTH, initial_indent=lead, subsequent_indent=lead,
        break_on_hyphens=False,
    )  # fmt: skip
    yield f"{indent}#{entry.name}: {value_text(plain(entry, entry.default))}"


def help_text(entry: Entry) -> str:
    """What it does, and what it takes where that is not plain."""
    if entry.choices:
        return f"{entry.flag.help} One of {entry.allowed}."
    if entry.low is None:
        return entry.flag.help
    return f"{entry.flag.help} {entry.allowed[0].upper()}{entry.allowed[1:]}."
