"""Constraints allow exactly what they say, and what cannot be honoured is refused with a reason."""

import json
import random
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from okno.core.errors import BadConstraint
from okno.core.request import Constraint
from okno.engines.constraint_grammar import MAX_DEPTH, byte_tokenizer
from okno.engines.constraints import ConstraintBroken, GrammarCompiler, make_tokenizer

EOS = 256
COMPILER = GrammarCompiler(byte_tokenizer())


def compile_(kind, source=""):
    return COMPILER.compile(
        Constraint(kind, source if isinstance(source, str) else json.dumps(source))
    )


def accepts(kind, source, text):
    """The constraint allows every byte of `text` and then the end."""
    matcher = compile_(kind, source)
    for byte in text.encode():
        if not matcher.mask()[byte]:
            return False
        matcher.accept(byte)
    return bool(matcher.mask()[EOS])


def write(matcher, seed, max_bytes=400):
    """Random allowed bytes, ASCII and ends preferred, until the end; None if it never came."""
    rng, out = random.Random(seed), bytearray()
    for _ in range(max_bytes):
        allowed = np.flatnonzero(matcher.mask()).tolist()
        plain = [i for i in allowed if i == EOS or chr(i) in '",:{}[]' or chr(i).isalnum()]
        token = EOS if EOS in allowed else rng.choice(plain or allowed)
        if token == EOS:
            return out.decode()
        out.append(token)
        matcher.accept(token)
    return None


# What they allow --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["{}", '{"a": 1}', '{"a":{"b":[1,null,"я"]}}', '{\n    "a": true\n}']
)
def test_json_object_allows_any_object(text):
    assert accepts("json_object", "", text)


@pytest.mark.parametrize("text", ["[1]", '"a"', "1", '{"a"}', "{'a': 1}", '{"a":1,}', ' {"a":1}'])
def test_json_object_allows_nothing_else(text):
    assert not accepts("json_object", "", text)


@pytest.mark.parametrize("blank", ["  ", "\n\n", "\n" + " " * 41, "\t"])
def test_white_space_cannot_go_on_for_ever(blank):
    assert not accepts("json_object", "", '{"a":' + blank + "1}")


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_written_under_a_schema_satisfies_it(seed):
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 1, "maxLength": 5, "pattern": "^[a-z]+$"},
            "age": {"type": "integer", "minimum": 3, "maximum": 120},
            "tags": {"type": "array", "items": {"enum": ["x", "y"]}, "minItems": 1, "maxItems": 3},
        },
        "required": ["name", "age", "tags"],
        "additionalProperties": False,
    }
    got = json.loads(write(compile_("json_schema", schema), seed))
    assert list(got) == ["name", "age", "tags"]
    assert re.fullmatch("[a-z]{1,5}", got["name"])
    assert 3 <= got["age"] <= 120
    assert 1 <= len(got["tags"]) <= 3
    assert set(got["tags"]) <= {"x", "y"}


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["[a-c]{2,4}", "^abc$", "(да|нет)!?", "a/b", r"\d{3}-\d\d", "(?i)ok", "x*y+"]),
    st.text(alphabet="abcдант!/0123-okOKxy", max_size=6),
)
def test_a_regex_must_match_the_whole_text(pattern, text):
    assert accepts("regex", pattern, text) == bool(re.fullmatch(pattern, text))


@pytest.mark.parametrize(
    ("source", "good", "bad"),
    [
        ('root ::= "yes" | "no"', "yes", "maybe"),
        ('root ::= item+\nitem ::= "- " [^\\n]+ "\\n"', "- one\n- two\n", "one"),
        ('root ::= "\\u0434\\u0430" [\\U00000430-\\u044f]', "дая", "да"),
        ('root ::= "\\"" [a-z]{2,3} "\\x41" # comment', '"abA', '"aA'),
        ('root ::= start\nstart-a ::= "b"\nstart2 ::= start-a "c"', None, None),
        ('start: "a" WORD\nWORD: /[x-z]+/', "axyz", "ab"),
        ('start: greeting " " %json {"type": "object"}\ngreeting: "hi"', 'hi {"a":1}', "hi []"),
    ],
)
def test_gbnf_and_lark_grammars(source, good, bad):
    if good is None:
        with pytest.raises(BadConstraint, match="start"):
            compile_("grammar", source)
        return
    assert accepts("grammar", source, good)
    assert not accepts("grammar", source, bad)


