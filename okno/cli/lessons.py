"""Keeping what serving teaches about step times, for the next plan."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from okno.core.errors import OknoError, StoreUnusable
from okno.engines.protocol import Inspection

log = logging.getLogger("okno.lessons")
EVERY_S = 15.0
Lesson = list[list[float]]
KeepLesson = Callable[[Lesson], None]


async def keep_learning(
    inspect: Callable[[], Awaitable[Inspection]], keep: KeepLesson, every_s: float = EVERY_S
) -> None:
    """Ask the worker and keep its lesson, until cancelled; nothing is written while no step runs.
    A worker that is just restarting is asked again later; a store that cannot be written is said
    once, and learning ends."""
    known_steps = 0
    while True:
        await asyncio.sleep(every_s)
        try:
            found = await inspect()
        except OknoError:
            continue
        if found.refinement is None or found.steps == known_steps:
            continue
        known_steps = found.steps
        try:
            await asyncio.to_thread(keep, found.refinement)
        except StoreUnusable as error:
            log.warning("what serving teaches is not kept: %s", error.message)
            return
