"""The estimate of waiting against what the real scheduler does on simulated time."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from okno.plan import simulate as module
from okno.plan.simulate import Arrival, simulate
from okno.schedule.lately import Lately, Pace
from okno.schedule.scheduler import Scheduler
from okno.schedule.sequence import Sequence
from okno.schedule.step import Limits, Step
from okno.schedule.wait import Work, estimated_waits, waits, work_of

PACE = Pace(step_s=0.1, row_s=0.01, piece_rows=50)
WINDOW = 2048


# The formula ------------------------------------------------------------------------------------


def test_with_a_free_slot_nobody_waits() -> None:
    assert list(waits([Work(0, 50, 0)], [Work(10, 5, 0)] * 2, PACE, 3, 999)) == [0, 0]


def test_a_free_slot_is_of_no_use_while_older_prompts_are_computed() -> None:
    """10 steps of 50 rows each."""
    assert list(waits([Work(500, 5, 0)], [Work(10, 5, 0)], PACE, 2, 999)) == pytest.approx([6.0])


def test_a_prompt_that_is_due_earlier_need_not_wait_for_one_that_is_due_later() -> None:
    live = [Work(500, 5, 0, due=900)]
    waiting = [Work(10, 5, 0, due=50), Work(10, 5, 0, due=950)]
    assert list(waits(live, waiting, PACE, 3, 999)) == pytest.approx([0, 10 * 0.1 + 500 * 0.01])


def test_the_prompt_of_another_client_does_not_wait_and_takes_its_share() -> None:
    """b's first prompt begins at once; its 100 rows take 4 steps of 25, then its next begins."""
    live = [Work(500, 50, 0, client="a")]
    waiting = [Work(100, 50, 0, 1, "b"), Work(10, 50, 0, 2, "b"), Work(10, 50, 0, 3, "a")]
    steps = (0, 4, (600 + 10) / 50)  # a's second waits for its first, which all others delay
    expected = [0, 4 * 0.1 + 200 * 0.01, int(steps[2]) * (0.1 + 50 * 0.01)]
    assert list(waits(live, waiting, PACE, 9, 999)) == pytest.approx(expected)


def test_shares_go_by_weight() -> None:
    """40 of 50 rows are b's."""
    live = [Work(500, 50, 0, client="a")]
    waiting = [Work(400, 50, 0, 1, "b", 4.0), Work(10, 50, 0, 2, "b", 4.0)]
    assert list(waits(live, waiting, PACE, 9, 999)) == pytest.approx([0, 10 * (0.1 + 50 * 0.01)])


def test_the_first_to_end_makes_room_for_the_next() -> None:
    live = [Work(0, 50, 0), Work(0, 20, 0)]
    assert list(waits(live, [Work(0, 10, 0)] * 3, PACE, 2, 999)) == pytest.approx([2, 3, 4])


def test_prompts_on_the_way_make_the_steps_longer() -> None:
    """20 steps, in which 100 rows of a prompt are computed: 2 s + 1 s."""
    live = [Work(0, 20, 0), Work(100, 500, 0)]
    assert list(waits(live, [Work(0, 1, 0)], PACE, 2, 999)) == pytest.approx([3.0])


def test_a_slot_that_becomes_free_waits_for_older_prompts_too() -> None:
    """Free after 20 steps, but 5,000 rows take 100."""
    live = [Work(0, 20, 0), Work(5000, 500, 0)]
    assert list(waits(live, [Work(10, 1, 0)], PACE, 2, 999)) == pytest.approx([10 + 50])


def test_a_prompt_is_computed_before_its_answer_begins() -> None:
    """4 steps for 200 rows, 6 for the answer: (4 + 6) steps of 0.1 s and 200 rows of 0.01 s."""
    assert list(waits([Work(200, 6, 0)], [Work(0, 1, 0)], PACE, 1, 999)) == pytest.approx([3.0])


def test_drafts_that_are_right_shorten_the_wait() -> None:
    live = [Work(0, 20, 0)]
    assert list(waits(live, [Work(0, 1, 0)], replace(PACE, advance=2.0), 1, 999)) == [1.0]


