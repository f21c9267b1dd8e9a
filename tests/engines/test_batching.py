"""Batching changes nobody's answer: the checks of facts/faults.md on the demo model.

A request's logits are compared, teacher-forced, alone against among others: mean KL divergence at
most 1e-4 and the same best token wherever the best two differ by more than the noise.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from okno.engines.llamacpp import LlamaCpp
from okno.schedule.scheduler import Scheduler
from okno.schedule.sequence import Sequence
from okno.schedule.step import Limits, Operation, Restore, Sampled, Step, Truncate
from tests.engines.drive import DEMO, options

MAX_MEAN_KL = 1e-4
NOISE = 0.02  # logits
Rows = NDArray[np.float64]


@dataclass(frozen=True)
class Forced:
    """A request whose answer is prescribed: logits can be compared position by position."""

    id: str
    prompt: list[int]
    answer: list[int]


def random_requests(seed: int, count: int, vocab: int) -> list[Forced]:
    rng = random.Random(seed)

    def tokens(low: int, high: int) -> list[int]:
        return [rng.randrange(300, vocab) for _ in range(rng.randint(low, high))]

    return [Forced(f"r{k}", tokens(3, 120), tokens(12, 12)) for k in range(count)]


class Driver:
    """Runs forced requests on a real engine; keeps the cache between runs unless told."""

    def __init__(self, engine: LlamaCpp, **limits: object) -> None:
        self.engine = engine
        own = {"host_bytes": 0, "cell_bytes": 1, **limits}
        limits_ = replace(engine.limits, **own)  # type: ignore[arg-type]
        self.operations: list[Operation] = []
        self.scheduler = Scheduler(limits_)
        self._clear(engine.limits)

    def _clear(self, limits: Limits) -> None:
        for seq in range(limits.seq_ids):
            self.engine.execute_operations([Truncate(seq, 0)])

    def run(
        self, requests: list[Forced], budget: int = 256, cancel: str | None = None
    ) -> dict[str, Rows]:
        forced = {r.id: r for r in requests}
        rows: dict[str, list[NDArray[np.float32]]] = {r.id: [] for r in requests}
        for r in requests:
            limit = len(r.prompt) + len(r.answer) + 1
            self.scheduler.add(Sequence(r.id, r.prompt, max_tokens=limit))
        while self.scheduler.live or len(self.scheduler.waiting):
            step = self.scheduler.schedule(budget)
            self.operations += step.operations
            logits = self.execute(step)
            sampled: dict[str, Sampled] = {}
            wanting = [s for s in step.spans if s.logits]
            for span, row in zip(wanting, logits, strict=True):
                done = rows[span.id]
                done.append(row.copy())
                answer = forced[span.id].answer
                ended = len(done) > len(answer)
                sampled[span.id] = Sampled((0 if ended else answer[len(done) - 1],), ended)
            self.scheduler.update(step, sampled)
            if cancel is not None and len(rows[cancel]) == 3:
                self.scheduler.cancel(cancel)
        return {id: np.array(r, dtype=np.float64) for id, r in rows.items()}

    def execute(self, step: Step) -> NDArray[np.float32]:
        return self.engine.execute(step)


class SwappingDriver(Driver):
    """The negative control: once, two sequences of a step get each other's cache."""

    swapped = False

    def execute(self, step: Step) -> NDArray[np.float32]:
        decodes = [s for s in step.spans if len(s.tokens) == 1]
        if self.swapped or len(decodes) < 2 or len(decodes) != len(step.spans):
            return super().execute(step)
        pair = next(((a, b) for a, b in pairwise(decodes) if a.start == b.start), None)
        if pair is None:
            return super().execute(step)
        a, b = pair
        spans = list(step.spans)
        spans[spans.index(a)] = a._replace(seq=b.seq)
        spans[spans.index(b)] = b._replace(seq=a.seq)
        self.swapped = True
        return super().execute(replace(step, spans=tuple(spans)))


def log_softmax(rows: Rows) -> Rows:
    shifted = rows - rows.max(axis=-1, keepdims=True)
    result: Rows = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def assert_same(alone: Rows, among: Rows) -> None:
    assert alone.shape == among.shape
    p, q = log_softmax(alone), log_softmax(among)
    kl = (np.exp(p) * (p - q)).sum(axis=-1)
    assert kl.mean() <= MAX_MEAN_KL
    best_two = np.sort(alone, axis=-1)[:, -2:]
    clear = best_two[:, 1] - best_two[:, 0] > NOISE
    assert (alone.argmax(axis=-1) == among.argmax(axis=-1))[clear].all()


