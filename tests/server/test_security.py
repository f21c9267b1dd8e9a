from __future__ import annotations

import json

import httpx
import pytest
from fastapi import FastAPI
from starlette.routing import Route

from okno.core.errors import BadSetting
from okno.server.app import ROUTES, create_app
from okno.server.security import host_allowed
from okno.server.settings import ServerSettings
from tests.server.fake_engine import FakeEngine

CHAT = "/v1/chat/completions"
HELLO = {"messages": [{"role": "user", "content": "hi"}]}
EVIL = [
    {"host": "evil.example"},
    {"host": "evil.example:7860"},
    {"host": "127.0.0.1.evil.example"},
    {"host": "localhost@evil.example"},
    {"host": ""},
    {"origin": "http://evil.example"},
    {"origin": "null"},
    {"origin": "http://127.0.0.1:9999"},
    {"origin": "https://127.0.0.1:7860"},
    {"origin": "http://127.0.0.1:7860.evil.example"},
    {"origin": "file://"},
    {"upgrade": "websocket", "connection": "upgrade"},
]


def walk(app: FastAPI) -> list[tuple[str, str]]:
    """Every (method, path) of the application, and some that do not exist."""
    routes = [r for r in app.routes if isinstance(r, Route)]
    assert {r.path for r in routes} == {path for _, path, _ in ROUTES}
    found = [(m, r.path.replace("{model:path}", "x")) for r in routes for m in r.methods or ()]
    return [*found, ("GET", "/nothing"), ("POST", "/nothing"), ("DELETE", "/v1/models")]


ROUTES_OF_CHANGES = [(method, path) for method, path, _ in ROUTES if method != "GET"]


def over(app: FastAPI, base_url: str = "http://127.0.0.1:7860") -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=base_url)


@pytest.mark.parametrize("headers", EVIL, ids=str)
async def test_evil_callers_get_403_on_every_route_and_change_nothing(
    engine: FakeEngine, settings: ServerSettings, headers: dict[str, str]
) -> None:
    app = create_app(engine, settings)
    async with over(app) as client:
        for method, path in walk(app):
            answer = await client.request(method, path, headers=headers, json=HELLO)
            assert answer.status_code == 403, (method, path)
    assert engine.seen == []


@pytest.mark.parametrize(
    "kind",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", None],
)
async def test_changes_must_be_json(
    engine: FakeEngine, settings: ServerSettings, kind: str | None
) -> None:
    app = create_app(engine, settings)
    async with over(app) as client:
        for method, path in ROUTES_OF_CHANGES:
            headers = {"content-type": kind} if kind else {}
            answer = await client.request(method, path, headers=headers, content=b"{}")
            assert answer.status_code == 403, (method, path)
    assert engine.seen == []


@pytest.mark.parametrize(
    ("kinds", "status"),
    [
        (["application/json"], 200),
        (["Application/JSON; charset=UTF-8"], 200),
        (['application/json;charset="utf-8"'], 200),
        (["application/json; charset=utf-16"], 415),
        (["application/json", "text/plain"], 403),
        (["application/json", "application/json"], 403),
    ],
)
async def test_the_content_type_is_said_once_and_is_utf_8(
    client: httpx.AsyncClient, kinds: list[str], status: int
) -> None:
    headers = [("content-type", kind) for kind in kinds]
    answer = await client.post(CHAT, headers=headers, content=json.dumps(HELLO))
    assert answer.status_code == status, answer.text


async def test_a_websocket_is_closed_before_it_opens(
    engine: FakeEngine, settings: ServerSettings
) -> None:
    app = create_app(engine, settings)
    sent = []

    async def receive() -> dict[str, object]:
        return {"type": "websocket.connect"}

    async def send(message: object) -> None:
        sent.append(message)

    await app({"type": "websocket", "path": "/", "headers": []}, receive, send)  # type: ignore[arg-type]
    assert [m["type"] for m in sent] == ["websocket.close"]  # type: ignore[index]


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:1",
        "127.0.0.1",
        "127.9.9.9:7860",
        "[::1]:80",
        "app.localhost",
        "localhost.",
    ],
)
async def test_loopback_names_are_this_server(client: httpx.AsyncClient, host: str) -> None:
    assert (await client.get("/health", headers={"host": host})).status_code == 200


