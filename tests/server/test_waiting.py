"""What a client is told while it waits."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from okno.core.events import Accepted, Queued
from okno.server.waiting import QueueComments, waiting_headers
from tests.server.fake_engine import FakeEngine

CHAT = "/v1/chat/completions"
HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}


def test_the_headers_are_those_of_the_last_choice_to_begin() -> None:
    both = [Accepted("a", 5, 2, 1.26), Accepted("b", 5, 3, 4.04)]
    assert waiting_headers(both) == {
        "okno-queue-position": "3",
        "okno-estimated-wait-s": "4.0",
    }


@pytest.mark.parametrize("waits_s", [(None,), (None, 2.0)])
def test_without_an_estimate_there_is_no_header_for_it(waits_s: tuple[float | None, ...]) -> None:
    accepted = [Accepted("a", 5, 1, wait_s) for wait_s in waits_s]
    assert waiting_headers(accepted) == {"okno-queue-position": "1"}


@pytest.mark.parametrize("streamed", [True, False])
async def test_place_and_estimate_travel_with_the_headers(
    client: httpx.AsyncClient, engine: FakeEngine, streamed: bool
) -> None:
    engine.open.add("somebody-else")
    engine.wait_s = 12.52
    answer = await client.post(CHAT, json={**HELLO, "stream": streamed})
    assert answer.headers["okno-queue-position"] == "1"
    assert answer.headers["okno-estimated-wait-s"] == "12.5"


async def test_who_need_not_wait_reads_zeros(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.wait_s = 0.0
    answer = await client.post(CHAT, json=HELLO)
    assert answer.headers["okno-queue-position"] == "0"
    assert answer.headers["okno-estimated-wait-s"] == "0.0"


async def test_a_stream_that_waits_gets_comments_before_its_text(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.open.add("somebody-else")
    engine.queued = [(3, 12.52), (2, None), (2, 5.0), (0, 0.04)]
    answer = await client.post(CHAT, json={**HELLO, "stream": True})
    comments = [line for line in answer.text.split("\n\n") if line.startswith(":")]
    assert comments == [
        ": queued position=3 wait_s=12.5",
        ": queued position=2",
        ": queued position=0 wait_s=0.0",
    ]
    assert answer.text.index(": queued position=0") < answer.text.index("Hello")


async def test_an_answer_that_is_not_streamed_has_no_comments(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.queued = [(3, 12.5)]
    body = (await client.post(CHAT, json={**HELLO, "n": 2})).json()
    assert [c["message"]["content"] for c in body["choices"]] == ["Hello, world"] * 2


def test_the_place_of_a_request_is_that_of_its_last_choice() -> None:
    comments = QueueComments([Accepted("a", 5, 4), Accepted("b", 5, 5)])
    assert comments.moved(0, Queued("a", 2, 1.0)) == b""
    assert comments.moved(1, Queued("b", 3, 2.0)) == b": queued position=3 wait_s=2.0\n\n"
    assert comments.moved(1, Queued("b", 3, 1.0)) == b"", "the same place is not said twice"


def test_nothing_is_said_once_a_choice_has_begun() -> None:
    comments = QueueComments([Accepted("a", 5, 4)])
    comments.begin()
    assert comments.moved(0, Queued("a", 2, 1.0)) == b""
