"""Where a SentencePiece-like tokenizer.json puts spaces before words."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from okno.convert.pretokenizer_rules import rules_of
from okno.convert.tokenizer_files import TokenizerJson

PREPEND, REPLACE = "prepend '▁'", "replace ' ' by '▁'"


class SpacePrefix(Enum):
    """ALWAYS: before every stretch of text between special tokens. FIRST: before the text only,
    if it has none there."""

    NEVER = "never"
    FIRST = "first"
    ALWAYS = "always"


KNOWN = {
    ((PREPEND, REPLACE), ()): SpacePrefix.ALWAYS,
    ((REPLACE,), ()): SpacePrefix.NEVER,
    ((REPLACE,), ("split at ' ', mergedwithprevious",)): SpacePrefix.NEVER,
    ((), ("metaspace never",)): SpacePrefix.NEVER,
    ((), ("metaspace first",)): SpacePrefix.FIRST,
}


def space_prefix_of(tokenizer: TokenizerJson) -> SpacePrefix | None:
    """None where its rules are of another kind."""
    return KNOWN.get((tuple(_steps(tokenizer.normalizer)), rules_of(tokenizer.pre_tokenizer)))


def shown_rules(tokenizer: TokenizerJson) -> list[str]:
    """All rules, for a message."""
    return [*_steps(tokenizer.normalizer), *rules_of(tokenizer.pre_tokenizer)]


def _steps(normalizer: Mapping[str, object] | None) -> list[str]:
    """Each step of the normalizer in one spelling."""
    if normalizer is None:
        return []
    kind = normalizer.get("type")
    if kind == "Sequence":
        parts = normalizer.get("normalizers")
        return [
            step for part in (parts if isinstance(parts, list) else []) for step in _steps(part)
        ]
    if kind == "Prepend":
        return [f"prepend {normalizer.get('prepend')!r}"]
    if kind == "Replace":
        pattern = normalizer.get("pattern")
        text = pattern.get("String") if isinstance(pattern, dict) else None
        return [f"replace {text!r} by {normalizer.get('content')!r}"]
    return [f"<{kind}>"]
