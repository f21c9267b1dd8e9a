"""Sample, reference page and schema are the settings tree; none of them can drift."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from okno.config.fields import MODEL
from okno.config.foreign_keys import NEUTRAL, SAID, WITHOUT_EFFECT
from okno.config.load import env_name, merge
from okno.config.page import page
from okno.config.sample import sample
from okno.config.schema import schema
from okno.config.settings import ServeSettings, flag_of
from okno.config.show import as_yaml, effective
from okno.config.tree import PART_OF, entries, entry_of
from okno.core.errors import BadSetting
from okno.core.request import Sampling
from okno.plan.goals import PREFERENCES
from tests.config.support import a_file, from_file
from tests.config.test_precedence import choices
from tests.config.test_precedence import loaded as load_choice

SCHEMA = schema()
ROOT = Path(__file__).parents[2]


def test_docs_config_md_is_generated_from_the_code():
    written = (ROOT / "docs" / "config.md").read_text(encoding="utf-8")
    assert written == page(), "stale: run `python -m okno.config.page > docs/config.md`"


def test_the_reference_names_every_setting_with_flag_and_variable():
    text = page()
    for entry in entries():
        if not entry.flag.hidden:
            assert f"| `{entry.name}` |" in text
            assert f"`{entry.flag.long}`" in text
            assert f"`{env_name(entry.name)}`" in text


def test_every_setting_has_a_place_in_the_file_or_says_that_it_has_none():
    in_file = {entry.name for entry in entries()}
    for name in ServeSettings.model_fields:
        assert (name in in_file) is flag_of(name).in_file
        assert not flag_of(name).in_file or flag_of(name).section in PART_OF
    assert flag_of("model").section == MODEL


def test_the_sample_as_it_stands_sets_nothing():
    assert from_file(sample()).settings == ServeSettings()
    assert not from_file(sample()).given
    assert max(map(len, sample().splitlines())) <= 100


def uncommented(text: str) -> str:
    """The sample with every `#name: value` turned on."""
    lines = text.splitlines()
    bare = [line.replace("#", "", 1) if line.lstrip()[:2].strip("#").isalpha() else line
            for line in lines]  # fmt: skip
    return "\n".join(bare)


def test_the_sample_turned_on_is_every_default():
    text = uncommented(sample())
    loaded = from_file(text)
    assert loaded.settings == ServeSettings()
    shown = [entry for entry in entries() if not entry.flag.hidden]
    assert all(f"{entry.name}: " in text for entry in shown)
    set_by_it = {entry.name for entry in shown if entry.default is not None or entry.words}
    assert set(loaded.given) == set_by_it


def test_defaults_of_generation_are_those_of_a_request():
    off, tree = Sampling(), ServeSettings()
    for name in ("temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty",
                 "frequency_penalty", "presence_penalty", "seed"):  # fmt: skip
        assert getattr(tree, name) == getattr(off, name)
    assert tree.repeat_last_n == off.penalty_last_n


def test_what_steers_auto_has_the_words_of_the_planner():
    assert entry_of("prefer").choices == PREFERENCES


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_shown_settings_are_a_file_that_gives_the_same_settings(data):
    found = load_choice(data.draw(choices()))
    again = from_file(as_yaml(found))
    secret = {"api_key": found.settings.api_key}
    assert again.settings.model_copy(update=secret) == found.settings


def test_shown_settings_hide_the_secret():
    found = merge([], {"OKNO_API_KEY": "s3cret"})
    assert "api_key" not in effective(found)["server"], "saved and read back it would be a key"
    assert "s3cret" not in as_yaml(found)
    assert "# server.api_key is set and not shown." in as_yaml(found)


# The schema ---------------------------------------------------------------------------------------


TYPES: dict[str, Any] = {
    "object": dict, "array": list, "string": str, "integer": int, "number": (int, float),
    "boolean": bool, "null": type(None),
}  # fmt: skip


def accepts(rule: dict[str, Any], value: Any) -> bool:
    """What this part of JSON Schema says; any other keyword is an error here."""
    known = {"$schema", "title", "description", "default", "type", "properties", "enum", "const",
             "additionalProperties", "anyOf", "items", "minimum", "maximum", "exclusiveMinimum",
             "minLength", "maxLength", "maxItems"}  # fmt: skip
    assert set(rule) <= known
    if "anyOf" in rule and not any(accepts(one, value) for one in rule["anyOf"]):
        return False
    if "enum" in rule and not any(same(value, one) for one in rule["enum"]):
        return False
    if "const" in rule and not same(value, rule["const"]):
        return False
    types = rule.get("type", [])
    if types and not any(
        has_type(value, t) for t in ([types] if isinstance(types, str) else types)
    ):
        return False
    return accepts_inside(rule, value)


def accepts_inside(rule: dict[str, Any], value: Any) -> bool:
    if isinstance(value, dict) and "properties" in rule:
        own = rule["properties"]
        return all(key in own and accepts(own[key], v) for key, v in value.items())
    if isinstance(value, list):
        fits = len(value) <= rule.get("maxItems", len(value))
        return fits and all(accepts(rule.get("items", {}), v) for v in value)
    if isinstance(value, str):
        return rule.get("minLength", 0) <= len(value) <= rule.get("maxLength", math.inf)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        above = value > rule.get("exclusiveMinimum", -math.inf)
        return above and rule.get("minimum", -math.inf) <= value <= rule.get("maximum", math.inf)
    return True


def same(value: Any, other: Any) -> bool:
    return isinstance(value, bool) is isinstance(other, bool) and value == other


def has_type(value: Any, name: str) -> bool:
    return isinstance(value, TYPES[name]) and (name == "boolean" or not isinstance(value, bool))


def is_accepted(plain: Any) -> bool:
    try:
        merge([], {}, a_file(json.dumps(plain), "x.json"))
    except BadSetting:
        return False
    return True


LOOSE = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 300), st.floats(-3, 12).map(lambda x: round(x, 2)),
    st.sampled_from(["auto", "all", "f16", "on", "speed", "x", "", [], ["a"], [1], {}]),
)  # fmt: skip
# By the insides of a text.
STRICTER = {"host", "allowed_host", "allowed_origin", "alias", "model", "draft", "api_key"}


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(entries()), LOOSE)
def test_the_schema_accepts_exactly_what_is_accepted(entry, value):
    plain = {entry.part: {entry.name: value}} if entry.part else {entry.name: value}
    if entry.name == "top_k" and value == -1:
        return  # other programs' word for off: accepted, not advertised
    if isinstance(value, float) and value.is_integer() and entry.kind == "whole":
        return  # JSON Schema takes 5.0 for a whole number, YAML does not
    by_schema = accepts(SCHEMA, plain)
    if entry.name in STRICTER or entry.kind == "texts":
        assert by_schema or not is_accepted(plain)
    else:
        assert by_schema is is_accepted(plain)


@pytest.mark.parametrize(
    "plain", [{}, {"load": None}, {"x": 1}, {"load": {"x": 1}}, {"load": 5}, {"server": []}, [], 5]
)
def test_the_schema_knows_the_shape(plain):
    assert accepts(SCHEMA, plain) is is_accepted(plain)


@given(st.sampled_from(sorted({*NEUTRAL, *WITHOUT_EFFECT, *SAID})), LOOSE)
def test_the_schema_knows_hugging_faces_other_keys(key, value):
    assert accepts(SCHEMA, {key: value}) is is_accepted({key: value})


def test_the_schema_is_json():
    assert json.loads(json.dumps(schema()))["properties"]["load"]["properties"]["ctx"] == {
        "description": "Tokens one request may see, prompt and answer together. Never divided by "
        "the batch size.",
        "anyOf": [
            {"type": "integer", "minimum": 16, "maximum": 16_777_216},
            {"enum": ["auto", None]},
        ],
        "default": "auto",
    }
