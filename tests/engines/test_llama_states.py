"""States of a real engine in host memory."""

from __future__ import annotations

import numpy as np
import pytest

from okno.engines import llama_states
from okno.engines.llama_states import HostStates
from okno.engines.llamacpp import LlamaCpp
from okno.schedule.step import Span, Step, Truncate
from tests.engines.drive import DEMO, options


@pytest.fixture(scope="module")
def engine() -> LlamaCpp:
    return LlamaCpp(options(DEMO, batch_size=2, ctx=256, threads=1), lambda _fraction: None)


def computed(engine: LlamaCpp, tokens: int) -> None:
    """Sequence 0 holds so many tokens."""
    ids = np.arange(300, 300 + tokens, dtype=np.int32)
    engine.execute(Step((Truncate(0, 0),), (Span("a", 0, 0, ids, 1),)))


def test_little_states_hold_no_large_buffers(engine: LlamaCpp) -> None:
    states = HostStates()
    for key in range(0, 8, 2):
        computed(engine, 200)
        states.save(engine.context, 0, key)
        large = states.buffer_bytes
        states.forget(key)
        computed(engine, 20)
        states.save(engine.context, 0, key + 1)
    assert states.buffer_bytes < large


def test_a_freed_buffer_serves_a_state_of_its_size(engine: LlamaCpp) -> None:
    states = HostStates()
    computed(engine, 200)
    states.save(engine.context, 0, 1)
    before = states.buffer_bytes
    states.forget(1)
    computed(engine, 190)
    states.save(engine.context, 0, 2)
    assert states.buffer_bytes == before


def test_memory_for_a_state_is_made_ready_in_pieces(
    engine: LlamaCpp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama_states, "TOUCHED_AT_ONCE", 50_000)
    states = HostStates()
    computed(engine, 200)
    pieces = next(n for n in range(1, 1000) if states.prepare(engine.context, 0))
    size = states.buffer_bytes
    assert pieces == -(-size // 50_000) > 2
    assert states.prepare(engine.context, 0)
    states.save(engine.context, 0, 1)
    assert states.buffer_bytes == size  # it is the one that was made ready
    computed(engine, 100)
    assert not states.prepare(engine.context, 0)
