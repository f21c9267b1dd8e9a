"""GET and PATCH /okno/v1/window, over an engine in memory."""

from __future__ import annotations

from dataclasses import replace

import httpx
import pytest

from okno.core.errors import DoesNotFit, OknoError, WindowInUse
from okno.core.window import WindowChange
from okno.server.settings import ServerSettings
from tests.server.fake_engine import READY, FakeEngine

PATH = "/okno/v1/window"


async def patch(client: httpx.AsyncClient, **body: object) -> httpx.Response:
    return await client.patch(PATH, json=body)


async def test_the_window_in_effect_is_told(client: httpx.AsyncClient) -> None:
    body = (await client.get(PATH)).json()
    assert body["window"] == {
        "batch_size": 4, "ctx": 1024, "kv_type": "f16", "kv_pool": 4096, "step_tokens": 256,
    }  # fmt: skip
    assert body["memory"]["kv_bytes"] == 1_000_000
    assert body["notes"] == ["batch 4"]


async def test_before_the_model_is_loaded_there_is_none(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.current = replace(READY, state="loading", window=None, memory=None)
    assert (await client.get(PATH)).status_code == 503


async def test_a_change_reaches_the_engine_and_what_it_did_is_told(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    response = await patch(client, ctx=2048, batch_size="auto", kv_type="q8_0", kv_pool=None)
    assert response.status_code == 200
    assert engine.resizes == [WindowChange("auto", 2048, "q8_0", None)]
    body = response.json()
    assert body["before"]["ctx"] == 1024
    assert body["window"]["ctx"] == 2048
    assert body["changed"] is True
    assert body["pause_s"] == 0.031
    assert body["staged"] is False
    assert body["live"] == {"moved": 3, "waiting_again": 1, "recomputed": 0}
    assert body["parked"] == {"before": 5, "kept": 2}
    assert body["predicted_bytes"] == 7_000_000
    assert (await client.get(PATH)).json()["window"]["ctx"] == 2048
    assert (await client.get("/v1/models")).json()["data"][0]["max_model_len"] == 2048


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"ctx": 15}, "ctx"),
        ({"ctx": "much"}, "ctx"),
        ({"ctx": True}, "ctx"),
        ({"ctx": 1e9}, "ctx"),
        ({"batch_size": 257}, "batch_size"),
        ({"batch_size": 0}, "batch_size"),
        ({"kv_type": "q3"}, "kv_type"),
        ({"kv_type": "auto"}, "kv_type"),
        ({"kv_pool": 3}, "kv_pool"),
        ({"context": 4096}, "context"),
        ({}, None),
        ({"ctx": None}, None),
    ],
)
async def test_what_cannot_be_is_refused_by_name(
    client: httpx.AsyncClient, engine: FakeEngine, body: dict[str, object], param: str | None
) -> None:
    response = await patch(client, **body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert engine.resizes == []


@pytest.mark.parametrize(
    ("error", "status", "number"),
    [
        (DoesNotFit("too large", needed_bytes=5, free_bytes=4), 422, "needed_bytes"),
        (WindowInUse("in use", param="ctx", ctx=64, n_requests=2, largest_tokens=90), 409,
         "largest_tokens"),
    ],
)  # fmt: skip
async def test_a_refusal_comes_with_its_numbers(
    client: httpx.AsyncClient, engine: FakeEngine, error: OknoError, status: int, number: str
) -> None:
    engine.refuse = error
    response = await patch(client, ctx=64)
    assert response.status_code == status
    assert response.json()["error"][number] == error.info.details[number]


async def test_a_form_cannot_change_the_window(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    response = await client.patch(
        PATH, content=b'{"ctx": 64}', headers={"content-type": "text/plain"}
    )
    assert response.status_code == 403
    assert engine.resizes == []


class TestWithKey:
    @pytest.fixture
    def settings(self) -> ServerSettings:
        return ServerSettings(model="fake", api_key="secret")

    async def test_the_key_is_wanted(self, client: httpx.AsyncClient, engine: FakeEngine) -> None:
        assert (await patch(client, ctx=64)).status_code == 401
        assert (await client.get(PATH)).status_code == 401
        headers = {"authorization": "Bearer secret"}
        assert (await client.patch(PATH, json={"ctx": 64}, headers=headers)).status_code == 200
        assert len(engine.resizes) == 1