def test_a_server_bound_to_all_addresses_takes_any_address_but_no_foreign_name() -> None:
    everywhere = ServerSettings(host="0.0.0.0", api_key="k", allowed_hosts=("llm.home",))
    assert host_allowed("192.168.1.5:7860", everywhere)
    assert host_allowed("[fe80::1]:7860", everywhere)
    assert host_allowed("LLM.home", everywhere)
    assert not host_allowed("evil.example", everywhere)
    assert not host_allowed("0.0.0.0.evil.example", everywhere)


def test_a_server_bound_to_loopback_takes_no_other_address() -> None:
    assert not host_allowed("192.168.1.5:7860", ServerSettings())
    assert not host_allowed("0.0.0.0:7860", ServerSettings())


async def test_the_own_page_and_configured_origins_may_call(engine: FakeEngine) -> None:
    app = create_app(engine, ServerSettings(allowed_origins=("https://page.example",)))
    async with over(app) as client:
        own = await client.get("/health", headers={"origin": "http://127.0.0.1:7860"})
        page = await client.get("/health", headers={"origin": "https://page.example"})
        other = await client.get("/health", headers={"origin": "http://page.example"})
    assert (own.status_code, page.status_code, other.status_code) == (200, 200, 403)
    assert page.headers["access-control-allow-origin"] == "https://page.example"
    assert "access-control-allow-origin" not in other.headers


async def test_a_preflight_of_a_configured_origin_passes_without_a_key(engine: FakeEngine) -> None:
    settings = ServerSettings(api_key="secret", allowed_origins=("https://page.example",))
    preflight = {"origin": "https://page.example", "access-control-request-method": "POST"}
    async with over(create_app(engine, settings)) as client:
        answer = await client.options(CHAT, headers=preflight)
        evil = await client.options(CHAT, headers={**preflight, "origin": "https://evil.example"})
    assert answer.status_code == 204
    assert "authorization" in answer.headers["access-control-allow-headers"]
    assert evil.status_code == 403
    assert "access-control-allow-headers" not in evil.headers


async def test_a_page_may_send_the_headers_of_its_sdk_and_read_ours(engine: FakeEngine) -> None:
    page = {"origin": "https://page.example"}
    asked = "authorization,content-type,x-stainless-lang,x-stainless-retry-count"
    ask = {"access-control-request-method": "POST", "access-control-request-headers": asked}
    app = create_app(engine, ServerSettings(allowed_origins=("https://page.example",)))
    async with over(app) as client:
        preflight = await client.options(CHAT, headers={**page, **ask})
        answer = await client.post(CHAT, headers=page, json=HELLO)
    assert preflight.headers["access-control-allow-headers"] == asked
    assert set(preflight.headers["vary"].split(", ")) >= {
        "origin",
        "access-control-request-headers",
    }
    exposed = answer.headers["access-control-expose-headers"].split(", ")
    assert {"retry-after", "okno-ignored", "okno-queue-position", "okno-estimated-wait-s"} <= set(
        exposed
    )


async def test_the_key_is_demanded_everywhere_but_for_health(engine: FakeEngine) -> None:
    app = create_app(engine, ServerSettings(api_key="sécret"))
    async with over(app) as client:
        for method, path in walk(app):
            status = (await client.request(method, path, json=HELLO)).status_code
            assert status == (200 if path == "/health" else 401), (method, path)
        for headers in (
            {"authorization": "Bearer sécret".encode()},
            {"authorization": "bearer sécret".encode()},
            {"x-api-key": "sécret".encode()},
        ):
            assert (await client.get("/v1/models", headers=headers)).status_code == 200
        for headers in ({"authorization": b"Bearer wrong"}, {"authorization": b"Basic x"}):
            answer = await client.get("/v1/models", headers=headers)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
    assert engine.seen == []


def test_listening_beyond_loopback_needs_a_key() -> None:
    for host in ("0.0.0.0", "192.168.1.5", "::", "llm.home"):
        with pytest.raises(BadSetting, match="--api-key"):
            ServerSettings(host=host)
    assert ServerSettings(host="0.0.0.0", api_key="k").port == 7860


def test_the_key_is_not_shown() -> None:
    assert "secret" not in repr(ServerSettings(api_key="secret"))


async def test_every_answer_carries_the_security_headers(client: httpx.AsyncClient) -> None:
    for path in ("/health", "/nothing", "/v1/models"):
        headers = (await client.get(path)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"


async def test_compressed_bodies_are_refused(client: httpx.AsyncClient) -> None:
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    answer = await client.post(CHAT, headers=headers, content=b"\x1f\x8b")
    assert answer.status_code == 415
