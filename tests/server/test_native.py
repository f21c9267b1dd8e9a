from __future__ import annotations

import base64
import struct
from dataclasses import replace
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from okno.core.errors import ErrorInfo
from okno.engines.tally import Drafts, Tally
from okno.server.schemas import MAX_TEXT_CHARS, MAX_TEXT_TOKENS
from tests.server.fake_engine import READY, FakeEngine

HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    ("changes", "status", "wanted"),
    [
        ({}, 200, {"status": "ok"}),
        ({"stalled": True}, 503, {"status": "stalled"}),
        ({"state": "loading", "progress": 0.4}, 503, {"status": "loading", "progress": 0.4}),
        (
            {"state": "restarting", "last_death": "killed by signal 9"},
            503,
            {"status": "restarting", "reason": "killed by signal 9"},
        ),
        (
            {"state": "quarantined", "error": ErrorInfo("engine_failed", "Died 5 times.")},
            503,
            {"status": "quarantined", "reason": "Died 5 times."},
        ),
        ({"state": "stopped"}, 503, {"status": "stopped"}),
    ],
)
async def test_health_is_ok_only_while_tokens_move(
    client: httpx.AsyncClient,
    engine: FakeEngine,
    changes: dict[str, Any],
    status: int,
    wanted: dict[str, Any],
) -> None:
    engine.current = replace(READY, **changes)
    answer = await client.get("/health")
    assert (answer.status_code, answer.json()) == (status, wanted)
    assert ("retry-after" in answer.headers) == (status == 503)


def samples(text: str) -> dict[str, float]:
    return {
        s.name + "".join(s.labels.get("state", "")): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
        if "le" not in s.labels
    }


async def test_metrics_count_what_the_engine_counts(client: httpx.AsyncClient) -> None:
    await client.post("/v1/chat/completions", json={**HELLO, "n": 2})
    answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = samples(answer.text)
    assert all(name.startswith("okno_") for name in found)
    assert not any(name.endswith("_created") for name in found)
    assert found["okno_submitted_total"] == 7
    assert found["okno_kv_used_tokens"] == 30
    assert found["okno_stateready"] == 1
    assert found["okno_stateloading"] == 0
    assert found["okno_ttft_seconds_count"] == 2
    assert found["okno_itl_seconds_count"] == 4
    assert found["okno_e2e_seconds_count"] == 2
    assert found["okno_queue_seconds_sum"] == pytest.approx(0.002)
    assert found["okno_prompt_cached_ratio_count"] == 2
    assert found["okno_prompt_cached_ratio_sum"] == pytest.approx(2 * 4 / 9)


