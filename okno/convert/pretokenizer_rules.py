"""A tokenizer's rules for cutting text into words, in one canonical spelling.

tokenizer.json nests them, and the same regular expression is spelled in several ways; here each
rule is one line of text, so that rules can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeGuard

from okno.inspect.pretokenizers import GPT2

# Spellings that match the same text, and the one that is kept. A quantifier before a class of
# other characters cannot give anything back, so a possessive one is a plain one; `\s*[\r\n]`
# takes white space up to the last line end, and so does `\s*[\r\n]+`.
SAME = (
    ("\r", r"\r"),
    ("\n", r"\n"),
    ("'(?i:[sdmt]|ll|ve|re)", "(?i:'s|'t|'re|'ve|'m|'ll|'d)"),
    ("(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])", "(?i:'s|'t|'re|'ve|'m|'ll|'d)"),
    ("'(?:[sdmt]|ll|ve|re)", "'s|'t|'re|'ve|'m|'ll|'d"),
    (r"[^\r\n\p{L}\p{N}]?+", r"[^\r\n\p{L}\p{N}]?"),
    (r"[^\s\p{L}\p{N}]++", r"[^\s\p{L}\p{N}]+"),
    (r"\p{N}{1}|", r"\p{N}|"),
    (r"\s*[\r\n]|", r"\s*[\r\n]+|"),
)


def rules_of(pre_tokenizer: Mapping[str, object] | None) -> tuple[str, ...]:
    """The rules in their order; a rule of an unknown kind is its JSON type in angle brackets."""
    if pre_tokenizer is None:
        return ()
    if pre_tokenizer.get("type") == "Sequence":
        steps = pre_tokenizer.get("pretokenizers")
        parts = steps if isinstance(steps, list) else []
        return tuple(rule for part in parts for rule in rules_of(part if is_step(part) else {}))
    return _rules(pre_tokenizer)


def is_step(part: object) -> TypeGuard[Mapping[str, object]]:
    """Files are not trusted: a step of a sequence may be anything."""
    return isinstance(part, Mapping)


def canonical(regex: str) -> str:
    """The one kept spelling of `regex`."""
    for spelling, kept in SAME:
        regex = regex.replace(spelling, kept)
    return regex


def _rules(rule: Mapping[str, object]) -> tuple[str, ...]:
    kind = str(rule.get("type"))
    if kind == "ByteLevel":
        cut = (f"split {GPT2}",) if rule.get("use_regex", True) else ()
        return (*cut, "bytes after a space" if rule.get("add_prefix_space") else "bytes")
    if kind == "Digits":
        each = rule.get("individual_digits", False)
        return (r"split \p{N}" if each else r"split \p{N}+",)
    if kind == "Punctuation":
        return (f"punctuation {str(rule.get('behavior', 'Isolated')).lower()}",)
    if kind == "Split":
        return (_split(rule),)
    if kind == "Metaspace":
        return (_metaspace(rule),)
    return (f"<{kind}>",)


def _split(rule: Mapping[str, object]) -> str:
    """`split REGEX` for words that match and those between them; `split at TEXT, BEHAVIOUR` else.

    To keep the matches only ("Removed", inverted) is the same where every character matches, as
    with each expression of the kind that ends in white space of any length.
    """
    pattern = rule.get("pattern")
    said = pattern if isinstance(pattern, Mapping) else {}
    behaviour, inverted = str(rule.get("behavior")).lower(), bool(rule.get("invert"))
    regex = said.get("Regex")
    if isinstance(regex, str):
        regex = canonical(regex)
        keeps_all = behaviour == "removed" and inverted and regex.endswith((r"|\s+", r"|\s"))
        if behaviour == "isolated" or keeps_all:
            return f"split {regex}"
        return f"split at {regex}, {behaviour}{', inverted' if inverted else ''}"
    return f"split at {said.get('String')!r}, {behaviour}{', inverted' if inverted else ''}"


def _metaspace(rule: Mapping[str, object]) -> str:
    """`metaspace SCHEME`, where the scheme says which parts get a space before them."""
    scheme = rule.get("prepend_scheme")
    if scheme is None:
        scheme = "always" if rule.get("add_prefix_space", True) else "never"
    mark = "" if rule.get("replacement") == "▁" else f" {rule.get('replacement')!r}"
    words = "" if rule.get("split", True) is False else ", words"
    return f"metaspace {scheme}{mark}{words}"
