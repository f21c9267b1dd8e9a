"""How many threads a real context computes with."""

from __future__ import annotations

import llama_cpp.llama_cpp as lib
import pytest

from okno.engines.llama_threads import SMALL_MODEL_BYTES, Threads, threads_for
from okno.engines.llamacpp import LlamaCpp
from okno.inspect.cpu import usable_cores
from tests.engines.drive import DEMO, options


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


@pytest.mark.parametrize("asked", [None, 3])
def test_a_context_computes_with_them(asked: int | None) -> None:
    engine = LlamaCpp(options(DEMO, batch_size=1, ctx=256, threads=asked), lambda _fraction: None)
    found = lib.llama_n_threads(engine._context), lib.llama_n_threads_batch(engine._context)
    assert found == ((asked, asked) if asked else (1, usable_cores()))
