"""What every route shares: the engine, the settings, the metrics, and names of the model."""

from __future__ import annotations

import difflib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TypeVar

import msgspec
from starlette.requests import Request as HTTPRequest

from okno.core.errors import ModelNotFound
from okno.core.request import Request
from okno.engines.client import EngineClient
from okno.server.generation import Generation
from okno.server.metrics import Metrics
from okno.server.settings import ServerSettings
from okno.server.wire import read

T = TypeVar("T", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Context:
    engine: EngineClient
    settings: ServerSettings
    metrics: Metrics
    started_s: float

    def names(self) -> list[str]:
        """The names the served model answers to; the first is the one it reports."""
        names = [self.settings.model, *self.settings.aliases]
        if facts := self.engine.status().facts:
            names += [facts.name, PurePath(facts.path).stem]
        return list(dict.fromkeys(name for name in names if name))

    def model(self, asked: str | None) -> str:
        """The reported name, if `asked` is one of ours; ModelNotFound lists them otherwise."""
        names = self.names()
        if asked and asked != "default" and asked not in names:
            near = difflib.get_close_matches(asked, names, n=1)
            hint = f"; the nearest is `{near[0]}`" if near else ""
            raise ModelNotFound(
                f"No model `{asked[:80]}` is served here. "
                f"Served: {', '.join(f'`{name}`' for name in names)}{hint}.",
                param="model",
            )
        return names[0]

    def generation(self, requests: Sequence[Request], wire_names: Mapping[str, str]) -> Generation:
        observer = self.metrics.observer(len(requests))
        return Generation(self.engine, requests, observer, wire_names)

    async def read(self, request: HTTPRequest, kind: type[T]) -> T:
        return await read(request, kind, self.settings.body_timeout_s)

    def client(self, request: HTTPRequest, user: str | None) -> str:
        """The key of fair queueing: the `user` of the request, or its address; with an API key
        only the address, because whoever holds the key could invent users."""
        if user and self.settings.api_key is None:
            return user[:256]
        return request.client.host if request.client else ""


def now_s() -> float:
    return time.time()
