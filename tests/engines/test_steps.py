"""The ring of step records, and the words for what limited a step."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from okno.engines.steps import Piece, StepLog, StepRecord, Why, reason


def a_step(number: int, pieces: int = 1) -> StepRecord:
    rows = [Piece(f"r{k}", k, 0, 1, True) for k in range(pieces)]
    return StepRecord(number, float(number), "all known", None, {}, pieces, 0, 0, 0, rows)


@given(
    st.lists(st.integers(1, 5), max_size=40), st.integers(1, 8), st.integers(1, 12),
    st.integers(0, 45),
)  # fmt: skip
def test_the_log_is_the_newest_steps_within_both_bounds(sizes, steps, pieces, after) -> None:
    log = StepLog(steps, pieces)
    every = [a_step(number, size) for number, size in enumerate(sizes, 1)]
    for record in every:
        log.append(record)
    kept = every[-steps:]
    while len(kept) > 1 and sum(len(record.pieces) for record in kept) > pieces:
        kept = kept[1:]
    assert log.count == len(every)
    assert log.after(0) == kept
    assert log.after(after) == [record for record in kept if record.step > after]
    assert log.last(3) == kept[-3:]


def test_a_step_larger_than_the_bound_is_kept_alone() -> None:
    log = StepLog(steps=4, pieces=2)
    for number in (1, 2, 3):
        log.append(a_step(number, pieces=5))
    assert [record.step for record in log.after(0)] == [3]


def test_rows_are_decodes_prompts_and_drafts() -> None:
    record = a_step(1)
    record.pieces = [Piece("a", 0, 9, 4, True, 3, 2), Piece("b", 1, 0, 20, False),
                     Piece("c", 2, 5, 1, True)]  # fmt: skip
    assert record.rows == 25
    assert (record.decode_rows, record.prompt_rows, record.draft_rows) == (2, 20, 3)
    assert record.accepted == 2


def test_a_record_travels_whole() -> None:
    record = a_step(7, pieces=2)
    record.operations, record.allowed = {"copy": 2}, 64
    body = msgspec.msgpack.encode(record)
    assert msgspec.msgpack.decode(body, type=StepRecord) == record


def why(decodes: int, prompt: int, wanting: int, **changes: int | None) -> Why:
    """Of a step with so many decoding sequences and so many rows of one prompt."""
    pieces = [Piece(f"d{k}", k, 9, 1, True) for k in range(decodes)]
    pieces += [Piece("p", 9, 0, prompt, False)] if prompt else []
    given: dict[str, int | None] = {
        "row_budget": 256, "allowed": 64, "free_cells": 0, "live": decodes + 1, "waiting": 0,
        "batch_size": 8,
    }  # fmt: skip
    return reason(pieces, wanting, **(given | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (why(3, 20, wanting=4), "all known"),
        (why(0, 0, wanting=0, live=0), "all known"),
        (why(3, 64, wanting=3), "prompt_rows"),
        (why(3, 253, wanting=3, allowed=None), "row_budget"),
        (why(250, 6, wanting=250), "row_budget"),
        (why(256, 0, wanting=256), "row_budget"),
        (why(3, 10, wanting=3), "pool"),
        (why(3, 0, wanting=3), "pool"),
        (why(3, 10, wanting=3, free_cells=9), "checkpoint"),
        (why(7, 20, wanting=8, waiting=5), "batch_size"),
        (why(2, 20, wanting=3, waiting=5), "admission"),
        (why(3, 64, wanting=3, waiting=5), "prompt_rows"),
    ],
)
def test_the_word_is_that_of_the_limit_that_was_met(found: Why, wanted: Why) -> None:
    assert found == wanted
