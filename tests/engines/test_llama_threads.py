"""How many threads a real context computes with."""

from __future__ import annotations

import llama_cpp.llama_cpp as lib
import pytest

from okno.engines.llama_threads import SMALL_MODEL_BYTES, Threads, threads_for
from okno.engines.llamacpp import LlamaCpp
from okno.engines.thread_trial import ThreadTrial
from okno.inspect.cpu import usable_cores
from tests.engines.drive import DEMO, options
from tests.engines.test_llama_resize import Decoding


@pytest.mark.parametrize(
    ("model_bytes", "asked", "found"),
    [
        (SMALL_MODEL_BYTES - 1, None, Threads(1, usable_cores())),
        (SMALL_MODEL_BYTES, None, Threads(usable_cores(), usable_cores())),
        (SMALL_MODEL_BYTES - 1, 3, Threads(3, 3)),
        (SMALL_MODEL_BYTES, 1, Threads(1, 1)),
    ],
)
def test_only_single_rows_of_small_models_go_alone(
    model_bytes: int, asked: int | None, found: Threads
) -> None:
    assert threads_for(model_bytes, asked) == found


def test_what_was_asked_for_computes_every_step() -> None:
    assert steps_of(opened(asked=3)) == [(3, 3)] * 4


def test_the_trial_says_how_many_threads_compute_each_step() -> None:
    engine = opened(asked=None)
    assert (engine._trial is not None) == (usable_cores() > 1)
    engine._trial = Recorded(1, 2)
    assert steps_of(engine) == [(2, 2), (1, 1), (1, 1), (1, 1)]
    assert engine._trial.rows == [20, 1, 1, 1]


class Recorded(ThreadTrial):
    def __init__(self, alone: int, together: int) -> None:
        super().__init__(alone, together)
        self.rows: list[int] = []

    def begins(self, rows: int, now_s: float) -> int:
        self.rows.append(rows)
        return super().begins(rows, now_s)


def opened(asked: int | None) -> LlamaCpp:
    return LlamaCpp(options(DEMO, batch_size=1, ctx=256, threads=asked), lambda _fraction: None)


def steps_of(engine: LlamaCpp) -> list[tuple[int, int]]:
    """A prompt and three tokens: the threads that the context has for one row, and for several."""
    decoding, found = Decoding(engine), []
    decoding.add("a", [*range(300, 320)], 4)
    for _ in range(4):
        decoding.step()
        context = engine.context
        found.append((lib.llama_n_threads(context), lib.llama_n_threads_batch(context)))
    return found
