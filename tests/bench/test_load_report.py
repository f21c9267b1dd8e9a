from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from okno.bench.load_client import Answer, Problem
from okno.bench.load_report import (
    Limits,
    as_json,
    duration,
    figure_rows,
    latency_rows,
    markdown,
    summarise,
)

LIMITS = Limits(ttft_s=5.0, itl_s=0.35)


def answer(
    due: float, ttft: float, gaps: tuple[float, ...] = (), *, tokens: int | None = None,
    problem: Problem | None = None,
) -> Answer:  # fmt: skip
    times = [due + ttft]
    for gap in gaps:
        times.append(times[-1] + gap)
    return Answer(
        due_s=due, sent_s=due + 0.1, ended_s=times[-1], asked_tokens=99, chunks_s=tuple(times),
        prompt_tokens=10, completion_tokens=len(times) if tokens is None else tokens,
        finish_reason="length", problem=problem,
    )  # fmt: skip


def test_goodput_counts_requests_within_both_limits_per_second() -> None:
    cut = Problem("cut", "gone")
    answers = [
        answer(0.0, 4.0, (0.1,) * 10),  # good: ends at 5
        answer(0.0, 5.5, (0.1,) * 10),  # late
        answer(0.0, 1.0, (0.1,) * 8 + (1.0,) * 2),  # 20 % of its gaps too long
        answer(0.0, 1.0, (0.1,) * 9 + (1.0,)),  # good: only 10 % of them are
        answer(0.0, 1.0, (0.1,), problem=cut),  # failed
        answer(12.0, 8.0),  # late, ends at 20
    ]
    summary = summarise(answers, LIMITS)
    assert summary.seconds == pytest.approx(20.0)
    assert (summary.good, summary.completed, summary.requests) == (2, 5, 6)
    assert summary.goodput == pytest.approx(2 / 20)
    assert summary.failures == {"cut": 1}
    assert summary.failure_texts == ("gone",)


def test_a_request_at_its_limits_is_good_and_one_without_gaps_can_be() -> None:
    assert LIMITS.meets(answer(0.0, 5.0))
    assert LIMITS.meets(answer(0.0, 1.0, (0.25,) * 5))
    assert not LIMITS.meets(replace(answer(0.0, 1.0), chunks_s=()))


def test_latencies_are_percentiles_of_all_and_worst_gaps_one_per_request() -> None:
    answers = [answer(n, 1.0 + n / 100, (0.5, 0.25 + n)) for n in range(100)]
    summary = summarise(answers, LIMITS)
    assert summary.ttft_s.p50 == pytest.approx(1.49)
    assert summary.ttft_s.p99 == pytest.approx(1.98)
    assert summary.ttft_s.max == pytest.approx(1.99)
    assert summary.worst_gap_s.max == pytest.approx(99.25)
    assert summary.worst_gap_s.p50 == pytest.approx(49.25)
    assert summary.itl_s.p50 == pytest.approx(0.5)
    assert summary.late_s == pytest.approx(0.1)


def test_tokens_per_second_are_of_all_requests_together() -> None:
    summary = summarise([answer(0.0, 1.0, tokens=30), answer(1.0, 3.0, tokens=50)], LIMITS)
    assert summary.tok_s == pytest.approx(80 / 4)
    assert summary.prompt_tokens == 20


def test_how_tokens_were_counted_is_said() -> None:
    told, untold = answer(0.0, 1.0), replace(answer(0.0, 1.0), completion_tokens=None)
    assert summarise([told], LIMITS).tokens_by == "usage"
    assert summarise([untold], LIMITS).tokens_by == "events with text"
    assert "where told" in summarise([told, untold], LIMITS).tokens_by


def test_a_load_that_failed_altogether_still_has_a_report() -> None:
    lost = Answer(0.0, 0.0, 0.0, 5, problem=Problem("unreachable", "refused | really"))
    summary = summarise([lost], LIMITS)
    assert summary.tok_s == summary.goodput == 0.0
    assert math.isnan(summary.ttft_s.p50)
    page = markdown("Load", "- here\n", summary)
    assert "1 unreachable" in page
    assert "- refused | really" in page
    assert "NaN" not in json.dumps(as_json(summary))
    assert as_json(summary)["ttft_s"] == {"p50": None, "p99": None, "max": None}


def test_a_page_has_every_figure() -> None:
    summary = summarise([answer(0.0, 1.0, (0.1, 0.2))], LIMITS)
    page = markdown("Load", "- here\n", summary)
    for row in [*figure_rows(summary), *latency_rows(summary)]:
        assert all(cell in page for cell in row)
    assert "counted by usage" in page
    assert as_json(summary)["goodput_requests_s"] == pytest.approx(1 / 1.3)


def test_durations_read_well() -> None:
    assert (duration(math.nan), duration(0.0123), duration(12.346)) == ("-", "12.3 ms", "12.35 s")
