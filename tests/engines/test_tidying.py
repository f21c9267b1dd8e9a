"""The pool of a real engine kept short: nothing of what was computed is lost or changed."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

from okno.core.request import Message, Prompt
from okno.engines import tidying
from okno.engines.learning import RowLearner
from okno.engines.llama_model import recent_log
from okno.engines.llamacpp import LlamaCpp
from okno.engines.tidying import FIRST_GUESS_BYTE_S, LOOK_EVERY, Tidier
from okno.schedule.cost import Ahead
from okno.schedule.step import Restore, Truncate
from tests.engines.drive import DEMO, SCRIPTED, ask, chat, options, running
from tests.engines.test_llama_resize import Decoding, prompts

SMALL = options(DEMO, batch_size=4, ctx=512, threads=1, swap_bytes=2**24)

# Sums over cells in f16 depend on where the cells lie; another token's state is off by 1 and more.
MOST_APART = 0.1


def opened(flash_attention: str = "auto") -> LlamaCpp:
    """An engine that says before each decode how far its cells are used."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLAMA_KV_CACHE_DEBUG", "1")
        return LlamaCpp(options(SMALL, flash_attention=flash_attention), lambda _fraction: None)


def used_end() -> int:
    """Cells up to the highest used one before the last decode, as llama.cpp said."""
    said = [re.search(r"find_slot: .* n = +(\d+),", line) for line in recent_log()]
    return int([found for found in said if found][-1][1])


@pytest.fixture(scope="module", params=["off", "on"])
def engine(request: pytest.FixtureRequest) -> LlamaCpp:
    """With and without flash attention."""
    return opened(request.param)


def fresh(engine: LlamaCpp) -> Decoding:
    """Decoding with all sequences of the engine empty."""
    decoding = Decoding(engine)
    for seq in range(engine.limits.seq_ids):
        decoding.scheduler.cache._operations.append(Truncate(seq, 0))
    return decoding


def tidy(decoding: Decoding) -> int:
    """As the loop does it while nothing runs; returns the pieces."""
    tidier = Tidier(decoding.engine, time.perf_counter)
    return next(n for n in range(10_000) if not tidier.idle(decoding.scheduler))


def test_a_conversation_that_comes_back_goes_on_bit_for_bit(engine: LlamaCpp) -> None:
    """As if it had been alone, in the same lowest cells."""

    def talk(others: int) -> Decoding:
        decoding = fresh(engine)
        made = prompts(engine, 3, 150)
        for k, prompt in enumerate(made[: 1 + others]):
            decoding.add(f"r{k}", prompt, 20)
            decoding.finish()
        if others:
            assert tidy(decoding) > others
            assert decoding.scheduler.pool.end == 0
        decoding.add("next", [*made[0], *decoding.texts["r0"], 300, 301], 20)
        operations = decoding.step().operations
        assert any(isinstance(one, Restore) for one in operations) == bool(others)
        return decoding.finish()

    alone, moved = talk(others=0), talk(others=2)
    assert len(moved.rows["next"]) == 20
    assert all(map(np.array_equal, moved.rows["next"], alone.rows["next"]))


def test_one_that_is_packed_while_it_decodes_says_the_same(engine: LlamaCpp) -> None:
    def last_of_four(*, packed: bool) -> Decoding:
        decoding = fresh(engine)
        made = prompts(engine, 4, 150)
        for k, prompt in enumerate(made):
            decoding.add(f"r{k}", prompt, 30 if k == 3 else 6)
        while len(decoding.scheduler.live) != 1 or len(decoding.texts["r3"]) < 10:
            decoding.step()
        if packed:
            assert decoding.scheduler.pool.end > 600
            tidy(decoding)
            assert decoding.scheduler.pool.end <= 256
            decoding.step()
            assert used_end() <= 256
        return decoding.finish()

    stayed, moved = last_of_four(packed=False), last_of_four(packed=True)
    assert moved.texts == stayed.texts
    for before, after in zip(stayed.rows["r3"], moved.rows["r3"], strict=True):
        np.testing.assert_allclose(after, before, atol=MOST_APART)


def test_a_system_prompt_that_comes_back_twice_is_shared_again(engine: LlamaCpp) -> None:
    def two_talks(*, tidied: bool) -> Decoding:
        decoding = fresh(engine)
        system, *tails = prompts(engine, 3, 150)
        for k, tail in enumerate(tails):
            decoding.add(f"r{k}", [*system, *tail], 6)
            decoding.finish()
        if tidied:
            tidy(decoding)
            assert decoding.scheduler.pool.end == 0
        for k, tail in enumerate(tails):
            decoding.add(f"next{k}", [*system, *tail, *decoding.texts[f"r{k}"], 300], 20)
        decoding.step()
        assert decoding.scheduler.pool.used < 3 * 150 + 20
        return decoding.finish()

    stayed, moved = two_talks(tidied=False), two_talks(tidied=True)
    assert moved.texts == stayed.texts
    for id, rows in stayed.rows.items():
        for before, after in zip(rows, moved.rows[id], strict=True):
            np.testing.assert_allclose(after, before, atol=MOST_APART)