async def test_metrics_of_the_steps_are_those_of_the_workers(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    tally = Tally(
        preemptions=3, prefix_hits=5, decoding_steps=40, checking_steps=9,
        from_text=Drafts(20, 14), from_model=Drafts(8, 3),
    )  # fmt: skip
    for rows, seconds in ((1, 0.02), (3, 0.03), (4000, 7.0)):
        tally.step(rows, seconds, 0.55)
    engine.current = replace(READY, tally=tally)
    text = (await client.get("/metrics")).text
    found = samples(text)
    assert found["okno_preemptions_total"] == 3
    assert (found["okno_decoding_steps_total"], found["okno_checking_steps_total"]) == (40, 9)
    for source, checked, right in (("text", 20, 14), ("model", 8, 3)):
        assert f'okno_drafted_tokens_total{{source="{source}"}} {checked}.0' in text
        assert f'okno_accepted_draft_tokens_total{{source="{source}"}} {right}.0' in text
    assert found["okno_prefix_hits_total"] == 5
    assert (found["okno_step_rows_count"], found["okno_step_rows_sum"]) == (3, 4004)
    assert found["okno_step_seconds_sum"] == pytest.approx(7.05)
    assert found["okno_kv_use_ratio_sum"] == pytest.approx(1.65)
    for bound, count in (("1.0", 1), ("2.0", 1), ("4.0", 2), ("2048.0", 2), ("+Inf", 3)):
        assert f'okno_step_rows_bucket{{le="{bound}"}} {count}.0\n' in text
    assert 'okno_kv_use_ratio_bucket{le="0.5"} 0.0\n' in text
    assert 'okno_kv_use_ratio_bucket{le="0.6"} 3.0\n' in text


async def test_metrics_exist_while_loading(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.current = replace(
        READY, state="loading", facts=None, window=None, memory=None, heartbeat=None
    )
    found = samples((await client.get("/metrics")).text)
    assert found["okno_stateloading"] == 1
    assert "okno_ctx_tokens" not in found
    assert (await client.get("/props")).json()["window"] is None
    assert (await client.get("/v1/models")).json()["data"][0]["id"] == "fake"


async def test_models_name_window_and_facts(client: httpx.AsyncClient) -> None:
    body = (await client.get("/v1/models")).json()
    (model,) = body["data"]
    assert body["object"] == "list"
    assert model["id"] == "fake"
    assert model["aliases"] == ["nick", "fake-1m", "fake-1m.Q8_0"]
    assert model["max_model_len"] == 1024
    assert model["meta"]["n_ctx_train"] == 1024
    assert (await client.get("/v1/models/nick")).json() == model
    assert (await client.get("/models")).json() == body
    assert (await client.get("/v1/models/other/name")).status_code == 404
    assert (await client.get("/v1/models/")).status_code == 404


async def test_tokens_and_back(client: httpx.AsyncClient) -> None:
    tokens = (await client.post("/tokenize", json={"content": "hé"})).json()["tokens"]
    assert tokens == [104, 195, 169]
    back = await client.post("/detokenize", json={"tokens": tokens})
    assert back.json() == {"content": "hé"}
    pieces = await client.post("/tokenize", json={"content": "hé", "with_pieces": True})
    assert pieces.json()["tokens"] == [
        {"id": 104, "piece": "h"},
        {"id": 195, "piece": [195]},
        {"id": 169, "piece": [169]},
    ]


@pytest.mark.parametrize(
    ("path", "field", "most", "number"),
    [
        ("/tokenize", "content", "x" * MAX_TEXT_CHARS, "1,048,576"),
        ("/detokenize", "tokens", [1] * MAX_TEXT_TOKENS, "262,144"),
    ],
    ids=["tokenize", "detokenize"],
)
async def test_calls_between_the_steps_are_bounded(
    client: httpx.AsyncClient, path: str, field: str, most: Any, number: str
) -> None:
    assert (await client.post(path, json={field: most})).status_code == 200
    answer = await client.post(path, json={field: most + most[:1]})
    assert answer.status_code == 413
    error = answer.json()["error"]
    assert error["param"] == field
    assert f"at most {number}" in error["message"]


async def test_pieces_are_asked_of_the_engine_only_when_they_are_wanted(
    client: httpx.AsyncClient, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    real = engine.tokenize

    async def noted(*args: Any, **options: Any) -> Any:
        asked.append(options["with_pieces"])
        return await real(*args, **options)

    monkeypatch.setattr(engine, "tokenize", noted)
    for with_pieces in (False, True):
        await client.post("/tokenize", json={"content": "x", "with_pieces": with_pieces})
    assert asked == [False, True]


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/tokenize", {"content": "a"}),
        ("/detokenize", {"tokens": [1]}),
        ("/apply-template", HELLO),
    ],
)
async def test_every_route_knows_the_name_of_the_model(
    client: httpx.AsyncClient, path: str, fields: dict[str, Any]
) -> None:
    assert (await client.post(path, json={**fields, "model": "nick"})).status_code == 200
    assert (await client.post(path, json={**fields, "model": "other"})).status_code == 404


@pytest.mark.parametrize("token", [-1, 10**30])
async def test_a_token_that_does_not_exist_is_refused(
    client: httpx.AsyncClient, token: int
) -> None:
    answer = await client.post("/detokenize", json={"tokens": [token]})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "tokens"


async def test_a_template_is_applied_without_generating(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    answer = await client.post("/apply-template", json=HELLO)
    assert answer.json() == {"prompt": "<user>hi"}
    assert engine.seen == []
    assert (await client.post("/apply-template", json={"messages": []})).status_code == 400


async def test_slots_show_counts_but_neither_text_nor_clients(client: httpx.AsyncClient) -> None:
    answer = await client.get("/slots")
    body = answer.json()
    assert [slot["state"] for slot in body["slots"]] == ["live", "parked"]
    assert body["slots"][0]["computed_tokens"] == 12
    assert body["waiting"] == ["b-0"]
    assert "10.0.0.7" not in answer.text


async def test_props_tell_the_window(client: httpx.AsyncClient) -> None:
    body = (await client.get("/props")).json()
    assert body["window"]["ctx"] == 1024
    assert body["total_slots"] == 4
    assert body["default_generation_settings"]["temperature"] == 1.0
    assert body["notes"] == ["batch 4"]


async def test_the_root_says_where_the_api_is(client: httpx.AsyncClient) -> None:
    text = (await client.get("/")).text
    assert "http://127.0.0.1:7860/v1" in text


async def test_unknown_routes_and_methods_are_json_and_name_the_right_ones(
    client: httpx.AsyncClient,
) -> None:
    lost = await client.get("/v1/chat/completion")
    assert lost.status_code == 404
    assert "/v1/chat/completions" in lost.json()["error"]["message"]
    wrong = await client.get("/v1/completions")
    assert wrong.status_code == 405
    assert wrong.headers["allow"] == "POST"
    assert "POST" in wrong.json()["error"]["message"]


@pytest.mark.parametrize(
    "path",
    ["/completion", "/api/chat", "/api/tags", "/v1/responses", "/v1/responses/x", "/v1/messages",
     "/docs"],
)  # fmt: skip
async def test_routes_of_other_servers_are_told_what_to_use(
    client: httpx.AsyncClient, path: str
) -> None:
    answer = await client.post(path, json={})
    assert answer.status_code == 404
    assert "a later version; use /v1/chat/completions" in answer.json()["error"]["message"]


async def test_a_wrong_method_is_a_405_whatever_the_content_type(client: httpx.AsyncClient) -> None:
    answer = await client.put("/v1/models", content=b"x", headers={"content-type": "text/plain"})
    assert answer.status_code == 405
    assert (
        answer.json()["error"]["message"] == "/v1/models is not called with PUT but with GET, HEAD."
    )


# Embeddings -------------------------------------------------------------------------------------


async def test_embeddings_as_numbers_and_as_base64(client: httpx.AsyncClient) -> None:
    numbers = (await client.post("/v1/embeddings", json={"input": ["a", "b"]})).json()
    assert [d["embedding"] for d in numbers["data"]] == [
        [0.5, 0.5, 0.0, -0.5],
        [0.5, 0.5, 1.0, -0.5],
    ]
    assert numbers["usage"] == {"prompt_tokens": 6, "total_tokens": 6}
    assert numbers["note"] == "pooled states"
    coded = await client.post(
        "/v1/embeddings", json={"input": [1, 2], "encoding_format": "base64", "metadata": {}}
    )
    data = base64.b64decode(coded.json()["data"][0]["embedding"])
    assert struct.unpack("<4f", data) == (0.5, 0.5, 0.0, -0.5)
    assert coded.headers["okno-ignored"] == "metadata"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "input"),
        ({"input": ""}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": "a", "dimensions": 2}, "dimensions"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "a", "temperature": 1}, "temperature"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_a_wrong_embedding_request_is_refused_by_name(
    client: httpx.AsyncClient, fields: dict[str, Any], param: str
) -> None:
    answer = await client.post("/v1/embeddings", json=fields)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


async def test_the_models_own_dimensions_are_accepted(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/embeddings", json={"input": "a", "dimensions": 4})
    assert answer.status_code == 200
