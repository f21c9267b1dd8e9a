"""Fill the settings tree: command line over environment over file over what comes with the model.

Each source is a `Layer` of given values; they are merged, checked once, and each value remembers
where it came from. `load` looks for the file; `merge` is the pure part; `with_model` puts the
settings that come with a model below all others, once the model is known.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from okno.config.fields import listed
from okno.config.file import SettingsFile, layer_of, printable
from okno.config.given import Given as Given
from okno.config.given import Layer, Source, shown
from okno.config.settings import ServeSettings, flag_of
from okno.config.settle import settled, without_weaker
from okno.config.tree import entry_of, figure
from okno.config.where import find_file
from okno.core.errors import BadSetting

ENV_PREFIX = "OKNO_"
# No settings: read by engines/amx.py (for experts) and store/paths.py (where the database is).
READ_ELSEWHERE = frozenset({"OKNO_AMX", "OKNO_DATA_DIR"})


@dataclass(frozen=True, slots=True)
class Loaded:
    """Checked settings; `given` tells where each value that is not a default came from; notes are
    sentences for the person who gave them. file: the settings file that was read. raw: what was
    given before `do_sample` and `temperature` were settled."""

    settings: ServeSettings
    given: Layer
    notes: tuple[str, ...]
    file: Path | None = None
    raw: Layer = field(default_factory=dict)

    def source(self, name: str) -> Source:
        """Where the value of field `name` came from."""
        return self.given[name].source if name in self.given else "default"


def load(command_line: Iterable[tuple[str, Given]], environment: Mapping[str, str]) -> Loaded:
    """Settings from `command_line` (field name and value, in any order), OKNO_* variables, and the
    settings file that these name or that lies where one is looked for.

    Raises BadSetting naming the flag, variable or line at fault and what is allowed.
    """
    command_line = list(command_line)
    named = environment.get(env_name("config")) or None
    for name, given in command_line:
        named = str(given.value) if name == "config" else named
    return merge(command_line, environment, find_file(named))


def merge(
    command_line: Iterable[tuple[str, Given]],
    environment: Mapping[str, str],
    file: SettingsFile | None = None,
) -> Loaded:
    """As `load`, from a file that is read already (None: no file)."""
    command_line = list(command_line)
    flags = _agreed(command_line)
    variables, notes = _from_environment(environment)
    lines, of_file = _from_file(file) if file else ({}, [])
    raw = {**lines, **variables, **flags}
    settings, given, remarks = _settled(raw)
    notes += [note for name, value in command_line for note in _notes(name, value, settings)]
    path = file.path if file else None
    return Loaded(settings, given, (*of_file, *notes, *remarks), path, raw)


def with_model(loaded: Loaded, own: Layer) -> Loaded:
    """`loaded` with the checked settings `own` that come with the model, below all others."""
    raw = {**own, **loaded.raw}
    settings, given, _ = _settled(raw)
    return Loaded(settings, given, loaded.notes, loaded.file, raw)


def _from_file(file: SettingsFile) -> tuple[Mapping[str, Given], list[str]]:
    layer = layer_of(file)
    if layer.errors:
        raise layer.errors[0]
    return layer.given, [f"Settings from {printable(str(file.path))}.", *layer.notes]


def _settled(raw: Layer) -> tuple[ServeSettings, Layer, list[str]]:
    """The checked settings, with `do_sample` and `temperature` brought together."""
    raw = without_weaker(raw)
    given, notes = settled(raw, checked(raw))
    return checked(given), given, notes


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
                f"{shown(name, first)} and {shown(name, given)} contradict each other: both set "
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
            name = names[variable]
            read = listed(value) if entry_of(name).kind == "texts" else value
            layer[name] = Given(read, "environment", variable)
        elif variable.startswith(ENV_PREFIX) and variable not in names.keys() | READ_ELSEWHERE:
            near = difflib.get_close_matches(variable, names, n=1, cutoff=0.85)
            if near:
                raise BadSetting(f"{variable} is not a setting. Did you mean {near[0]}?")
            notes.append(f"{variable} is not a setting of this version; ignored.")
    return layer, notes


def checked(merged: Layer) -> ServeSettings:
    """The settings of one layer of values. Raises BadSetting for the first wrong one."""
    values: dict[str, Any] = {name: given.value for name, given in merged.items()}
    try:
        return ServeSettings(**values)
    except ValidationError as error:
        raise _bad_setting(error.errors(include_url=False)[0], merged) from None


def _bad_setting(error: ErrorDetails, merged: Layer) -> BadSetting:
    rule = _rule(error)
    if not error["loc"]:
        return BadSetting(rule + _origins(rule, merged))
    name = str(error["loc"][0])
    message = f"{shown(name, merged[name])}: {rule}."
    flag = flag_of(name)
    if error["type"] == "less_than_equal" and flag.too_big:
        message += f" {flag.too_big}"
    return BadSetting(message, param=name)


def _origins(rule: str, merged: Layer) -> str:
    """Where the settings came from that `rule` names by their flags, if not from flags."""
    return "".join(
        f" {flag_of(name).long} comes from {given.origin}."
        for name, given in merged.items()
        if given.source != "command line" and f"{flag_of(name).long} " in rule
    )


def _rule(error: ErrorDetails) -> str:
    """What is allowed, in our words."""
    context = error.get("ctx", {})
    match error["type"]:
        case "greater_than_equal":
            return f"it must be at least {figure(context['ge'])}"
        case "greater_than":
            return f"it must be more than {figure(context['gt'])}"
        case "less_than_equal":
            return f"it must be at most {figure(context['le'])}"
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
            return f"it must have at most {figure(context['max_length'])} characters"
        case "string_pattern_mismatch":
            return "it is empty or has characters that are not allowed there"
        case "value_error":
            return str(context["error"])
        case _:
            return error["msg"]


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
