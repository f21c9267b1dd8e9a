"""Fill the settings tree: command line over environment over defaults.

Each source is a `Layer` of given values; `load` merges them, checks once, and remembers where each
value came from. (generation_config.yaml will be one more layer below the environment.)
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from okno.config.flag import Flag
from okno.config.settings import ServeSettings, flag_of
from okno.core.errors import BadSetting

ENV_PREFIX = "OKNO_"
READ_ELSEWHERE = frozenset({"OKNO_AMX"})  # by engines/amx.py, for experts: no setting
Source = Literal["default", "environment", "command line"]


@dataclass(frozen=True, slots=True)
class Given:
    """A value as it was given, and how it was spelled (`--n-ctx`, `OKNO_CTX`)."""

    value: object
    source: Source
    spelled: str


Layer = Mapping[str, Given]


@dataclass(frozen=True, slots=True)
class Loaded:
    """Checked settings; `given` tells where each value that is not a default came from; notes are
    sentences for the person who gave them."""

    settings: ServeSettings
    given: Layer
    notes: tuple[str, ...]

    def source(self, name: str) -> Source:
        """Where the value of field `name` came from."""
        return self.given[name].source if name in self.given else "default"


def load(command_line: Iterable[tuple[str, Given]], environment: Mapping[str, str]) -> Loaded:
    """Settings from `command_line` (field name and value, in any order) and OKNO_* variables.

    Raises BadSetting naming the flag or variable at fault and what is allowed.
    """
    command_line = list(command_line)
    flags = _agreed(command_line)
    variables, notes = _from_environment(environment)
    merged = {**variables, **flags}
    settings = _checked(merged)
    notes += [note for name, given in command_line for note in _notes(name, given, settings)]
    return Loaded(settings, merged, tuple(notes))


def env_name(name: str) -> str:
    """The environment variable of field `name`."""
    return ENV_PREFIX + name.upper()


def _agreed(values: Iterable[tuple[str, Given]]) -> dict[str, Given]:
    """One value per field. Two spellings of one field must say the same."""
    agreed: dict[str, Given] = {}
    for name, given in values:
        first = agreed.setdefault(name, given)
        if first.value != given.value:
            raise BadSetting(
                f"{_shown(name, first)} and {_shown(name, given)} contradict each other: both set "
                f"{flag_of(name).long}. Give one of them, or the same value to both.",
                param=name,
            )
    return agreed


def _from_environment(environment: Mapping[str, str]) -> tuple[dict[str, Given], list[str]]:
    """The OKNO_* variables. An empty one counts as not set; a near miss of a name is refused, a
    stranger gets a note."""
    names = {env_name(name): name for name in ServeSettings.model_fields}
    layer: dict[str, Given] = {}
    notes: list[str] = []
    for variable, value in environment.items():
        if variable in names and value:
            layer[names[variable]] = Given(value, "environment", variable)
        elif variable.startswith(ENV_PREFIX) and variable not in names.keys() | READ_ELSEWHERE:
            near = difflib.get_close_matches(variable, names, n=1, cutoff=0.85)
            if near:
                raise BadSetting(f"{variable} is not a setting. Did you mean {near[0]}?")
            notes.append(f"{variable} is not a setting of this version; ignored.")
    return layer, notes


def _checked(merged: Layer) -> ServeSettings:
    values: dict[str, Any] = {name: given.value for name, given in merged.items()}
    try:
        return ServeSettings(**values)
    except ValidationError as error:
        raise _bad_setting(error.errors(include_url=False)[0], merged) from None


def _bad_setting(error: ErrorDetails, merged: Layer) -> BadSetting:
    rule = _rule(error)
    if not error["loc"]:
        return BadSetting(rule)
    name = str(error["loc"][0])
    message = f"{_shown(name, merged[name])}: {rule}."
    flag = flag_of(name)
    if error["type"] == "less_than_equal" and flag.too_big:
        message += f" {flag.too_big}"
    return BadSetting(message, param=name)


def _rule(error: ErrorDetails) -> str:
    """What is allowed, in our words."""
    context = error.get("ctx", {})
    match error["type"]:
        case "greater_than_equal":
            return f"it must be at least {_figure(context['ge'])}"
        case "greater_than":
            return f"it must be more than {_figure(context['gt'])}"
        case "less_than_equal":
            return f"it must be at most {_figure(context['le'])}"
        case "int_parsing" | "int_from_float" | "int_parsing_size":
            return "it must be a whole number"
        case "float_parsing" | "finite_number":
            return "it must be a number"
        case "bool_parsing":
            return "it must be true or false"
        case "literal_error":
            return f"it must be {context['expected']}"
        case "string_too_short":
            return "it must not be empty"
        case "string_too_long":
            return f"it must have at most {_figure(context['max_length'])} characters"
        case "string_pattern_mismatch":
            return "it is empty or has characters that are not allowed there"
        case "value_error":
            return str(context["error"])
        case _:
            return error["msg"]


def _figure(value: float) -> str:
    """`16,777,216`, `0.5`."""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.12g}"


def _notes(name: str, given: Given, settings: ServeSettings) -> list[str]:
    """What to say about a flag: which meaning an alias was given, what an accepted one does."""
    flag = flag_of(name)
    notes = []
    if given.spelled in flag.also:
        value = "auto" if given.value == "auto" else getattr(settings, name)
        notes.append(f"{given.spelled} is taken as {flag.long} {value}: {flag.meaning}.")
    if flag.note and given.value:
        notes.append(flag.note)
    return notes


def _shown(name: str, given: Given) -> str:
    """`--ctx 12`, with a secret, a long or an unprintable value made harmless."""
    flag: Flag = flag_of(name)
    joint = "=" if given.source == "environment" else " "
    if flag.secret:
        return f"{given.spelled}{joint}(hidden)"
    text = ",".join(given.value) if isinstance(given.value, (list, tuple)) else str(given.value)
    text = text if text.isprintable() else ascii(text)
    return f"{given.spelled}{joint}{text[:60] + '…' if len(text) > 60 else text}"