@pytest.fixture(scope="module", params=[True, False], ids=["unified", "streams"])
def engine(request: pytest.FixtureRequest) -> LlamaCpp:
    settings = options(DEMO, batch_size=8, ctx=256, threads=1, kv_unified=request.param)
    return LlamaCpp(settings, lambda _fraction: None)


def each_alone(engine: LlamaCpp, requests: list[Forced]) -> dict[str, Rows]:
    return {r.id: Driver(engine, parks=False).run([r])[r.id] for r in requests}


def test_among_seven_others_the_logits_are_those_of_the_request_alone(engine: LlamaCpp) -> None:
    requests = random_requests(1, 8, engine.vocab.n_tokens)
    alone, together = each_alone(engine, requests), Driver(engine).run(requests)
    for id in alone:
        assert_same(alone[id], together[id])


def test_a_prompt_at_random_places_among_random_others_is_unchanged(engine: LlamaCpp) -> None:
    fixed = replace(random_requests(2, 1, engine.vocab.n_tokens)[0], id="fixed")
    alone = each_alone(engine, [fixed])["fixed"]
    driver = Driver(engine)
    for seed in range(4):
        others = random_requests(10 + seed, 12, engine.vocab.n_tokens)
        others = [replace(o, id=f"{seed}-{o.id}") for o in others]
        others.insert(random.Random(seed).randrange(12), replace(fixed, id=f"fixed{seed}"))
        assert_same(alone, driver.run(others)[f"fixed{seed}"])


@pytest.mark.parametrize("budget", [8, 40, 256])
def test_the_size_of_prompt_pieces_changes_nothing(engine: LlamaCpp, budget: int) -> None:
    requests = random_requests(3, 8, engine.vocab.n_tokens)
    alone, together = each_alone(engine, requests), Driver(engine).run(requests, budget=budget)
    for id in alone:
        assert_same(alone[id], together[id])


def test_a_reused_prefix_gives_the_logits_of_a_fresh_start(engine: LlamaCpp) -> None:
    first = random_requests(4, 4, engine.vocab.n_tokens)
    turns = [Forced(f"turn{r.id}", [*r.prompt, *r.answer, 400, 401], r.answer) for r in first]
    forks = [Forced(f"fork{r.id}", [*r.prompt[:40], 500, 501], r.answer) for r in first]
    alone = each_alone(engine, turns + forks)
    driver = Driver(engine)
    driver.run(first)
    for id, rows in driver.run(turns + forks).items():
        assert_same(alone[id], rows)


def test_after_preemption_the_logits_are_unchanged(engine: LlamaCpp) -> None:
    requests = [
        replace(r, prompt=r.prompt[:15], answer=r.answer * 4)
        for r in random_requests(5, 8, engine.vocab.n_tokens)
    ]
    alone = each_alone(engine, requests)
    tight = Driver(engine, pool_cells=200)
    together = tight.run(requests)
    for id in alone:
        assert_same(alone[id], together[id])
    assert tight.scheduler.preemptions > 0


def test_after_a_swap_to_host_memory_the_logits_are_unchanged(engine: LlamaCpp) -> None:
    requests = [
        replace(r, prompt=r.prompt[:15], answer=r.answer * 4)
        for r in random_requests(5, 8, engine.vocab.n_tokens)
    ]
    alone = each_alone(engine, requests)
    tight = Driver(engine, pool_cells=200, host_bytes=10_000)
    together = tight.run(requests)
    for id in alone:
        assert_same(alone[id], together[id])
    assert any(isinstance(operation, Restore) for operation in tight.operations)


def test_after_a_cancellation_the_others_are_unchanged(engine: LlamaCpp) -> None:
    requests = random_requests(6, 8, engine.vocab.n_tokens)
    alone = each_alone(engine, requests)
    together = Driver(engine).run(requests, cancel="r3")
    for id in set(alone) - {"r3"}:
        assert_same(alone[id], together[id])


def test_the_checks_notice_two_sequences_with_swapped_caches(engine: LlamaCpp) -> None:
    requests = [
        replace(r, prompt=(r.prompt * 40)[:40])
        for r in random_requests(7, 8, engine.vocab.n_tokens)
    ]
    alone = each_alone(engine, requests)
    driver = SwappingDriver(engine)
    together = driver.run(requests)
    assert driver.swapped
    wrong = 0
    for id in alone:
        try:
            assert_same(alone[id], together[id])
        except AssertionError:
            wrong += 1
    assert wrong >= 2
