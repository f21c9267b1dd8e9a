"""Configured defaults of generation, and the routes that show the settings."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from okno.cli.given_to_parts import server_settings, with_config
from okno.config.given import Given
from okno.config.load import Loaded, merge
from okno.config.schema import schema
from okno.core.request import Sampling
from okno.server.app import create_app
from okno.server.settings import ServerSettings
from tests.config.support import a_file
from tests.server.fake_engine import FakeEngine

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
FILE = """\
temperature: 0.3
top_p: 0.9
top_k: 40
min_p: 0.05
typical_p: 0.95
repetition_penalty: 1.1
repeat_last_n: 32
frequency_penalty: 0.25
presence_penalty: -0.25
seed: 7
max_new_tokens: 11
stop_strings: ["END", "User:"]
"""
CONFIGURED = Sampling(
    temperature=0.3, top_p=0.9, top_k=40, min_p=0.05, typical_p=0.95, repetition_penalty=1.1,
    penalty_last_n=32, frequency_penalty=0.25, presence_penalty=-0.25, seed=7,
)  # fmt: skip
REQUESTED = {
    "temperature": 1.5, "top_p": 0.5, "top_k": 3, "min_p": 0.1, "typical_p": 0.5,
    "repetition_penalty": 2.0, "repeat_last_n": 5, "frequency_penalty": 1.0,
    "presence_penalty": 1.5, "seed": 9,
}  # fmt: skip


@pytest.fixture
def loaded() -> Loaded:
    return merge([], {"OKNO_API_KEY": "s3cret"}, a_file(FILE))


@pytest.fixture
def settings(loaded: Loaded) -> ServerSettings:
    return with_config(server_settings(loaded.settings, None), loaded)


@pytest.fixture
async def client(engine: FakeEngine, settings: ServerSettings) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(engine, settings), raise_app_exceptions=False)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://127.0.0.1:7860", headers={"x-api-key": "s3cret"}
    ) as found:
        yield found


async def post(client: httpx.AsyncClient, path: str, **fields: Any) -> None:
    needed = {"messages": [{"role": "user", "content": "hi"}]} if path == CHAT else {"prompt": "a"}
    answer = await client.post(path, json={**needed, **fields})
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("path", [CHAT, TEXT])
async def test_what_a_request_leaves_out_is_as_configured(
    client: httpx.AsyncClient, engine: FakeEngine, path: str
) -> None:
    await post(client, path)
    nulls = dict.fromkeys([*REQUESTED, "repeat_penalty", "stop", "max_tokens"])
    await post(client, path, **nulls)
    for request in engine.seen:
        assert request.sampling == CONFIGURED
        assert (request.stop.strings, request.stop.max_tokens) == (("END", "User:"), 11)


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize("name", REQUESTED)
async def test_what_a_request_says_wins_field_by_field(
    client: httpx.AsyncClient, engine: FakeEngine, path: str, name: str
) -> None:
    await post(client, path, **{name: REQUESTED[name]})
    core = "penalty_last_n" if name == "repeat_last_n" else name
    seen = engine.seen[0].sampling
    assert getattr(seen, core) == REQUESTED[name]
    for other in Sampling.__dataclass_fields__:
        if other != core:
            assert getattr(seen, other) == getattr(CONFIGURED, other)


@pytest.mark.parametrize(
    ("field", "core", "value"),
    [
        ({"temperature": 0}, "temperature", 0),
        ({"top_k": -1}, "top_k", 0),
        ({"top_k": 0}, "top_k", 0),
        ({"repeat_penalty": 1.0}, "repetition_penalty", 1.0),
        ({"min_p": 0}, "min_p", 0),
        ({"seed": 0}, "seed", 0),
        ({"presence_penalty": 0}, "presence_penalty", 0),
    ],
)
async def test_off_in_a_request_is_a_value_not_an_omission(
    client: httpx.AsyncClient, engine: FakeEngine, field: Any, core: str, value: float
) -> None:
    await post(client, CHAT, **field)
    assert getattr(engine.seen[0].sampling, core) == value


@pytest.mark.parametrize(
    ("fields", "strings", "limit"),
    [
        ({"stop": []}, (), 11),
        ({"stop": "x"}, ("x",), 11),
        ({"max_tokens": 99}, ("END", "User:"), 99),
        ({"max_completion_tokens": 3, "stop": ["a", "b"]}, ("a", "b"), 3),
    ],
)
async def test_stops_of_a_request_replace_the_configured_ones(
    client: httpx.AsyncClient, engine: FakeEngine, fields: Any, strings: Any, limit: int
) -> None:
    await post(client, CHAT, **fields)
    stop = engine.seen[0].stop
    assert (stop.strings, stop.max_tokens) == (strings, limit)


async def test_a_configured_seed_still_gives_every_choice_its_own(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    await post(client, CHAT, n=3)
    assert [request.sampling.seed for request in engine.seen] == [7, 8, 9]


async def test_props_show_the_configured_defaults(client: httpx.AsyncClient) -> None:
    shown = (await client.get("/props")).json()["default_generation_settings"]
    assert (shown["temperature"], shown["top_k"], shown["max_tokens"]) == (0.3, 40, 11)
    assert shown["stop"] == ["END", "User:"]


def test_no_sampling_is_temperature_0() -> None:
    settings = merge([], {"OKNO_DO_SAMPLE": "false"}).settings
    assert server_settings(settings, None).defaults.sampling.temperature == 0


async def test_without_settings_openais_own_defaults_hold(engine: FakeEngine) -> None:
    app = create_app(engine, server_settings(merge([], {}).settings, None))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        await post(client, CHAT)
        seen = engine.seen[0]
        assert seen.sampling == Sampling(seed=seen.sampling.seed)
        assert (seen.stop.strings, seen.stop.max_tokens) == ((), None)


# GET /okno/v1/config ------------------------------------------------------------------------------


async def shown(client: httpx.AsyncClient) -> dict[str, dict[str, Any]]:
    body = (await client.get("/okno/v1/config")).json()
    assert body["object"] == "okno.config"
    return {one["key"]: one for one in body["settings"]}


async def test_config_tells_value_and_source_of_every_setting(client: httpx.AsyncClient) -> None:
    told = await shown(client)
    assert told["temperature"] == {
        "key": "temperature", "value": 0.3, "source": "file",
        "origin": "generation_config.yaml, line 1", "default": 1.0, "flag": "--temperature",
        "variable": "OKNO_TEMPERATURE",
    }  # fmt: skip
    assert told["server.port"]["source"] == "default"
    assert told["stop_strings"]["value"] == ["END", "User:"]


async def test_the_file_is_told_with_its_folder(client: httpx.AsyncClient) -> None:
    file = (await client.get("/okno/v1/config")).json()["file"]
    assert file.endswith("/generation_config.yaml")


async def test_auto_is_told_with_what_the_engine_has(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    told = await shown(client)
    assert (told["load.ctx"]["value"], told["load.ctx"]["in_effect"]) == ("auto", 1024)
    assert told["load.batch_size"]["in_effect"] == 4
    assert told["load.kv_pool"]["in_effect"] == 4096
    engine.current = replace(engine.current, window=None)
    assert (await shown(client))["load.ctx"]["in_effect"] is None


async def test_secrets_are_never_told_and_the_key_is_needed(client: httpx.AsyncClient) -> None:
    answer = await client.get("/okno/v1/config")
    assert "s3cret" not in answer.text
    told = await shown(client)
    assert told["server.api_key"]["value"] == "(hidden)"
    for path in ("/okno/v1/config", "/okno/v1/config/schema"):
        assert (await client.get(path, headers={"x-api-key": "wrong"})).status_code == 401


async def test_the_schema_is_served(client: httpx.AsyncClient) -> None:
    assert (await client.get("/okno/v1/config/schema")).json() == schema()


async def test_settings_are_read_only_here(client: httpx.AsyncClient) -> None:
    assert (await client.post("/okno/v1/config", json={})).status_code == 405


@pytest.mark.parametrize("path", ["/okno/v1/config", "/okno/v1/config/schema"])
async def test_a_query_that_would_mean_nothing_is_refused(
    client: httpx.AsyncClient, path: str
) -> None:
    answer = await client.get(f"{path}?key=temperature")
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == "key"
    assert error["message"].endswith("It takes none.")


def test_a_flag_is_told_by_its_spelling() -> None:
    loaded = merge([("max_new_tokens", Given("5", "command line", "-n"))], {})
    config = with_config(ServerSettings(), loaded).config
    assert next(one.origin for one in config if one.key == "max_new_tokens") == "-n"
