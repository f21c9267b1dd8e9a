"""Any body becomes a typed request or a 400 that says what is wrong with it."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from okno.server.app import create_app
from okno.server.schemas import IGNORED, ChatFields, CompletionFields
from okno.server.settings import ServerSettings
from okno.server.wire import depth
from tests.server.fake_engine import FakeEngine

CHAT = "/v1/chat/completions"
TURNS = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "01", "0x1"])
async def test_a_number_that_is_none_is_refused_by_name(
    client: httpx.AsyncClient, number: str
) -> None:
    body = '{"messages":[{"role":"user","content":"hi"}],"temperature":' + number + "}"
    answer = await client.post(
        CHAT, content=body.encode(), headers={"content-type": "application/json"}
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "temperature"


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b"5", b'"x"', b"{}", b"\xff\xfe",
        b'{"messages":[{"role":"\xff"}]}',
        b'{"messages":[{"role":"user","content":"\\ud800"}]}',
        b'{"messages":[{"role":"user","content":"hi"}],"metadata":"\xff"}',
        b'{"messages":' + b"[" * 100_000, b'{"metadata":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a":' * 50_000, b"[" * 1_000_000, b'{"messages":[]}{"messages":[]}',
    ],
    ids=lambda body: repr(body[:30]),
)  # fmt: skip
async def test_a_body_that_is_no_request_is_a_400(client: httpx.AsyncClient, body: bytes) -> None:
    answer = await client.post(CHAT, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"


def with_depth(levels: int, close: bytes = b"]") -> bytes:
    """A chat body that is nested `levels` deep; brackets in strings do not count."""
    start = json.dumps({"messages": [{"role": "user", "content": '[[{"\\'}]}).encode()[:-1]
    return start + b',"metadata":' + b"[" * (levels - 1) + close * (levels - 1) + b"}"


async def test_a_body_may_be_nested_64_deep_and_no_deeper(client: httpx.AsyncClient) -> None:
    json_only = {"content-type": "application/json"}
    for content, status in ((with_depth(64), 200), (with_depth(65), 400)):
        answer = await client.post(CHAT, content=content, headers=json_only)
        assert answer.status_code == status, answer.text
    assert "64 levels" in answer.json()["error"]["message"]


JSON_BODIES = st.recursive(
    st.sampled_from(["", '"', "\\", "\\\\", "[", "]", "{}", '\\"[', "a"]) | st.integers(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["[", "}", '"', "k"]), inner, max_size=3)
    ),
    max_leaves=12,
)


def levels(value: Any) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(levels, value), default=0) if isinstance(value, list) else 0


@given(value=JSON_BODIES)
def test_depth_is_that_of_the_decoded_value(value: Any) -> None:
    assert depth(json.dumps(value).encode()) == levels(value)


@pytest.mark.parametrize(
    "twice",
    [
        '"metadata":{"a":1},"metadata":"bcde"',
        '"temperature":1,"temperature":0',
        '"temperature":1,"temperature":1',
        '"temperature":12,"temperature":1',
        '"temperature":1,"temperature":12',
        '"temperature": 1 , "stream":null,"t\\u0065mperature" : 0',
        '"temperature":null,"metadata":{"a":[1,"}"]},"temperature":0',
    ],
)
async def test_a_field_sent_twice_is_refused_by_name(client: httpx.AsyncClient, twice: str) -> None:
    body = '{"messages":[{"role":"user","content":"hi"}],' + twice + "}"
    answer = await client.post(CHAT, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == twice.split('"')[1]
    assert "twice" in answer.json()["error"]["message"]


async def test_any_layout_of_a_body_is_read(client: httpx.AsyncClient) -> None:
    fields = {"messages": TURNS, "stop": ["}", '"stop":'], "metadata": {"stop": 1}, "n": 1}
    for text in (
        json.dumps(fields),
        json.dumps(fields, indent=3),
        " \n" + json.dumps(fields) + "\t",
    ):
        answer = await client.post(CHAT, content=text, headers={"content-type": "application/json"})
        assert answer.status_code == 200, answer.text


# Any body ---------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(10**400)
    | st.floats()
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=8,
)
NAMES = st.sampled_from(
    sorted({*ChatFields.__struct_fields__, *CompletionFields.__struct_fields__, *IGNORED})
)
BODIES = st.dictionaries(NAMES | st.text(max_size=6), JSON, max_size=5)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    path=st.sampled_from([CHAT, "/v1/completions", "/v1/embeddings", "/tokenize", "/detokenize"]),
    fields=BODIES,
    cut=st.integers(0, 400),
    usual=st.booleans(),
)
async def test_no_body_gives_a_server_error(
    path: str, fields: dict[str, Any], cut: int, usual: bool
) -> None:
    base = {CHAT: {"messages": TURNS}, "/v1/completions": {"prompt": "a"}}.get(path, {})
    body = json.dumps({**(base if usual else {}), **fields}).encode()
    transport = httpx.ASGITransport(create_app(FakeEngine(), ServerSettings()))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        for content in (body, body[:cut]):
            answer = await client.post(
                path, content=content, headers={"content-type": "application/json"}
            )
            assert answer.status_code in (200, 400, 404), answer.text
            if answer.status_code == 400:
                assert answer.json()["error"]["message"]
