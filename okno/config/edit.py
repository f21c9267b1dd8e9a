"""Change one setting in the text of a settings file and nothing else.

The parser says where each value stands; only that piece of text is replaced, so comments, order,
quotes and empty lines survive byte for byte. Every edit is read back and compared before it counts.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

from okno.config.file import SettingsFile
from okno.config.render import key_text, value_text
from okno.config.tree import Entry
from okno.config.yaml_text import Member, Node, parse_text
from okno.core.errors import BadSetting

INDENT = "  "


def with_value(file: SettingsFile, entry: Entry, value: object) -> str:
    """The text of `file` with `entry` set to `value` (as YAML has it)."""
    root = _plain_map(file)
    part = root.get(entry.part) or {}
    expected = (
        {**root, entry.part: {**part, entry.name: value}}
        if entry.part
        else {**root, entry.name: value}
    )
    return _first_sound(file, _set(_Text(file, entry), value), expected, entry)


def without(file: SettingsFile, entry: Entry) -> str:
    """The text of `file` with the line of `entry` taken out. Raises BadSetting if it has none."""
    text = _Text(file, entry)
    member = text.member()
    if member is None:
        raise BadSetting(f"{file.name} does not set `{entry.key}`; nothing to take out.")
    expected = copy.deepcopy(_plain_map(file))
    del (expected[entry.part] if entry.part else expected)[entry.name]
    return _first_sound(file, _removals(text, member), expected, entry)


def _plain_map(file: SettingsFile) -> dict[str, Any]:
    plain = file.root.plain if file.root is not None else None
    if plain is not None and not isinstance(plain, dict):
        raise BadSetting(f"{file.name} must hold settings, one `name: value` a line.")
    return plain or {}


def _first_sound(
    file: SettingsFile, candidates: Iterator[str], expected: dict[str, Any], entry: Entry
) -> str:
    """The first text that says exactly what is expected."""
    for text in candidates:
        try:
            root = parse_text(text, file.name)
        except BadSetting:
            continue
        if _bare((root.plain if root else None) or {}) == _bare(expected):
            return text
    raise BadSetting(
        f"{file.name} is written in a way that okno cannot change safely. Change `{entry.key}` in "
        "an editor."
    )


def _bare(plain: Any) -> Any:
    """Without parts that hold nothing."""
    return {k: v for k, v in plain.items() if v not in (None, {})}


class _Text:
    """The text with the places that matter for one setting."""

    def __init__(self, file: SettingsFile, entry: Entry) -> None:
        self.text, self.root, self.entry = file.text, file.root, entry
        self.is_json = file.name.endswith(".json")
        self.newline = "\r\n" if "\r\n" in file.text else "\n"

    def top(self) -> dict[str, Member]:
        value = self.root.value if self.root is not None else None
        return value if isinstance(value, dict) else {}

    def owner(self) -> Member | None:
        """The part that holds the setting; None at the top level, or without that part."""
        return self.top().get(self.entry.part) if self.entry.part else None

    def home(self) -> Node | None:
        """The map that holds, or would hold, the setting."""
        if not self.entry.part:
            return self.root
        owner = self.owner()
        return owner.node if owner else None

    def member(self) -> Member | None:
        home = self.home()
        members = home.value if home is not None else None
        return members.get(self.entry.name) if isinstance(members, dict) else None

    def line_end(self, index: int) -> int:
        """The end of the line of `index`, its line break not included."""
        found = self.text.find("\n", index)
        end = len(self.text) if found < 0 else found
        return end - (self.text[end - 1 : end] == "\r")

    def after(self, index: int, line: str) -> str:
        """The text with `line` as a line of its own after the line of `index`."""
        end = self.line_end(index)
        rest = self.text[end:] or self.newline
        return f"{self.text[:end]}{self.newline}{line}{rest}"

    def replaced(self, start: int, end: int, new: str) -> str:
        return self.text[:start] + new + self.text[end:]


def _set(text: _Text, value: object) -> Iterator[str]:
    """Texts that may say it, best first."""
    written = value_text(value, as_json=text.is_json)
    member = text.member()
    if member is not None:
        yield _changed(text, member, written)
        return
    home = text.home()
    if home is not None and isinstance(home.value, dict) and home.flow:
        yield from _into_flow(text, home, _pair(text, written))
    elif home is not None and isinstance(home.value, dict) and home.value:
        yield from _into_block(text, home.value, written)
    elif text.owner() is not None:
        yield from _into_empty_part(text, written)
    else:
        yield from _at_the_end(text, written)


def _pair(text: _Text, written: str) -> str:
    return f"{key_text(text.entry.name, as_json=text.is_json)}: {written}"


def _changed(text: _Text, member: Member, written: str) -> str:
    """The value replaced. A list of lines becomes one line after its key."""
    node = member.node
    colon = text.text.index(":", member.key_end) + 1
    if node.start == node.end or node.start < colon:
        return text.replaced(colon, colon, f" {written}")
    if node.flow:
        return text.replaced(node.start, node.end, written)
    kept = text.text[colon : node.start].rstrip()
    return text.replaced(colon, node.end, f" {written}{kept}")


def _into_block(text: _Text, members: dict[str, Member], written: str) -> Iterator[str]:
    first, last = next(iter(members.values())), list(members.values())[-1]
    line = " " * first.column + _pair(text, written)
    yield from (text.after(at, line) for at in _commented(text))
    if not text.entry.part:
        own = [member for member in members.values() if member.key not in ("load", "server")]
        yield from [text.after(own[-1].node.end, line)] if own else []
        yield text.replaced(first.start, first.start, line + text.newline)
    yield text.after(last.node.end, line)


def _into_empty_part(text: _Text, written: str) -> Iterator[str]:
    """`load:` with nothing below it, or with comments only."""
    owner = text.owner()
    assert owner is not None
    line = " " * owner.column + INDENT + _pair(text, written)
    if owner.node.start == owner.node.end:
        yield from (text.after(at, line) for at in _commented(text))
        yield text.after(owner.key_end, line)
    else:
        yield text.replaced(owner.node.start, owner.node.end, f"{{{_pair(text, written)}}}")


def _at_the_end(text: _Text, written: str) -> Iterator[str]:
    """The part is not there yet, or nothing is."""
    entry, pair = text.entry, _pair(text, written)
    if text.root is not None and text.root.flow:
        key = key_text(entry.part, as_json=text.is_json)
        yield from _into_flow(text, text.root, f"{key}: {{{pair}}}")
        return
    yield from (text.after(at, pair) for at in _commented(text) if not entry.part)
    body = text.text
    gap = "" if not body or body.endswith("\n") else text.newline
    lines = f"{entry.part}:{text.newline}{INDENT}{pair}" if entry.part else pair
    yield f"{body}{gap}{lines}{text.newline}"


def _into_flow(text: _Text, home: Node, pair: str) -> Iterator[str]:
    members = list(home.value.values()) if isinstance(home.value, dict) else []
    if not members:
        yield text.replaced(home.start + 1, home.start + 1, pair)
        return
    first, last = members[0], members[-1]
    gap = text.text[home.start + 1 : first.start]
    between = gap if gap.strip() == "" and "\n" in gap else " "
    yield text.replaced(last.node.end, last.node.end, f",{between}{pair}")


def _commented(text: _Text) -> Iterator[int]:
    """Places of lines such as `# ctx: auto` where the setting belongs (the sample has them)."""
    start, end, indent = 0, len(text.text), ""
    owner = text.owner()
    if owner is not None:
        indent = r"[ \t]+"
        start = owner.key_end
        later = [member.start for member in text.top().values() if member.start > start]
        end = min(later, default=end)
    pattern = re.compile(rf"^{indent}#[ \t]?{re.escape(text.entry.name)}:.*", re.MULTILINE)
    yield from (found.start() + 1 for found in pattern.finditer(text.text, start, end))


def _removals(text: _Text, member: Member) -> Iterator[str]:
    home = text.home()
    assert home is not None
    assert isinstance(home.value, dict)
    members = list(home.value.values())
    at = members.index(member)
    if not home.flow:
        start = text.text.rfind("\n", 0, member.start) + 1
        colon = text.text.index(":", member.key_end) + 1
        end = text.line_end(max(colon, member.node.end if _is_written(member) else colon))
        rest = text.text[end:]
        yield text.text[:start] + re.sub(r"^\r?\n", "", rest)
    elif at:
        yield text.replaced(members[at - 1].node.end, member.node.end, "")
    elif len(members) > 1:
        yield text.replaced(member.start, members[1].start, "")
    else:
        yield text.replaced(member.start, member.node.end, "")


def _is_written(member: Member) -> bool:
    return member.node.end > member.node.start
