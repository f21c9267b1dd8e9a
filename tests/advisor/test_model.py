"""Which model a name means: what is written like a file here is no other model."""

from __future__ import annotations

import pytest

from okno.advisor.model import find
from okno.core.errors import ModelNotFound, ModelUnusable, SourceUnreachable
from okno.inspect.catalog import candidates_in_catalog
from tests.inspect.shut import shut_folder
from tests.inspect.test_safetensors import llama_weights, write


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    """Who asks the hub raises SourceUnreachable."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize(
    "asked",
    ["models/mymodel.gguf", "models/Qwen3-8B-Q4_K_M.gguf", "Qwen3-8B-Q4_K_M.gguf",
     "Qwen3-8B.GGUF", "models/Qwen3-8B.safetensors"],
)  # fmt: skip
def test_a_file_that_is_not_here_is_no_repository_and_no_model_of_the_catalog(
    asked, by_name, tmp_path
):
    assert candidates_in_catalog("Qwen3-8B-Q4_K_M.gguf"), "the catalog would have an answer"
    with pytest.raises(ModelNotFound):
        find(asked, tmp_path, by_name=by_name)


@pytest.mark.parametrize(
    "asked",
    ["someone/some-repo/file.gguf", "hf:models/mymodel.gguf", "someone/some-repo:Q4_K_M",
     "https://huggingface.co/someone/some-repo/blob/main/file.gguf"],
)  # fmt: skip
def test_files_of_the_hub_are_asked_for_there(asked, tmp_path):
    with pytest.raises(SourceUnreachable, match="HF_HUB_OFFLINE"):
        find(asked, tmp_path)


def test_a_model_of_the_catalog_is_found_by_its_name(tmp_path):
    assert find("Qwen3-8B", tmp_path).entry is not None


def test_a_folder_of_weights_is_planned(tmp_path):
    folder = write(tmp_path / "saiga", llama_weights())
    assert find(str(folder), tmp_path).header.name == "saiga"


@pytest.mark.parametrize("mode", [0, 0o444])
def test_a_closed_folder_and_an_unknown_user_are_said(mode, tmp_path):
    with (
        shut_folder("config.json", "model.safetensors", mode=mode) as shut,
        pytest.raises(ModelUnusable, match="cannot be read: Permission denied"),
    ):
        find(str(shut), tmp_path)
    with pytest.raises(ModelNotFound, match="a user who has none here"):
        find("~okno-no-such-user/models", tmp_path)
