"""Models that huggingface_hub's cache holds count as here, when they are here in full."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from okno.core.errors import BadSetting, ModelNotFound
from okno.inspect.hub_cache import interrupted, list_hub
from okno.inspect.hub_home import hub_cache, hub_token
from okno.inspect.listing import Checkpoint, LocalModel
from okno.inspect.models import NotHere, find_by_name, find_local
from tests.inspect.test_models import put

OLD, NEW = "a" * 40, "b" * 40


def cached(cache: Path, repository: str, commit: str, *names: str, main: bool = True) -> Path:
    """A snapshot as huggingface_hub writes it: links into blobs."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    for name in names:
        blob = folder / "blobs" / f"{commit[0]}-{name.replace('/', '-')}"
        put(blob.parent, blob.name)
        link = folder / "snapshots" / commit / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    if main:
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs/main").write_text(commit)
    return folder / "snapshots" / commit


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    found = tmp_path / "hf" / "hub"
    cached(found, "TheBloke/Saiga-GGUF", NEW, "saiga.Q4_K_M.gguf", "saiga.Q8_0.gguf")
    cached(found, "TheBloke/Saiga-13B-GPTQ", NEW, "config.json", "gptq_model.safetensors")
    cached(found, "owner/alone-GGUF", NEW, "q/one-00001-of-00002.gguf", "q/one-00002-of-00002.gguf")
    return found


@pytest.fixture
def folder(tmp_path) -> Path:
    put(tmp_path / "models", "tiny.gguf")
    return tmp_path / "models"


@pytest.mark.parametrize(
    ("asked", "file"),
    [
        ("TheBloke/Saiga-GGUF:Q8_0", "saiga.Q8_0.gguf"),
        ("TheBloke/Saiga-GGUF/saiga.Q4_K_M.gguf", "saiga.Q4_K_M.gguf"),
        ("saiga.Q8_0", "saiga.Q8_0.gguf"),
        ("owner/alone-GGUF", "one-00001-of-00002.gguf"),
        ("alone-gguf", "one-00001-of-00002.gguf"),
        ("hf:owner/alone-GGUF", "one-00001-of-00002.gguf"),
        (f"owner/alone-GGUF@{NEW}", "one-00001-of-00002.gguf"),
        (f"owner/alone-GGUF@{NEW[:8]}", "one-00001-of-00002.gguf"),
    ],
)
def test_a_model_in_the_cache_is_found_by_name_or_reference(asked, file, cache, folder):
    found = find_local(asked, folder)
    assert isinstance(found, LocalModel)
    assert found.path.name == file
    assert found.path.read_bytes()[:4] == b"GGUF"


def test_a_split_model_of_the_cache_counts_all_its_parts(cache, folder):
    assert find_local("owner/alone-GGUF", folder).size_bytes == 16


@pytest.mark.parametrize(
    "asked",
    ["TheBloke/Saiga-13B-GPTQ", "Saiga-13B-GPTQ", "saiga_13b_gptq", "hf:TheBloke/Saiga-13B-GPTQ"],
)  # fmt: skip
def test_a_checkpoint_in_the_cache_is_called_by_its_repository(asked, cache, folder):
    found = find_local(asked, folder)
    assert isinstance(found, Checkpoint)
    assert (found.name, found.format) == ("TheBloke/Saiga-13B-GPTQ", "GPTQ")
    assert find_local(str(found.path), folder).name == found.name


def test_what_has_not_come_in_full_is_not_here(cache, folder):
    cached(cache, "owner/half", NEW, "config.json", "model-00001-of-00002.safetensors")
    cached(cache, "owner/half-GGUF", NEW, "half-00001-of-00002.gguf")
    put(cache / "models--owner--half" / "blobs", "123.incomplete")
    for asked in ("owner/half", "owner/half-GGUF", "hf:owner/half"):
        with pytest.raises(NotHere, match="okno pull"):
            find_local(asked, folder)
    assert [(one.repository, one.size_bytes) for one in interrupted(cache)] == [("owner/half", 8)]


def test_main_is_served_until_another_revision_is_asked_for(cache, folder):
    cached(cache, "owner/two", OLD, "m.gguf", main=False)
    cached(cache, "owner/two", NEW, "m.gguf")
    assert find_local("owner/two", folder).path.parent.name == NEW
    assert find_local(f"owner/two@{OLD}", folder).path.parent.name == OLD
    with pytest.raises(NotHere):
        find_local("owner/two@v3", folder)


def test_several_files_of_a_repository_are_named(cache, folder):
    with pytest.raises(ModelNotFound, match=r"fits 2 models: saiga\.Q4_K_M, saiga\.Q8_0"):
        find_local("hf:TheBloke/Saiga-GGUF", folder)


def test_the_models_folder_comes_before_the_cache(cache, folder):
    put(folder, "saiga.Q8_0.gguf", "TheBloke/Saiga-GGUF/saiga.Q4_K_M.gguf")
    for asked in ("saiga.Q8_0", "TheBloke/Saiga-GGUF:Q4_K_M"):
        assert find_local(asked, folder).path.is_relative_to(folder)


def test_names_from_the_network_never_reach_the_cache(cache, folder):
    with pytest.raises(ModelNotFound):
        find_by_name("owner/alone-GGUF", folder)


def test_a_link_out_of_the_repository_is_left_out(cache, folder, tmp_path):
    put(tmp_path, "secret.gguf")
    snapshot = cached(cache, "owner/odd", NEW, "fine.gguf")
    (snapshot / "secret.gguf").symlink_to(tmp_path / "secret.gguf")
    assert [model.path.name for model in list_hub(cache).models if "odd" in str(model.path)] == [
        "fine.gguf"
    ]


def test_a_cache_in_disorder_is_survived(cache, folder):
    put(cache, "models--x--y/refs/main", "models--broken", "version.txt", content=b"\xff\xfe")
    (cache / "models--loop--loop").symlink_to(cache / "models--loop--loop")
    assert len(list_hub(cache).models) == 3
    assert list_hub(cache / "nothing").entries == ()


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "there"))
    assert hub_cache() == tmp_path / "there"
    monkeypatch.delenv("HF_HUB_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert hub_cache() == tmp_path / "huggingface" / "hub"


def test_it_is_where_huggingface_hub_looks(monkeypatch, tmp_path):
    code = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"
    for name in ("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert said.stdout.strip() == str(hub_cache())
        monkeypatch.delenv(name)


def test_the_token_is_the_environments_or_the_one_of_the_login(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert hub_token() == ""
    (tmp_path / "token").write_text("hf_login\n")
    assert hub_token() == "hf_login"
    monkeypatch.setenv("HF_TOKEN", "hf_given")
    assert hub_token() == "hf_given"
    monkeypatch.setenv("HF_TOKEN", " hf_pas\r\nted\n")  # as the library reads it
    assert hub_token() == "hf_pasted"
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    assert hub_token() == ""


def test_a_token_that_no_header_can_carry_is_said_and_never_shown(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    for text in ("hf_тайна", "hf_a\x00b"):
        (tmp_path / "token").write_text(text, encoding="utf-8")
        with pytest.raises(BadSetting, match="holds characters that no access token has") as caught:
            hub_token()
        assert "hf_" not in caught.value.message
    monkeypatch.setenv("HF_TOKEN", "hf_тайна")
    with pytest.raises(BadSetting, match=r"^HF_TOKEN holds"):
        hub_token()