def test_a_pool_that_is_full_makes_wait_beside_free_slots() -> None:
    live = [Work(0, 50, 60), Work(0, 20, 30)]
    waiting = [Work(0, 10, 30), Work(0, 10, 70), Work(0, 10, 5000)]
    assert list(waits(live, waiting, PACE, 8, 100)) == pytest.approx([2, 5, 6])


# Sequences of a scheduler -----------------------------------------------------------------------


def a_scheduler(*prompts: int, batch_size: int = 1) -> Scheduler:
    scheduler = Scheduler(Limits(batch_size, batch_size, pool_cells=4096))
    for number, tokens in enumerate(prompts):
        scheduler.add(Sequence(str(number), [number + 1] * tokens, max_tokens=tokens + 30))
    return scheduler


def test_without_a_pace_only_the_first_of_all_knows() -> None:
    scheduler = a_scheduler(5, 5, 5, batch_size=2)
    assert estimated_waits(scheduler, Lately()) == [0.0, None, None]
    scheduler.schedule(64)
    assert estimated_waits(scheduler, Lately()) == [None]


def test_what_was_cached_of_late_is_not_expected_to_be_computed() -> None:
    fresh, cached = Lately(), Lately()
    for lately in (fresh, cached):
        lately.ran(0, 50, 0.5)
        lately.ran(1, 0, 0.1)
    cached.started(1000, 900)
    scheduler = a_scheduler(500, 500, 500)
    without, with_cache = (estimated_waits(scheduler, one) for one in (fresh, cached))
    assert without[0] == with_cache[0] == 0
    assert without[2] is not None
    assert with_cache[2] is not None
    assert with_cache[2] < without[2] / 1.5


def test_the_end_of_a_long_queue_goes_on_as_its_middle() -> None:
    lately = Lately()
    lately.ran(0, 50, 0.5)
    lately.ran(1, 0, 0.1)
    scheduler = a_scheduler(*[20] * 300)
    found = [wait_s or 0.0 for wait_s in estimated_waits(scheduler, lately)]
    assert len(found) == 300
    exact = list(
        waits(
            [],
            [work_of(s, lately, new=True) for s in scheduler.waiting],
            lately.pace or PACE,
            1,
            4096,
        )
    )
    assert found == pytest.approx(exact, rel=0.02)


# Against the simulation -------------------------------------------------------------------------


@dataclass
class Told:
    """What one request was told, and what came."""

    told_s: float | None
    arrived_s: float
    began_s: float = -1.0

    @property
    def waited_s(self) -> float:
        return self.began_s - self.arrived_s


def watched(told: dict[str, Told], lately: Lately, limit: int | None) -> type:
    """A simulation that asks for an estimate at each arrival and learns as the loop does. limit:
    of every answer, instead of its own length."""

    class Watched(module._Simulation):
        __slots__ = ()

        def admit(self, index: int, outcome: Any) -> None:
            super().admit(index, outcome)
            ids = [s.id for s in self.scheduler.waiting]
            own = next(s for s in self.scheduler.waiting if s.id == str(index))
            if limit is not None:
                own.max_tokens = min(WINDOW, own.prompt_tokens + limit)
            wait_s = estimated_waits(self.scheduler, lately)[ids.index(own.id)]
            told[own.id] = Told(wait_s, self.now_s)

        def _seconds(self, step: Step) -> float:
            for span in step.spans:
                one, sequence = told[span.id], self.scheduler.live[span.id]
                if one.began_s < 0:
                    one.began_s = self.now_s
                    lately.started(sequence.prompt_tokens, sequence.cached)
            seconds = super()._seconds(step)
            decodes = sum(s.start >= self.scheduler.live[s.id].prompt_tokens for s in step.spans)
            lately.ran(decodes, step.rows - decodes, seconds)
            return seconds

        def _token(self, id: str) -> Any:
            sampled = super()._token(id)
            if sampled.ended:
                sequence = self.scheduler.live[id]
                tokens = sequence.generated + 1
                cut = sequence.prompt_tokens + tokens >= sequence.max_tokens
                lately.lengths.learn(tokens, cut=cut)
            return sampled

    return Watched


