"""generation_config.yaml: what is read, and every way in which it is refused."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from okno.config.changing import target
from okno.config.file import NEEDS_NAMING, read_file
from okno.config.foreign_keys import NEUTRAL, SAID, WITHOUT_EFFECT
from okno.config.given import Given
from okno.config.load import load, merge
from okno.config.settings import ServeSettings
from okno.config.tree import entries
from okno.config.where import FILE_NAME, find_file
from okno.config.yaml_text import MAX_BYTES, MAX_DEPTH
from okno.core.errors import BadSetting
from tests.config.support import a_file, errors, from_file, refusal

EVERYTHING = """\
temperature: 0.7   # warm
max_new_tokens: 512
do_sample: true
top_k: -1
seed: 18446744073709551615
stop_strings:
  - "User:"
  - "\\n\\n"
load:
  model: saiga
  batch_size: 4
  ctx: auto
  gpu_layers: all
  flash_attention: on
  mmap: true
  max_ttft: 2
server:
  port: 0x1ed4
  allowed_host: llm.example
"""


def test_every_part_is_read_with_its_lines():
    loaded = from_file(EVERYTHING)
    s = loaded.settings
    assert (s.temperature, s.max_new_tokens, s.top_k, s.seed) == (0.7, 512, 0, 2**64 - 1)
    assert s.stop_strings == ("User:", "\n\n")
    assert (s.model, s.batch_size, s.ctx, s.gpu_layers) == ("saiga", 4, None, -1)
    assert (s.flash_attention, s.mmap, s.max_ttft) == ("on", True, 2)
    assert (s.port, s.allowed_host) == (7892, ("llm.example",))
    assert loaded.source("ctx") == "file"
    assert loaded.given["ctx"].origin == "generation_config.yaml, line 12"
    assert loaded.notes == ("Settings from generation_config.yaml.",)


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n", "null", "load:\n", "{}"])
def test_a_file_that_says_nothing_sets_nothing(text):
    assert from_file(text).settings == ServeSettings()


def test_null_counts_as_not_given():
    loaded = from_file("temperature: null\ntop_p: ~\nload:\n  ctx:\nserver: null\n")
    assert loaded.settings == ServeSettings()
    assert not loaded.given


def test_a_byte_order_mark_and_windows_line_ends_are_fine():
    assert from_file("\ufefftop_k: 5\r\nload:\r\n  ctx: 64\r\n").settings.ctx == 64


def test_hugging_faces_json_is_a_settings_file():
    text = json.dumps(
        {"_from_model_config": True, "bos_token_id": 1, "do_sample": True, "num_beams": 1,
         "temperature": 0.6, "pad_token_id": None, "transformers_version": "4.40.0",
         "stop_strings": ["\U0001f600"]},
        indent="\t", ensure_ascii=True,
    )  # fmt: skip
    s = from_file(text, "generation_config.json").settings
    assert (s.temperature, s.do_sample, s.stop_strings) == (0.6, True, ("\U0001f600",))


def test_json_must_be_json():
    assert refusal("{temperature: 1}", "x.json").startswith("x.json, line 1: not valid JSON: ")
    assert refusal('{"a": 1,\n "a": 2}', "x.json") == (
        "x.json, line 2: `a` stands here again; line 1 has it already."
    )


def test_what_the_model_file_knows_itself_is_said():
    notes = from_file("eos_token_id: [1, 2]\n").notes
    assert notes[1] == (
        "generation_config.yaml, line 1: `eos_token_id` is not used; the end-of-generation tokens "
        "of the model file are used."
    )


Y = "generation_config.yaml"
WRONG = [
    ("temprature: 1", "line 1: `temprature` is not known at the top level. Did you mean "
     "`temperature`?"),
    ("top_p: 1\nctx: 5", "line 2: `ctx` is not known at the top level; write `ctx` under `load:`."),
    ("load:\n  port: 5", "line 2: `port` is not known under `load:`; write `port` under "
     "`server:`."),
    ("load:\n  n_ctx: 5", "line 2: `n_ctx` is not known under `load:`; write `ctx` under `load:`."),
    ("load:\n  batch-size: 5", "line 2: `batch-size` is not known under `load:`; write "
     "`batch_size` under `load:`."),
    ("max_tokens: 5", "line 1: `max_tokens` is not known at the top level; write "
     "`max_new_tokens`."),
    ("stop: x", "line 1: `stop` is not known at the top level; write `stop_strings`."),
    ("load:\n  num_beams: 1", "line 2: `num_beams` is not known under `load:`; it belongs at the "
     "top level."),
    ("load:\n  script: x", "line 2: `script` is not known under `load:`. `okno config schema` "
     "lists every key."),
    ("laod:\n  ctx: 5", "line 1: `laod` is not known at the top level. Did you mean `load:`?"),
    ("zzz: 1", "line 1: `zzz` is not known at the top level. `okno config schema` lists every "
     "key."),
    ("load: 5", "line 1: `load` must hold settings, one `name: value` a line."),
    ("- 1", "line 1: the file must hold settings, one `name: value` a line."),
    ("just a text", "line 1: the file must hold settings, one `name: value` a line."),
    ("temperature: hot", "line 1: `temperature` is `hot`; it must be a number from 0 to 10."),
    ("temperature:\n  '0.5'", "line 2: `temperature` is `'0.5'`; it must be a number from 0 to "
     "10. Leave out the quotes."),
    ("temperature: true", "line 1: `temperature` is `true`; it must be a number from 0 to 10."),
    ("top_k: 1.5", "line 1: `top_k` is `1.5`; it must be a whole number from 0 to 2,147,483,647."),
    ("top_k: false", "line 1: `top_k` is `false`; it must be a whole number from 0 to "
     "2,147,483,647."),
    ("do_sample: yes", "line 1: `do_sample` is `yes`; it must be true or false."),
    ("do_sample: 1", "line 1: `do_sample` is `1`; it must be true or false."),
    ('do_sample: "true"', 'line 1: `do_sample` is `"true"`; it must be true or false. Leave out '
     "the quotes."),
    ("load:\n  ctx: max", "line 2: `load.ctx` is `max`; it must be a whole number from 16 to "
     "16,777,216, or auto."),
    ("load:\n  kv_type: q8", "line 2: `load.kv_type` is `q8`; it must be f16, bf16, f32, q8_0 or "
     "q4_0. Did you mean q8_0?"),
    ("load:\n  alias: 12", "line 2: `load.alias` is `12`; it must be a text. Put it into quotes."),
    ("load:\n  model: [a]", "line 2: `load.model` is `[a]`; it must be a text."),
    ("stop_strings: [1]", "line 1: `stop_strings` is `[1]`; it must be a text or a list of texts."),
    ("stop_strings: {a: 1}", "line 1: `stop_strings` is `{a: 1}`; it must be a text or a list of "
     "texts."),
    ("temperature: 11", "line 1: temperature: 11: it must be at most 10."),
    ("temperature: .nan", "line 1: temperature: nan: it must be a number."),
    ("temperature: -.inf", "line 1: temperature: -inf: it must be a number."),
    ("top_p: 0", "line 1: top_p: 0: it must be more than 0."),
    ("stop_strings: ['']", "line 1: stop_strings: : a text has 0 characters; 1 to 512 are "
     "accepted."),
    ("stop_strings: [" + "a, " * 17 + "]", "line 1: stop_strings: " + ",".join("a" * 17)
     + ": it has 17 texts; at most 16 are accepted."),
    ("load:\n  ctx: 8", "line 2: load.ctx: 8: it must be at least 16."),
    ("num_beams: 4", "line 1: `num_beams: 4` cannot be honoured: okno has no beam search; leave it "
     "out."),
    ("guidance_scale: true", "line 1: `guidance_scale: true` cannot be honoured: classifier-free "
     "guidance does not exist here; leave it out."),
    ("top_p: 1\n\ntop_p: 1", "line 3: `top_p` stands here again; line 1 has it already."),
    ("load: {ctx: 64, ctx: 65}", "line 1: `ctx` stands here again; line 1 has it already."),
    ("a: &x 1", "line 1: aliases (&, *) are not accepted; write the value out."),
    ("a: *x", "line 1: aliases (&, *) are not accepted; write the value out."),
    ("a: !!python/object:os.system {}", "line 1: tags (tag:yaml.org,2002:python/object:os.system) "
     "are not accepted; leave it out."),
    ("top_k: !!int 5", "line 1: tags (tag:yaml.org,2002:int) are not accepted; leave it out."),
    ("%YAML 1.1\n---\ndo_sample: yes", "line 2: directives (%YAML, %TAG) are not accepted; leave "
     "them out."),
    ("top_k: 1\n---\ntop_k: 2", "line 2: a second document begins here; one file holds one."),
    ("<<: {top_k: 1}", "line 1: a key must be a plain name."),
    ("? [a]\n: 1", "line 1: a key must be a plain name."),
    ("a: " + "[" * 50, f"line 1: nested deeper than {MAX_DEPTH} levels."),
    ("top_k: " + "9" * 50, "line 1: a number with more than 40 digits."),
    *((f"load:\n  alias: {number}", "line 2: a number without digits; put it into quotes.")
      for number in ("-_", "+_", "0x_", "-0b_", "0o_", "._", "-._", "._e+5")),
    ('alias: "\\ud800"', "line 1: half a surrogate pair, which is not a character."),
    ("a: 'x", "line 1: not valid YAML: found unexpected end of stream."),
    ("a: 1\n b: 2", "line 2: not valid YAML: mapping values are not allowed here."),
    ("a: 1\n\tb: 2", "line 2: not valid YAML: "),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), WRONG, ids=[text[:30] for text, _ in WRONG])
def test_a_wrong_file_is_refused_with_its_line_and_what_is_allowed(text, message):
    said = refusal(text)
    assert said.startswith(f"{Y}, {message}")
    assert message.endswith(" ") or said == f"{Y}, {message}"


def test_a_file_with_control_characters_is_refused_in_one_printable_line():
    said = refusal("a: \x00")
    assert said.isprintable()
    assert said.startswith(f"{Y} is not valid YAML: ")


def test_all_mistakes_are_found_not_only_the_first():
    found = errors("a: 1\ntop_k: x\nload:\n  ctx: 1\n  b: 2\n")
    assert [error.split(": ")[0] for error in found] == [
        f"{Y}, line 1", f"{Y}, line 2", f"{Y}, line 5",
    ]  # fmt: skip


def test_contradictions_name_where_both_values_came_from():
    said = refusal("load:\n  ctx: 2048\n  kv_pool: 1024\n")
    assert said.endswith(
        f"--ctx comes from {Y}, line 2. --kv-pool comes from {Y}, line 3."
    )  # fmt: skip


def test_a_secret_of_a_file_is_never_shown():
    for text in ("server:\n  api_key: 12345678", "server:\n  api_key: " + "k1x" * 2000):
        assert "12345678" not in refusal(text)
        assert "k1xk1x" not in refusal(text)


@pytest.mark.parametrize("key", sorted(NEUTRAL))
def test_what_would_change_the_answer_is_refused_and_its_off_value_accepted(key):
    off, instead = NEUTRAL[key]
    for value in (None, *off):
        assert not errors(f"{key}: {json.dumps(value)}")
    (error,) = errors(f"{key}: 77")
    assert error.endswith(f"cannot be honoured: {instead}.")


@pytest.mark.parametrize("key", sorted(WITHOUT_EFFECT | SAID.keys()))
def test_what_changes_nothing_is_accepted(key):
    assert from_file(f"{key}: [1, {{a: b}}]").settings == ServeSettings()


def test_no_key_has_two_fates():
    ours = {entry.name for entry in entries()}
    assert not ours & (WITHOUT_EFFECT | SAID.keys() | NEUTRAL.keys())
    assert not WITHOUT_EFFECT & (SAID.keys() | NEUTRAL.keys())


def test_who_may_reach_the_machine_is_not_decided_by_a_file_that_only_lies_there():
    text = "server:\n  api_key: k\n  listen: true\n"
    assert merge([], {}, a_file(text)).settings.listen
    with pytest.raises(BadSetting, match=r"line 2: `server.api_key` decides who may reach") as e:
        merge([], {}, a_file(text, found=True))
    assert e.value.message.endswith("add --config generation_config.yaml.")
    names = {entry.name for entry in entries() if entry.part == "server"}
    assert names >= NEEDS_NAMING


def outcome(text: str, name: str) -> str:
    """The refusal of a text; empty when it is accepted."""
    try:
        from_file(text, name)
    except BadSetting as error:
        return error.message
    return ""


BILLION = "a: &a [x,x]\n" + "".join(
    f"{b}: &{b} [*{a},*{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "text",
    [BILLION, "[" * 60_000, "{a: " * 12_000, "- " * 30_000, "? " * 30_000, "a: [" + "1," * 30_000,
     '"' * 60_001, "a: |\n" + " \n" * 30_000, "#" * 60_000, "&a " * 20_000, "\n" * 60_000,
     "".join(f"k{i}: 1\n" for i in range(7_000))],
    ids=lambda text: text[:8],
)  # fmt: skip
def test_hostile_files_are_answered_in_bounded_work(text):
    for name in (Y, "x.json"):
        assert outcome(text, name).isprintable()


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(st.text(max_size=300), st.text(alphabet="ab:-[]{},&*!|>'\"#%\n \t?~0.", max_size=80))
)
def test_any_text_gives_settings_or_one_printable_sentence(text):
    for name in (Y, "x.json"):
        assert outcome(text, name).isprintable()
        assert len(outcome(text, name)) < 600


# Finding and reading ------------------------------------------------------------------------------


def written(path, text="top_k: 7\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def places(tmp_path, monkeypatch):
    """The current folder and the user's file, both without a file yet."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return here / FILE_NAME, tmp_path / "config" / "okno" / FILE_NAME


