"""The official client against a real socket: sync and async, streaming and not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypeVar

import openai
import pytest

from okno.core.errors import ContextExceeded, EngineFailed
from tests.server.conftest import Start
from tests.server.fake_engine import FakeEngine

T = TypeVar("T")
TURNS: Any = [{"role": "user", "content": "hi"}]


async def in_thread(work: Callable[[], T]) -> T:
    return await asyncio.to_thread(work)


@pytest.fixture
async def url(start: Start) -> str:
    return f"{await start(api_key='secret')}/v1"


@pytest.fixture
def sync(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url, api_key="secret", max_retries=0) as client:
        yield client


@pytest.fixture
async def client(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    # Closed in its own loop: one left to the collector closes itself in some later test's loop.
    async with openai.AsyncOpenAI(base_url=url, api_key="secret", max_retries=0) as client:
        yield client


async def test_models(sync: openai.OpenAI, client: openai.AsyncOpenAI) -> None:
    assert [m.id for m in await in_thread(lambda: list(sync.models.list()))] == ["fake"]
    assert (await client.models.retrieve("fake")).owned_by == "okno"
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("other")


async def test_chat(sync: openai.OpenAI, client: openai.AsyncOpenAI) -> None:
    def ask() -> Any:
        return sync.chat.completions.create(
            model="fake", messages=TURNS, n=2, logprobs=True, top_logprobs=2, seed=1, stop=["x"],
            temperature=0, max_completion_tokens=5, logit_bias={"5": 1}, user="anna",
        )  # fmt: skip

    answer = await in_thread(ask)
    assert [c.message.content for c in answer.choices] == ["Hello, world"] * 2
    assert answer.usage.prompt_tokens_details.cached_tokens == 4
    assert answer.choices[0].logprobs.content[0].top_logprobs[1].logprob == -1
    other = await client.chat.completions.create(model="fake", messages=TURNS)
    assert other.choices[0].finish_reason == "stop"


async def test_chat_stream(sync: openai.OpenAI, client: openai.AsyncOpenAI) -> None:
    def ask() -> list[Any]:
        return list(
            sync.chat.completions.create(
                model="fake", messages=TURNS, stream=True, stream_options={"include_usage": True}
            )
        )

    chunks = await in_thread(ask)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "Hello, world"
    assert chunks[-1].usage.completion_tokens == 3
    stream = await client.chat.completions.create(model="fake", messages=TURNS, stream=True)
    assert [c.choices[0].finish_reason async for c in stream][-1] == "stop"


async def test_structured_output(client: openai.AsyncOpenAI, engine: FakeEngine) -> None:
    from pydantic import BaseModel

    class Person(BaseModel):
        name: str

    engine.answer = ['{"name":', '"Anna"}']
    answer = await client.chat.completions.parse(
        model="fake", messages=TURNS, response_format=Person
    )
    assert answer.choices[0].message.parsed == Person(name="Anna")
    constraint = engine.seen[0].constraint
    assert constraint is not None
    assert '"name"' in constraint.source


async def test_completions(sync: openai.OpenAI, client: openai.AsyncOpenAI) -> None:
    answer = await in_thread(
        lambda: sync.completions.create(model="fake", prompt=["a", "b"], echo=True)
    )
    assert [c.text for c in answer.choices] == ["aHello, world", "bHello, world"]
    stream = await client.completions.create(model="fake", prompt="a", stream=True, logprobs=1)
    chunks = [c.choices[0] async for c in stream]
    assert "".join(c.text for c in chunks) == "Hello, world"
    assert chunks[0].logprobs is not None
    assert chunks[0].logprobs.tokens == ["Hello"]


async def test_embeddings(sync: openai.OpenAI, client: openai.AsyncOpenAI) -> None:
    coded = await in_thread(lambda: sync.embeddings.create(model="fake", input=["a", "b"]))
    plain = await client.embeddings.create(model="fake", input="a", encoding_format="float")
    assert [list(d.embedding) for d in coded.data] == [[0.5, 0.5, 0, -0.5], [0.5, 0.5, 1, -0.5]]
    assert plain.data[0].embedding == [0.5, 0.5, 0, -0.5]


async def test_errors_have_their_own_classes(
    client: openai.AsyncOpenAI, engine: FakeEngine, url: str
) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        await client.chat.completions.create(model="fake", messages=TURNS, n=1000)
    assert bad.value.param == "n"
    with pytest.raises(openai.NotFoundError):
        await client.chat.completions.create(model="other", messages=TURNS)
    async with openai.AsyncOpenAI(base_url=url, api_key="wrong") as stranger:
        with pytest.raises(openai.AuthenticationError):
            await stranger.models.list()
    engine.refuse = ContextExceeded("Too long.", n_prompt_tokens=2000, n_ctx=1024)
    with pytest.raises(openai.BadRequestError) as long:
        await client.chat.completions.create(model="fake", messages=TURNS, stream=True)
    assert long.value.code == "context_length_exceeded"


async def test_an_error_in_the_stream_is_raised(
    client: openai.AsyncOpenAI, engine: FakeEngine
) -> None:
    engine.fail = EngineFailed("Died thrice.")
    stream = await client.chat.completions.create(model="fake", messages=TURNS, stream=True)
    with pytest.raises(openai.APIError, match="Died thrice"):
        async for _ in stream:
            pass
