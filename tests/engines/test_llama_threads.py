"""How many threads a real context computes with."""

from __future__ import annotations

import llama_cpp.llama_cpp as lib
import pytest

from okno.engines.llama_threads import SMALL_MODEL_BYTES, Threads, threads_for
from okno.engines.llamacpp import LlamaCpp
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
    assert threads_of_steps(asked=3) == [(3, 3)] * 4


def test_a_small_model_computes_a_single_row_with_one_thread() -> None:
    prompt, *rows = threads_of_steps(asked=None)
    assert prompt in {(1, 1), (usable_cores(), usable_cores())}
    assert rows == [(1, 1)] * 3


def threads_of_steps(asked: int | None) -> list[tuple[int, int]]:
    """Of a prompt and the tokens after it: what the context has for one row, and for several."""
    engine = LlamaCpp(options(DEMO, batch_size=1, ctx=256, threads=asked), lambda _fraction: None)
    decoding, found = Decoding(engine), []
    decoding.add("a", [*range(300, 320)], 4)
    for _ in range(4):
        decoding.step()
        context = engine.context
        found.append((lib.llama_n_threads(context), lib.llama_n_threads_batch(context)))
    return found
