"""The rows of the user's own table are told from each other and judged with numbers."""

from __future__ import annotations

import pytest

from okno.plan.search import LOAD
from okno.plan.user_table import GIB, TABLE, claim_for, judge
from tests.plan.fakes import MIB, LinearMemory


@pytest.mark.parametrize(
    ("memory_gib", "name"),
    [
        (2, None), (4, "4 GB"), (6, "4 GB"), (7.6, "8 GB"), (8, "8 GB"), (12, "8 GB"),
        (16, "16-24 GB"), (24, "16-24 GB"), (47, "48+ GB"), (80, "48+ GB"),
    ],
)  # fmt: skip
def test_a_row_starts_at_its_memory_and_ends_at_the_next(memory_gib, name):
    claim = claim_for(int(memory_gib * GIB))
    assert (claim.name if claim else None) == name


def judged(free_mib: int, row: int = 1, ctx_train: int = 8192):
    return judge(TABLE[row], LinearMemory(free_mib * MIB), ctx_train, template=LOAD)


def test_a_row_is_contradicted_when_even_its_least_window_does_not_fit():
    found = judged(400 + 8 + 7)
    assert found.verdict == "does not hold"
    assert "batch 1 x ctx 1,024 needs 409 MiB" in found.text


def test_a_row_may_hold_in_part():
    found = judged(400 + 8 + 1 + 12)
    assert (found.verdict, found.widest_ctx) == ("holds in part", 1536)
    assert "ctx 1,536 is the most" in found.text


def test_a_row_holds_when_its_largest_window_fits_and_no_more():
    assert judged(400 + 8 + 1 + 16).verdict == "holds"


def test_more_than_the_row_says_is_possible_and_how_much():
    found = judged(400 + 8 + 8 + 64)
    assert found.verdict == "more is possible"
    assert (found.widest_ctx, found.most_batch) == (8192, 4)
    assert "ctx may be up to 8,192, with ctx 2,048 the batch up to 4" in found.text


def test_a_row_never_asks_for_more_than_the_model_was_trained_on():
    found = judged(400 + 8 + 1 + 4, ctx_train=512)
    assert found.verdict == "holds"
    assert "ctx 512" in found.text


def test_rows_read_as_the_user_wrote_them():
    assert TABLE[2].in_words() == "batch 2-4, ctx 2,048-4,096 (Saiga, Mistral)"
    assert TABLE[0].in_words() == "batch 1, ctx 512-1,024 (mini models)"
    assert TABLE[3].in_words().startswith("batch 8+, ctx 8,192-16,384")
