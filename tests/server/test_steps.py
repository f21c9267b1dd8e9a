"""GET /okno/v1/steps."""

from __future__ import annotations

import httpx
import pytest

from okno.core.errors import NotReady
from okno.engines.protocol import Recalled
from tests.server.fake_engine import FakeEngine

STEPS = "/okno/v1/steps"


async def test_a_step_tells_what_ran_for_whom_and_why(client: httpx.AsyncClient) -> None:
    body = (await client.get(STEPS)).json()
    assert (body["object"], body["restarts"], body["count"]) == ("okno.steps", 0, 5)
    assert [step["step"] for step in body["steps"]] == [1, 2, 3, 4, 5]
    assert body["steps"][0] == {
        "step": 1,
        "start_s": 0.5,
        "schedule_s": 0.001,
        "engine_s": 0.2,
        "sample_s": 0.003,
        "rows": 67,
        "decode_rows": 1,
        "prompt_rows": 64,
        "draft_rows": 2,
        "accepted_drafts": 1,
        "filler_rows": 0,
        "why": "prompt_rows",
        "allowed_prompt_rows": 64,
        "operations": {"copy": 1},
        "live": 2,
        "waiting": 1,
        "used_cells": 100,
        "preemptions": 0,
        "sequences": [
            {"request": "a-0", "slot": 3, "kind": "decode", "start": 12, "rows": 3, "drafts": 2,
             "accepted_drafts": 1, "draft_source": "text"},
            {"request": "b-0", "slot": 4, "kind": "prompt", "start": 0, "rows": 64, "drafts": 0,
             "accepted_drafts": 0, "draft_source": None},
        ],
    }  # fmt: skip


async def test_last_says_how_many(client: httpx.AsyncClient) -> None:
    body = (await client.get(STEPS, params={"last": 2})).json()
    assert [step["step"] for step in body["steps"]] == [4, 5]


@pytest.mark.parametrize(
    "query", ["last=0", "last=2049", "last=-1", "last=x", "last=", "last=1e2", "last=1&last=1",
              "last=%D9%A3", "first=1", "last=" + "9" * 5000],
)  # fmt: skip
async def test_a_wrong_parameter_is_refused_by_name(client: httpx.AsyncClient, query: str) -> None:
    answer = await client.get(f"{STEPS}?{query}")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == query.partition("=")[0]
    assert len(answer.text) < 500


async def test_there_are_no_steps_while_the_model_loads(
    client: httpx.AsyncClient, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def loading(last: int) -> Recalled:
        raise NotReady("demo is loading (40%).", retry_after_s=2)

    monkeypatch.setattr(engine, "steps", loading)
    answer = await client.get(STEPS)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
