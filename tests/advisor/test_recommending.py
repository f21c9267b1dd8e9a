"""The catalog is ranked with what is published and what this machine gives; nothing is invented."""

from __future__ import annotations

import json

import pytest

from okno.advisor.recommending import RecommendRequest, as_json, recommend
from okno.core.errors import BadSetting
from okno.inspect.catalog import catalog
from okno.inspect.hardware.overrides import Overrides
from okno.plan.search import fits
from okno.store.database import Database
from tests.advisor.test_planning import GIB, machine


@pytest.fixture
def database(tmp_path) -> Database:
    return Database(tmp_path / "okno.db")


def found(database, free_gib: int = 6, **fields):
    return recommend(RecommendRequest(**fields), machine=machine(free_gib * GIB), database=database)


def test_all_that_is_recommended_fits_and_serves_the_task(database):
    kinds = {entry.id: entry.kind for entry in catalog()}
    answer = found(database, task="embedding", top=5)
    assert 0 < len(answer.models) <= 5
    for one in answer.models:
        assert fits(one.offer.planned.memory)
        assert kinds[one.offer.candidate.name] == "embedding"


def test_quality_is_what_is_published_with_its_source_or_unknown(database):
    published = {
        (entry.id, quality.metric): quality.value
        for entry in catalog() for quality in entry.quality
    }  # fmt: skip
    answer = found(database, free_gib=4, top=30)
    for one in answer.models:
        candidate = one.offer.candidate
        if candidate.quality is None:
            assert (candidate.name, answer.metric) not in published
        else:
            key = (candidate.name, candidate.quality.metric)
            assert published[key] == candidate.quality.value
            assert candidate.quality.source


def test_models_made_for_the_language_come_before_others_that_meet_the_limits(database):
    answer = found(database, free_gib=4, language="ru", top=30)
    order = [(not one.offer.meets_limits, one.offer.candidate.speaks) for one in answer.models]
    rank = {"specialised": 0, "declared": 1, "unknown": 2}
    keys = [(slow, rank[speaks]) for slow, speaks in order]
    assert keys == sorted(keys)
    assert answer.models[0].offer.candidate.speaks == "specialised"


def test_a_licence_leaves_out_those_that_are_not_known(database):
    answer = found(database, free_gib=3, licence="apache", top=20)
    assert all("apache" in one.offer.candidate.licence for one in answer.models)
    assert any("not published are left out" in note for note in answer.notes)


def test_a_larger_machine_gets_models_at_least_as_many(database):
    assert found(database, 2, top=1).n_fitting < found(database, 6, top=1).n_fitting


def test_a_what_if_is_answered_for_that_hardware(database):
    answer = found(database, task="code", overrides=Overrides(device="cuda", memory_bytes=8 * GIB))
    devices = {d.device for one in answer.models for d in one.offer.planned.memory.devices}
    assert "CUDA0" in devices


def test_the_list_is_plain_json(database):
    told = json.loads(json.dumps(as_json(found(database, task="reranker"))))
    assert told["rule"].startswith("Order: ")
    assert {"quant", "file_bytes", "licence", "quality"} <= set(told["models"][0])


def test_a_language_counts_however_it_is_written(database):
    answer = found(database, free_gib=4, language="RU", top=5)
    assert answer.request.language == "ru"
    assert answer == found(database, free_gib=4, language="ru", top=5)
    assert answer.models[0].offer.candidate.speaks != "unknown"


def test_a_language_that_no_model_lists_is_refused_with_those_that_are():
    with pytest.raises(BadSetting, match=r"'russian'.* de, .* ru, "):
        RecommendRequest(language="russian")


def test_a_language_that_none_of_the_models_lists_is_said(database):
    said = "None of these models lists mt"
    answer = found(database, task="code", language="mt")
    assert answer.models
    assert any(said in note for note in answer.notes)
    assert not any("None of these" in note for note in found(database, language="ru").notes)


@pytest.mark.parametrize(
    "fields",
    [{"task": "dance"}, {"top": 0}, {"top": 10_000}, {"language": "xx"}, {"language": ""}],
)
def test_questions_that_mean_nothing_are_refused(fields):
    with pytest.raises(BadSetting):
        RecommendRequest(**fields)
