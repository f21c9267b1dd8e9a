"""Talking to a running okno server over HTTP and SSE."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import httpx

from okno.core.errors import (
    BY_CODE,
    BadRequest,
    BadSetting,
    ErrorInfo,
    NotReady,
    OknoError,
    from_info,
)

CONNECT_TIMEOUT_S = 5.0
PROBE_TIMEOUT_S = 0.5
Turn = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """What to ask of each answer. None leaves it to the server; a model is only checked there."""

    model: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None


@dataclass(frozen=True, slots=True)
class AnswerStats:
    """What an answer took. Rates in tokens per second, times in seconds as seen here."""

    prompt_tokens: int
    completion_tokens: int
    tokens_per_s: float
    first_token_s: float
    finish_reason: str


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What a server says of itself. ctx: tokens one request may see."""

    url: str
    model: str
    ctx: int


class ChatClient:
    """One server. Errors are OknoError; leaving an answer half-read cancels it there. if_gone: the
    sentence that tells what to do when nothing answers."""

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        if_gone: str = "",
        transport: httpx.BaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        url = url if "://" in url else f"http://{url}"
        self.url = url.rstrip("/").removesuffix("/v1")
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        timeout = httpx.Timeout(None, connect=CONNECT_TIMEOUT_S)
        self._http = httpx.Client(
            base_url=_base(self.url), headers=headers, timeout=timeout, transport=transport,
            trust_env=False,
        )  # fmt: skip
        self._if_gone = if_gone
        self._clock = clock

    def close(self) -> None:
        self._http.close()

    def probe(self) -> ServerInfo | None:
        """The facts of the okno server, if one is there, is ready, and lets us in."""
        try:
            if self._http.get("/health", timeout=PROBE_TIMEOUT_S).status_code != 200:
                return None
            return self.info(timeout_s=PROBE_TIMEOUT_S)
        except (httpx.HTTPError, OknoError):
            return None

    def info(self, *, timeout_s: float = CONNECT_TIMEOUT_S) -> ServerInfo:
        """The served model and its window. Raises NotReady for a server that is still loading, or
        is not okno."""
        with self._connection():
            model = self._read("/v1/models", timeout_s)["data"][0]
            if model["owned_by"] != "okno":
                raise self._stranger()
            ctx = self._read("/props", timeout_s)["default_generation_settings"]["n_ctx"]
        if ctx is None:
            raise NotReady(f"The server at {self.url} is still loading its model. Try again soon.")
        return ServerInfo(self.url, str(model["id"]), int(ctx))

    def answer(
        self, messages: Sequence[Turn], options: AnswerOptions
    ) -> Iterator[str | AnswerStats]:
        """Pieces of text as they come, then the stats."""
        body: dict[str, Any] = {
            "messages": list(messages),
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        body |= {key: value for key, value in asdict(options).items() if value is not None}
        started_s = self._clock()
        with (
            self._connection(),
            self._http.stream("POST", "/v1/chat/completions", json=body) as response,
        ):
            if response.status_code != 200:
                response.read()
                raise error_of(response)
            yield from self._parts(events(response.iter_lines()), started_s)

    def window(self) -> dict[str, Any]:
        """The window in effect, as `GET /okno/v1/window` tells it."""
        with self._connection():
            return dict(self._read("/okno/v1/window", CONNECT_TIMEOUT_S))

    def resize(self, change: Mapping[str, object]) -> dict[str, Any]:
        """Another window, as `PATCH /okno/v1/window` takes and answers it."""
        with self._connection():
            response = self._http.patch("/okno/v1/window", json=dict(change))
            if response.status_code != 200:
                raise error_of(response)
            return dict(response.json())

    def _parts(
        self, chunks: Iterable[dict[str, Any]], started_s: float
    ) -> Iterator[str | AnswerStats]:
        first_token_s, usage, timings, reason = 0.0, dict[str, Any](), dict[str, Any](), ""
        for chunk in chunks:
            if "error" in chunk:
                raise error_from(chunk["error"])
            usage = chunk.get("usage") or usage
            timings = chunk.get("timings") or timings
            for choice in chunk["choices"]:
                reason = choice["finish_reason"] or reason
                text = choice["delta"].get("content")
                if text:
                    first_token_s = first_token_s or self._clock() - started_s
                    yield text
        if not reason:
            raise NotReady("The server closed the stream in the middle of the answer. Ask again.")
        total_s = self._clock() - started_s
        yield _stats(usage, timings, reason, first_token_s or total_s, total_s)

    @contextmanager
    def _connection(self) -> Iterator[None]:
        """Network errors, and answers of no okno server, as sentences."""
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise NotReady(self._unreachable(error)) from None
        except httpx.HTTPError as error:
            raise NotReady(f"The connection to {self.url} broke: {error}.") from None
        except (json.JSONDecodeError, KeyError, IndexError, TypeError):
            raise self._stranger() from None

    def _read(self, path: str, timeout_s: float) -> Any:
        response = self._http.get(path, timeout=timeout_s)
        if response.status_code != 200:
            raise error_of(response)
        return response.json()

    def _unreachable(self, error: httpx.TransportError) -> str:
        tls = tls_error(error)
        if tls is None:
            return f"No server answers at {self.url}. {self._if_gone}".rstrip()
        return (
            f"The TLS connection to {self.url} failed: {tls}. okno itself speaks plain HTTP; "
            f"without a TLS proxy in front of it: http{self.url.removeprefix('https')}."
        )

    def _stranger(self) -> NotReady:
        return NotReady(f"{self.url} answers, but not as an okno server does. Is the URL right?")


def _base(url: str) -> httpx.URL:
    """The address of a server. Raises BadSetting for what is none."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise BadSetting(f"--url {url} is not a URL: {error}.", param="url") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise BadSetting(
            f"--url {url} is not the address of a server: give one such as http://127.0.0.1:7860.",
            param="url",
        )
    return parsed


def tls_error(error: BaseException) -> str | None:
    """Why a TLS connection failed, if that is what lies under `error`."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return (cause.reason or "no reason given").replace("_", " ").lower()
        cause = cause.__cause__ or cause.__context__
    return None


def events(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The JSON objects of an SSE stream; comments are skipped, [DONE] ends it."""
    for line in lines:
        data = line.removeprefix("data:").strip()
        if not line.startswith("data:"):
            continue
        if data == "[DONE]":
            return
        yield json.loads(data)


def error_of(response: httpx.Response) -> OknoError:
    """The error in a response that is not 200."""
    try:
        return error_from(response.json()["error"])
    except (json.JSONDecodeError, KeyError, TypeError):
        return BadRequest(f"The server answered {response.status_code} {response.reason_phrase}.")


def error_from(body: Mapping[str, Any]) -> OknoError:
    """An OpenAI error object (with okno's numbers beside it) as the exception it was."""
    code = next((body[k] for k in ("code", "type") if body.get(k) in BY_CODE), "okno_error")
    named = {"message", "type", "param", "code"}
    details = {k: v for k, v in body.items() if k not in named and isinstance(v, int | float | str)}
    return from_info(ErrorInfo(code, str(body.get("message", "")), body.get("param"), details))


def _stats(
    usage: Mapping[str, Any],
    timings: Mapping[str, Any],
    reason: str,
    first_token_s: float,
    total_s: float,
) -> AnswerStats:
    """Stats of a finished answer; the rate is the server's, or measured here without one."""
    made = int(usage.get("completion_tokens", 0))
    decode_s = total_s - first_token_s
    measured = (made - 1) / decode_s if made > 1 and decode_s > 0 else 0.0
    rate = float(timings.get("predicted_per_second") or measured)
    return AnswerStats(int(usage.get("prompt_tokens", 0)), made, rate, first_token_s, reason)
