"""One request against a small real server: what is seen of good answers, and of bad ones."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from okno.bench.client import Address
from okno.bench.load_client import Answer, LoadRequest, Target, ask, brings_text, error_message
from tests.bench.openai_stub import Stub, serving
from tests.bench.test_visitors import closed_address


def tick() -> Any:
    """A clock that goes on by 1 s whenever it is read."""
    return itertools.count(0).__next__


async def answer_of(
    stub: Stub, request: LoadRequest | None = None, path: str = "/v1/completions", **more: Any
) -> Answer:
    with serving(stub) as address:
        target = Target(address, path, "stub", more.pop("api_key", None))
        return await ask(target, request or LoadRequest("x", 3), tick(), **more)


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
async def test_a_whole_answer_has_the_time_of_every_text(path: str, newline: bytes) -> None:
    answer = await answer_of(Stub(newline=newline), path=path, due_s=-2.0)
    assert answer.problem is None
    assert answer.chunks_s == (1, 2, 3)
    assert answer.ttft_s == 3.0  # from when it was due, not from when it was sent
    assert answer.gaps_s == (1, 1)
    assert (answer.sent_s, answer.ended_s) == (0, 4)
    assert (answer.prompt_tokens, answer.tokens, answer.finish_reason) == (11, 3, "length")


async def test_usage_counts_tokens_rather_than_events() -> None:
    answer = await answer_of(Stub(completion_tokens=8), LoadRequest("x", 8))
    assert (len(answer.chunks_s), answer.tokens) == (3, 8)


async def test_without_usage_events_are_counted() -> None:
    answer = await answer_of(Stub(usage=False))
    assert (answer.completion_tokens, answer.tokens, answer.problem) == (None, 3, None)


async def test_what_is_sent_is_what_was_asked() -> None:
    stub = Stub()
    await answer_of(stub, LoadRequest("hi", 3, client="me", ignore_eos=True), api_key="secret")
    await answer_of(other := Stub(), LoadRequest("hi", 3), "/v1/chat/completions")
    assert stub.seen == [{
        "prompt": "hi", "max_tokens": 3, "temperature": 0, "stream": True, "model": "stub",
        "stream_options": {"include_usage": True}, "user": "me", "ignore_eos": True,
    }]  # fmt: skip
    assert stub.keys == ["Bearer secret"]
    assert other.seen[0]["messages"] == [{"role": "user", "content": "hi"}]
    assert other.keys == [None]
    assert not {"prompt", "user", "ignore_eos"} & other.seen[0].keys()


@pytest.mark.parametrize(
    ("stub", "kind", "words", "chunks"),
    [
        (Stub(status=503, error=b'{"error": {"message": "queue full"}}'), "refused",
         "503: queue full", 0),
        (Stub(status=400, error=b"plain"), "refused", "400: plain", 0),
        (Stub(ends="error"), "error", "out of cells", 3),
        (Stub(ends="cut"), "cut", "closed the connection", 3),
        (Stub(ends="silent"), "cut", "without a finish_reason", 3),
        (Stub(completion_tokens=2), "cut", "after 2 of 3 tokens", 3),
    ],
)  # fmt: skip
async def test_a_bad_answer_says_how_it_failed(
    stub: Stub, kind: str, words: str, chunks: int
) -> None:
    answer = await answer_of(stub)
    assert answer.problem is not None
    assert answer.problem.kind == kind
    assert words in answer.problem.text
    assert len(answer.chunks_s) == chunks


async def test_an_answer_may_stop_early_by_itself() -> None:
    answer = await answer_of(Stub(completion_tokens=2, finish_reason="stop"))
    assert answer.problem is None


async def test_where_nothing_listens_the_request_is_unreachable() -> None:
    answer = await ask(Target(closed_address(), "/v1/completions"), LoadRequest("x", 1), tick())
    assert answer.problem is not None
    assert answer.problem.kind == "unreachable"
    assert answer.ttft_s is None


async def test_an_answer_that_does_not_end_is_given_up() -> None:
    answer = await answer_of(Stub(ends="hold"), timeout_s=0.3)
    assert answer.problem is not None
    assert answer.problem.kind == "timeout"


async def test_a_server_that_speaks_no_http_is_a_problem_not_an_error() -> None:
    import asyncio

    async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n")
        writer.close()

    async with await asyncio.start_server(shout, "127.0.0.1", 0) as listening:
        address = Address(*listening.sockets[0].getsockname())
        answer = await ask(Target(address, "/v1/completions"), LoadRequest("x", 1), tick())
    assert answer.problem is not None


def test_reasoning_is_text_too_and_a_role_is_not() -> None:
    assert brings_text({"choices": [{"delta": {"reasoning_content": "so"}}]})
    assert not brings_text({"choices": [{"delta": {"role": "assistant", "content": ""}}]})
    assert not brings_text({"choices": [], "usage": {}})
    assert brings_text({"choices": [{"text": " "}]})


def test_every_kind_of_error_body_gives_a_sentence() -> None:
    assert error_message(b'{"error": {"message": "m"}}') == "m"
    assert error_message(b'{"error": "m"}') == "m"
    assert error_message(b'{"detail": "Not Found"}') == "Not Found"
    assert error_message(b"[1]") == "[1]"
    assert error_message(b"") == "no text"
