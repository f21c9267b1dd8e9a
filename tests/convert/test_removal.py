"""What `okno rm` removes is the model and nothing else, and what it says it removed is gone."""

from __future__ import annotations

from pathlib import Path

import pytest

from okno.convert.provenance import note_of
from okno.convert.removal import find_removal, remove
from okno.core.errors import BadSetting, ModelUnusable
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
