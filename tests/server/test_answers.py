"""The bodies and streams of answers, without sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from okno.core.errors import (
    BadConstraint,
    BadTemplate,
    ContextExceeded,
    EngineFailed,
    ErrorInfo,
    NotReady,
    OknoError,
    QueueFull,
)
from okno.core.events import Accepted, Delta, Event, Failed, Finished, TokenLogprob, Usage
from okno.core.request import Request
from okno.server.app import create_app
from okno.server.replies import text_offsets
from okno.server.settings import ServerSettings
from tests.server.fake_engine import FakeEngine

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}


def frames(text: str) -> list[str]:
    """The data of each SSE frame; every frame is one `data:` line."""
    assert text.endswith("\n\n")
    found = text.removesuffix("\n\n").split("\n\n")
    assert all(frame.startswith("data: ") and "\n" not in frame for frame in found), found
    return [frame.removeprefix("data: ") for frame in found]


async def stream(client: httpx.AsyncClient, path: str = CHAT, **fields: Any) -> list[Any]:
    """The chunks of a streamed answer, which ends with [DONE]."""
    body = {**(HELLO if path == CHAT else {"prompt": "ab"}), "stream": True, **fields}
    answer = await client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    data = frames(answer.text)
    assert data[-1] == "[DONE]"
    assert data.count("[DONE]") == 1
    return [json.loads(frame) for frame in data[:-1]]


async def test_a_chat_answer_has_text_usage_and_timings(client: httpx.AsyncClient) -> None:
    body = (await client.post(CHAT, json=HELLO)).json()
    assert body["object"] == "chat.completion"
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello, world", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert body["usage"] == {
        "prompt_tokens": 9,
        "completion_tokens": 3,
        "total_tokens": 12,
        "prompt_tokens_details": {"cached_tokens": 4},
    }
    assert body["timings"] == {
        "queue_ms": 1.0,
        "cache_n": 4,
        "prompt_n": 5,
        "prompt_ms": 10.0,
        "prompt_per_second": 500.0,
        "predicted_n": 3,
        "predicted_ms": 20.0,
        "predicted_per_second": 100.0,
    }


async def test_a_chat_stream_is_role_deltas_reason_usage_done(client: httpx.AsyncClient) -> None:
    chunks = await stream(client, stream_options={"include_usage": True})
    deltas = [c["choices"][0]["delta"] for c in chunks[:-1]]
    assert deltas == [
        {"role": "assistant", "content": ""},
        {"content": "Hello"},
        {"content": ","},
        {"content": " world"},
        {},
    ]
    assert [c["choices"][0]["finish_reason"] for c in chunks[:-1]] == [None] * 4 + ["stop"]
    assert chunks[-2]["timings"]["predicted_n"] == 3
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["total_tokens"] == 12
    assert len({c["id"] for c in chunks}) == 1
    assert {c["object"] for c in chunks} == {"chat.completion.chunk"}


async def test_a_text_stream_has_no_role(client: httpx.AsyncClient) -> None:
    chunks = await stream(client, TEXT, echo=True)
    assert [c["choices"][0]["text"] for c in chunks] == ["ab", "Hello", ",", " world", ""]
    assert {c["object"] for c in chunks} == {"text_completion"}
    assert "usage" not in chunks[-1]


async def test_an_answer_that_is_cut_says_so(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.reason = "length"
    chunks = await stream(client)
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    body = (await client.post(CHAT, json=HELLO)).json()
    assert body["choices"][0]["finish_reason"] == "length"


NASTY = [
    "data: [DONE]", "\n\n", "\r\n\r\n", "data: {}\n\n", "\u2028x\u2029", "\x85", "\x0b\x0c\x1c",
    ": keep-alive\n\n", '"\\', "event: error\n", "\x00", "Привет 🙂", "</script>",
]  # fmt: skip


@pytest.mark.parametrize("path", [CHAT, TEXT])
async def test_no_text_breaks_the_framing(
    client: httpx.AsyncClient, engine: FakeEngine, path: str
) -> None:
    engine.answer = NASTY
    body = {**HELLO} if path == CHAT else {"prompt": "".join(NASTY), "echo": True}
    answer = await client.post(path, json={**body, "stream": True})
    lines = [line for line in answer.text.splitlines() if line]
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    parts = [c["choices"][0] for c in chunks]
    texts = [p["delta"].get("content", "") if path == CHAT else p["text"] for p in parts]
    wanted = NASTY if path == CHAT else ["".join(NASTY), *NASTY]
    assert [t for t in texts if t] == wanted
    assert lines[-1] == "data: [DONE]"


async def test_choices_come_interleaved_each_with_its_own_end(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.answer_by_id = {"0": ["a", "b"], "1": ["c"], "2": []}
    chunks = await stream(client, n=3, stream_options={"include_usage": True})
    texts = {0: "", 1: "", 2: ""}
    ends = []
    for chunk in chunks[:-1]:
        choice = chunk["choices"][0]
        assert choice["index"] not in ends
        texts[choice["index"]] += choice["delta"].get("content", "")
        if choice["finish_reason"]:
            ends.append(choice["index"])
    assert texts == {0: "ab", 1: "c", 2: ""}
    assert sorted(ends) == [0, 1, 2]
    assert chunks[-1]["usage"]["prompt_tokens"] == 9
    assert chunks[-1]["usage"]["completion_tokens"] == 3


async def test_usage_counts_each_prompt_once_and_each_choice(client: httpx.AsyncClient) -> None:
    body = (await client.post(TEXT, json={"prompt": ["a", "b"], "n": 2})).json()
    assert [c["index"] for c in body["choices"]] == [0, 1, 2, 3]
    assert body["usage"]["prompt_tokens"] == 18
    assert body["usage"]["completion_tokens"] == 12


async def test_chat_logprobs(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.answer = ["Hi", "never"]
    body = (await client.post(CHAT, json={**HELLO, "logprobs": True, "top_logprobs": 2})).json()
    first, second = body["choices"][0]["logprobs"]["content"]
    assert (first["token"], first["logprob"], first["bytes"]) == ("Hi", -0.5, [72, 105])
    assert [t["logprob"] for t in first["top_logprobs"]] == [-0.5, -1.0]
    assert second["logprob"] == -9999.0
    chunks = await stream(client, logprobs=True)
    streamed = [c["choices"][0]["logprobs"] for c in chunks if c["choices"][0]["logprobs"]]
    assert [x["content"][0]["token"] for x in streamed] == ["Hi", "never"]


async def test_text_logprobs(client: httpx.AsyncClient) -> None:
    body = (await client.post(TEXT, json={"prompt": "a", "logprobs": 1})).json()
    whole = body["choices"][0]["logprobs"]
    assert whole["tokens"] == ["Hello", ",", " world"]
    assert whole["text_offset"] == [0, 5, 6]
    assert whole["top_logprobs"][0] == {"Hello": -0.5}
    chunks = await stream(client, TEXT, logprobs=1)
    streamed = [c["choices"][0]["logprobs"] for c in chunks if c["choices"][0]["logprobs"]]
    assert [x["text_offset"] for x in streamed] == [[0], [5], [6]]


class Tokens(FakeEngine):
    """An answer of exactly these tokens: (piece, what of it is text at that moment)."""

    tokens: tuple[tuple[bytes, str], ...] = ()

    async def generate(self, request: Request) -> Any:
        yield Accepted(request.id, 1, 0)
        for i, (piece, text) in enumerate(self.tokens):
            yield Delta(request.id, (i,), text, (TokenLogprob(i, piece, -0.5),))
        yield Finished(request.id, "stop", usage=Usage(1, 0, len(self.tokens)))


@pytest.fixture
async def tokens_client() -> AsyncIterator[tuple[Tokens, httpx.AsyncClient]]:
    engine = Tokens()
    transport = httpx.ASGITransport(create_app(engine, ServerSettings()))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield engine, client


async def test_an_empty_answer_has_the_logprobs_that_were_asked_for(
    tokens_client: tuple[Tokens, httpx.AsyncClient],
) -> None:
    _, client = tokens_client
    chat = (await client.post(CHAT, json={**HELLO, "logprobs": True})).json()
    assert chat["choices"][0]["logprobs"] == {"content": [], "refusal": None}
    text = (await client.post(TEXT, json={"prompt": "a", "logprobs": 0})).json()
    assert text["choices"][0]["logprobs"]["tokens"] == []
    plain = (await client.post(CHAT, json=HELLO)).json()
    assert plain["choices"][0]["logprobs"] is None


async def test_text_offsets_are_places_in_the_text(
    tokens_client: tuple[Tokens, httpx.AsyncClient],
) -> None:
    """Control tokens are not part of it, and half a character is not yet."""
    engine, client = tokens_client
    engine.tokens = ((b"<|x|>", ""), (b"Hi", "Hi"), (b"\xc3", ""), (b"\xa9", "é"), (b"!", "!"))
    wanted = [0, 0, 2, 2, 3]
    body = (await client.post(TEXT, json={"prompt": "a", "logprobs": 0})).json()
    assert body["choices"][0]["logprobs"]["text_offset"] == wanted
    chunks = await stream(client, TEXT, logprobs=0)
    streamed = [c["choices"][0]["logprobs"] for c in chunks if c["choices"][0]["logprobs"]]
    assert [offset for x in streamed for offset in x["text_offset"]] == wanted


def test_text_offsets_of_several_tokens_at_once() -> None:
    tokens = [TokenLogprob(i, piece, 0.0) for i, piece in enumerate((b"<|x|>", b"Hi", b"!"))]
    assert text_offsets(tokens, "Hi!", 3) == [3, 3, 5]


# Errors -----------------------------------------------------------------------------------------

REFUSALS = [
    (ContextExceeded("Too long.", n_prompt_tokens=2000, n_ctx=1024), 400),
    (BadConstraint("No such schema.", param="response_format"), 400),
    (BadTemplate("The template refused."), 400),
    (QueueFull("Full.", queue_limit=256, retry_after_s=7), 503),
    (NotReady("Loading."), 503),
    (EngineFailed("Died thrice."), 503),
    (OknoError("Odd."), 500),
]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(("error", "status"), REFUSALS, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("n", [1, 3])
async def test_an_error_before_the_first_token_is_a_real_status(
    client: httpx.AsyncClient,
    engine: FakeEngine,
    error: OknoError,
    status: int,
    streamed: bool,
    n: int,
) -> None:
    engine.refuse = error
    answer = await client.post(CHAT, json={**HELLO, "stream": streamed, "n": n})
    assert answer.status_code == status
    body = answer.json()["error"]
    assert body["message"] == error.message
    assert body.items() >= error.info.details.items()
    assert ("retry-after" in answer.headers) == (status == 503)
    assert engine.open == set()


async def test_a_prompt_beyond_the_window_says_both_numbers(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.refuse = ContextExceeded("Too long.", n_prompt_tokens=2000, n_ctx=1024)
    error = (await client.post(CHAT, json=HELLO)).json()["error"]
    assert error["type"] == "exceed_context_size_error"
    assert error["code"] == "context_length_exceeded"
    assert (error["n_prompt_tokens"], error["n_ctx"]) == (2000, 1024)


@pytest.mark.parametrize(
    ("path", "fields", "core", "wire"),
    [
        (CHAT, {**HELLO, "max_completion_tokens": 5}, "max_tokens", "max_completion_tokens"),
        (CHAT, HELLO, "prompt", "messages"),
        (TEXT, {"prompt": "a"}, "prompt", "prompt"),
        (TEXT, {"prompt": "a", "guided_regex": "a"}, "response_format", "guided_regex"),
        (CHAT, {**HELLO, "guided_json": {}}, "response_format", "guided_json"),
        (CHAT, {**HELLO, "logit_bias": {"5": 1}}, "logit_bias", "logit_bias"),
    ],
)
async def test_the_engines_refusal_names_the_field_as_the_client_did(
    client: httpx.AsyncClient, engine: FakeEngine, path: str, fields: Any, core: str, wire: str
) -> None:
    engine.refuse = BadConstraint("It cannot be honoured.", param=core)
    answer = await client.post(path, json=fields)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == wire


@pytest.mark.parametrize("n", [1, 2])
async def test_a_constraint_given_up_midway_names_the_field_as_the_client_did(
    client: httpx.AsyncClient, engine: FakeEngine, n: int
) -> None:
    engine.fail = BadConstraint("It became too large.", param="response_format")
    chunks = await stream(client, n=n, guided_regex="a+")
    assert chunks[-1]["error"]["param"] == "guided_regex"
    assert chunks[-1]["error"]["code"] == "invalid_constraint"
    answer = await client.post(CHAT, json={**HELLO, "n": n, "guided_regex": "a+"})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "guided_regex"


async def test_a_full_queue_says_when_to_come_back(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.refuse = QueueFull("Full.", queue_limit=256, retry_after_s=6.2)
    assert (await client.post(CHAT, json=HELLO)).headers["retry-after"] == "7"


async def test_when_one_choice_is_refused_the_others_are_cancelled(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    class SecondRefused(FakeEngine):
        def generate(self, request: Request) -> Any:
            if request.id.endswith("-1"):
                return refusing()
            return super().generate(request)

    async def refusing() -> Any:
        raise QueueFull("Full.")
        yield

    other = SecondRefused()
    transport = httpx.ASGITransport(create_app(other, ServerSettings()))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as found:
        answer = await found.post(CHAT, json={**HELLO, "n": 3})
    assert answer.status_code == 503
    assert len(other.cancelled) == 2
    assert other.open == set()


@pytest.mark.parametrize("n", [1, 2])
async def test_an_error_in_the_stream_is_its_one_end(
    client: httpx.AsyncClient, engine: FakeEngine, n: int
) -> None:
    engine.fail = EngineFailed("Died thrice.")
    chunks = await stream(client, n=n, stream_options={"include_usage": True})
    assert [c for c in chunks if "error" in c] == [chunks[-1]]
    assert chunks[-1]["error"]["code"] == "engine_failed"
    assert all(c["choices"][0]["finish_reason"] is None for c in chunks[:-1])
    assert engine.open == set()


async def test_an_error_in_an_unstreamed_answer_is_a_status(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.fail = EngineFailed("Died thrice.")
    answer = await client.post(CHAT, json=HELLO)
    assert answer.status_code == 503
    assert answer.json()["error"]["message"] == "Died thrice."


class Scripted(FakeEngine):
    """Yields exactly these events."""

    events: tuple[Event, ...] = ()

    async def generate(self, request: Request) -> Any:
        for event in self.events:
            yield event


@pytest.mark.parametrize(
    "events",
    [
        (Accepted("x", 1, 0), Delta("x", (1,), "a")),
        (Accepted("x", 1, 0), Failed("x", ErrorInfo("engine_failed", "Died."))),
    ],
)
async def test_a_stream_always_has_an_end(events: tuple[Event, ...]) -> None:
    engine = Scripted()
    engine.events = events
    transport = httpx.ASGITransport(create_app(engine, ServerSettings()))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        chunks = await stream(client)
    assert chunks[-1]["error"]["code"] == "engine_failed"


@pytest.mark.parametrize("events", [(), (Failed("x", ErrorInfo("engine_failed", "Died.")),)])
async def test_an_engine_that_accepts_nothing_is_a_503(events: tuple[Event, ...]) -> None:
    engine = Scripted()
    engine.events = events
    transport = httpx.ASGITransport(create_app(engine, ServerSettings()))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        assert (await client.post(CHAT, json=HELLO)).status_code == 503


async def test_a_bug_shows_no_stack_trace(
    client: httpx.AsyncClient, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken() -> None:
        raise RuntimeError("secret internals")

    monkeypatch.setattr(engine, "inspect", broken)
    answer = await client.get("/slots")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert answer.json()["error"]["type"] == "server_error"


# Waiting ----------------------------------------------------------------------------------------


async def test_the_queue_position_travels_with_the_headers(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.open.add("somebody-else")
    answer = await client.post(CHAT, json=HELLO)
    assert answer.headers["okno-queue-position"] == "1"


async def test_a_silent_stream_gets_keep_alive_comments(engine: FakeEngine) -> None:
    engine.step.clear()
    app = create_app(engine, ServerSettings(keep_alive_s=0.001))
    sent: list[bytes] = []
    body = json.dumps({**HELLO, "stream": True}).encode()
    waiting = asyncio.Event()
    inbox = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if not inbox:
            await waiting.wait()
        return inbox.pop()

    async def send(message: dict[str, Any]) -> None:
        sent.append(message.get("body", b""))
        if sent.count(b": keep-alive\n\n") == 3:
            engine.step.set()

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope = {
        "type": "http",
        "method": "POST",
        "path": CHAT,
        "headers": headers,
        "query_string": b"",
    }
    await app(scope, receive, send)  # type: ignore[arg-type]
    text = b"".join(sent).decode()
    assert text.count(": keep-alive\n\n") >= 3
    assert text.endswith("data: [DONE]\n\n")
    assert text.index("Hello") > text.rindex(": keep-alive")


async def test_nothing_runs_while_the_model_loads(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.current = replace(engine.current, state="loading", facts=None, window=None, memory=None)
    engine.refuse = NotReady("The model is loading (40 %).", retry_after_s=1)
    answer = await client.post(CHAT, json=HELLO)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