def on_two_cores(rows, depths, outputs, *, parked_cells) -> float:
    """A 1 B model: 30 ms a step, 8 ms a row, attention; decoding rows cost less together."""
    decodes = sum(1 for count in rows if count == 1)
    prompts = sum(rows) - decodes
    return 0.03 + 0.006 * decodes + 0.008 * prompts + 2e-6 * sum(depths)


def on_a_card(rows, depths, outputs, *, parked_cells) -> float:
    """A step of 12 ms whatever is in it, rows of prompts at 0.05 ms."""
    return 0.012 + 0.00005 * sum(rows)


def load(
    seed: int, clients: str, *, rate: float, prompts: tuple[int, int], answers: float
) -> list[Arrival]:
    """Poisson arrivals of clients with names of one letter; lengths of answers without memory."""
    rng, at_s, found = random.Random(seed), 0.0, []
    for _ in range(150):
        at_s += rng.expovariate(rate)
        tokens = min(1000, 1 + int(rng.expovariate(1 / answers)))
        client = rng.choice(clients)
        found.append(Arrival(at_s, rng.randint(*prompts), tokens, client))
    return found


CASES = {
    "short prompts": (on_two_cores, {"rate": 1.2, "prompts": (10, 80), "answers": 60}),
    "long prompts": (on_two_cores, {"rate": 0.25, "prompts": (100, 800), "answers": 60}),
    "long answers": (on_two_cores, {"rate": 0.4, "prompts": (10, 200), "answers": 250}),
    "a card": (on_a_card, {"rate": 4.0, "prompts": (100, 1000), "answers": 200}),
}


def course(
    monkeypatch: pytest.MonkeyPatch, name: str, seed: int, clients: str, limit: int | None
) -> list[Told]:
    """Those that were told something and waited a second or more, after the first 30."""
    machine, shape = CASES[name]
    told: dict[str, Told] = {}
    monkeypatch.setattr(module, "_Simulation", watched(told, Lately(), limit))
    limits = Limits(batch_size=4, seq_ids=4, pool_cells=4 * WINDOW)
    step_time: Callable[..., float] = machine
    simulate(load(seed, clients, **shape), limits, step_time)  # type: ignore[arg-type]
    later = list(told.values())[30:]
    assert all(one.told_s is not None for one in later)
    return [one for one in later if max(one.waited_s, one.told_s or 0) >= 1]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", CASES)
def test_where_lengths_are_known_the_estimate_is_close(monkeypatch, name: str, seed: int) -> None:
    """Every answer runs into its own limit: what is left to know is the time of steps, and which
    shorter prompts will come and pass. Measured: median 0.96 to 1.01; 99 % and more within 1.5, but
    89 % in the one course where many pass."""
    ratios = [
        (one.told_s or 0) / max(one.waited_s, 0.01)
        for one in course(monkeypatch, name, seed, "a", None)
    ]
    assert len(ratios) > 30, "the load makes requests wait"
    assert 0.85 < statistics.median(ratios) < 1.15
    assert sum(1 / 1.5 < ratio < 1.5 for ratio in ratios) > 0.85 * len(ratios)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", CASES)
def test_where_answers_end_as_they_like_it_is_within_a_factor_of_two(
    monkeypatch, name: str, seed: int
) -> None:
    """Three clients, of whom the one that was served least comes first, also when it comes later.
    Measured with five seeds: median 0.74 to 1.05, 69 to 100 % within 2, mostly above 90 %."""
    ratios = [
        (one.told_s or 0) / max(one.waited_s, 0.01)
        for one in course(monkeypatch, name, seed, "abc", 1000)
    ]
    assert 0.67 < statistics.median(ratios) < 1.5
    assert sum(0.5 < ratio < 2 for ratio in ratios) > 0.85 * len(ratios)
