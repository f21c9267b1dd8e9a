"""What `--model NAME` means; and that a name never leads out of the models folder."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from okno.core.errors import BadSetting, ModelNotFound, ModelUnusable, OknoError
from okno.inspect.listing import Checkpoint, list_folder
from okno.inspect.models import (
    NotHere,
    demo_model,
    find_by_name,
    find_local,
    find_model,
    models_folder,
)
from tests.inspect.shut import shut_folder


def put(folder: Path, *names: str, content: bytes = b"GGUF....") -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    models = tmp_path / "models"
    put(
        models,
        "Saiga-Mistral-7B.Q4_K_M.gguf",
        "Saiga-Mistral-7B.Q8_0.gguf",
        "tiny.gguf",
        "alone/weights.gguf",
        "publisher/repo/Qwen-1.gguf",
        "big/giant-00001-of-00002.gguf",
        "big/giant-00002-of-00002.gguf",
        "vision/seer.gguf",
        "vision/mmproj-seer.gguf",
    )
    put(models, "Saiga-13B-GPTQ/model.safetensors", "Saiga-13B-GPTQ/quantize_config.json")
    put(models, "plain/model.safetensors")
    return models


def file_of(asked: str, folder: Path) -> str:
    return find_model(asked, folder).path.relative_to(folder.resolve()).as_posix()


@pytest.mark.parametrize(
    ("asked", "file"),
    [
        ("tiny.gguf", "tiny.gguf"),
        ("tiny", "tiny.gguf"),
        ("TINY", "tiny.gguf"),
        ("ti", "tiny.gguf"),
        ("q8_0", "Saiga-Mistral-7B.Q8_0.gguf"),
        ("alone", "alone/weights.gguf"),
        ("alone/weights.gguf", "alone/weights.gguf"),
        ("weights", "alone/weights.gguf"),
        ("publisher/repo", "publisher/repo/Qwen-1.gguf"),
        ("repo", "publisher/repo/Qwen-1.gguf"),
        ("someone/alone", "alone/weights.gguf"),
        ("big", "big/giant-00001-of-00002.gguf"),
        ("giant", "big/giant-00001-of-00002.gguf"),
        ("giant-00001-of-00002.gguf", "big/giant-00001-of-00002.gguf"),
        ("vision", "vision/seer.gguf"),
    ],
)
def test_a_model_is_found_by_file_stem_folder_or_a_part_only_it_has(asked, file, folder):
    assert file_of(asked, folder) == file


def test_a_hugging_face_name_finds_its_folder_written_with_an_underscore(folder):
    put(folder, "IlyaGusev_saiga/model-q4.gguf")
    assert file_of("IlyaGusev/saiga", folder) == "IlyaGusev_saiga/model-q4.gguf"


@pytest.mark.parametrize(
    "place",
    ["IlyaGusev/Saiga-7B-GPTQ", "TheBloke/Saiga-7B-GPTQ", "IlyaGusev_Saiga-7B-GPTQ",
     "saiga_7b_gptq", "Saiga-7B-GPTQ"],
)  # fmt: skip
def test_a_name_without_its_owner_finds_the_folder_however_it_is_written(place, folder):
    put(folder, f"{place}/model.safetensors", "Saiga-7B-GPTQ-long/model.safetensors")
    for asked in ("Saiga-7B-GPTQ", "saiga-7b-gptq", "Saiga_7B-GPTQ"):
        assert find_local(asked, folder).path == (folder / place).resolve()


def test_a_name_that_two_owners_have_lists_both(folder):
    put(folder, "TheBloke/S-GPTQ/model.safetensors", "IlyaGusev/S-GPTQ/model.safetensors")
    with pytest.raises(ModelNotFound, match="fits 2 models: IlyaGusev/S-GPTQ, TheBloke/S-GPTQ"):
        find_local("S-GPTQ", folder)
    assert find_local("TheBloke/S-GPTQ", folder).name == "TheBloke/S-GPTQ"


def test_underscores_and_dashes_count_only_when_they_must(folder):
    put(folder, "x-y-z/model.safetensors", "x_y_z/model.safetensors")
    assert find_local("X-y-z", folder).name == "x-y-z"
    with pytest.raises(ModelNotFound, match="fits 2 models: x-y-z, x_y_z"):
        find_local("x_y-z", folder)


def test_a_repository_of_another_owner_is_another_model(folder):
    """Whoever names owner/name gets that one or a download, never something alike."""
    put(folder, "TheBloke/Saiga-7B/model.safetensors", "IlyaGusev_Qwen/model.safetensors")
    for asked in ("meta/Saiga-7B", "TheBloke/Saiga", "Other/Qwen", "publisher/rep"):
        with pytest.raises(NotHere):
            find_local(asked, folder)


def test_a_quantisation_is_chosen_within_a_folder(folder):
    put(folder, "TheBloke/S-GGUF/s.Q4_K_M.gguf", "TheBloke/S-GGUF/s.Q8_0.gguf")
    assert file_of("TheBloke/S-GGUF:q8_0", folder) == "TheBloke/S-GGUF/s.Q8_0.gguf"
    with pytest.raises(NotHere):
        find_local("TheBloke/S-GGUF:Q2_K", folder)


def test_the_exact_name_wins_over_longer_ones(folder):
    put(folder, "tiny-instruct.gguf")
    assert file_of("tiny", folder) == "tiny.gguf"


def test_case_counts_only_when_it_must(folder):
    put(folder, "Tiny.gguf")
    assert file_of("Tiny", folder) == "Tiny.gguf"
    assert file_of("tiny", folder) == "tiny.gguf"
    with pytest.raises(ModelNotFound, match="fits 2 models: Tiny, tiny"):
        find_model("TINY", folder)


def test_composed_and_decomposed_letters_are_the_same_name(folder):
    put(folder, "\u0438\u0306.gguf")
    assert find_model("\u0439", folder).path.name == "\u0438\u0306.gguf"


def test_an_ambiguous_part_lists_the_candidates(folder):
    with pytest.raises(ModelNotFound) as caught:
        find_model("saiga-mistral", folder)
    assert "fits 2 models: Saiga-Mistral-7B.Q4_K_M, Saiga-Mistral-7B.Q8_0" in caught.value.message


def test_an_unknown_name_offers_the_nearest(folder):
    with pytest.raises(ModelNotFound, match="Did you mean tiny"):
        find_model("tyni", folder)


def test_an_empty_folder_still_offers_the_demo(tmp_path):
    with pytest.raises(ModelNotFound, match="There is: demo"):
        find_model("nothing", tmp_path / "missing")


def test_an_unknown_repository_says_how_it_is_fetched(folder):
    with pytest.raises(NotHere, match="`okno pull TheBloke/Nothing-70B` fetches it"):
        find_model("TheBloke/Nothing-70B", folder)


@pytest.mark.parametrize(("asked", "kind"), [("Saiga-13B-GPTQ", "GPTQ"), ("plain", "safetensors")])
def test_a_folder_of_other_weights_is_a_checkpoint(asked, kind, folder):
    for words in (asked, str(folder / asked)):
        found = find_local(words, folder)
        assert isinstance(found, Checkpoint)
        assert (found.format, found.path) == (kind, (folder / asked).resolve())
        assert found.size_bytes == len(b"GGUF....")
        with pytest.raises(ModelUnusable, match=f"{kind} weights, and this needs a GGUF file"):
            find_model(words, folder)


def test_demo_is_the_model_that_ships():
    model = find_model("demo", Path("/nowhere"))
    assert model == demo_model()
    assert model.path.read_bytes()[:4] == b"GGUF"
    assert model.size_bytes <= 12_000_000


def test_a_path_to_a_file_or_folder_needs_no_models_folder(tmp_path, monkeypatch):
    put(tmp_path, "here/x.gguf")
    nowhere = tmp_path / "missing"
    assert find_model(str(tmp_path / "here/x.gguf"), nowhere).name == "x"
    assert find_model(str(tmp_path / "here"), nowhere).path.name == "x.gguf"
    monkeypatch.chdir(tmp_path / "here")
    assert find_model("x.gguf", nowhere).name == "x"
    assert find_model("../here/x.gguf", nowhere).name == "x"


def test_a_path_to_nothing_says_so(tmp_path):
    with pytest.raises(ModelNotFound, match="There is no file"):
        find_model(str(tmp_path / "x.gguf"), tmp_path)
    with pytest.raises(ModelNotFound, match="There is no file"):
        find_model("./x.gguf", tmp_path)


def test_a_folder_with_several_models_asks_for_one(folder):
    with pytest.raises(ModelNotFound, match="Give the path of one file"):
        find_model(str(folder), folder)


def test_a_file_that_is_no_gguf_is_refused_before_loading(folder):
    put(folder, "cut.gguf", content=b"")
    put(folder, "page.gguf", content=b"<html>")
    for name in ("cut", "page"):
        with pytest.raises(ModelUnusable, match="is not a GGUF file"):
            find_model(name, folder)


def test_a_named_pipe_is_no_model(tmp_path):
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(ModelUnusable, match="neither a file nor a folder"):
        find_model(str(tmp_path / "pipe.gguf"), tmp_path)
    assert not list_folder(tmp_path).models


def test_a_split_model_counts_all_its_parts(folder):
    assert find_model("giant", folder).size_bytes == 16


def test_equal_file_names_are_listed_with_their_folder(tmp_path):
    put(tmp_path, "a/model.gguf", "b/model.gguf")
    assert [model.name for model in list_folder(tmp_path).models] == ["a/model", "b/model"]


def test_a_link_that_leads_out_is_refused_and_says_what_to_do(tmp_path, folder):
    put(tmp_path, "outside/secret.gguf")
    (folder / "linked.gguf").symlink_to(tmp_path / "outside/secret.gguf")
    (folder / "door").symlink_to(tmp_path / "outside")
    for name in ("linked", "linked.gguf", "door"):
        with pytest.raises(ModelNotFound, match="link that leads out of the models folder"):
            find_by_name(name, folder)
    with pytest.raises(ModelNotFound):
        find_by_name("door/secret.gguf", folder)


def test_a_link_within_the_folder_is_fine(folder):
    (folder / "default.gguf").symlink_to(folder / "tiny.gguf")
    assert find_by_name("default", folder).path.name == "default.gguf"


def test_loops_of_links_are_survived(folder):
    (folder / "loop").symlink_to(folder / "loop")
    assert find_by_name("tiny", folder).name == "tiny"


def test_paths_that_may_not_be_read_are_said(monkeypatch):
    with shut_folder("m.gguf") as shut:
        for asked in (str(shut), str(shut / "m.gguf"), str(shut / "nothing")):
            with pytest.raises(ModelUnusable, match="cannot be read: Permission denied"):
                find_model(asked, shut.parent)
        monkeypatch.chdir(shut.parent)
        with pytest.raises(ModelUnusable, match="shut/m cannot be read: Permission denied"):
            find_model("shut/m", shut.parent)
        monkeypatch.undo()


@pytest.mark.parametrize("mode", [0, 0o444, 0o111])
def test_a_listing_leaves_out_what_may_not_be_looked_at(mode):
    with shut_folder("m.gguf", "model.safetensors", mode=mode) as shut:
        found = list_folder(shut.parent)
        assert (found.models, found.checkpoints) == ((), ())
        with pytest.raises(ModelNotFound, match="There is: demo"):
            find_model("unheard-of", shut.parent)


def test_paths_that_cannot_be_are_typed_errors(tmp_path, folder):
    with pytest.raises(ModelNotFound, match="There is no file"):
        find_model(str(tmp_path / ("x" * 300)), folder)
    with pytest.raises(ModelNotFound, match="There is no model"):
        find_model(f"x/{'x' * 300}.gguf", folder)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(ModelUnusable, match="loop cannot be read: Too many levels of symbolic"):
        find_model(str(tmp_path / "loop"), folder)
    with pytest.raises(ModelNotFound, match="a user who has none here"):
        find_model("~okno-no-such-user/m.gguf", folder)
    with pytest.raises(BadSetting, match="a user who has none here"):
        models_folder(Path("~okno-no-such-user/models"))


def test_a_link_to_nothing_is_left_out_of_the_listing(folder):
    (folder / "gone.gguf").symlink_to(folder / "never.gguf")
    assert "gone" not in [model.name for model in list_folder(folder).models]


HOSTILE = [
    "../outside/secret.gguf", "..", ".", "/etc/passwd", "alone/../../outside/secret.gguf",
    "..\\outside\\secret.gguf", "tiny\0", "tiny\n", "ti\u200bny", "\u202etiny", "\ud800", "",
    "a" * 100_000, "\uff0e\uff0e/outside/secret", "%2e%2e/outside", "~root", "C:\\x", "//",
]  # fmt: skip


@pytest.mark.parametrize("asked", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_name_is_refused_with_one_printable_line(asked, tmp_path, folder):
    put(tmp_path, "outside/secret.gguf")
    with pytest.raises(ModelNotFound) as caught:
        find_by_name(asked, folder)
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 600


def test_an_invisible_character_is_named(folder):
    for asked, code in (("ti\u200bny", "U+200B"), ("tiny\0", "U+0000")):
        with pytest.raises(ModelNotFound, match=f"invalid character {re.escape(code)}"):
            find_by_name(asked, folder)


@settings(max_examples=300, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(
    asked=st.text()
    | st.lists(st.sampled_from(["..", ".", "/", "tiny", "outside", "secret", ".gguf", "\0", "\\"]))
    .map("".join)
)  # fmt: skip
def test_whatever_the_name_the_answer_lies_in_the_folder(asked, tmp_path_factory, folder):
    put(folder.parent, "outside/secret.gguf")
    inside = folder.resolve()
    try:
        path = find_by_name(asked, folder).path
    except OknoError:
        return
    assert path.resolve().is_relative_to(inside) or path == demo_model().path


def test_unprintable_file_names_are_left_out_of_the_listing(tmp_path):
    put(tmp_path, "good.gguf", "new\nline.gguf")
    (tmp_path / os.fsdecode(b"bad\xff.gguf")).write_bytes(b"GGUF")
    assert [model.name for model in list_folder(tmp_path).models] == ["good"]


def test_the_models_folder_is_the_asked_one_or_the_users(tmp_path):
    assert models_folder(tmp_path) == tmp_path
    assert models_folder().parts[-2:] == ("okno", "models")
