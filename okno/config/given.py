"""A value as it was given: by whom, spelled how, where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from okno.config.flag import Flag
from okno.config.settings import flag_of

Source = Literal["default", "model", "file", "environment", "command line"]
RANK: Mapping[Source, int] = {
    "default": 0, "model": 1, "file": 2, "environment": 3, "command line": 4,
}  # fmt: skip
MAX_SHOWN_CHARS = 60


@dataclass(frozen=True, slots=True)
class Given:
    """A value, its source and how it was spelled (`--n-ctx`, `OKNO_CTX`, `load.ctx`). where: the
    place in a file (`generation_config.yaml, line 3`), for values from a file or the model."""

    value: object
    source: Source
    spelled: str
    where: str = ""

    @property
    def origin(self) -> str:
        """Where it came from, for people: `--ctx`, `OKNO_CTX`, `FILE, line 3`."""
        return self.where or self.spelled


Layer = Mapping[str, Given]


def shown(name: str, given: Given) -> str:
    """`--ctx 12`, `generation_config.yaml, line 3: load.ctx: 12`, with a secret, a long or an
    unprintable value made harmless."""
    flag: Flag = flag_of(name)
    joint = {"environment": "=", "command line": " "}.get(given.source, ": ")
    place = f"{given.where}: " if given.where else ""
    if flag.secret:
        return f"{place}{given.spelled}{joint}(hidden)"
    return f"{place}{given.spelled}{joint}{short(given.value)}"


def short(value: object) -> str:
    """A value as text of one line, cut when it is long."""
    text = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else spelt(value)
    text = text if text.isprintable() else ascii(text)
    return text[:MAX_SHOWN_CHARS] + "…" if len(text) > MAX_SHOWN_CHARS else text


def spelt(value: object) -> str:
    """A value as it is written: `true`, `0.5`, `auto`."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.12g}" if isinstance(value, float) else str(value)