def test_the_file_here_comes_before_the_users_and_a_named_one_before_both(places, tmp_path):
    here, user = places
    assert find_file(None) is None
    written(user)
    assert find_file(None).path == user
    written(here)
    assert find_file(None).path.absolute() == here
    assert find_file(None).found
    named = written(tmp_path / "my.yaml")
    assert find_file(str(named)).path == named
    assert not find_file(str(named)).found
    assert find_file("none") is None


def test_the_command_line_names_the_file_before_the_environment(places, tmp_path):
    one = written(tmp_path / "one.yaml", "top_k: 1")
    two = written(tmp_path / "two.yaml", "top_k: 2")
    written(places[0], "top_k: 3")
    flag = [("config", Given(str(one), "command line", "--config"))]
    variable = {"OKNO_CONFIG": str(two)}
    assert load(flag, variable).settings.top_k == 1
    assert load([], variable).settings.top_k == 2
    assert load([], {"OKNO_CONFIG": ""}).settings.top_k == 3
    assert load([], {"OKNO_CONFIG": "none"}).settings.top_k == 0
    assert load([], {"OKNO_CONFIG": "none"}).file is None


def test_files_that_cannot_be_read_say_why(tmp_path):
    def said(path):
        with pytest.raises(BadSetting) as caught:
            read_file(path)
        return caught.value.message

    missing = tmp_path / "x.yaml"
    assert said(missing) == (
        f"There is no settings file {missing}. `okno config init` writes a commented one."
    )
    assert said(tmp_path) == f"{tmp_path} is not a file. Give the path of a settings file."
    os.mkfifo(tmp_path / "pipe")
    assert "is not a file" in said(tmp_path / "pipe")
    missing.write_bytes(b"a: 1\nb: \xff\n")
    assert said(missing) == "x.yaml, line 2: not UTF-8. Save the file as UTF-8."
    missing.write_bytes(b"#" * (MAX_BYTES + 1))
    assert "is larger than 64 KiB" in said(missing)
    assert "cannot be read" in said(tmp_path / ("x" * 400))
    assert "cannot be read" in said(tmp_path / "a\0b")


def test_a_named_file_of_an_unknown_user_is_refused():
    for names_it in (find_file, target):
        with pytest.raises(BadSetting, match="a user who has none here"):
            names_it("~okno-no-such-user/x.yaml")


def test_a_broken_link_in_a_default_place_is_an_error_not_nothing(places):
    places[0].symlink_to("nowhere")
    with pytest.raises(BadSetting, match="There is no settings file"):
        find_file(None)
