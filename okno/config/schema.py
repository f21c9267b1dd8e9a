"""The JSON schema of generation_config.yaml (draft 2020-12), for editors and for programs."""

from __future__ import annotations

from okno.config.explain import plain
from okno.config.foreign_keys import NEUTRAL, SAID, WITHOUT_EFFECT
from okno.config.tree import PARTS, Entry, entries
from okno.core.request import MAX_STOP_CHARS, MAX_STOP_STRINGS

Schema = dict[str, object]
TYPES = {"switch": "boolean", "whole": "integer", "number": "number", "text": "string"}
ABOUT = {
    "load": "How the model is loaded: window, engine, memory.",
    "server": "Where the server listens and who may call it.",
}


def schema() -> Schema:
    """The whole schema. Keys of Hugging Face without a setting here are allowed with the values
    that change nothing."""
    parts: Schema = {
        part: {"description": ABOUT[part], **_object(part), "type": ["object", "null"]}
        for part in PARTS
        if part
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "okno: generation_config.yaml",
        **_object(""),
        "properties": {**_properties(""), **parts, **_foreign()},
    }


def _object(part: str) -> Schema:
    return {"type": "object", "additionalProperties": False, "properties": _properties(part)}


def _properties(part: str) -> Schema:
    return {entry.name: _property(entry) for entry in entries() if entry.part == part}


def _property(entry: Entry) -> Schema:
    found: Schema = {"description": entry.flag.help, **_value(entry)}
    default = plain(entry, entry.default)
    return found if default is None else {**found, "default": default}


def _value(entry: Entry) -> Schema:
    """What the value may be; null counts as not given."""
    words = [*entry.words, None]
    if entry.choices:
        return {"enum": [*entry.choices, None]}
    if entry.kind == "texts":
        text: Schema = {"type": "string"}
        if entry.name == "stop_strings":
            text |= {"minLength": 1, "maxLength": MAX_STOP_CHARS}
        many: Schema = {"type": "array", "items": text}
        if entry.name == "stop_strings":
            many["maxItems"] = MAX_STOP_STRINGS
        return {"anyOf": [text, many, {"const": None}]}
    plain_type: Schema = {"type": TYPES[entry.kind], **_bounds(entry)}
    return {"anyOf": [plain_type, {"enum": words}]}


def _bounds(entry: Entry) -> Schema:
    if entry.low is None or entry.high is None:
        return {}
    return {"exclusiveMinimum" if entry.above else "minimum": entry.low, "maximum": entry.high}


def _foreign() -> Schema:
    """Hugging Face's keys without a setting here."""
    harmless: Schema = {
        name: {"description": "Accepted; changes nothing here."}
        for name in sorted(WITHOUT_EFFECT | SAID.keys())
    }
    neutral: Schema = {
        name: {"description": f"Not here: {instead}.", "enum": [*off, None]}
        for name, (off, instead) in NEUTRAL.items()
    }
    return {**harmless, **neutral}
