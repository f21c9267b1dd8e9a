from __future__ import annotations

import asyncio

from okno.engines.calls import Call, Calls
from okno.engines.protocol import Answer, CallFailed, Detokenized, Inspect
from okno.engines.streams import FAIL_AT, SUSPECT_AT


def asked(count: int) -> tuple[Calls, list[Call], list[asyncio.Future[Answer]]]:
    calls = Calls()
    messages: list[Call] = [Inspect(calls.next_number()) for _ in range(count)]
    return calls, messages, [calls.add(message) for message in messages]


async def test_an_answer_reaches_the_one_who_asked() -> None:
    calls, (first, second), futures = asked(2)
    calls.answer(Detokenized(second.call, b"x"))
    assert await futures[1] == Detokenized(second.call, b"x")
    assert not futures[0].done()
    assert len(calls) == 1
    assert calls.remove(first.call)
    assert not calls.remove(second.call)


async def test_after_a_death_all_are_asked_again() -> None:
    calls, messages, _ = asked(3)
    assert not calls.strike("died")
    assert calls.to_resend() == messages


async def test_suspects_are_asked_one_at_a_time_and_fail_alone() -> None:
    calls, messages, futures = asked(2)
    for _ in range(SUSPECT_AT):
        calls.strike("died")
    assert calls.to_resend() == []
    assert calls.next_suspect() == messages[0]
    assert calls.next_suspect() is None
    assert FAIL_AT == SUSPECT_AT + 1
    assert calls.strike("died")
    assert isinstance(await futures[0], CallFailed)
    assert not futures[1].done()
    assert calls.next_suspect() == messages[1]


async def test_an_abandoned_suspect_makes_room_for_the_next() -> None:
    calls, messages, _ = asked(2)
    for _ in range(SUSPECT_AT):
        calls.strike("died")
    calls.to_resend()
    calls.next_suspect()
    calls.remove(messages[0].call)
    assert calls.next_suspect() == messages[1]
