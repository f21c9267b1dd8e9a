"""A Constraint as llguidance's grammar, after checks that keep every refusal ours.

Sizes, nesting and keywords are checked before the Rust code sees them, so that what cannot be
honoured is refused with a reason, and nothing is silently ignored. Imports no numpy: the sandbox
loads this file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NoReturn

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from llguidance.gbnf_to_lark import gbnf_to_lark

from okno.core.errors import BadConstraint
from okno.core.request import Constraint

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

MAX_DEPTH = 100
MAX_REPEAT = 65_536
MAX_REASON_CHARS = 400

# One space, or a newline with an indent: a model cannot spend its window on white space.
WHITESPACE = r" |\n[ \t]{0,40}"

LIMITS = LLParserLimits(verbose_errors=False)

_Json = Mapping[str, "_Json"] | list["_Json"] | str | float | bool | None

_CHECKED = {
    "type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref", "items", "additionalItems",
    "prefixItems", "minItems", "maxItems", "properties", "patternProperties",
    "additionalProperties", "required", "minProperties", "maxProperties", "minLength",
    "maxLength", "pattern", "format", "minimum", "maximum", "exclusiveMinimum",
    "exclusiveMaximum", "multipleOf", "$defs", "definitions",
}  # fmt: skip
_ANNOTATIONS = {
    "title", "description", "default", "examples", "example", "deprecated", "readOnly",
    "writeOnly", "$schema", "$id", "id", "$anchor", "$comment", "contentMediaType",
    "contentEncoding", "discriminator",
}  # fmt: skip
_MAPS = ("properties", "patternProperties", "$defs", "definitions")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLE = ("items", "additionalItems", "additionalProperties")

_GBNF_RULE = re.compile(r"(?m)^\s*[\w-]+\s*::=")
_GBNF_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)
_QUOTED = re.compile(
    r'"(?:\\.|[^"\\\n])*"|(?://|#)[^\n]*|\[(?:\\.|[^\]\\])*\]|(/(?:\\.|[^/\\\n])+/)', re.DOTALL
)
_GROUP_OPENS = re.compile(r"\((?:\?(?:P?<\w+>|[a-zA-Z-]*:))?")
_COUNT = re.compile(r"\{\s*(\d*)\s*(,?)\s*(\d*)\s*\}")


def grammar_of(constraint: Constraint) -> str:
    """The grammar for LLMatcher. Raises BadConstraint for what cannot be honoured."""
    if constraint.kind == "json_object":
        return _json_grammar('{"type": "object"}')
    if constraint.kind == "json_schema":
        return _json_grammar(_checked_schema(constraint.source))
    if constraint.kind == "regex":
        check_regex(constraint.source, "regex")
        return LLMatcher.grammar_from_regex(constraint.source)
    return LLMatcher.grammar_from_lark(_lark(constraint.source))


def refuse(kind: str, why: str) -> NoReturn:
    """Raise BadConstraint: what was asked, and why it cannot be honoured."""
    why = " ".join(why.split())
    if len(why) > MAX_REASON_CHARS:
        why = f"{why[: MAX_REASON_CHARS // 2]} … {why[-MAX_REASON_CHARS // 2 :]}"
    raise BadConstraint(f"The {kind} cannot be honoured: {why}", param="response_format")


# JSON schema ------------------------------------------------------------------------------------


def _json_grammar(schema: str) -> str:
    options: JsonCompileOptions = {
        "whitespace_pattern": WHITESPACE, "lenient": False, "coerce_one_of": False,
    }  # fmt: skip
    return LLMatcher.grammar_from_json_schema(schema, overrides=options)


def _checked_schema(source: str) -> str:
    _check_depth(re.sub(r'"(?:\\.|[^"\\])*"', "", source, flags=re.DOTALL), "json_schema", "[{")
    try:
        schema = json.loads(source, parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)
    except ValueError as error:
        refuse("json_schema", f"it is not valid JSON ({error}).")
    if not isinstance(schema, Mapping):
        refuse("json_schema", "it must be an object.")
    _check_schema(schema, "$", "json_schema")
    return json.dumps(schema, ensure_ascii=False)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _unique_keys(pairs: list[tuple[str, _Json]]) -> dict[str, _Json]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key appears twice in one object")
    return found


def _check_schema(schema: _Json, path: str, kind: str) -> None:
    """Refuse every keyword that would have no effect. Recursion is bounded by MAX_DEPTH."""
    if isinstance(schema, bool):
        return
    if not isinstance(schema, Mapping):
        refuse(kind, f"{path} must be an object or a boolean.")
    for key in schema:
        vendor = key.startswith("x-") and key != "x-guidance"
        if not (key in _CHECKED or key in _ANNOTATIONS or vendor):
            refuse(kind, f"the keyword `{key}` at {path} is not supported. Remove it.")
    for pattern in _patterns(schema):
        check_regex(pattern, kind)
    for name, child in _children(schema):
        _check_schema(child, f"{path}.{name}", kind)


def _patterns(schema: Mapping[str, _Json]) -> Iterator[str]:
    if isinstance(pattern := schema.get("pattern"), str):
        yield pattern
    if isinstance(patterns := schema.get("patternProperties"), Mapping):
        yield from patterns


def _children(schema: Mapping[str, _Json]) -> Iterator[tuple[str, _Json]]:
    """Subschemas by name; values of the wrong shape are left to llguidance, which says so."""
    for key in _MAPS:
        if isinstance(named := schema.get(key), Mapping):
            yield from ((f"{key}.{name}", child) for name, child in named.items())
    for key in (*_LISTS, *_SINGLE):
        value = schema.get(key)
        if isinstance(value, list):
            yield from ((f"{key}[{i}]", child) for i, child in enumerate(value))
        elif key in _SINGLE and key in schema:
            yield key, value


# Regex ------------------------------------------------------------------------------------------


def check_regex(pattern: str, kind: str) -> None:
    """Bound nesting and repetition counts; refuse a repetition of nothing but a repetition, as in
    `(a+)+` (it matches what `a+` matches). Syntax is llguidance's business."""
    groups = [_Group()]
    at = 0
    while at < len(pattern):
        char = pattern[at]
        count = _COUNT.match(pattern, at)
        opens = _GROUP_OPENS.match(pattern, at)
        if char in "*+" or (count and count.group(1, 3) != ("", "")):
            unbounded = char in "*+" or (count is not None and _is_unbounded(count, kind))
            if groups[-1].last_repeats and unbounded:
                refuse(kind, f"`{pattern[: at + 1][-40:]}` repeats a repetition; write it once.")
            groups[-1].last_repeats |= unbounded
            at = count.end() if count else at + 1
            at += pattern[at : at + 1] == "?"
        elif opens:
            groups.append(_Group())
            if len(groups) > MAX_DEPTH:
                refuse(kind, f"groups are nested deeper than {MAX_DEPTH}.")
            at = opens.end()
        elif char == ")" and len(groups) > 1:
            closed = groups.pop()
            groups[-1].add(repeats=closed.items == 1 and closed.last_repeats)
            at += 1
        else:
            groups[-1].add(repeats=False, items=2 if char == "|" else 1)
            at = _atom_end(pattern, at)


