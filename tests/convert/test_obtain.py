"""One door: whatever a person names becomes a file that the engine loads, and is told about."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from okno.convert.fetch_plan import FetchPlan
from okno.convert.obtain import Listener, obtain
from okno.convert.wants import Wants
from okno.core.errors import ModelNotFound, ModelUnusable, OknoError, SourceUnreachable
from okno.inspect.header import read_header
from okno.inspect.listing import LocalModel
from okno.inspect.models import NotHere, demo_model
from tests.conftest import MakeModel
from tests.convert.hub import Hub, Repo, serving
from tests.convert.small import small_checkpoint, small_files


class Told:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.plans: list[FetchPlan] = []
        self.stages: list[str] = []

    def progress(self, stage: str, done: int, total: int, left_s: float | None) -> None:
        self.stages += [] if stage in self.stages else [stage]

    @property
    def listener(self) -> Listener:
        return Listener(self.progress, self.said.append, self.plans.append)


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("OKNO_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


@pytest.fixture
def hub(monkeypatch, folder) -> Iterator[Hub]:
    with serving(Hub()) as found:
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
        yield found


def test_a_gguf_file_is_itself(folder, told):
    assert obtain("demo", folder, Wants(), told.listener) == demo_model()
    assert (told.said, told.stages) == ([], [])


def test_a_quantised_file_stays_as_it_is_and_why_is_said(folder, told, make_model: MakeModel):
    path = make_model("tiny", "Q4_0")
    for bits in (8, 4):
        assert obtain(str(path), folder, Wants(bits), told.listener).path == path
    assert told.said[0].startswith(f"the weights in {path.name} are already quantised (Q4_0).")
    assert "more bits cost memory and bring no quality back" in told.said[1]


@pytest.mark.parametrize(("bits", "stored"), [(8, "Q8_0"), (4, "Q4_K_M")])
def test_a_file_of_floats_is_quantised_once_when_that_is_wanted(
    bits, stored, folder, told, make_model: MakeModel
):
    path = make_model("tiny", "F16")
    found = obtain(str(path), folder, Wants(bits), told.listener)
    assert (found.name, found.source) == (path.stem, path)
    assert read_header(found.path).file_type == stored
    assert told.said == [
        f"{path.name} (F16) is served as {stored}, made once and kept: {found.path}."
    ]
    made = found.path.stat().st_mtime_ns
    assert obtain(str(path), folder, Wants(bits)).path.stat().st_mtime_ns == made


def test_packed_weights_stay_as_they_are_and_why_is_said(folder, told):
    config = {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 64}}
    small_checkpoint(folder / "gptq", **config)
    found = obtain("gptq", folder, Wants(8), told.listener)
    assert read_header(found.path).file_type == "F16"  # of the layers that are not packed
    assert "in gptq are already quantised (GPTQ-4bit)" in told.said[0]


def test_four_bits_are_made_of_eight_and_eight_stay(folder, told, make_model: MakeModel):
    path = make_model("tiny", "Q8_0")
    assert obtain(str(path), folder, Wants(8), told.listener).path == path
    assert "are already quantised (Q8_0)" in told.said[0]
    found = obtain(str(path), folder, Wants(4), told.listener)
    assert read_header(found.path).file_type == "Q4_K_M"
    assert found.path.stat().st_size < path.stat().st_size


def test_six_bits_are_not_quantised_twice(folder, told, make_model: MakeModel):
    path = make_model("tiny", "Q6_K")
    assert obtain(str(path), folder, Wants(4), told.listener).path == path
    assert "keeps its weights as they are stored (Q6_K): okno quantises F32" in told.said[0]


def test_a_checkpoint_is_converted_once_and_keeps_its_name(folder, told):
    source = small_checkpoint(folder / "IlyaGusev" / "Saiga-tiny")
    first = obtain("saiga-tiny", folder, Wants(), told.listener)
    assert (first.name, first.source) == ("IlyaGusev/Saiga-tiny", source.resolve())
    assert read_header(first.path).file_type == "F16"
    assert told.stages
    assert told.said == [f"Saiga-tiny was converted, once; the result is kept: {first.path}."]
    again = Told()
    assert obtain("saiga-tiny", folder, Wants(), again.listener) == first
    assert "Converting" not in again.stages


def test_a_checkpoint_is_quantised_when_that_is_wanted(folder, told):
    small_checkpoint(folder / "Saiga-tiny")
    found = obtain("Saiga-tiny", folder, Wants(8), told.listener)
    assert read_header(found.path).file_type == "Q8_0"


def test_a_repository_that_is_not_here_is_fetched_and_converted(hub, folder, told):
    hub.repos["owner/saiga"] = Repo(small_files())
    found = obtain("owner/saiga", folder, Wants(), told.listener)
    assert [plan.reference.id for plan in told.plans] == ["owner/saiga"]
    assert isinstance(found, LocalModel)
    assert found.name == "owner/saiga"
    assert read_header(found.path).architecture == "llama"
    assert {"Downloading", "Checking"} <= set(told.stages)
    hub.asked.clear()
    assert obtain("owner/saiga", folder, Wants()) == found
    assert obtain("saiga", folder, Wants()) == found
    assert hub.asked == []


def test_who_is_told_of_a_download_can_stop_it(hub, folder):
    def no(plan: FetchPlan) -> None:
        raise OknoError(f"{plan.total_bytes} bytes are too many")

    hub.repos["owner/saiga"] = Repo(small_files())
    with pytest.raises(OknoError, match="bytes are too many"):
        obtain("owner/saiga", folder, Wants(), Listener(offered=no))
    assert hub.fetched() == set()


def test_a_half_download_is_completed_when_it_is_asked_for_again(hub, folder):
    hub.repos["owner/saiga"] = Repo(small_files())
    first = obtain("owner/saiga", folder, Wants())
    assert first.source is not None
    (first.source / "model.safetensors").unlink()
    assert obtain("owner/saiga", folder, Wants()) == first


def test_offline_what_is_here_is_served_and_what_is_not_is_said(hub, folder, monkeypatch):
    hub.repos["owner/saiga"] = Repo(small_files())
    found = obtain("owner/saiga", folder, Wants())
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert obtain("owner/saiga", folder, Wants()) == found
    with pytest.raises(
        SourceUnreachable, match="HF_HUB_OFFLINE is set, so the hub is not asked for owner/oth"
    ):
        obtain("owner/other", folder, Wants())


def test_a_name_that_is_no_repository_is_not_asked_for(hub, folder):
    with pytest.raises(NotHere, match="There is no model 'nothing'"):
        obtain("nothing", folder, Wants())
    with pytest.raises(ModelNotFound, match="There is no file"):
        obtain("./owner/saiga", folder, Wants())
    assert hub.asked == []


def test_a_name_of_the_catalog_names_its_repositories(folder):
    with pytest.raises(NotHere, match="is in okno's catalog: `okno pull IlyaGusev/saiga2_13b_gguf"):
        obtain("saiga2_13b", folder, Wants())


def test_pickles_in_a_folder_are_refused_with_the_reason(folder):
    source = small_checkpoint(folder / "old")
    shutil.move(source / "model.safetensors", source / "pytorch_model.bin")
    with pytest.raises(ModelUnusable, match="pickle"):
        obtain("old", folder, Wants())
