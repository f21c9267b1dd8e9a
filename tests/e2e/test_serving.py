"""The served demo model, as its users reach it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.e2e.server import RealServer, balanced, serving

PROMPTS = [
    "What is okno?",
    "Привет! Кто ты?",
    "Count from 1 to 20",
    "What is batch size?",
    "Что такое окно контекста?",
    "Sort: 5, 3, 9, 1",
    "Repeat: apple, pear, plum, fig",
    "Thanks!",
]


@pytest.fixture(scope="module")
def server() -> Iterator[RealServer]:
    with serving("--model", "demo", "--batch-size", "8", "--ctx", "512") as running:
        yield running


@pytest.fixture
def client(server: RealServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
async def aclient(server: RealServer) -> AsyncIterator[openai.AsyncOpenAI]:
    # Closed in its own loop: one left to the collector closes itself in some later test's loop.
    async with openai.AsyncOpenAI(
        base_url=f"{server.url}/v1", api_key="none", max_retries=0
    ) as client:
        yield client


async def answers(client: openai.AsyncOpenAI, *, at_once: bool) -> list[str]:
    async def one(prompt: str) -> str:
        reply = await client.chat.completions.create(
            model="demo", messages=[{"role": "user", "content": prompt}], temperature=0,
            max_tokens=60,
        )  # fmt: skip
        return reply.choices[0].message.content or ""

    if at_once:
        return list(await asyncio.gather(*map(one, PROMPTS)))
    return [await one(prompt) for prompt in PROMPTS]


async def test_eight_at_once_give_the_texts_of_each_alone(aclient: openai.AsyncOpenAI) -> None:
    alone = await answers(aclient, at_once=False)
    assert all(alone)
    assert await answers(aclient, at_once=True) == alone


async def test_batch_size_decides_whether_answers_overlap(server: RealServer) -> None:
    """batch 1: one after the other, each stream is over before the next begins. batch 8: all
    have begun before the first is over."""
    assert await _overlap(server.url) == 8
    with serving("--model", "demo", "--batch-size", "1", "--ctx", "512") as single:
        assert await _overlap(single.url) == 1


async def _overlap(url: str) -> int:
    """The largest number of streams between their first and last token at one moment."""
    spans: list[tuple[int, int]] = []
    clock = iter(range(1_000_000))

    async def stream(client: httpx.AsyncClient, k: int) -> None:
        moments = []
        body = {"messages": [{"role": "user", "content": f"Hello {k}"}], "stream": True,
                "temperature": 0, "ignore_eos": True, "max_tokens": 80}  # fmt: skip
        async with client.stream("POST", f"{url}/v1/chat/completions", json=body) as reply:
            async for line in reply.aiter_lines():
                if line.startswith("data: {") and '"content":"' in line and _content(line):
                    moments.append(next(clock))
        spans.append((moments[0], moments[-1]))

    async with httpx.AsyncClient(timeout=60) as client:
        await asyncio.gather(*(stream(client, k) for k in range(8)))
    return max(sum(a <= begin <= b for a, b in spans) for begin, _ in spans)


def _content(line: str) -> str:
    return str(json.loads(line[6:])["choices"][0]["delta"].get("content") or "")


def test_the_users_own_command_line_works() -> None:
    with serving(
        "--model", "demo", "--batch_size", "1", "--ctx", "1024", "--load-in-8bit",
        program=("server.py",),
    ) as server:  # fmt: skip
        assert "--load-in-8bit" in server.output
        assert "batch 1 × ctx 1,024" in server.output
        reply = httpx.post(
            f"{server.url}/v1/chat/completions",
            json={"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5},
        )
        assert reply.json()["choices"][0]["message"]["content"]
        assert server.stop() == 0


def test_sync_client_chat(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="demo", messages=[{"role": "user", "content": "What is okno?"}], temperature=0
    )
    usage = reply.usage
    assert usage is not None
    assert reply.choices[0].finish_reason == "stop"
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_sync_client_stream_equals_the_whole_answer(client: openai.OpenAI) -> None:
    messages: list[ChatCompletionMessageParam] = [
        {"role": "user", "content": "Tell me about okno in detail"}
    ]
    whole = client.chat.completions.create(model="demo", messages=messages, temperature=0)
    stream = client.chat.completions.create(
        model="demo", messages=messages, temperature=0, stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    details = chunks[-1].usage.prompt_tokens_details
    assert details is not None
    assert details.cached_tokens == whole.usage.prompt_tokens - 1


async def test_async_client_stream(aclient: openai.AsyncOpenAI) -> None:
    stream = await aclient.chat.completions.create(
        model="demo", messages=[{"role": "user", "content": "Привет"}], stream=True, max_tokens=9
    )
    pieces = [c.choices[0].delta.content async for c in stream if c.choices]
    assert "".join(p or "" for p in pieces)


def test_completions_and_logprobs(client: openai.OpenAI) -> None:
    reply = client.completions.create(
        model="demo", prompt="<|bos|><|user|>Hello<|end|><|assistant|>", max_tokens=6,
        temperature=0, logprobs=3,
    )  # fmt: skip
    choice = reply.choices[0]
    assert choice.logprobs is not None
    assert choice.logprobs.tokens is not None
    assert "".join(choice.logprobs.tokens) == choice.text
    assert choice.logprobs.token_logprobs is not None
    assert all(p is not None and p <= 0 for p in choice.logprobs.token_logprobs)


def test_several_choices_differ_by_seed_and_repeat_by_seed(client: openai.OpenAI) -> None:
    def ask() -> list[str | None]:
        reply = client.chat.completions.create(
            model="demo", messages=[{"role": "user", "content": "Hello"}], n=4, seed=11,
            temperature=2.0, max_tokens=12,
        )  # fmt: skip
        return [choice.message.content for choice in reply.choices]

    first = ask()
    assert len(set(first)) > 1
    assert ask() == first


def test_structured_output_is_valid(client: openai.OpenAI) -> None:
    schema = {
        "type": "object", "required": ["name", "age"], "additionalProperties": False,
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
        },
    }  # fmt: skip
    reply = client.chat.completions.create(
        model="demo", messages=[{"role": "user", "content": "Who?"}], temperature=1, seed=3,
        response_format={
            "type": "json_schema", "json_schema": {"name": "person", "schema": schema}
        },
    )  # fmt: skip
    value = json.loads(reply.choices[0].message.content or "")
    assert set(value) == {"name", "age"}
    assert 0 <= value["age"] <= 150


def test_a_regex_holds(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="demo", messages=[{"role": "user", "content": "A number?"}],
        extra_body={"regex": "[0-9]{4}-[0-9]{2}"},
    )  # fmt: skip
    content = reply.choices[0].message.content or ""
    assert len(content) == 7
    assert content[4] == "-"


def test_what_cannot_be_honoured_is_refused_by_name(client: openai.OpenAI) -> None:
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "x"}]
    for extra, param in (
        ({"temperature": -1}, "temperature"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"n": 1_000_000}, "n"),
        ({"regex": "(a+)+b"}, "regex"),
        ({"max_tokens": -1}, "max_tokens"),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model="demo", messages=messages, extra_body=extra)
        assert caught.value.param == param


def test_a_prompt_beyond_the_window_gets_both_numbers(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model="demo", messages=[{"role": "user", "content": "word " * 2000}]
        )
    body = caught.value.body
    assert isinstance(body, dict)
    assert body["n_ctx"] == 512
    assert body["n_prompt_tokens"] > 512


def test_embeddings_of_a_generative_model_say_what_they_are(
    server: RealServer, client: openai.OpenAI
) -> None:
    reply = client.embeddings.create(model="demo", input=["cat", "cat", "window"])
    first, second, third = (row.embedding for row in reply.data)
    assert first == second != third
    assert abs(sum(x * x for x in first) - 1) < 1e-3
    raw = httpx.post(f"{server.url}/v1/embeddings", json={"input": "cat"})
    assert "not an embedding model" in raw.text + str(raw.headers)


def test_tokenize_and_back(server: RealServer) -> None:
    text = "Окно, window 🪟"
    tokens = httpx.post(f"{server.url}/tokenize", json={"content": text}).json()["tokens"]
    back = httpx.post(f"{server.url}/detokenize", json={"tokens": tokens}).json()["content"]
    assert back == text


def test_multibyte_text_is_valid_at_every_cut(client: openai.OpenAI) -> None:
    for cut in range(1, 24):
        reply = client.chat.completions.create(
            model="demo", messages=[{"role": "user", "content": "Повтори: окно 🪟 и ёж"}],
            temperature=0, max_tokens=cut,
        )  # fmt: skip
        content = reply.choices[0].message.content or ""
        content.encode()
        assert content.count("\ufffd") <= 1


async def test_a_thousand_clients_that_leave_free_everything(server: RealServer) -> None:
    """In the queue, in prefill and in decode: sockets closed without a word."""

    async def leave(k: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        content = ("word " * 300) if k % 3 else "Hello"
        body = json.dumps({"messages": [{"role": "user", "content": content}], "stream": True,
                           "ignore_eos": True}).encode()  # fmt: skip
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        await writer.drain()
        if k % 2:
            await reader.readline()
        writer.close()

    for start in range(0, 1000, 100):
        await asyncio.gather(*(leave(start + k) for k in range(100)))
    deadline = time.monotonic() + 60
    async with httpx.AsyncClient() as client:
        while (slots := (await client.get(f"{server.url}/slots")).json()) and (
            slots["waiting"] or any(s["is_processing"] for s in slots["slots"])
        ):
            assert time.monotonic() < deadline, slots
        reply = await client.post(
            f"{server.url}/v1/chat/completions",
            json={"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4},
        )
    assert reply.status_code == 200
    counters = server.counters()
    assert counters["in_flight"] == 0
    assert balanced(counters)
