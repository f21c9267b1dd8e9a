"""Drive a scheduler step by step with a model that any text determines."""

from __future__ import annotations

from dataclasses import dataclass, field

from okno.schedule.scheduler import Scheduler
from okno.schedule.sequence import Sequence
from okno.schedule.step import Limits, Sampled, Span, Step
from tests.schedule.mirror import MirrorCache, check_books, next_token

UNIFIED = Limits(batch_size=4, seq_ids=8, pool_cells=4 * 64)


@dataclass
class Run:
    """A scheduler driven against the mirror cache, with the mirror's own next token."""

    limits: Limits = UNIFIED
    texts: dict[str, list[int]] = field(default_factory=dict)
    done: dict[str, list[int]] = field(default_factory=dict)
    cached: dict[str, int] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(self.limits)
        self.cache = MirrorCache(self.limits)

    def add(
        self, id: str, prompt: list[int], answer: int = 4, client: str = "", salt: str = "",
        weight: float = 1.0,
    ) -> None:  # fmt: skip
        limit = min(len(prompt) + answer, self.limits.pool_cells)
        self.texts[id] = list(prompt)
        self.scheduler.add(
            Sequence(id, prompt, max_tokens=limit, client=client, salt=salt, weight=weight)
        )

    def step(self, budget: int = 16, prompt_rows: int | None = None, *, right: int = -1) -> Step:
        """right: so many of three drafts for every live sequence are right; -1: no drafts."""
        pace = None if prompt_rows is None else lambda _: prompt_rows
        step = self.scheduler.schedule(budget, pace, self.guesses(right))
        assert step.rows <= max(budget, len(step.spans)), "no more rows than allowed, or one each"
        if step.spans:  # as the engine loop does
            self.cache.execute(step)
            check_books(self.scheduler, self.cache)
        sampled: dict[str, Sampled] = {}
        for span in step.spans:
            sequence = self.scheduler.live[span.id]
            self.cached[span.id] = sequence.cached
            if not span.logits:
                continue
            seen = self.cache.tokens(span.seq)
            seen = seen[: len(seen) - len(span.drafts)]
            assert seen == self.texts[span.id], "the cache holds this request's tokens, no others"
            sampled[span.id] = self.sample(span, sequence.max_tokens)
        self.scheduler.update(step, sampled)
        self.steps.append(step)
        return step

    def sample(self, span: Span, max_tokens: int) -> Sampled:
        """The drafts as far as they are right, and one token more."""
        text, new = self.texts[span.id], []
        for draft in [*span.drafts.tolist(), None]:
            new.append(next_token([*text, *new]))
            if len(text) + len(new) >= max_tokens or new[-1] != draft:
                break
        text += new
        ended = len(text) >= max_tokens
        if ended:
            self.done[span.id] = text
        return Sampled(tuple(new), ended)

    def guesses(self, right: int) -> dict[str, list[int]]:
        """For every live sequence three tokens, of which the first `right` will be sampled."""
        found = {}
        for id in self.scheduler.live if right >= 0 else ():
            true = alone(self.texts[id], 3)[len(self.texts[id]) :]
            found[id] = [*true[:right], *([99] * (3 - right))]
        return found

    def finish(self, budget: int = 16, right: int = -1) -> None:
        for _ in range(10_000):
            if not self.scheduler.live and not len(self.scheduler.waiting):
                return
            assert self.step(budget, right=right).spans, "a step with work to do runs something"
        raise AssertionError("the scheduler does not come to an end")


def alone(prompt: list[int], answer: int) -> list[int]:
    text = list(prompt)
    for _ in range(answer):
        text.append(next_token(text))
    return text