class _Group:
    """What a regex group holds so far: how many items, and whether the last one is unbounded."""

    def __init__(self) -> None:
        self.items = 0
        self.last_repeats = False

    def add(self, *, repeats: bool, items: int = 1) -> None:
        self.items += items
        self.last_repeats = repeats


def _atom_end(pattern: str, at: int) -> int:
    """Where the atom at `at` ends: an escape, a class (Rust's may nest), one character."""
    if pattern[at] == "\\":
        return at + 2
    if pattern[at] != "[":
        return at + 1
    depth = 0
    first = at + 1 + (pattern[at + 1 : at + 2] == "^")  # a `]` here is literal
    while at < len(pattern):
        if pattern[at] == "\\":
            at += 1
        elif pattern[at] == "[":
            depth += 1
        elif pattern[at] == "]" and at > first:
            depth -= 1
            if depth == 0:
                return at + 1
        at += 1
    return at


def _is_unbounded(count: re.Match[str], kind: str) -> bool:
    low, comma, high = count.groups()
    for number in (low, high):
        if len(number) > len(str(MAX_REPEAT)) or int(number or 0) > MAX_REPEAT:
            refuse(kind, f"`{count.group()[:40]}` repeats more than {MAX_REPEAT:,} times.")
    return bool(comma) and not high


# Grammar ----------------------------------------------------------------------------------------


def _lark(source: str) -> str:
    """Lark text: `source` itself, or converted if its rules are written `name ::=` (GBNF)."""
    bare = _QUOTED.sub(lambda m: m.group(1) or "", source)
    _check_depth(re.sub(r"/(?:\\.|[^/\\\n])+/", "", bare), "grammar", "({[")
    for count in _COUNT.finditer(bare):
        _is_unbounded(count, "grammar")
    if not _GBNF_RULE.search(bare):
        _check_embedded_schemas(source)
        return source
    try:
        return gbnf_to_lark(_GBNF_ESCAPE.sub(_plain_character, source))
    except Exception as error:  # noqa: BLE001 - the converter raises Exception itself
        refuse("grammar", f"{error}.")


