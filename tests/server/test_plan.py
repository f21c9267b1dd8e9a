"""Plans over HTTP: what the commands answer, for models that are named, errors typed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import httpx
import pytest

from okno.core.window import MemoryUse
from okno.inspect.models import demo_model
from okno.server.plan import PlanFields, here
from tests.server.fake_engine import READY, FakeEngine


@pytest.fixture(autouse=True)
def _own_store(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OKNO_DATA_DIR", str(tmp_path))


def serving_demo(engine: FakeEngine) -> None:
    facts = READY.facts
    assert facts is not None
    engine.current = replace(READY, facts=replace(facts, path=str(demo_model().path)))


async def test_the_served_model_is_planned_when_none_is_named(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    serving_demo(engine)
    body = (await client.post("/okno/v1/plan", json={})).json()
    assert body["object"] == "okno.plan"
    assert body["model"]["where"] == str(demo_model().path)
    assert body["pick"]["fits"]
    assert body["pick"]["memory"]["source"] == "engine"
    named = (await client.post("/okno/v1/plan", json={"model": "nick"})).json()
    assert named["model"] == body["model"]


async def test_an_asked_window_gets_its_verdict(client: httpx.AsyncClient) -> None:
    asked = {
        "model": "saiga2_13b", "quant": "gptq-4bit", "batch_size": 1, "ctx": 2048,
        "device": "cuda", "memory": "8GB",
    }  # fmt: skip
    body = (await client.post("/okno/v1/plan", json=asked)).json()
    assert body["asked"]["fits"] is False
    assert any(advice["fits"] for advice in body["advice"])
    assert body["table"]["verdict"] == "does not hold"
    larger = (await client.post("/okno/v1/plan", json={**asked, "memory": "12GB"})).json()
    assert larger["asked"]["fits"] is True


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"batch_size": 0}, 400, "batch_size"),
        ({"ctx": "wide"}, 400, "ctx"),
        ({"kv_type": "q1"}, 400, "kv_type"),
        ({"prefer": "luck"}, 400, "prefer"),
        ({"memory": "8"}, 400, "memory"),
        ({"device": "abacus"}, 400, "device"),
        ({"quant": "q99", "model": "saiga2_13b"}, 400, "quant"),
        ({"max_ttft_s": -1}, 400, "max_ttft_s"),
        ({"max_ttft_s": "soon"}, 400, "max_ttft_s"),
        ({"batchsize": 4}, 400, "batchsize"),
        ({"model": "no-such-model"}, 404, None),
    ],
)
async def test_wrong_questions_are_refused_by_name(
    client: httpx.AsyncClient, fields: dict[str, Any], status: int, param: str | None
) -> None:
    answer = await client.post("/okno/v1/plan", json={"model": "demo", **fields})
    assert answer.status_code == status, answer.text
    if param:
        assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize(
    "model",
    ["/etc/passwd", "../demo", "https://example.invalid/x.gguf", "someone/some-repo:Q4_K_M"],
)
async def test_no_path_and_no_address_is_opened_for_a_request(
    client: httpx.AsyncClient, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(*_: object) -> None:
        raise AssertionError("a request opened an address")

    monkeypatch.setattr("okno.advisor.model.read_header", opened)
    answer = await client.post("/okno/v1/plan", json={"model": model})
    assert answer.status_code == 404


def test_what_the_loaded_model_holds_counts_as_free() -> None:
    held = MemoryUse(process_bytes=1 << 30, weights_bytes=0, kv_bytes=0, free_bytes=0)
    without = here(replace(READY, memory=None)).ram
    with_it = here(replace(READY, memory=held)).ram
    assert with_it.free_bytes > without.free_bytes
    assert with_it.free_bytes <= with_it.total_bytes


async def test_the_catalog_is_ranked(client: httpx.AsyncClient) -> None:
    answer = await client.get(
        "/okno/v1/recommend?task=embedding&top=2&device=cuda&memory=8GB&language=ru"
    )
    body = answer.json()
    assert body["object"] == "okno.recommendation"
    assert len(body["models"]) == 2
    assert body["models"][0]["kind"] == "embedding"


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("task=dance", "task"), ("top=0", "top"), ("top=x", "top"), ("lang=ru", "lang"),
        ("memory=8", "memory"), ("task=chat&task=code", "task"),
    ],
)  # fmt: skip
async def test_wrong_parameters_are_refused_by_name(
    client: httpx.AsyncClient, query: str, param: str
) -> None:
    answer = await client.get(f"/okno/v1/recommend?{query}")
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


async def test_health_answers_while_a_plan_is_made(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    import asyncio
    import threading

    go_on = threading.Event()

    def slow(*_: object) -> dict[str, object]:
        assert go_on.wait(20)
        return {}

    monkeypatch.setattr("okno.server.plan._plan", slow)
    asked = asyncio.create_task(client.post("/okno/v1/plan", json={}))
    await asyncio.sleep(0)
    assert (await client.get("/health")).status_code == 200
    assert not asked.done()
    go_on.set()
    assert (await asked).status_code == 200


def test_every_field_is_documented() -> None:
    from pathlib import Path

    text = (Path(__file__).parents[2] / "docs" / "http-api.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in PlanFields.__struct_fields__)
