"""Plans over HTTP: what the commands answer, for models that are named, errors typed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from okno.advisor.beside import beside_of
from okno.core.adapter import Adapter
from okno.core.machine import Cpu, Device, DeviceKind, Machine, Ram
from okno.core.window import MemoryUse
from okno.engines.client import EngineState
from okno.engines.protocol import WorkerOptions
from okno.inspect.models import demo_model
from okno.server.app import create_app
from okno.server.plan import PlanFields, here, without
from okno.server.settings import ServerSettings
from tests.lora import random_factors, write_adapter
from tests.server.fake_engine import READY, FakeEngine

GIB = 1 << 30


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


async def test_what_is_loaded_beside_the_served_model_is_planned_with_it(
    engine: FakeEngine, tmp_path: Path
) -> None:
    demo = demo_model().path
    factors = random_factors(demo)
    adapter = Adapter("a", str(write_adapter(tmp_path / "a.gguf", factors)))
    options = WorkerOptions(
        str(demo), "demo", adapters=(adapter,), draft_path=str(demo), swap_bytes=GIB
    )
    serving_demo(engine)
    app = create_app(engine, ServerSettings(model="fake", beside=beside_of(options)))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:7860") as client:
        window = {"batch_size": 2, "ctx": 256}
        body = (await client.post("/okno/v1/plan", json=window)).json()
        other = (await client.post("/okno/v1/plan", json=window | {"model": "saiga2_7b"})).json()
    [parts] = [device["parts"] for device in body["asked"]["memory"]["devices"]]
    assert parts["adapter_bytes"] == sum(one.a.nbytes + one.b.nbytes for one in factors.values())
    assert parts["draft_bytes"] > parts["weights_bytes"]
    assert parts["swap_bytes"] == GIB
    alone = other["asked"]["memory"]["devices"][0]["parts"]
    assert alone["adapter_bytes"] == alone["draft_bytes"] == alone["swap_bytes"] == 0


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
        ({"gpu_layers": -2}, 400, "gpu_layers"),
        ({"gpu_layers": 100_001}, 400, "gpu_layers"),
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


HELD = MemoryUse(
    process_bytes=9 * GIB, weights_bytes=7 * GIB, kv_bytes=GIB, free_bytes=0, own_bytes=2 * GIB,
    device_bytes={"CUDA0": 3 * GIB, "CUDA2": GIB},
)  # fmt: skip


def gpu(number: int, free_bytes: int | None) -> Device:
    return Device(f"CUDA{number}", "cuda", "a card", 8 * GIB, free_bytes)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """This machine, instead of the real one."""
    found = Machine(
        "linux", Cpu("a cpu", "x86_64", 4, 8, 4), Ram(16 * GIB, 10 * GIB),
        (gpu(0, 4 * GIB), gpu(1, 4 * GIB), gpu(2, None)),
    )  # fmt: skip
    monkeypatch.setattr("okno.advisor.planning.this_machine", lambda: found)
    return found


def test_what_the_loaded_model_alone_holds_counts_as_free(machine: Machine) -> None:
    """Pages of a mapped file are free already."""
    found = here(replace(READY, memory=HELD))
    assert found.ram.free_bytes == 12 * GIB
    assert [one.free_bytes for one in found.devices] == [7 * GIB, 4 * GIB, None]


def test_no_more_is_free_than_there_is(machine: Machine) -> None:
    much = replace(HELD, own_bytes=90 * GIB, device_bytes={"CUDA1": 90 * GIB})
    found = here(replace(READY, memory=much))
    assert found.ram.free_bytes == 16 * GIB
    assert [one.free_bytes for one in found.devices] == [4 * GIB, 8 * GIB, None]


@pytest.mark.parametrize(("kind", "free_gib"), [("vulkan", 10 + 2 + 3), ("metal", 10 + 2)])
def test_what_is_on_a_unified_device_is_main_memory_too(
    machine: Machine, kind: DeviceKind, free_gib: int
) -> None:
    shared = replace(gpu(0, 4 * GIB), kind=kind, unified=True)
    found = without(replace(machine, devices=(shared,)), HELD)
    assert found.ram.free_bytes == free_gib * GIB
    assert [one.free_bytes for one in found.devices] == [7 * GIB]


@pytest.mark.parametrize("state", ["loading", "restarting", "quarantined", "stopped"])
def test_a_worker_that_is_gone_holds_nothing(machine: Machine, state: EngineState) -> None:
    assert here(replace(READY, state=state, memory=HELD)) == machine
    assert here(replace(READY, memory=None)) == machine


# While the served model loads ---------------------------------------------------------------------


LOADING = replace(READY, state="loading", facts=None, window=None, memory=None)
MINE = [{}, {"model": None}, {"model": "default"}, {"model": "fake"}, {"model": "nick"}]


@pytest.mark.parametrize("fields", [*MINE, {"model": "demo"}])
async def test_the_served_model_is_planned_while_it_loads(
    engine: FakeEngine, settings: ServerSettings, fields: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "demo.gguf"
    path.symlink_to(demo_model().path)
    engine.current = LOADING
    app = create_app(engine, replace(settings, model_path=path))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        body = (await client.post("/okno/v1/plan", json=fields)).json()
    assert body["model"]["where"] == str(path)


@pytest.mark.parametrize("fields", MINE)
async def test_a_model_that_only_the_engine_knows_is_waited_for(
    client: httpx.AsyncClient, engine: FakeEngine, fields: dict[str, Any]
) -> None:
    engine.current = LOADING
    answer = await client.post("/okno/v1/plan", json=fields)
    assert answer.status_code == 503, answer.text
    assert answer.json()["error"]["code"] == "model_not_ready"
    assert int(answer.headers["retry-after"]) > 0
    other = await client.post("/okno/v1/plan", json={"model": "demo"})
    assert other.status_code == 200, "a name is answered nevertheless"


async def test_an_engine_without_a_file_is_not_planned_as_another_model(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    assert READY.facts is not None
    engine.current = replace(READY, facts=replace(READY.facts, path=""))
    answer = await client.post("/okno/v1/plan", json={})
    assert answer.status_code == 404
    assert "no file" in answer.json()["error"]["message"]


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
        ("memory=8", "memory"), ("task=chat&task=code", "task"), ("language=russian", "language"),
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
    text = (Path(__file__).parents[2] / "docs" / "http-api.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in PlanFields.__struct_fields__)