def _plain_character(escape: re.Match[str]) -> str:
    """\\u and \\U escapes as the character itself: the converter writes them wrongly."""
    code = int(escape.group(1) or escape.group(2) or "0", 16)
    if code < 0x80 or 0xD800 <= code < 0xE000 or code > 0x10FFFF:
        return escape.group() if not code or code > 0x7F else f"\\x{code:02x}"
    return chr(code)


def _check_embedded_schemas(lark: str) -> None:
    """The same keyword checks for `%json {...}` inside a Lark grammar."""
    for start in re.finditer(r"%json\s*(?=\{)", lark):
        try:
            schema, _ = json.JSONDecoder().raw_decode(lark, start.end())
        except ValueError as error:
            refuse("grammar", f"the schema after %json is not valid JSON ({error}).")
        _check_schema(schema, "%json", "grammar")


def _check_depth(text: str, kind: str, opening: str) -> None:
    closing = {"(": ")", "[": "]", "{": "}"}
    ends = {closing[char] for char in opening}
    depth = 0
    for char in text:
        depth += (char in opening) - (char in ends)
        if depth > MAX_DEPTH:
            refuse(kind, f"it is nested deeper than {MAX_DEPTH} levels. Flatten it.")


# Compiling --------------------------------------------------------------------------------------


class Vocabulary:
    """The attributes llguidance's TokenizerWrapper reads."""

    bos_token_id = None

    def __init__(
        self,
        tokens: Sequence[bytes],
        special: Sequence[bool],
        eos: int,
        encode: Callable[[str], list[int]],
    ) -> None:
        self.tokens = list(tokens)
        self.special_token_ids = [i for i, is_special in enumerate(special) if is_special]
        self.eos_token_id = eos
        self._encode = encode

        self._by_bytes = {
            token: i for i, token in reversed(list(enumerate(self.tokens))) if not special[i]
        }
        self._longest = max(map(len, self._by_bytes), default=0)

    def __call__(self, text: bytes) -> list[int]:
        """The model's own tokens of `text` if they spell exactly that (a tokenizer may add a
        space in front, and llguidance would lose its place); else the longest that fit."""
        tokens = self._encode(text.decode("utf-8", "replace"))
        if b"".join(self.tokens[token] for token in tokens) == text:
            return tokens
        return self._longest_first(text)

    def _longest_first(self, text: bytes) -> list[int]:
        found, at = [], 0
        while at < len(text):
            ends = range(min(len(text), at + self._longest), at, -1)
            end = next((end for end in ends if text[at:end] in self._by_bytes), None)
            if end is not None:
                found.append(self._by_bytes[text[at:end]])
            at = end or at + 1
        return found


def make_tokenizer(
    tokens: Sequence[bytes],
    special: Sequence[bool],
    eos: Sequence[int],
    encode: Callable[[str], list[int]],
) -> LLTokenizer:
    """The vocabulary as llguidance needs it; about 1 s for 128k tokens, so keep it.

    tokens: the bytes of each token (empty for unused ids). special: never produced by text (end
    of turn, roles). eos: every token that ends a generation; all are allowed where the constraint
    may end. encode: text to tokens, without BOS and without special tokens.
    """
    vocabulary = Vocabulary(tokens, special, eos[0], encode)
    return LLTokenizer(TokenizerWrapper(vocabulary), n_vocab=len(tokens), eos_token=list(eos))


def byte_tokenizer() -> LLTokenizer:
    """256 bytes and an end of generation: enough to try a grammar without a model."""
    tokens = [bytes([i]) for i in range(256)] + [b"</s>"]
    return make_tokenizer(tokens, [i == 256 for i in range(257)], [256], lambda t: list(t.encode()))


def compile_grammar(constraint: Constraint, tokenizer: LLTokenizer) -> LLMatcher:
    """A matcher at its start, or BadConstraint. A warning is a keyword that would be ignored, so
    it is refused as well; the first mask shows grammars that match nothing."""
    grammar = grammar_of(constraint)
    is_error, messages = LLMatcher.validate_grammar_with_warnings(grammar, tokenizer, limits=LIMITS)
    if is_error or messages:
        refuse(constraint.kind, "; ".join(map(_reason, messages)))
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=LIMITS)
    if not matcher.is_error():
        matcher.compute_bitmask()
    if matcher.is_error():
        refuse(constraint.kind, _reason(matcher.get_error()))
    return matcher


def _reason(error: str) -> str:
    """llguidance's message, or what it means where it names what nobody here can set."""
    if error.startswith("NoExtension"):
        return "no text can satisfy it."
    if "coerce_one_of" in error:
        return "`oneOf` is not supported where more than one branch may match; use `anyOf`."
    return error.replace("<non-verbose/>", "")
