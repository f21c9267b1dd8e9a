"""YAML 1.2 (and JSON) as plain nodes that know where they stand. Bounded, and nothing is built
from the text but texts, numbers, switches, lists and maps.

Aliases, anchors, tags, directives, merge keys and a second document are refused: a settings file
needs none of them, and they are how a small text becomes a large one or something else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from okno.core.errors import BadSetting

MAX_BYTES = 64 * 1024
MAX_DEPTH = 6
MAX_NODES = 4_000
MAX_DIGITS = 40  # of a whole number; the largest setting has 20
BOM = "\ufeff"

Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Node:
    """A value of the text, which is text[start:end]. line: counted from 1. flow: written with
    brackets (or, for a scalar, on its own)."""

    value: Scalar | list[Node] | dict[str, Member]
    line: int
    start: int
    end: int
    flow: bool = True

    @property
    def plain(self) -> Any:
        """The value without places."""
        if isinstance(self.value, dict):
            return {key: member.node.plain for key, member in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain for node in self.value]
        return self.value


@dataclass(frozen=True, slots=True)
class Member:
    """A key of a map with its value. The key is text[start:key_end]; column: of its first letter,
    counted from 0."""

    key: str
    line: int
    start: int
    key_end: int
    column: int
    node: Node


def bad(name: str, line: int, reason: str) -> BadSetting:
    """The error about a place in file `name`."""
    return BadSetting(f"{name}, line {line}: {reason}", line=line)


def parse_text(text: str, name: str) -> Node | None:
    """The one value of `text` (without BOM); None when there is none. name: for messages.

    Raises BadSetting with the line at fault.
    """
    if name.endswith(".json"):
        text = _checked_json(text, name)
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        _check_events(YAML(typ="safe", pure=True).parse(text), name)
        root = YAML(typ="safe", pure=True).compose(text)
        return None if root is None else _Reader(text, name).node(root)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else 1
        raise bad(name, line, f"not valid YAML: {_sentence(error)}.") from None
    except YAMLError as error:
        raise BadSetting(f"{name} is not valid YAML: {_first_line(str(error))}.") from None


def _checked_json(text: str, name: str) -> str:
    """Valid JSON, with its tabs (which can only stand between values) as spaces, for YAML."""
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        raise bad(name, error.lineno, f"not valid JSON: {error.msg}.") from None
    except (ValueError, RecursionError):
        raise BadSetting(
            f"{name} is nested too deeply, or has a number that is too long."
        ) from None
    return text.replace("\t", " ")


def _sentence(error: Any) -> str:
    return _first_line(str(error.problem or error.context or "it cannot be read"))


def _first_line(text: str) -> str:
    line = text.strip().split("\n")[0].rstrip(".")
    return line if line.isprintable() else ascii(line)


def _check_events(events: Iterator[Any], name: str) -> None:
    """Refuse what makes YAML dangerous, before anything is built."""
    from ruamel.yaml import events as kinds

    depth = documents = 0
    for count, event in enumerate(events):
        line = event.start_mark.line + 1
        documents += isinstance(event, kinds.DocumentStartEvent)
        if documents > 1:
            raise bad(name, line, "a second document begins here; one file holds one.")
        if isinstance(event, kinds.DocumentStartEvent) and (event.version or event.tags):
            raise bad(name, line, "directives (%YAML, %TAG) are not accepted; leave them out.")
        if isinstance(event, kinds.AliasEvent) or getattr(event, "anchor", None):
            raise bad(name, line, "aliases (&, *) are not accepted; write the value out.")
        if getattr(event, "tag", None):
            raise bad(name, line, f"tags ({str(event.tag)[:60]}) are not accepted; leave it out.")
        depth += isinstance(event, kinds.CollectionStartEvent)
        depth -= isinstance(event, kinds.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise bad(name, line, f"nested deeper than {MAX_DEPTH} levels.")
        if count > 2 * MAX_NODES:
            raise bad(name, line, f"more than {MAX_NODES:,} values.")


class _Reader:
    """ruamel's nodes as ours."""

    def __init__(self, text: str, name: str) -> None:
        self._text = text
        self._name = name

    def node(self, raw: Any) -> Node:
        line, start = raw.start_mark.line + 1, raw.start_mark.index
        if raw.id == "mapping":
            members = self._members(raw)
            end = _end(raw, [member.node for member in members.values()])
            return Node(members, line, start, end, bool(raw.flow_style))
        if raw.id == "sequence":
            items = [self.node(item) for item in raw.value]
            return Node(items, line, start, _end(raw, items), bool(raw.flow_style))
        end = raw.end_mark.index
        if raw.style in ("|", ">"):  # of a block text the parser also takes the empty lines below
            end = len(self._text[:end].rstrip())
        return Node(self._scalar(raw, line), line, start, end)

    def _members(self, raw: Any) -> dict[str, Member]:
        members: dict[str, Member] = {}
        for key_node, value_node in raw.value:
            mark = key_node.start_mark
            key = key_node.value if key_node.id == "scalar" else None
            if not isinstance(key, str) or key == "<<":
                raise bad(self._name, mark.line + 1, "a key must be a plain name.")
            if key in members:
                raise bad(
                    self._name, mark.line + 1,
                    f"{shown(key)} stands here again; line {members[key].line} has it already.",
                )  # fmt: skip
            node = self.node(value_node)
            members[key] = Member(
                key, mark.line + 1, mark.index, key_node.end_mark.index, mark.column, node
            )
        return members

    def _scalar(self, raw: Any, line: int) -> Scalar:
        kind, text = raw.tag.rsplit(":", 1)[-1], raw.value
        if kind == "null":
            return None
        if kind == "bool":
            return bool(text.lower() == "true")
        try:
            if kind == "int":
                return self._whole(text, line)
            if kind == "float":
                return _number(text)
        except ValueError:  # such as -_ and 0x_, which YAML calls numbers
            reason = "a number without digits; put it into quotes."
            raise bad(self._name, line, reason) from None
        return _joined_surrogates(text, self._name, line)

    def _whole(self, text: str, line: int) -> int:
        if len(text) > MAX_DIGITS:
            raise bad(self._name, line, f"a number with more than {MAX_DIGITS} digits.")
        digits = text.replace("_", "")
        sign, bare = (-1, digits[1:]) if digits[0] == "-" else (1, digits.lstrip("+"))
        base = {"0x": 16, "0o": 8, "0b": 2}.get(bare[:2].lower(), 10)
        return sign * int(bare if base == 10 else bare[2:], base)


def _number(text: str) -> float:
    """A YAML float; `.inf` and `.nan` are spelled with a point."""
    return float(text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan"))


def _joined_surrogates(text: str, name: str, line: int) -> str:
    r"""JSON writes characters beyond 16 bits as two escapes (\ud83d\ude00): one character."""
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        raise bad(name, line, "half a surrogate pair, which is not a character.") from None


def _end(raw: Any, inner: list[Node]) -> int:
    """Where a list or map ends. In block style the parser says: where the next thing begins."""
    if raw.flow_style or not inner:
        return int(raw.end_mark.index)
    return inner[-1].end


def shown(key: str) -> str:
    """A key or value of a file for a message: quoted, printable, not endless."""
    text = key if key.isprintable() else ascii(key)[1:-1]
    return f"`{text[:60]}…`" if len(text) > 60 else f"`{text}`"
