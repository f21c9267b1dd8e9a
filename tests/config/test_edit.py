"""Changing one setting of a file: the change is made, and nothing else moves."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from okno.config.changing import changed, created, entry_named, typed
from okno.config.edit import with_value, without
from okno.config.file import SettingsFile, layer_of
from okno.config.load import merge
from okno.config.render import text_of, value_text
from okno.config.sample import sample
from okno.config.tree import Entry, by_key, entries
from okno.config.write import write_file
from okno.config.yaml_text import parse_text
from okno.core.errors import BadSetting
from tests.config.support import a_file

TEXTS = st.text(
    st.characters(exclude_categories=("Cs", "Co", "Cn"), exclude_characters="\x00"), max_size=20
)


def value_of(entry: Entry) -> st.SearchStrategy[Any]:
    """Values that may stand in the file (their bounds are another matter)."""
    if entry.choices:
        return st.sampled_from(entry.choices)
    plain: st.SearchStrategy[Any] = {
        "switch": st.booleans(),
        "whole": st.integers(-(2**63), 2**64),
        "number": st.floats(allow_nan=False, allow_infinity=False) | st.integers(-9, 9),
        "text": TEXTS,
        "texts": TEXTS | st.lists(TEXTS, max_size=3),
    }[entry.kind]
    return plain | st.sampled_from(entry.words) if entry.words else plain


SETTING = st.sampled_from(entries()).flatmap(lambda e: st.tuples(st.just(e), value_of(e)))
COMMENT = st.sampled_from(["# note", "#ctx: auto", "  # deeper: 1", "", "#  ---", "   "])
TAIL = st.sampled_from(["", "  # why", " #x"])


def block(draw: st.DrawFn, chosen: list[tuple[Entry, Any]], indent: str) -> list[str]:
    """The lines of a map, written as people write it."""
    lines = []
    for entry, value in chosen:
        lines += [draw(COMMENT)] if draw(st.booleans()) else []
        if isinstance(value, list) and value and draw(st.booleans()):
            lines.append(f"{indent}{entry.name}:{draw(TAIL)}")
            for item in value:
                lines += [f"{indent}  - {text_of(item)}{draw(TAIL)}"]
        else:
            lines.append(f"{indent}{entry.name}: {value_text(value)}{draw(TAIL)}")
    return lines


@st.composite
def files(draw: st.DrawFn) -> SettingsFile:
    """A settings file in one of many styles."""
    chosen = draw(st.lists(SETTING, max_size=8, unique_by=lambda pair: pair[0].name))
    lines = [draw(COMMENT)] if draw(st.booleans()) else []
    for part in draw(st.permutations(["", "load", "server"])):
        own = [pair for pair in chosen if pair[0].part == part]
        if not part:
            lines += block(draw, own, "")
        elif own and draw(st.integers(0, 3)) == 0:
            pairs = ", ".join(f"{entry.name}: {value_text(value)}" for entry, value in own)
            lines.append(f"{part}: {{{pairs}}}{draw(TAIL)}")
        elif own or draw(st.booleans()):
            lines.append(f"{part}:{draw(TAIL)}")
            lines += block(draw, own, draw(st.sampled_from(["  ", "    ", " "])))
    newline = draw(st.sampled_from(["\n", "\n", "\r\n"]))
    text = newline.join(lines) + (newline if draw(st.booleans()) else "")
    return a_file(text)


def values(text: str) -> dict[str, Any]:
    """What a text sets, by key."""
    given_values = layer_of(a_file(text)).given
    return {entry.key: given_values[entry.name].value for entry in entries()
            if entry.name in given_values}  # fmt: skip


def is_kept(old: str, new: str) -> bool:
    """Every line of `old` is in `new`, in order."""
    rest = iter(new.splitlines())
    return all(any(line == other for other in rest) for line in old.splitlines())


@settings(max_examples=300, deadline=None)
@given(files(), SETTING)
def test_setting_a_value_sets_it_and_keeps_all_others(file: SettingsFile, setting: Any):
    entry, value = setting
    before = values(file.text)
    text = with_value(file, entry, value)
    assert values(text) == {**before, entry.key: value}
    for comment in ("# note", "# why", "# deeper: 1", "#  ---"):
        assert text.count(comment) >= file.text.count(comment) - (entry.key in before)


@settings(max_examples=300, deadline=None)
@given(files(), SETTING)
def test_a_new_setting_is_one_new_line_and_taking_it_out_gives_the_old_text(file, setting):
    entry, value = setting
    if entry.key in values(file.text):
        return
    text = with_value(file, entry, value)
    flow = f"{entry.part}: {{" in file.text
    assert flow or is_kept(file.text, text)
    back = without(a_file(text), entry)
    assert values(back) == values(file.text)
    part_is_new = entry.part and f"{entry.part}:" not in file.text
    if not part_is_new:
        assert back.rstrip() == file.text.rstrip()


@settings(max_examples=200, deadline=None)
@given(files(), st.data())
def test_taking_a_setting_out_leaves_the_others(file: SettingsFile, data: st.DataObject):
    before = values(file.text)
    if not before:
        return
    key = data.draw(st.sampled_from(sorted(before)))
    text = without(file, by_key()[key])
    assert values(text) == {k: v for k, v in before.items() if k != key}
    assert is_kept(text, file.text) or "{" in file.text


@settings(max_examples=100, deadline=None)
@given(st.lists(SETTING, min_size=1, max_size=6, unique_by=lambda pair: pair[0].name))
def test_json_files_stay_json(chosen):
    text = "{}\n"
    for entry, value in chosen:
        text = with_value(a_file(text, "x.json"), entry, value)
    plain = json.loads(text)
    for entry, value in chosen:
        assert (plain[entry.part] if entry.part else plain)[entry.name] == value
        text = without(a_file(text, "x.json"), entry)
    assert {k: v for k, v in json.loads(text).items() if v} == {}


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.key)
def test_in_the_sample_a_setting_lands_below_its_own_explanation(entry):
    value = {"switch": True, "whole": 64, "number": 0.5, "text": "x", "texts": ["x"]}[entry.kind]
    value = entry.choices[0] if entry.choices else value
    text = with_value(a_file(sample()), entry, value)
    assert values(text) == {entry.key: value}
    lines = text.splitlines()
    at = next(i for i, line in enumerate(lines) if line.strip().startswith(f"{entry.name}:"))
    if not entry.flag.hidden:
        assert lines[at - 1].strip().startswith(f"#{entry.name}: ")
    assert without(a_file(text), entry) == sample()


HAND = """\
# My settings
temperature: 0.7   # warm
stop_strings:   # where it ends
  # the first
  - "User:"
  - x   # the second

