"""The chat client against a server made of bytes."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Iterator

import httpx
import pytest

from okno.cli.chat_client import AnswerOptions, AnswerStats, ChatClient, ServerInfo, error_from
from okno.core.errors import BadSetting, ContextExceeded, NotReady, OknoError, QueueFull

URL = "http://127.0.0.1:7860"
Handler = Callable[[httpx.Request], httpx.Response]


class Clock:
    """Seconds that pass by one with every look."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 1
        return self.now_s


def client(handler: Handler, url: str = URL, api_key: str | None = None) -> ChatClient:
    return ChatClient(
        url, api_key, if_gone="Do this.", transport=httpx.MockTransport(handler), clock=Clock()
    )


def chunk(content: str | None = None, reason: str | None = None, **more: object) -> dict:
    delta = {} if content is None else {"content": content}
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}], **more}


def sse(*chunks: dict, end: str = "data: [DONE]\n\n") -> httpx.Response:
    body = "".join(f"data: {json.dumps(c)}\n\n" for c in chunks)
    return httpx.Response(200, text=": keep-alive\n\n" + body + end)


USAGE = {"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 3}}


def answered(handler: Handler, options: AnswerOptions | None = None) -> list[str | AnswerStats]:
    messages = [{"role": "user", "content": "hi"}]
    return list(client(handler).answer(messages, options or AnswerOptions()))


def test_text_comes_in_pieces_and_the_stats_last():
    timings = {"predicted_per_second": 50.0}
    stream = sse(chunk(""), chunk("Hel"), chunk("lo"), chunk(None, "stop", timings=timings), USAGE)
    assert answered(lambda _: stream) == ["Hel", "lo", AnswerStats(10, 3, 50.0, 1.0, "stop")]


def test_without_the_servers_timings_the_rate_is_measured_here():
    stats = answered(lambda _: sse(chunk("a"), chunk(None, "length"), USAGE))[-1]
    assert stats == AnswerStats(10, 3, 2.0, 1.0, "length")


def test_what_was_asked_is_sent_and_the_rest_left_to_the_server():
    sent: list[dict] = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(json.loads(request.content))
        return sse(chunk("x", "stop"), USAGE)

    answered(handler)
    answered(handler, AnswerOptions(model="m", max_tokens=5, temperature=0.0))
    assert "temperature" not in sent[0]
    assert sent[1] | {"model": "m", "max_tokens": 5, "temperature": 0.0} == sent[1]


def test_the_key_goes_along():
    def handler(request: httpx.Request) -> httpx.Response:
        assert request.headers["authorization"] == "Bearer k"
        return sse(chunk("x", "stop"), USAGE)

    assert list(client(handler, api_key="k").answer([], AnswerOptions()))


def test_an_overfull_window_keeps_its_numbers():
    body = {
        "error": {
            "message": "too long", "type": "exceed_context_size_error",
            "code": "context_length_exceeded", "param": "messages",
            "n_prompt_tokens": 900, "n_ctx": 512,
        }
    }  # fmt: skip
    with pytest.raises(ContextExceeded) as caught:
        answered(lambda _: httpx.Response(400, json=body))
    assert caught.value.info.details == {"n_prompt_tokens": 900, "n_ctx": 512}


def test_an_error_in_mid_stream_is_raised_after_the_text_so_far():
    failed = {"error": {"message": "no more", "code": "queue_full", "type": "x", "param": None}}
    answer = client(lambda _: sse(chunk("a"), failed)).answer([], AnswerOptions())
    assert next(answer) == "a"
    with pytest.raises(QueueFull, match="no more"):
        next(answer)


def test_a_stream_that_ends_without_a_reason_is_an_error():
    with pytest.raises(NotReady, match="closed the stream in the middle"):
        answered(lambda _: sse(chunk("a"), end=""))


def refused(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused", request=request)


def slow(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectTimeout("timed out", request=request)


def no_tls(request: httpx.Request) -> httpx.Response:
    error = ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number")
    error.reason = "WRONG_VERSION_NUMBER"
    raise httpx.ConnectError(str(error), request=request) from error


def broken(request: httpx.Request) -> httpx.Response:
    raise httpx.ReadError("reset", request=request)


@pytest.mark.parametrize(
    ("handler", "message"),
    [
        (refused, "^No server answers at http://127.0.0.1:7860. Do this.$"),
        (slow, "^No server answers at http://127.0.0.1:7860. Do this.$"),
        (no_tls, r"^The TLS connection to \S+ failed: wrong version number. okno itself speaks"),
        (broken, "broke: reset"),
        (lambda _: httpx.Response(200, text="<html>"), "closed the stream"),
        (lambda _: httpx.Response(200, text="data: <html>\n\n"), "not as an okno server does"),
        (lambda _: httpx.Response(502, text="<html>"), "answered 502 Bad Gateway"),
    ],
)
def test_network_troubles_are_sentences(handler, message):
    with pytest.raises(OknoError, match=message):
        answered(handler)


def routes(models: object, props: object, health: int = 200) -> Handler:
    answers = {
        "/health": httpx.Response(health, json={}),
        "/v1/models": httpx.Response(200, json=models),
        "/props": httpx.Response(200, json=props),
    }
    return lambda request: answers[request.url.path]


MODELS = {"data": [{"id": "demo", "owned_by": "okno"}]}
PROPS = {"default_generation_settings": {"n_ctx": 512}}


def test_the_server_says_what_it_serves():
    info = client(routes(MODELS, PROPS), url=f"{URL}/v1/").info()
    assert info == ServerInfo(URL, "demo", 512)
    assert client(routes(MODELS, PROPS)).probe() == info


def test_a_server_still_loading_is_told_apart():
    loading = {"default_generation_settings": {"n_ctx": None}}
    with pytest.raises(NotReady, match="still loading"):
        client(routes(MODELS, loading)).info()


@pytest.mark.parametrize(
    "handler",
    [
        refused,
        routes(MODELS, PROPS, health=503),
        routes({"data": [{"id": "demo", "owned_by": "someone"}]}, PROPS),
        routes({"data": []}, PROPS),
        routes([], PROPS),
        lambda _: httpx.Response(200, text="<html>a web page</html>"),
    ],
)
def test_whatever_else_sits_on_the_port_is_no_server_of_ours(handler):
    assert client(handler).probe() is None


def test_a_url_may_lack_its_scheme_but_must_be_one():
    assert client(routes(MODELS, PROPS), url="127.0.0.1:7860").info().url == URL
    with pytest.raises(BadSetting, match="is not a URL"):
        client(refused, url="http://x:port")


@pytest.mark.parametrize("url", ["ht!tp://x", "ftp://x", "http://", "", "http:///v1"])
def test_an_address_of_no_server_is_refused_before_anything_is_sent(url):
    with pytest.raises(BadSetting, match="is not the address of a server: give one such as"):
        client(refused, url=url)


def test_leaving_an_answer_closes_the_connection():
    closed: list[bool] = []

    class Endless(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            while True:
                yield b'data: {"choices":[{"delta":{"content":"a"},"finish_reason":null}]}\n\n'

        def close(self) -> None:
            closed.append(True)

    answer = client(lambda _: httpx.Response(200, stream=Endless())).answer([], AnswerOptions())
    assert next(answer) == "a"
    answer.close()
    assert closed == [True]


def test_an_unknown_error_code_is_still_an_okno_error():
    assert error_from({"message": "x", "code": "new"}).message == "x"