def test_a_gbnf_grammar_with_a_rule_named_start_is_not_mistaken_for_lark():
    with pytest.raises(BadConstraint, match="Rule 'start' already exists"):
        compile_("grammar", 'root ::= "a" start\nstart ::= "b"')


@pytest.mark.parametrize("prefix", [b"", b" "], ids=["exact", "adds a space"])
def test_tokens_of_several_bytes_are_allowed_where_their_bytes_are(prefix):
    tokens = [bytes([i]) for i in range(256)] + [b'{"', b'a":', b" {", b"", b"</s>", b"<|im_end|>"]
    special = [i >= 260 for i in range(262)]
    tokenizer = make_tokenizer(tokens, special, [260, 261], lambda t: list(prefix + t.encode()))
    matcher = GrammarCompiler(tokenizer).compile(Constraint("json_object"))
    assert not matcher.mask()[258]
    for token in (ord("{"), ord('"'), 257, ord("1"), ord("}")):
        assert matcher.mask()[token]
        matcher.accept(token)
    assert matcher.is_done()
    assert np.flatnonzero(matcher.mask()).tolist() == [260, 261]


def test_special_tokens_are_not_text():
    tokens = [bytes([i]) for i in range(256)] + [b"</s>", b"<user>"]
    tokenizer = make_tokenizer(
        tokens, [i >= 256 for i in range(258)], [256], lambda t: list(t.encode())
    )
    mask = GrammarCompiler(tokenizer).compile(Constraint("regex", "<user>.*")).mask()
    assert np.flatnonzero(mask).tolist() == [ord("<")]


def test_the_end_is_known():
    matcher = compile_("regex", "ab?")
    matcher.accept(ord("a"))
    assert (matcher.may_end(), matcher.is_done()) == (True, False)
    matcher.accept(ord("b"))
    assert (matcher.may_end(), matcher.is_done()) == (True, True)


def test_matchers_of_the_same_constraint_are_independent():
    first, second = compile_("regex", "ab"), compile_("regex", "ab")
    first.accept(ord("a"))
    assert first.mask()[ord("b")]
    assert second.mask()[ord("a")]


def test_a_forbidden_token_is_an_error_and_stays_one():
    matcher = compile_("regex", "ab")
    with pytest.raises(ConstraintBroken, match="satisfy the grammar"):
        matcher.accept(ord("x"))
    with pytest.raises(ConstraintBroken):
        matcher.mask()


# What is refused --------------------------------------------------------------------------------

