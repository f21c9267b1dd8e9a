"""`GET /okno/v1/hardware`: what this machine is and what of it is free, or a what-if of it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

from starlette.requests import Request as HTTPRequest
from starlette.responses import Response

from okno.core.errors import BadRequest, BadSetting
from okno.inspect.hardware.asked import FIELDS, overrides_from
from okno.inspect.hardware.machine import Survey, survey
from okno.inspect.hardware.report import hardware_body, what_if
from okno.server.context import Context
from okno.server.errors import JSONBytes
from okno.server.query import parameters

KEEP_S = 2.0
PARAMETERS = (*FIELDS, "engine")
FLAGS = {"true": True, "1": True, "false": False, "0": False}


class RecentSurvey:
    """The last survey for KEEP_S, so that a page that asks every second starts no programs every
    second. Callers block while one of them surveys: call it in a thread."""

    def __init__(
        self,
        look: Callable[[bool], Survey] = lambda engine: survey(with_engine=engine),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look = look
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: dict[bool, tuple[float, Survey]] = {}

    def get(self, with_engine: bool) -> Survey:
        with self._lock:
            made_s, found = self._kept.get(with_engine, (float("-inf"), None))
            if found is None or self._clock() - made_s > KEEP_S:
                found = self._look(with_engine)
                self._kept[with_engine] = (self._clock(), found)
            return found


recent = RecentSurvey()


async def hardware(context: Context, request: HTTPRequest) -> Response:
    """The what-if flags of the command line as query parameters, and `engine=true` to ask the
    engine itself."""
    asked = parameters(request, PARAMETERS)
    engine = flag("engine", asked.get("engine", "false"))
    try:
        overrides = overrides_from(asked, prefix="")
        found = await asyncio.to_thread(recent.get, engine and not overrides.given)
        return JSONBytes(hardware_body(what_if(found, overrides)))
    except BadSetting as error:
        param = (error.info.param or "").removeprefix("--")
        raise BadRequest(error.message.replace("--", ""), param=param or None) from None


def flag(name: str, text: str) -> bool:
    if text not in FLAGS:
        raise BadRequest(f"`{name}` is {text[:40]!r}; it is true or false.", param=name)
    return FLAGS[text]