def test_the_books_know_the_highest_cell_of_the_engine() -> None:
    decoding, compared = Decoding(opened()), set()
    for k, prompt in enumerate(prompts(decoding.engine, 7, 90)):
        decoding.add(f"r{k}", prompt, 10 + 7 * (k % 3))
    while decoding.scheduler.live or len(decoding.scheduler.waiting):
        booked = decoding.scheduler.pool.end
        if not decoding.step().operations:
            assert booked == used_end()
            compared.add(booked)
    assert len(compared) > 30


async def test_a_conversation_is_found_in_host_memory_when_it_comes_back() -> None:
    async with running(SCRIPTED) as supervisor:
        first = await ask(supervisor, chat("long 300"))

        async def is_empty() -> bool:
            return (await supervisor.inspect()).used_cells == 0

        while not await is_empty():
            pass
        said = (Message("user", "long 300"), Message("assistant", first.text))
        prompt = Prompt(messages=(*said, Message("user", "say hello")))
        again = await ask(supervisor, chat("", prompt=prompt))
        assert again.text == "hello"
        assert again.finished.usage.cached_tokens > 300


@dataclass
class WalkPrice(RowLearner):
    """Steps cost what they walk: a second for each million cells."""

    cell_s: float = 1e-6

    def seconds(self, ahead: Ahead, prompt_rows: int) -> float:
        return self.cell_s * ahead.used_cells


def beside_three_parked(engine: LlamaCpp) -> Decoding:
    """One sequence decodes."""
    decoding = fresh(engine)
    made = prompts(engine, 4, 150)
    for k, prompt in enumerate(made[:3]):
        decoding.add(f"r{k}", prompt, 6)
        decoding.finish()
    decoding.add("live", made[3], 100)
    return decoding


@pytest.mark.parametrize("walking_costs", [True, False])
def test_beside_a_live_sequence_the_pool_is_tidied_where_that_pays(
    engine: LlamaCpp, walking_costs: bool
) -> None:
    engine.learner = WalkPrice() if walking_costs else RowLearner()
    decoding = beside_three_parked(engine)
    tidier = Tidier(engine, lambda: 0.0)  # copying takes no time
    while len(decoding.texts["live"]) < 90:
        decoding.step()
        tidier.beside(decoding.scheduler, step_s=0.0)
    moved = len(decoding.scheduler.host.held)
    assert (moved, used_end() < 300) == ((3, True) if walking_costs else (0, False))


def test_a_load_that_goes_on_moves_what_would_not_pay_soon(engine: LlamaCpp) -> None:
    """What 32 steps lose is what moving all that is parked takes: not won back in 16, but not to
    be lost for ever."""
    decoding = beside_three_parked(engine)
    scheduler = decoding.scheduler
    stored = [scheduler.limits.stored_bytes(s.computed) for s in scheduler.parked.values()]
    engine.learner = WalkPrice(cell_s=sum(stored) * FIRST_GUESS_BYTE_S / 32 / 512)
    tidier = Tidier(engine, lambda: 0.0)
    steps = 0
    while not scheduler.host.held and len(decoding.texts.get("live", ())) < 90:
        decoding.step()
        steps += 1
        tidier.beside(scheduler, step_s=0.0)
    assert scheduler.host.held
    assert steps > LOOK_EVERY, "before anything was lost"
    assert tidier._lost_s == 0, "what is moved is no loss any more"


def test_steps_lost_what_one_lost_before_them_or_after(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the 16th step somebody's answer has ended: the 15 before lost nothing."""
    losses, asked = iter((0.0, 1.0, 3.0)), []
    monkeypatch.setattr(tidying, "lost_s", lambda *_: next(losses))
    monkeypatch.setattr(tidying, "pays", lambda _, each, before, __: asked.append((each, before)))
    tidier = Tidier(SimpleNamespace(learner=None), lambda: 0.0)
    for _ in range(2 * LOOK_EVERY):
        tidier.beside(SimpleNamespace(live=("a",)), step_s=0.0)
    assert asked == [(0.0, 0.0), (1.0, 0.0), (3.0, 16.0)]
