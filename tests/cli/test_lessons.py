"""Serving teaches; what it teaches is kept while it runs."""

from __future__ import annotations

import asyncio

import pytest

from okno.cli.lessons import keep_learning
from okno.core.errors import NotReady, StoreUnusable
from okno.engines.protocol import Inspection


def inspection(steps, refinement):
    return Inspection(1, [], [], 0, 0, steps, refinement)


class Worker:
    """Answers one after the other, then says that all was asked."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked_all = asyncio.Event()

    async def inspect(self):
        if not self.answers:
            self.asked_all.set()
            raise NotReady("over")
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


async def lessons(*answers, keep=None):
    kept = []
    worker = Worker(*answers)
    task = asyncio.create_task(keep_learning(worker.inspect, keep or kept.append, every_s=0))
    over = asyncio.create_task(worker.asked_all.wait())
    await asyncio.wait([over, task], return_when=asyncio.FIRST_COMPLETED)
    task.cancel()
    over.cancel()
    return kept


async def test_a_lesson_is_kept_when_steps_ran_since_the_last():
    kept = await lessons(inspection(3, [[1.0]]), inspection(3, [[1.0]]), inspection(5, [[2.0]]))
    assert kept == [[[1.0]], [[2.0]]]


async def test_a_restarting_worker_and_one_that_learns_nothing_are_asked_again():
    kept = await lessons(NotReady("restarting"), inspection(4, None), inspection(6, [[3.0]]))
    assert kept == [[[3.0]]]


async def test_a_store_that_cannot_be_written_is_said_once(caplog):
    def keep(_lesson):
        raise StoreUnusable("okno.db cannot be written.")

    await lessons(inspection(1, [[1.0]]), inspection(2, [[2.0]]), keep=keep)
    said = [r.message for r in caplog.records if r.name == "okno.lessons"]
    assert said == ["what serving teaches is not kept: okno.db cannot be written."]


async def test_a_defect_is_not_hidden():
    def keep(_lesson):
        raise RuntimeError("a defect")

    with pytest.raises(RuntimeError, match="a defect"):
        await keep_learning(Worker(inspection(1, [[1.0]])).inspect, keep, every_s=0)
