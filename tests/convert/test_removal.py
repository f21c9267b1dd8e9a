"""What `okno rm` removes is the model and nothing else, and what it says it removed is gone."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from okno.convert.provenance import note_of
from okno.convert.removal import find_removal, remove
from okno.core.errors import BadSetting, ModelNotFound, ModelUnusable
from tests.convert.small import small_checkpoint
from tests.inspect.test_hub_cache import NEW, OLD, cached
from tests.inspect.test_models import put


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "above" / "models"
    folder.mkdir(parents=True)
    return folder


def removed(asked: str, models: Path) -> None:
    cache = models.parent / "hub"
    remove(find_removal(asked, models, cache, models.parent / "converted"), cache)


def test_what_is_no_part_of_a_checkpoint_stays(models: Path) -> None:
    saiga = small_checkpoint(models / "Saiga")
    others = ("thesis.docx", "notes.txt", "package.json", "train.py", ".env")
    for name in others:
        put(saiga, name)
    found = find_removal("Saiga", models, models.parent, models.parent / "converted")
    assert found.others == len(others)
    removed("Saiga", models)
    assert sorted(path.name for path in saiga.iterdir()) == sorted(others)


def test_a_folder_that_may_be_something_else_than_a_model_is_left_alone(models: Path) -> None:
    put(models / "project", "firmware.bin")
    put(models / "project", "thesis.docx")
    with pytest.raises(BadSetting, match="may be something else than a model"):
        removed("project", models)
    assert len(list((models / "project").iterdir())) == 2


@pytest.mark.parametrize("name", ["one.gguf", "owner/repo/one.gguf"])
def test_the_models_folder_stays_when_its_last_model_goes(models: Path, name: str) -> None:
    put(models, name)
    removed("one", models)
    assert models.is_dir()
    assert list(models.iterdir()) == []


def test_nothing_of_a_converted_model_stays(models: Path) -> None:
    converted = models.parent / "converted"
    put(converted, "saiga-Q8_0.gguf")
    note_of(converted / "saiga-Q8_0.gguf").write_text("{}")
    removed("saiga-Q8_0", models)
    assert list(converted.iterdir()) == []


def test_a_download_that_was_cut_short_is_removed_in_any_spelling(models: Path) -> None:
    blobs = models.parent / "hub" / "models--Owner--Cut" / "blobs"
    put(blobs, "0.okno.incomplete")
    removed("owner/cut", models)
    assert not blobs.parent.exists()


@pytest.mark.parametrize("asked", ["owner/repo", "one"])
def test_what_the_library_leaves_alone_is_not_said_to_be_removed(models: Path, asked: str) -> None:
    snapshot = cached(models.parent / "hub", "owner/repo", NEW, "one.gguf")
    (snapshot.parent.parent / "refs/lost").write_text(OLD)
    with pytest.raises(ModelUnusable, match=r"is still there: .* Remove the folder .*owner--repo"):
        removed(asked, models)


TWO = ("one.Q4_0.gguf", "one.F16.gguf")


def left(models: Path) -> set[str]:
    """The files of all snapshots that are still there: `b/one.gguf` of the commit b..."""
    snapshots = models.parent.glob("hub/models--*/snapshots/*/*")
    return {f"{path.parent.name[0]}/{path.name}" for path in snapshots if path.exists()}


def two_revisions(models: Path) -> None:
    cached(models.parent / "hub", "owner/repo", OLD, *TWO, main=False)
    cached(models.parent / "hub", "owner/repo", NEW, *TWO)


@pytest.mark.parametrize("asked", ["hf:owner/repo", "owner/repo", "OWNER/Repo"])
def test_a_repository_goes_with_all_its_revisions(models: Path, asked: str) -> None:
    two_revisions(models)
    removed(asked, models)
    assert left(models) == set()


@pytest.mark.parametrize(
    "asked",
    ["owner/repo@main", "hf:Owner/repo@main", f"owner/repo@{NEW}", f"owner/repo@{NEW[:8]}"],
)
def test_one_revision_goes_and_the_others_stay(models: Path, asked: str) -> None:
    two_revisions(models)
    found = find_removal(asked, models, models.parent / "hub", models.parent / "converted")
    assert (found.repository, found.commit) == ("owner/repo", NEW)
    removed(asked, models)
    assert left(models) == {f"{OLD[0]}/{name}" for name in TWO}


@pytest.mark.parametrize(
    "asked",
    [
        "owner/repo:Q4_0",
        "hf:owner/repo:q4_0",
        "owner/repo:Q4_0@main",
        "owner/repo/one.Q4_0.gguf",
        "hf:owner/repo/one.Q4_0.gguf",
        "one.Q4_0",
    ],
)
def test_one_quantisation_goes_and_the_others_stay(models: Path, asked: str) -> None:
    two_revisions(models)
    removed(asked, models)
    assert left(models) == {f"{NEW[0]}/one.F16.gguf", *(f"{OLD[0]}/{name}" for name in TWO)}


@pytest.mark.parametrize(
    "asked", ["owner/repo:Q8_0", "owner/repo@none", "hf:owner/none", "owner/r"]
)
def test_what_is_not_there_removes_nothing(models: Path, asked: str) -> None:
    two_revisions(models)
    with pytest.raises(ModelNotFound, match="Nothing here is called"):
        removed(asked, models)
    assert len(left(models)) == 4


def test_a_quantisation_in_the_models_folder_is_meant_too(models: Path) -> None:
    for name in TWO:
        put(models / "owner" / "repo", name)
    removed("owner/repo:F16", models)
    assert [path.name for path in (models / "owner/repo").iterdir()] == ["one.Q4_0.gguf"]


def test_of_twins_each_is_named_by_what_means_it_alone(models: Path) -> None:
    """The same name in the models folder, in the hub's cache and among what okno made."""
    put(models / "my models", "one.gguf")
    put(models.parent / "converted", "one.gguf")
    snapshot = cached(models.parent / "hub", "owner/repo", NEW, "one.gguf")
    with pytest.raises(ModelNotFound, match="'one' is 3 things, so say which") as caught:
        removed("one", models)
    commands = re.findall(r"`okno rm ([^`]+)`", caught.value.message)
    assert len(commands) == 3
    for command in commands:
        removed(*shlex.split(command), models)
    assert not (models / "my models").exists()
    assert not (models.parent / "converted/one.gguf").exists()
    assert not (snapshot / "one.gguf").exists()


def test_of_twin_repositories_hf_means_the_cache(models: Path) -> None:
    small_checkpoint(models / "owner" / "repo")
    cached(models.parent / "hub", "owner/repo", NEW, "one.gguf")
    with pytest.raises(ModelNotFound, match=r"2 things.*`okno rm hf:owner/repo`"):
        removed("owner/repo", models)
    removed("hf:owner/repo", models)
    assert (models / "owner/repo/config.json").exists()
    assert left(models) == set()


def test_a_path_outside_is_nothing_that_may_be_removed(models: Path) -> None:
    put(models.parent, "one.gguf")
    for asked in (str(models.parent / "one.gguf"), f"{models}/../one.gguf"):
        with pytest.raises(ModelNotFound, match="Nothing here is called"):
            removed(asked, models)
    assert (models.parent / "one.gguf").exists()


def test_an_adapter_that_peft_saved_is_removed_with_its_own_files(models: Path) -> None:
    for name in ("adapter_config.json", "adapter_model.safetensors", "thesis.docx"):
        put(models / "peft", name)
    removed("peft", models)
    assert [path.name for path in (models / "peft").iterdir()] == ["thesis.docx"]