DEEP_SCHEMA = '{"items":' * 5000 + "{}" + "}" * 5000


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{", "not valid JSON"),
        ("[]", "must be an object"),
        ('{"type": "object", "type": "string"}', "twice"),
        ('{"minimum": NaN}', "NaN is not JSON"),
        (DEEP_SCHEMA, "nested deeper than"),
        ("[" * 60_000, "nested deeper than"),
        ({"type": "string", "minLenght": 3}, "`minLenght`"),
        ({"properties": {"a": {"items": [{"requierd": []}]}}}, r"\$.properties.a.items\[0\]"),
        ({"$defs": {"x": {"nullable": True}}, "$ref": "#/$defs/x"}, "`nullable`"),
        ({"not": {"type": "string"}}, "`not`"),
        ({"if": {}, "then": {}}, "`if`"),
        ({"type": "array", "uniqueItems": True}, "`uniqueItems`"),
        ({"type": "object", "x-guidance": {"lenient": True}}, "`x-guidance`"),
        ({"type": "string", "format": "iri"}, "format"),
        ({"type": "string", "pattern": "(?=a)b"}, "look"),
        ({"type": "string", "pattern": "(" * 300 + "a" + ")" * 300}, "nested"),
        ({"type": "object", "patternProperties": {"(a+)+b": {}}}, "repeats a repetition"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "nsatisfiable"),
        ({"$ref": "http://example.com/schema"}, "example.com"),
        ({"$ref": "#/$defs/absent"}, "absent"),
        ({"$ref": "#"}, "no text can satisfy it"),
        ({"type": "strin"}, "strin"),
        (False, "must be an object"),
        ({"properties": {"a": 1}}, r"\$.properties.a must be"),
        ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, "use `anyOf`"),
        ({"type": "integer", "multipleOf": 1_000_000_007}, "fuel"),
    ],
)  # fmt: skip
def test_a_schema_that_cannot_be_honoured_is_refused(source, reason):
    with pytest.raises(BadConstraint, match=f"json_schema cannot be honoured.*{reason}") as caught:
        compile_("json_schema", source)
    assert caught.value.info.param == "response_format"
    assert len(caught.value.message) < 600


def test_annotations_are_accepted():
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "x", "$comment": "c",
        "title": "t", "description": "d", "default": {}, "examples": [1], "deprecated": True,
        "x-order": 3, "type": "object",
    }  # fmt: skip
    assert accepts("json_schema", schema, "{}")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("(a+)+b", "repeats a repetition"),
        ("(?:a*)*", "repeats a repetition"),
        ("((x+))+", "repeats a repetition"),
        ("(x{2,})*", "repeats a repetition"),
        ("a{1,1000000000}", "more than 65,536"),
        ("a{99999}", "more than 65,536"),
        ("(" * 300 + "a" + ")" * 300, "nested deeper"),
        ("(" * 30_000, "nested deeper"),
        ("(?=a)b", "look-around"),
        (r"(a)\1", "backreferences"),
        ("[a-", "regex"),
        (r"[^\s\S]", "no text can satisfy it"),
    ],
)
def test_a_regex_that_cannot_be_honoured_is_refused(source, reason):
    with pytest.raises(BadConstraint, match=reason):
        compile_("regex", source)


@pytest.mark.parametrize(
    "source", [r"(\w+ )+", "(a+b)+", "(a|b+)+", r"(a\+)+", "[(+]+", "(?:ab?)*", "(a{2})*", "[]+]+x"]
)
def test_ordinary_repetitions_of_groups_are_accepted(source):
    compile_("regex", source)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("", "mpty"),
        ("hello world", "Expected"),
        ('root ::= "a', "Unexpected end"),
        ('other ::= "a"', "No 'root' rule"),
        ("root ::= missing", "'missing' not found"),
        ('start: absent', "absent"),
        ("root ::= " + "(" * 5000 + '"a"' + ")" * 5000, "nested deeper"),
        ("start: " + "(" * 5000 + '"a"' + ")" * 5000, "nested deeper"),
        ('root ::= "a"{1,1000000000}', "more than 65,536"),
        ('start: "a"{1,1000000000}', "more than 65,536"),
        ("start: /a{1,1000000000}/", "more than 65,536"),
        ('start: %json {"type": "object", "fooBar": 1}', "`fooBar`"),
        ('start: %json {"format": "iri", "x-guidance": {"lenient": true}}', "x-guidance"),
    ],
)  # fmt: skip
def test_a_grammar_that_cannot_be_honoured_is_refused(source, reason):
    with pytest.raises(BadConstraint, match=f"grammar cannot be honoured.*{reason}"):
        compile_("grammar", source)


def test_a_schema_as_deep_as_allowed_is_accepted_or_refused_but_never_crashes():
    half = MAX_DEPTH // 2 - 1
    compile_("json_schema", '{"items":' * half + "{}" + "}" * half)