load:
    # big
    ctx: 4096
    alias: |
      my model

# the end
"""


def test_a_line_that_only_looks_like_the_place_is_not_taken():
    decoy = "load:\n  alias: |\n    #ctx: auto\n    more\n"
    text = with_value(a_file(decoy), by_key()["load.ctx"], 64)
    assert values(text) == {"load.alias": "#ctx: auto\nmore\n", "load.ctx": 64}


def test_a_value_changes_in_its_place():
    text = changed(a_file(HAND), "ctx", "auto")
    assert text == HAND.replace("ctx: 4096", "ctx: auto")
    assert changed(a_file(HAND), "temperature", "1") == HAND.replace("0.7 ", "1 ")


def test_a_list_of_lines_becomes_one_line_with_the_comment_of_its_key():
    text = changed(a_file(HAND), "stop_strings", '["a", "b"]')
    assert "stop_strings: [a, b]   # where it ends\n  # the first   # the second\n" in text
    assert values(text)["stop_strings"] == ["a", "b"]


def test_a_block_text_is_replaced_up_to_its_end():
    text = changed(a_file(HAND), "alias", "your model")
    assert text == HAND.replace("|\n      my model\n", '"your model"\n')
    assert changed(a_file(HAND), "alias", None) == HAND.replace(
        "    alias: |\n      my model\n", ""
    )


def test_a_new_key_gets_the_indentation_of_its_neighbours():
    assert "\n    batch_size: 2\n" in changed(a_file(HAND), "batch-size", "2")
    assert changed(a_file(HAND), "server.port", "80").endswith("# the end\nserver:\n  port: 80\n")


def test_a_byte_order_mark_stays():
    assert changed(a_file("\ufefftop_k: 1\n"), "top_k", "2") == "\ufefftop_k: 2\n"


def test_a_new_file_says_what_it_is():
    text = created(Path("x.yaml"), "temperature", "0.5")
    assert text.startswith("# Settings of okno.")
    assert text.endswith("\ntemperature: 0.5\n")
    assert json.loads(created(Path("x.json"), "load.ctx", "64")) == {"load": {"ctx": 64}}


def test_what_cannot_be_changed_safely_is_left_to_an_editor():
    ended = a_file("top_k: 1\n...\n")
    with pytest.raises(BadSetting) as caught:
        with_value(ended, by_key()["load.ctx"], 64)
    assert caught.value.message == (
        "generation_config.yaml is written in a way that okno cannot change safely. Change "
        "`load.ctx` in an editor."
    )
    assert values(with_value(ended, by_key()["top_p"], 0.5)) == {"top_k": 1, "top_p": 0.5}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("temprature", "1", "temprature is not a setting of the file. Did you mean temperature?"),
        ("load.batchsize", "1", "load.batchsize is not a setting of the file. Did you mean "
         "load.batch_size?"),
        ("qqq", "1", "qqq is not a setting of the file."),
        ("script", "x", "script is not a setting of the file."),
        ("temperature", "hot", "temperature: hot: it must be a number from 0 to 10."),
        ("ctx", "1.5", "load.ctx: 1.5: it must be a whole number from 16 to 16,777,216, or auto."),
        ("mmap", "yes", "load.mmap: yes: it must be true or false."),
        ("kv_type", "q8", "load.kv_type: q8: it must be f16, bf16, f32, q8_0 or q4_0."),
    ],
)  # fmt: skip
def test_a_wrong_key_or_value_is_refused(key, value, message):
    with pytest.raises(BadSetting) as caught:
        changed(a_file(""), key, value)
    assert caught.value.message == message


def test_a_text_in_brackets_is_the_same_text_wherever_it_is_written():
    written = changed(a_file(""), "stop_strings", "[/INST]")
    for file, variables in ((a_file(written), {}), (None, {"OKNO_STOP_STRINGS": "[/INST]"})):
        assert merge([], variables, file).settings.stop_strings == ("[/INST]",)


def test_a_quoted_text_in_a_file_is_no_list():
    for text, texts in (("'[\"a\"]'", ('["a"]',)), ('["a", "b"]', ("a", "b"))):
        assert merge([], {}, a_file(f"stop_strings: {text}\n")).settings.stop_strings == texts
    assert merge([], {"OKNO_STOP_STRINGS": '["a", "b"]'}).settings.stop_strings == ("a", "b")


def test_what_yaml_calls_a_number_without_digits_can_be_set_as_a_text():
    for text in ("._", "-_", "0x_", "_"):
        assert values(changed(a_file(""), "alias", text)) == {"load.alias": text}


def test_taking_out_what_is_not_there_is_refused():
    with pytest.raises(BadSetting, match=r"does not set `load\.ctx`; nothing to take out"):
        changed(a_file("top_k: 1"), "ctx", None)


def test_typed_values_become_what_yaml_has():
    for key, text, value in (
        ("ctx", "auto", "auto"), ("ctx", "64", 64), ("temperature", "1", 1),
        ("temperature", "1e-3", 0.001), ("mmap", "True", True), ("alias", "12", "12"),
        ("stop_strings", "a,b", "a,b"), ("stop_strings", '["a,b", "c"]', ["a,b", "c"]),
        ("stop_strings", "[/INST]", "[/INST]"), ("stop_strings", "[1]", "[1]"),
        ("stop_strings", '["a,b", c]', '["a,b", c]'), ("stop_strings", "[" * 10**5, "[" * 10**5),
        ("seed", "-5", -5), ("gpu_layers", "all", "all"),
    ):  # fmt: skip
        found = typed(entry_named(key), text)
        assert found == value
        assert type(found) is type(value)


@settings(max_examples=300)
@given(TEXTS)
def test_any_text_is_written_so_that_it_reads_back(text):
    node = parse_text(f"a: {text_of(text)}\n", "x")
    assert node.plain == {"a": text}


# Writing ------------------------------------------------------------------------------------------


def test_a_file_is_replaced_whole_with_its_permissions(tmp_path):
    path = tmp_path / "deep" / "x.yaml"
    write_file(path, "a")
    os.chmod(path, 0o640)
    inode = path.stat().st_ino
    write_file(path, "b\r\n")
    assert path.read_bytes() == b"b\r\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert path.stat().st_ino != inode, "renamed into place, never half written"
    assert [p.name for p in path.parent.iterdir()] == ["x.yaml"]


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real.yaml").write_text("a")
    link = tmp_path / "link.yaml"
    link.symlink_to("real.yaml")
    write_file(link, "b")
    assert link.is_symlink()
    assert (tmp_path / "real.yaml").read_text() == "b"


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path, monkeypatch):
    path = tmp_path / "x.yaml"
    path.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(BadSetting, match=r"x.yaml cannot be written: No space left on device"):
        write_file(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.yaml"]


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadSetting, match="cannot be written"):
        write_file(tmp_path / "file" / "x.yaml", "a")
