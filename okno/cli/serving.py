"""One engine and one HTTP server, from the first byte loaded to the last answer sent."""

from __future__ import annotations

import asyncio
from typing import Any

from okno.cli.lessons import KeepLesson, keep_learning
from okno.cli.reporters import Reporter
from okno.engines.protocol import WorkerOptions
from okno.engines.supervisor import Supervisor
from okno.engines.trace_file import TraceFile
from okno.server.run import serve
from okno.server.settings import ServerSettings


async def serving(
    options: WorkerOptions,
    settings: ServerSettings,
    hang_timeout_s: float,
    reporter: Reporter,
    keep_lesson: KeepLesson | None = None,
    trace: TraceFile | None = None,
) -> None:
    """Serve until a signal. HTTP listens first (a busy port is said at once, /health tells the
    progress), then the model loads. Raises the OknoError of whichever fails. keep_lesson: gets what
    the steps have taught, every few seconds in which there were any. trace: gets every step."""
    supervisor = Supervisor(
        options, hang_timeout_s=hang_timeout_s, on_progress=reporter.progress,
        on_steps=trace.take if trace else None,
    )  # fmt: skip

    def stopping() -> None:
        running = supervisor.status().in_flight
        if running and settings.drain_timeout_s:
            reporter.stopping(running, settings.drain_timeout_s)

    address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    http = asyncio.create_task(
        serve(supervisor, settings, on_ready=address.set_result, on_stopping=stopping)
    )
    load: asyncio.Task[Any] | None = None
    lessons: asyncio.Task[Any] | None = None
    try:
        await _first(http, address)
        if not http.done():
            load = asyncio.create_task(supervisor.start())
            await _first(http, load)
        if load is not None and not http.done():
            await load
            reporter.ready(address.result(), settings.model, supervisor.status())
            if keep_lesson is not None:
                lessons = asyncio.create_task(keep_learning(supervisor.inspect, keep_lesson))
        await http
    finally:
        await _ended(http, load, lessons)
        await supervisor.close()


async def _first(*futures: asyncio.Future[Any]) -> None:
    """Wait until one of them is done."""
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


async def _ended(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel what still runs and wait for it; its outcome no longer matters."""
    running = [task for task in tasks if task is not None]
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
