"""Counts that never fall, whatever happens to the workers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from okno.engines.tally import STEP_ROWS, Drafts, Histogram, Tally, TallyOfWorkers


def counted(*rows: int, preemptions: int = 0) -> Tally:
    tally = Tally(preemptions=preemptions)
    for each in rows:
        tally.step(each, 0.02, 0.5)
    return tally


@pytest.mark.parametrize(("rows", "bucket"), [(1, 0), (2, 1), (3, 2), (2048, 11), (2049, 12)])
def test_an_observation_counts_up_to_its_bound(rows: int, bucket: int) -> None:
    found = Histogram.over(STEP_ROWS)
    found.observe(STEP_ROWS, rows)
    assert found.counts.index(1) == bucket
    assert found.total == rows


def test_each_step_counts_in_all_three() -> None:
    tally = counted(1, 5)
    assert [sum(h.counts) for h in (tally.rows, tally.seconds, tally.kv_share)] == [2, 2, 2]
    assert tally.kv_share.total == 1.0


def test_drafts_of_all_workers_add_up_by_their_source() -> None:
    one = Tally(decoding_steps=5, checking_steps=2, from_text=Drafts(4, 3), from_model=Drafts(2, 1))
    both = one + Tally(decoding_steps=1, checking_steps=1, from_model=Drafts(1, 1))
    assert (both.decoding_steps, both.checking_steps) == (6, 3)
    assert (both.from_text, both.from_model, both.drafts) == (
        Drafts(4, 3), Drafts(3, 2), Drafts(7, 5)
    )  # fmt: skip


def test_what_an_ended_worker_counted_stays() -> None:
    workers = TallyOfWorkers()
    workers.beat(counted(1, preemptions=2))
    workers.beat(counted(1, 4, preemptions=3))
    workers.buried()
    assert workers.total == counted(1, 4, preemptions=3)
    workers.beat(counted(8, preemptions=1))
    assert workers.total == counted(1, 4, 8, preemptions=4)


@given(st.lists(st.one_of(st.integers(1, 50), st.none()), max_size=30))
def test_no_count_ever_falls(course: list[int | None]) -> None:
    """Steps of a worker, None: it dies and another one begins."""
    workers, running, before = TallyOfWorkers(), Tally(), 0
    for rows in course:
        if rows is None:
            workers.buried()
            running = Tally()
        else:
            running.step(rows, 0.01, 0.1)
            workers.beat(running)
        assert sum(workers.total.rows.counts) >= before
        before = sum(workers.total.rows.counts)
    assert before == sum(rows is not None for rows in course)
