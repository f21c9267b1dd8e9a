"""What comes with a model: taken where it can be honoured, said where it cannot, never an error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from okno.config.given import Given
from okno.config.load import merge, with_model
from okno.config.own import OWN_FILE, Own, from_file, from_metadata, own_settings
from tests.config.support import a_file


def beside(folder: Path, value: Any) -> Own:
    text = value if isinstance(value, str) else json.dumps(value, indent=2)
    (folder / OWN_FILE).write_text(text, encoding="utf-8")
    return own_settings(folder / "m.gguf", {})


def values(own: Own) -> dict[str, Any]:
    return {name: given_value.value for name, given_value in own.given.items()}


QWEN = {
    "bos_token_id": 151643, "pad_token_id": 151643, "do_sample": True,
    "eos_token_id": [151645, 151643], "repetition_penalty": 1.05, "temperature": 0.7,
    "top_p": 0.8, "top_k": 20, "transformers_version": "4.37.0",
}  # fmt: skip


def test_a_models_own_file_is_taken_with_its_lines(tmp_path):
    own = beside(tmp_path, QWEN)
    assert values(own) == {
        "do_sample": True, "repetition_penalty": 1.05, "temperature": 0.7, "top_p": 0.8,
        "top_k": 20,
    }  # fmt: skip
    assert not own.notes
    assert own.given["top_p"].origin == "the model's own generation_config.json, line 11"


def test_a_text_in_brackets_is_one_text(tmp_path):
    for stop in ("[/INST]", '["a"]'):
        own = beside(tmp_path, {"stop_strings": stop})
        assert with_model(merge([], {}), own.given).settings.stop_strings == (stop,)
        assert not own.notes


def test_it_is_below_every_other_source(tmp_path):
    own = beside(tmp_path, QWEN).given
    found = with_model(merge([], {"OKNO_TOP_P": "0.5"}, a_file("top_k: 5")), own)
    s = found.settings
    assert (s.temperature, s.top_p, s.top_k, s.repetition_penalty) == (0.7, 0.5, 5, 1.05)
    assert found.source("temperature") == "model"
    greedy = with_model(merge([("do_sample", Given(False, "command line", "--no-do-sample"))], {}),
                        own)  # fmt: skip
    assert greedy.settings.temperature == 0


def test_what_cannot_be_honoured_is_said_and_left_out(tmp_path):
    own = beside(tmp_path, {"num_beams": 4, "temperature": 99, "top_k": "5", "top_p": 0.9,
                            "max_length": 4096, "chat_format": "chatml", "load": {"ctx": 5},
                            "server": {"listen": True}, "min_p": None})  # fmt: skip
    assert values(own) == {"top_p": 0.9}
    at = "the model's own generation_config.json, line"
    assert own.notes == (
        f"num_beams 4 is left out: okno has no beam search; leave it out ({at} 2).",
        f"temperature 99 is left out: it must be at most 10 ({at} 3).",
        f"top_k 5 is left out: it must be a whole number from 0 to 2,147,483,647 ({at} 4).",
        "max_length 4096 is left out: the window is set by `load: ctx`, the length of an answer by "
        f"`max_new_tokens` ({at} 6).",
    )


def test_greedy_models_and_contradictory_ones(tmp_path):
    assert with_model(merge([], {}), beside(tmp_path, {"do_sample": False}).given).settings == (
        merge([], {"OKNO_DO_SAMPLE": "false"}).settings
    )
    own = beside(tmp_path, {"do_sample": True, "temperature": 0})
    assert with_model(merge([], {}), own.given).settings.temperature == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "The model's own settings are not used: generation_config.json, line 1: not valid "
              "JSON: "),
        ("[]", "The model's own generation_config.json holds no settings; it is not used."),
        ("5", "The model's own generation_config.json holds no settings; it is not used."),
        ("#" * 70_000, "The model's own settings are not used: "),
        ("[" * 60_000, "The model's own settings are not used: "),
    ],
    ids=lambda text: text[:20],
)  # fmt: skip
def test_an_unsound_file_is_said_and_not_used(tmp_path, text, said):
    own = beside(tmp_path, text)
    assert not own.given
    assert own.notes[0].startswith(said)


def test_no_file_is_nothing(tmp_path):
    assert from_file(tmp_path / OWN_FILE) == Own({})
    (tmp_path / OWN_FILE).mkdir()
    assert from_file(tmp_path / OWN_FILE) == Own({})


def test_the_header_speaks_llama_cpps_names():
    own = from_metadata(
        {"general.name": "x", "general.sampling.temp": 0.6000000238418579,
         "general.sampling.top_k": 40, "general.sampling.top_p": 0.949999988079071,
         "general.sampling.min_p": 0.0, "general.sampling.penalty_repeat": 1.100000023841858,
         "general.sampling.penalty_last_n": 128, "general.sampling.mirostat": 0,
         "general.sampling.mirostat_tau": 5.0, "general.sampling.sequence": "top_k;temp",
         "general.sampling.xtc_probability": 0.0},
        "m.gguf",
    )  # fmt: skip
    assert values(own) == {
        "temperature": 0.6, "top_k": 40, "top_p": 0.95, "min_p": 0.0, "repetition_penalty": 1.1,
        "repeat_last_n": 128,
    }  # fmt: skip
    assert not own.notes
    assert own.given["top_k"].origin == "the header of m.gguf, general.sampling.top_k"


def test_samplers_of_the_header_that_do_not_exist_here_are_said():
    own = from_metadata({"general.sampling.mirostat": 2, "general.sampling.top_p": 7.0}, "m.gguf")
    assert not own.given
    assert own.notes == (
        "mirostat 2 is left out: it does not exist here (the header of m.gguf, "
        "general.sampling.mirostat).",
        "top_p 7 is left out: it must be at most 1 (the header of m.gguf, general.sampling.top_p).",
    )


def test_the_file_beside_wins_over_the_header(tmp_path):
    (tmp_path / OWN_FILE).write_text('{"top_k": 5}')
    metadata = {"general.sampling.top_k": 40, "general.sampling.min_p": 0.5}
    assert values(own_settings(tmp_path / "m.gguf", metadata)) == {"top_k": 5, "min_p": 0.5}


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
KEYS = st.sampled_from([*QWEN, "num_beams", "stop_strings", "seed", "load", "x"])


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(KEYS, SCALARS | st.lists(SCALARS, max_size=2)), st.booleans())
def test_whatever_comes_with_a_model_never_fails(tmp_path_factory, found, as_header):
    if as_header:
        own = from_metadata({f"general.sampling.{k}": v for k, v in found.items()}, "m")
    else:
        path = tmp_path_factory.mktemp("own") / OWN_FILE
        path.write_text(json.dumps(found))
        own = from_file(path)
    with_model(merge([], {}), own.given)
    assert all(note.isprintable() for note in own.notes)
