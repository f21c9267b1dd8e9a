"""A server process over the fake engine, for tests of signals and limits.

    python -m tests.server.serve_fake PORT DRAIN_S [finish]

Prints the base URL when ready, "draining" when told to stop, an error message and exit code 2 when
it cannot serve. Every answer halts after two tokens; with `finish` the drain lets it go on.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator

from okno.core.errors import NotReady, OknoError
from okno.core.events import Delta, Event
from okno.core.request import Request
from okno.server.run import run, serve
from okno.server.settings import ServerSettings
from tests.server.fake_engine import FakeEngine


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


class Halting(FakeEngine):
    go_on = asyncio.Event()

    async def _tokens(self, request: Request) -> AsyncIterator[Event]:
        async for event in super()._tokens(request):
            if isinstance(event, Delta) and event.tokens == (2,):
                await self.go_on.wait()
                if self.draining:
                    raise NotReady("The server is stopping.", retry_after_s=3)
            yield event

    async def drain(self, timeout_s: float) -> None:
        say("draining")
        if "finish" in sys.argv:
            self.go_on.set()
        await super().drain(timeout_s)
        self.go_on.set()


async def main() -> None:
    settings = ServerSettings(port=int(sys.argv[1]), drain_timeout_s=float(sys.argv[2]))
    await serve(Halting(), settings, on_ready=say)


if __name__ == "__main__":
    try:
        run(main())
    except OknoError as error:
        say(error.message)
        sys.exit(2)
