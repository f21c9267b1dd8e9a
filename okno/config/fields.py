"""What the declarations of settings share: section headings, words that stand for values."""

from __future__ import annotations

import json

from pydantic import BaseModel, BeforeValidator, ConfigDict

from okno.core.request import MAX_STOP_CHARS, MAX_STOP_STRINGS

GENERATION, MODEL, WINDOW, ENGINE, SERVER, FILE, TAKEN = (
    "Generation", "Model", "Window", "Engine", "Server", "Settings file", "Taken from others",
)  # fmt: skip


class Part(BaseModel):
    """A part of the settings tree: frozen, unknown names refused, values not repeated in errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


def _auto(value: object) -> object:
    """The word `auto` leaves the choice to okno: None."""
    return None if value == "auto" else value


def _layers(value: object) -> object:
    """`auto`, `all` and `max` put every layer on the GPU (if there is one): -1."""
    return -1 if value in ("auto", "all", "max") else value


def _off(value: object) -> object:
    """-1 is off, as in other programs: 0."""
    return 0 if value in (-1, "-1") else value


def _words(value: object) -> object:
    """A comma-separated text (environment) as a list."""
    if not isinstance(value, str):
        return value
    return [word.strip() for word in value.split(",") if word.strip()]


def _texts(value: object) -> object:
    """A text as a list of one."""
    return [value] if isinstance(value, str) else value


def listed(text: str) -> str | list[str]:
    """The texts of a JSON list of texts; any other text (`[/INST]`) is the one text that it is. For
    places where only text can stand: a variable, the command line of `config set`."""
    try:
        found = json.loads(text) if text.startswith("[") else None
    except (ValueError, RecursionError):
        return text
    if isinstance(found, list) and all(isinstance(one, str) for one in found):
        return found
    return text


def stop_texts(values: tuple[str, ...]) -> tuple[str, ...]:
    """Stop strings within the bounds of a request (core/request.py)."""
    if len(values) > MAX_STOP_STRINGS:
        raise ValueError(f"it has {len(values):,} texts; at most {MAX_STOP_STRINGS} are accepted")
    for text in values:
        if not 0 < len(text) <= MAX_STOP_CHARS:
            raise ValueError(
                f"a text has {len(text):,} characters; 1 to {MAX_STOP_CHARS} are accepted"
            )
    return values


Auto = BeforeValidator(_auto)
Layers = BeforeValidator(_layers)
MinusOneIsOff = BeforeValidator(_off)
Words = BeforeValidator(_words)
Texts = BeforeValidator(_texts)
