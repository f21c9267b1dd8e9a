"""Every field is honoured, ignored aloud, or refused by its name."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from okno.core.errors import BadRequest
from okno.core.request import Constraint, Message, Prompt
from okno.server.app import create_app
from okno.server.schemas import (
    IGNORED,
    REFUSED,
    ChatFields,
    CompletionFields,
    DetokenizeFields,
    EmbeddingFields,
    TemplateFields,
    TokenizeFields,
)
from okno.server.settings import ServerSettings
from tests.server.fake_engine import FakeEngine

CHAT = "/v1/chat/completions"
TURNS = [{"role": "user", "content": "hi"}]


async def post(client: httpx.AsyncClient, path: str = CHAT, **fields: Any) -> httpx.Response:
    base = {"messages": TURNS} if path == CHAT else {}
    return await client.post(path, json={**base, **fields})


async def refused(client: httpx.AsyncClient, path: str = CHAT, **fields: Any) -> dict[str, Any]:
    answer = await post(client, path, **fields)
    assert answer.status_code == 400, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert error["message"]
    assert error["type"]
    return error


async def test_every_sampling_field_reaches_the_engine(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    fields = {
        "temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "typical_p": 0.95,
        "repetition_penalty": 1.1, "frequency_penalty": 0.2, "presence_penalty": -0.2, "seed": 7,
    }  # fmt: skip
    answer = await post(
        client, **fields, repeat_last_n=32, logit_bias={"5": -100}, logprobs=True, top_logprobs=3
    )
    assert answer.status_code == 200, answer.text
    sampling = engine.seen[0].sampling
    assert {name: getattr(sampling, name) for name in fields} == fields
    assert sampling.penalty_last_n == 32
    assert sampling.logit_bias == {5: -100.0}
    assert sampling.logprobs == 3


async def test_every_stop_field_reaches_the_engine(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    await post(client, stop="END", max_tokens=5, ignore_eos=True, include_stop_str_in_output=True)
    await post(client, stop=["a", "b"], max_completion_tokens=6)
    first, second = (request.stop for request in engine.seen)
    assert (first.strings, first.max_tokens, first.ignore_eos, first.include_stop) == (
        ("END",), 5, True, True,
    )  # fmt: skip
    assert (second.strings, second.max_tokens, second.ignore_eos) == (("a", "b"), 6, False)


async def test_null_means_as_if_left_out(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    names = {*ChatFields.__struct_fields__, *IGNORED, *REFUSED} - {"messages"}
    answer = await post(client, **dict.fromkeys(names))
    assert answer.status_code == 200, answer.text
    assert engine.seen[0].sampling.temperature == 1.0
    assert engine.seen[0].stop.max_tokens is None


async def test_null_means_as_if_left_out_inside_and_elsewhere(client: httpx.AsyncClient) -> None:
    format = dict.fromkeys(("json_schema", "schema"))
    turn = {"role": "user", "content": "hi", **dict.fromkeys(("audio", "refusal", "tool_calls"))}
    answer = await post(
        client, messages=[turn], response_format={"type": "text", **format}, stream=True,
        stream_options={"include_usage": None, "include_obfuscation": None},
    )  # fmt: skip
    assert answer.status_code == 200, answer.text
    assert "okno-ignored" not in answer.headers
    for path, kind, needed in (
        ("/v1/completions", CompletionFields, {"prompt": "a"}),
        ("/v1/embeddings", EmbeddingFields, {"input": "a"}),
        ("/tokenize", TokenizeFields, {"content": "a"}),
        ("/detokenize", DetokenizeFields, {"tokens": [1]}),
        ("/apply-template", TemplateFields, {"messages": TURNS}),
    ):
        nulls = dict.fromkeys(kind.__struct_fields__)
        answer = await post(client, path, **{**nulls, **needed})
        assert answer.status_code == 200, (path, answer.text)


async def test_top_k_minus_one_is_off(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    await post(client, top_k=-1)
    assert engine.seen[0].sampling.top_k == 0


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_minus_one_for_no_limit_is_refused_with_what_to_do(
    client: httpx.AsyncClient, name: str
) -> None:
    error = await refused(client, **{name: -1})
    assert error["param"] == name
    assert error["message"].startswith(f"`{name}` is -1")
    assert "Leave it out to generate until the window is full" in error["message"]


@pytest.mark.parametrize(
    ("path", "fields", "message"),
    [
        (CHAT, {"top_k": -2}, "`top_k` is -2; allowed is 0 to 2,147,483,647."),
        (CHAT, {"temperature": 10.5}, "`temperature` is 10.5; allowed is 0 to 10."),
        (CHAT, {"top_p": 0}, "`top_p` is 0; allowed is above 0 to 1."),
        (CHAT, {"top_p": 1.0000001}, "`top_p` is 1.0000001; allowed is above 0 to 1."),
        (CHAT, {"n": 1000}, "`n` is 1,000; allowed is 1 to 128."),
        (
            CHAT,
            {"repeat_last_n": -2},
            "`repeat_last_n` is -2; allowed is -1 to 2,147,483,647.",
        ),
        (CHAT, {"repeat_penalty": 11}, "`repeat_penalty` is 11; allowed is above 0 to 10."),
        (
            CHAT,
            {"logprobs": True, "top_logprobs": 21},
            "`top_logprobs` is 21; allowed is 0 to 20.",
        ),
        ("/v1/completions", {"logprobs": 21}, "`logprobs` is 21; allowed is 0 to 20."),
        (
            CHAT,
            {"guided_regex": "a" * 70_000},
            "`guided_regex` has 70,000 characters; at most 65,536 are accepted.",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_a_refusal_says_the_clients_own_name_and_readable_numbers(
    client: httpx.AsyncClient, path: str, fields: dict[str, Any], message: str
) -> None:
    needed = {} if path == CHAT else {"prompt": "a"}
    error = await refused(client, path, **needed, **fields)
    assert error["message"] == message
    assert error["param"] == message.split("`")[1]


async def test_messages_become_turns(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    turns = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "name": "Anna", "content": parts},
        {"role": "assistant", "content": "The", "refusal": None, "tool_calls": []},
    ]  # fmt: skip
    answer = await post(client, messages=turns, continue_final_message=True)
    assert answer.status_code == 200, answer.text
    assert engine.seen[0].prompt == Prompt(
        messages=(
            Message("system", "be brief"),
            Message("user", "a\nb", "Anna"),
            Message("assistant", "The"),
        ),
        continue_last=True,
    )


@pytest.mark.parametrize(
    ("turn", "param"),
    [
        ({"role": "user"}, "messages[0].content"),
        ({"content": "x"}, "messages[0].role"),
        ({"role": "king", "content": "x"}, "messages[0].role"),
        ({"role": "tool", "content": "x"}, "messages[0].role"),
        ({"role": "user", "content": 5}, "messages[0].content"),
        ({"role": "user", "content": "x", "colour": 1}, "messages[0].colour"),
        ({"role": "assistant", "content": "x", "audio": {"id": "a"}}, "messages[0].audio"),
        ({"role": "assistant", "content": "x", "tool_calls": [{}]}, "messages[0].tool_calls"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]},
            "messages[0].content[0]",
        ),
        ({"role": "user", "content": [{"type": "input_audio"}]}, "messages[0].content[0]"),
    ],
)
async def test_a_wrong_message_is_named(
    client: httpx.AsyncClient, turn: dict[str, Any], param: str
) -> None:
    assert (await refused(client, messages=[turn]))["param"] == param


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, Constraint("json_object")),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "strict": True, "schema": {"type": "object"}},
                }
            },
            Constraint("json_schema", '{"type":"object"}'),
        ),
        (
            {"response_format": {"type": "json_object", "schema": {"type": "object"}}},
            Constraint("json_schema", '{"type":"object"}'),
        ),
        (
            {"response_format": {"type": "json_schema", "schema": {"type": "object"}}},
            Constraint("json_schema", '{"type":"object"}'),
        ),
        (
            {"response_format": {"type": "json_object", "schema": {}, "json_schema": None}},
            Constraint("json_object"),
        ),
        ({"response_format": {"type": "text", "schema": None}}, None),
        ({"guided_json": {"type": "object"}}, Constraint("json_schema", '{"type":"object"}')),
        ({"guided_json": '{"type":"array"}'}, Constraint("json_schema", '{"type":"array"}')),
        ({"regex": "a+"}, Constraint("regex", "a+")),
        ({"guided_regex": "a+"}, Constraint("regex", "a+")),
        ({"grammar": 'start: "x"'}, Constraint("grammar", 'start: "x"')),
        ({"guided_grammar": 'start: "x"'}, Constraint("grammar", 'start: "x"')),
    ],
)
async def test_constraints_reach_the_engine(
    client: httpx.AsyncClient, engine: FakeEngine, fields: Any, wanted: Constraint | None
) -> None:
    answer = await post(client, **fields)
    assert answer.status_code == 200, answer.text
    assert engine.seen[0].constraint == wanted


def nested(levels: int) -> Any:
    schema: Any = {}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 10**6}, "n"),
        ({"n": 0}, "n"),
        ({"n": 10**400}, "n"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_completion_tokens"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 1e300}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_k": 10**30}, "top_k"),
        ({"top_k": 10**400}, "top_k"),
        ({"repeat_last_n": -(10**400)}, "repeat_last_n"),
        ({"max_tokens": -(10**400)}, "max_tokens"),
        ({"top_k": 1.5}, "top_k"),
        ({"seed": 2**64}, "seed"),
        ({"seed": True}, "seed"),
        ({"repetition_penalty": 1.1, "repeat_penalty": 1.2}, "repeat_penalty"),
        ({"top_k": -2}, "top_k"),
        ({"logit_bias": {"5": 1e9}}, "logit_bias"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {str(10**30): 1}}, "logit_bias"),
        ({"logit_bias": {str(i): 1 for i in range(2000)}}, "logit_bias"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"stop": [""]}, "stop"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"stop": ["x" * 1000]}, "stop"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"functions": [{}]}, "functions"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"continue_final_message": True}, "continue_final_message"),
        ({"add_generation_prompt": False}, "add_generation_prompt"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": [1]}}},
            "response_format",
        ),
        ({"guided_json": json.dumps(nested(80))}, "guided_json"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {}, "x": 1}}},
            "response_format.json_schema.x",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {}, "schema": {"x-a": 1}}},
            "response_format.schema",
        ),
        ({"response_format": {"type": "json_object", "bogus": 1}}, "response_format.bogus"),
        ({"response_format": {"type": "text", "schema": {}}}, "response_format.schema"),
        ({"response_format": {"type": "text", "json_schema": {}}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_object", "json_schema": {"schema": {}}}},
            "response_format.json_schema",
        ),
        ({"stream": True, "stream_options": {"foo": 1}}, "stream_options.foo"),
        (
            {"stream": True, "stream_options": {"continuous_usage_stats": True}},
            "stream_options.continuous_usage_stats",
        ),
        ({"guided_json": {"x": "y" * 70_000}}, "guided_json"),
        ({"guided_json": "{"}, "guided_json"),
        ({"regex": "x" * 70_000}, "regex"),
        ({"regex": "a", "response_format": {"type": "json_object"}}, "regex"),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_a_wrong_value_is_refused_by_name(
    client: httpx.AsyncClient, engine: FakeEngine, fields: dict[str, Any], param: str
) -> None:
    assert (await refused(client, **fields))["param"] == param
    assert engine.seen == []


async def test_parts_of_a_message_without_effect_are_listed(client: httpx.AsyncClient) -> None:
    turn = {"role": "assistant", "content": "x"}
    given = {"reasoning_content": "hm", "refusal": "no", "annotations": [{}]}
    nothing = {"reasoning_content": "", "refusal": None, "annotations": []}
    turns = [{**turn, **given}, {**turn, **given}]
    answer = await post(client, messages=turns)
    listed = "messages[].reasoning_content, messages[].refusal, messages[].annotations"
    assert answer.headers["okno-ignored"] == listed
    template = await post(client, "/apply-template", messages=turns)
    assert template.headers["okno-ignored"] == listed
    assert "okno-ignored" not in (await post(client, messages=[{**turn, **nothing}])).headers


async def test_padding_of_a_stream_is_listed_as_ignored(client: httpx.AsyncClient) -> None:
    answer = await post(client, stream=True, stream_options={"include_obfuscation": False})
    assert answer.headers["okno-ignored"] == "stream_options.include_obfuscation"


async def test_harmless_fields_are_accepted_and_listed(client: httpx.AsyncClient) -> None:
    answer = await post(client, store=True, metadata={"a": "b"}, service_tier=None)
    assert answer.status_code == 200
    assert answer.headers["okno-ignored"] == "metadata, store"
    assert "okno-ignored" not in (await post(client)).headers


@pytest.mark.parametrize("name", IGNORED)
async def test_every_harmless_field_is_accepted(client: httpx.AsyncClient, name: str) -> None:
    answer = await post(client, **{name: "x"})
    assert answer.headers["okno-ignored"] == name


@pytest.mark.parametrize("name", REFUSED)
async def test_every_field_that_would_change_the_result_is_refused(
    client: httpx.AsyncClient, name: str
) -> None:
    error = await refused(client, **{name: 1})
    assert error["param"] == name
    assert REFUSED[name] in error["message"]


def test_no_field_has_two_fates() -> None:
    for fields in (ChatFields, CompletionFields, EmbeddingFields):
        assert not set(fields.__struct_fields__) & set(IGNORED)
    assert not set(REFUSED) & (set(IGNORED) | set(ChatFields.__struct_fields__))


async def test_a_misspelt_field_is_refused_with_the_nearest(client: httpx.AsyncClient) -> None:
    error = await refused(client, temprature=0.5)
    assert error["param"] == "temprature"
    assert "`temperature`" in error["message"]
    assert "nearest" not in (await refused(client, penalty=1))["message"]


async def test_an_unknown_model_is_a_404_that_names_the_served_ones(
    client: httpx.AsyncClient,
) -> None:
    answer = await post(client, model="gpt-9")
    assert answer.status_code == 404
    error = answer.json()["error"]
    assert error["code"] == "model_not_found"
    assert "`fake`" in error["message"]
    assert "`nick`" in error["message"]


@pytest.mark.parametrize("name", ["fake", "nick", "fake-1m", "fake-1m.Q8_0", "default", "", None])
async def test_every_name_of_the_model_is_accepted(
    client: httpx.AsyncClient, name: str | None
) -> None:
    assert (await post(client, model=name)).json()["model"] == "fake"


async def test_n_choices_are_n_requests_with_their_own_ids_and_seeds(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    answer = await post(client, n=3, seed=2**64 - 2)
    ids = [request.id for request in engine.seen]
    assert ids == [f"{answer.json()['id']}-{k}" for k in range(3)]
    assert [r.sampling.seed for r in engine.seen] == [2**64 - 2, 2**64 - 1, 0]


async def test_a_missing_seed_is_drawn_here_so_that_a_replay_repeats_it(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    await post(client)
    await post(client)
    seeds = [r.sampling.seed for r in engine.seen]
    assert None not in seeds
    assert seeds[0] != seeds[1]


async def test_the_user_is_the_fairness_key_unless_there_is_an_api_key(engine: FakeEngine) -> None:
    async def key(settings: ServerSettings, **fields: Any) -> str:
        transport = httpx.ASGITransport(create_app(engine, settings), client=("10.0.0.9", 1))
        headers = {"x-api-key": settings.api_key or ""}
        async with httpx.AsyncClient(
            transport=transport, base_url="http://localhost", headers=headers
        ) as client:
            await post(client, **fields)
        return engine.seen[-1].client

    assert await key(ServerSettings(), user="anna") == "anna"
    assert await key(ServerSettings()) == "10.0.0.9"
    assert await key(ServerSettings(api_key="k"), user="anna") == "10.0.0.9"


# Completions ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        ("a", [Prompt(text="a")]),
        (["a", "b"], [Prompt(text="a"), Prompt(text="b")]),
        ([1, 2], [Prompt(tokens=(1, 2))]),
        ([[1], [2]], [Prompt(tokens=(1,)), Prompt(tokens=(2,))]),
        ([[1], "b"], [Prompt(tokens=(1,)), Prompt(text="b")]),
    ],
)
async def test_all_forms_of_a_prompt(
    client: httpx.AsyncClient, engine: FakeEngine, prompt: Any, wanted: list[Prompt]
) -> None:
    answer = await post(client, "/v1/completions", prompt=prompt)
    assert [request.prompt for request in engine.seen] == wanted
    assert len(answer.json()["choices"]) == len(wanted)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [2**40]}, "prompt"),
        ({"prompt": ["a"] * 129}, "prompt"),
        ({"prompt": ["a"] * 65, "n": 2}, "n"),
        ({"prompt": "a", "suffix": "b"}, "suffix"),
        ({"prompt": "a", "best_of": 3}, "best_of"),
        ({"prompt": "a", "echo": True, "logprobs": 1}, "echo"),
        ({"prompt": "a", "logprobs": 30}, "logprobs"),
        ({"prompt": "a", "messages": []}, "messages"),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_a_wrong_completion_is_refused_by_name(
    client: httpx.AsyncClient, fields: dict[str, Any], param: str
) -> None:
    assert (await refused(client, "/v1/completions", **fields))["param"] == param


async def test_echo_puts_the_prompt_before_the_answer(client: httpx.AsyncClient) -> None:
    for prompt in ("ab", [97, 98]):
        answer = await post(client, "/v1/completions", prompt=prompt, echo=True)
        assert answer.json()["choices"][0]["text"] == "abHello, world"


async def test_echo_of_tokens_that_do_not_exist_names_the_prompt(
    client: httpx.AsyncClient, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unknown(tokens: Any, **_: Any) -> Any:
        raise BadRequest("No such token.", param="tokens")

    monkeypatch.setattr(engine, "detokenize", unknown)
    error = await refused(client, "/v1/completions", prompt=[999], echo=True)
    assert error["param"] == "prompt"
