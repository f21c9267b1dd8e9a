"""Values as YAML writes them on one line: plain where that is unmistakable, else quoted."""

from __future__ import annotations

import json
import re

from okno.config.yaml_text import parse_text
from okno.core.errors import BadSetting

PLAIN = re.compile(r"[A-Za-z_./][A-Za-z0-9_./+-]*")


def value_text(value: object, *, as_json: bool = False) -> str:
    """A scalar or a list of texts; `as_json`: for a .json file."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(value_text(item, as_json=as_json) for item in value)}]"
    if isinstance(value, str):
        return json.dumps(value) if as_json else text_of(value)
    return "null" if value is None else json.dumps(value)


def key_text(key: str, *, as_json: bool = False) -> str:
    """A key of the file; those of the tree need no quotes in YAML."""
    return json.dumps(key) if as_json else key


def text_of(text: str) -> str:
    """A text, bare if that reads back as the same text."""
    if PLAIN.fullmatch(text) and _reads_as(text):
        return text
    escaped = "".join(_escaped(char) for char in text)
    return f'"{escaped}"'


def _reads_as(text: str) -> bool:
    try:
        node = parse_text(text, "")
    except BadSetting:
        return False
    return node is not None and node.value == text


def _escaped(char: str) -> str:
    """A character in double quotes (YAML 1.2, section 5.7)."""
    if char in '"\\':
        return f"\\{char}"
    if char.isprintable():
        return char
    names = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}
    return names.get(char, f"\\U{ord(char):08x}")
