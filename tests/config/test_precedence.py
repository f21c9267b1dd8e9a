"""Request > command line > environment > file > model > default, for every setting."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from okno.config.explain import HIDDEN, explain
from okno.config.given import RANK, Given
from okno.config.load import Loaded, env_name, merge, with_model
from okno.config.render import value_text
from okno.config.settings import ServeSettings, flag_of
from okno.config.tree import PARTS, Entry, entries
from okno.core.errors import BadSetting
from tests.config.support import a_file

SOURCES = ("model", "file", "environment", "command line")
COUPLED = {"do_sample", "temperature", "listen", "host"}  # see the tests below
FREE = [entry for entry in entries() if entry.name not in COUPLED]
SAMPLES: dict[str, list[Any]] = {
    "alias": ["a", "b", "c", "d"],
    "allowed_host": [["a.example"], ["b.example", "c"], ["d"], ["e"]],
    "allowed_origin": [["https://a"], ["https://b"], ["https://c"], ["*"]],
    "lora": [["a.gguf"], ["x=b.gguf:0.5", "c"], ["d:2"], ["e"]],
    "kv_pool": [2**30, 2**30 + 1, 2**30 + 2, 2**30 + 3],
    "stop_strings": [["a"], ["b,c", "d"], ["[e"], ["f\n"]],
}


def samples(entry: Entry) -> list[Any]:
    """Four values, different where there are as many."""
    if entry.name in SAMPLES:
        return SAMPLES[entry.name]
    if entry.choices:
        return list(itertools.islice(itertools.cycle(entry.choices), 4))
    if entry.kind == "switch":
        return [True, False, True, False]
    if entry.kind == "text":
        return ["one", "two", "three", "four"]
    assert entry.low is not None
    assert entry.high is not None
    if entry.kind == "number":
        return [entry.low + (entry.high - entry.low) * part for part in (0.2, 0.4, 0.6, 0.8)]
    return [int(entry.low) + step for step in (60, 61, 62, 63)]


def is_generation(entry: Entry) -> bool:
    return not entry.part


Choice = dict[str, dict[str, Any]]  # source: field: value


@st.composite
def choices(draw: st.DrawFn) -> Choice:
    """For some fields, a value in some of the sources."""
    chosen: Choice = {source: {} for source in SOURCES}
    for entry in draw(st.lists(st.sampled_from(FREE), unique_by=lambda e: e.name, max_size=12)):
        values = draw(st.permutations(samples(entry)))
        for source, value in zip(SOURCES, values, strict=True):
            if draw(st.booleans()) and (source != "model" or is_generation(entry)):
                chosen[source][entry.name] = value
    return chosen


def as_text(name: str, value: Any) -> str:
    """As a variable holds it."""
    if isinstance(value, list):
        return json.dumps(value) if name == "stop_strings" else ",".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def as_flag(value: Any) -> Any:
    """As the command line hands it over: switches and lists as they are, else text."""
    return value if isinstance(value, (bool, list)) else str(value)


def as_file(values: dict[str, Any]) -> str:
    lines = []
    for part in PARTS:
        lines += [f"{part}:"] if part else []
        lines += [
            f"{'  ' if part else ''}{entry.name}: {value_text(values[entry.name])}"
            for entry in entries()
            if entry.part == part and entry.name in values
        ]
    return "\n".join(lines)


def loaded(chosen: Choice) -> Loaded:
    own = {n: Given(v, "model", n, "the model's own file") for n, v in chosen["model"].items()}
    found = merge(
        [(n, Given(as_flag(v), "command line", flag_of(n).long))
         for n, v in chosen["command line"].items()],
        {env_name(n): as_text(n, v) for n, v in chosen["environment"].items()},
        a_file(as_file(chosen["file"])),
    )  # fmt: skip
    return with_model(found, own)


def winner(chosen: Choice, name: str) -> str:
    """The strongest source that gives field `name`."""
    giving = [source for source in reversed(SOURCES) if name in chosen[source]]
    return giving[0] if giving else "default"


@settings(max_examples=150, deadline=None)
@given(choices())
def test_the_strongest_source_wins_for_every_setting(chosen: Choice):
    found = loaded(chosen)
    shown = {one.key: one for one in explain(found)}
    for entry in FREE:
        source = winner(chosen, entry.name)
        expected = ServeSettings.model_fields[entry.name].default
        if source != "default":
            given_value = chosen[source][entry.name]
            expected = getattr(ServeSettings(**{entry.name: given_value}), entry.name)
        assert getattr(found.settings, entry.name) == expected
        assert found.source(entry.name) == shown[entry.key].source == source


@pytest.mark.parametrize("entry", FREE, ids=lambda entry: entry.key)
def test_one_source_after_the_other_is_taken_away(entry: Entry):
    values = samples(entry)
    chosen: Choice = {
        source: {entry.name: value} if source != "model" or is_generation(entry) else {}
        for source, value in zip(SOURCES, values, strict=True)
    }
    for source in reversed(SOURCES):
        found = loaded(chosen)
        assert found.source(entry.name) == winner(chosen, entry.name)
        chosen[source] = {}
    assert loaded(chosen).source(entry.name) == "default"


# do_sample and temperature ------------------------------------------------------------------------

RELATED = [None, *itertools.product((None, True, False), (None, 0, 0.7))]


def heat(per_source: dict[str, tuple[bool | None, float | None]]) -> float:
    """What the temperature must be: walking from the strongest source down."""
    for source in reversed(SOURCES):
        switch, temperature = per_source.get(source, (None, None))
        if switch is False:
            return 0.0
        if switch is True:
            return temperature or below(per_source, source) or 1.0
        if temperature is not None:
            return temperature
    return 1.0


def below(per_source: dict[str, tuple[bool | None, float | None]], source: str) -> float:
    """The strongest temperature that a weaker source gives; 0 if there is none."""
    weaker = SOURCES[: SOURCES.index(source)]
    values = [per_source.get(s, (None, None))[1] for s in reversed(weaker)]
    return next((value for value in values if value is not None), 0.0)


@pytest.mark.parametrize("pair", list(itertools.product(RELATED, repeat=2)), ids=str)
@pytest.mark.parametrize("sources", list(itertools.combinations(SOURCES, 2)), ids=str)
def test_of_do_sample_and_temperature_the_stronger_source_decides(sources, pair):
    per_source = {s: p for s, p in zip(sources, pair, strict=True) if p is not None}
    chosen: Choice = {
        source: {
            name: value
            for name, value in zip(
                ("do_sample", "temperature"), per_source.get(source, (None, None)), strict=True
            )
            if value is not None
        }
        for source in SOURCES
    }
    if any(both == (True, 0) for both in per_source.values()):
        return  # refused: the next test
    found = loaded(chosen).settings
    assert found.temperature == heat(per_source)
    assert found.do_sample or found.temperature == 0


def test_sampling_at_temperature_0_is_a_contradiction_only_within_one_source():
    with pytest.raises(BadSetting) as caught:
        merge([], {}, a_file("temperature: 0\ndo_sample: true\n"))
    assert caught.value.message == (
        "generation_config.yaml, line 2: do_sample: true and generation_config.yaml, line 1: "
        "temperature: 0 contradict each other: temperature 0 never samples. Leave one of them out."
    )
    found = merge([], {"OKNO_DO_SAMPLE": "true"}, a_file("temperature: 0"))
    assert found.settings.temperature == 1.0


def test_a_temperature_that_does_not_count_is_said():
    found = merge([], {}, a_file("temperature: 0.7\ndo_sample: false\n"))
    assert found.settings.temperature == 0
    assert found.notes[-1] == (
        "generation_config.yaml, line 2: do_sample: false means temperature 0; "
        "generation_config.yaml, line 1: temperature: 0.7 does not count."
    )
    assert found.given["temperature"].origin == "generation_config.yaml, line 2"


def test_listening_everywhere_gives_way_to_a_stronger_host_and_the_other_way_round():
    listens = a_file("server:\n  listen: true\n  api_key: k")
    host = [("host", Given("127.0.0.1", "command line", "--host"))]
    assert merge(host, {}, listens).settings.address == "127.0.0.1"
    local = a_file("server:\n  host: 127.0.0.1")
    assert merge([], {"OKNO_LISTEN": "1"}, local).settings.address == "0.0.0.0"


# What is told -------------------------------------------------------------------------------------


def test_each_value_tells_where_it_comes_from():
    found = with_model(
        merge(
            [("top_k", Given("9", "command line", "--top-k"))],
            {"OKNO_MIN_P": "0.1"},
            a_file("top_p: 0.9\nload:\n  ctx: 64"),
        ),
        {"seed": Given(3, "model", "seed", "the model's own generation_config.json, line 2")},
    )
    told = {one.key: (one.value, one.source, one.origin) for one in explain(found)}
    assert told["top_k"] == (9, "command line", "--top-k")
    assert told["min_p"] == (0.1, "environment", "OKNO_MIN_P")
    assert told["top_p"] == (0.9, "file", "generation_config.yaml, line 1")
    assert told["load.ctx"] == (64, "file", "generation_config.yaml, line 3")
    assert told["seed"] == (3, "model", "the model's own generation_config.json, line 2")
    assert told["load.batch_size"] == ("auto", "default", "")
    assert told["server.host"] == (None, "default", "")


def test_a_secret_is_hidden_and_its_absence_is_not():
    told = {one.key: one for one in explain(merge([], {"OKNO_API_KEY": "s3cret"}))}
    assert told["server.api_key"].value == HIDDEN
    assert "s3cret" not in repr(told)
    assert {one.key: one for one in explain(merge([], {}))}["server.api_key"].value is None


def test_every_source_has_a_rank():
    assert sorted(RANK, key=RANK.__getitem__) == ["default", *SOURCES]
