from __future__ import annotations

import pytest

from okno.bench.client import Address
from okno.bench.load_target import ready, target_of
from okno.core.errors import (
    AccessDenied,
    BadRequest,
    BadSetting,
    EngineFailed,
    ModelNotFound,
    NotReady,
    OknoError,
)
from tests.bench.openai_stub import Stub, serving
from tests.bench.test_visitors import closed_address


@pytest.mark.parametrize(
    ("url", "chat", "address", "path"),
    [
        ("http://host:8000", False, Address("host", 8000), "/v1/completions"),
        ("host:8000/", False, Address("host", 8000), "/v1/completions"),
        ("http://host:8000/v1", True, Address("host", 8000), "/v1/chat/completions"),
        ("https://host", False, Address("host", 443, tls=True), "/v1/completions"),
        ("http://h/api/v1/chat/completions", False, Address("h", 80), "/api/v1/chat/completions"),
        ("http://h/proxy", True, Address("h", 80), "/proxy/v1/chat/completions"),
        ("http://[::1]:9", False, Address("::1", 9), "/v1/completions"),
    ],
)
def test_a_url_means_an_endpoint(url: str, chat: bool, address: Address, path: str) -> None:
    target = target_of(url, chat=chat, model=None, api_key=None)
    assert (target.address, target.path) == (address, path)


@pytest.mark.parametrize("url", ["ftp://h", "http://", "http://h:x", "http://h?x=1", "/tmp/model"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(BadSetting, match=r"Give one such as http://127.0.0.1:7860"):
        target_of(url, chat=False, model=None, api_key=None)


async def probed(stub: Stub, model: str | None = None, path: str = "") -> str | None:
    with serving(stub) as address:
        url = f"http://{address.authority}{path}"
        return (await ready(target_of(url, chat=False, model=model, api_key="k"))).model


async def test_the_first_listed_model_is_taken_unless_one_is_named() -> None:
    assert await probed(Stub(models=("one", "two"))) == "one"
    assert await probed(Stub(models=("one", "two")), model="two") == "two"
    assert await probed(Stub(models=None)) is None


MISSING = Stub(status=404, error=b'{"error": {"message": "No model `x` is served here."}}')


@pytest.mark.parametrize(
    ("stub", "model", "path", "error", "words"),
    [
        (Stub(status=401), None, "", AccessDenied, "--api-key"),
        (MISSING, "x", "", ModelNotFound, "Models served there: stub"),
        (Stub(), None, "/elsewhere", EngineFailed, "Is it an OpenAI-compatible server"),
        (Stub(status=503), None, "", NotReady, "when it is ready"),
        (Stub(status=400), None, "", BadRequest, "400: no"),
    ],
)
async def test_a_refusal_says_what_to_change(
    stub: Stub, model: str | None, path: str, error: type[OknoError], words: str
) -> None:
    with pytest.raises(error, match=words):
        await probed(stub, model, path)


async def test_where_nothing_listens_is_said_how_to_give_a_url() -> None:
    address = closed_address()
    target = target_of(f"http://{address.authority}", chat=False, model=None, api_key=None)
    with pytest.raises(NotReady, match=r"Nothing usable listens.*okno bench serve http://host"):
        await ready(target)
