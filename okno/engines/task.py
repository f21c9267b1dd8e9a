"""A request inside the worker: its sequence, sampler, constraint and text."""

from __future__ import annotations

from collections.abc import Sequence as Tokens
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from okno.core.events import Delta, Finished, FinishReason, Timings, TokenLogprob, Usage
from okno.core.request import Request
from okno.engines.constraints import Matcher
from okno.engines.engine import Vocabulary
from okno.engines.sampling import Sampler
from okno.engines.text import TextStream
from okno.schedule.sequence import Sequence


@dataclass(slots=True)
class Clock:
    """Moments of a request, in seconds of a monotonic clock."""

    queued: float = 0.0
    started: float | None = None
    first_token: float | None = None

    def timings(self, now: float) -> Timings:
        started = now if self.started is None else self.started
        first = now if self.first_token is None else self.first_token
        return Timings(started - self.queued, first - started, now - first)


@dataclass(slots=True)
class Task:
    """Everything needed to turn rows of logits into this request's events."""

    request: Request
    sequence: Sequence
    sampler: Sampler
    text: TextStream
    vocab: Vocabulary
    matcher: Matcher | None = None
    clock: Clock = field(default_factory=Clock)
    finished: Finished | None = None

    @property
    def id(self) -> str:
        return self.request.id

    def replay(self, emitted: Tokens[int]) -> None:
        """Bring sampler, constraint and text to where they were after `emitted`; the text that
        comes out was sent before and is dropped."""
        for token in emitted:
            self._accept(token)
            self.text.push(self.vocab.pieces[token])

    def sample(self, row: NDArray[np.float32], now: float) -> Delta:
        """The next token of this sequence. Sets `finished` when it was the last.

        Raises OknoError when no token is possible; only this request fails then.
        """
        mask = self.matcher.mask() if self.matcher else None
        chosen = self.sampler.sample(row, mask)
        if self.clock.first_token is None:
            self.clock.first_token = now
        self._accept(chosen.token)
        if chosen.token in self.vocab.end_tokens and not self.request.stop.ignore_eos:
            delta = Delta(self.id, (chosen.token,), self.text.finish())
            self._finish("stop", now)
            return delta
        return self._emit(chosen.token, chosen.logprobs, now)

    def _emit(self, token: int, logprob: TokenLogprob | None, now: float) -> Delta:
        pushed = self.text.push(self.vocab.pieces[token])
        text = pushed.text
        if pushed.stop is not None:
            self._finish("stop", now, stop_string=pushed.stop)
        elif self.matcher is not None and self.matcher.is_done():
            text += self.text.finish()
            self._finish("stop", now)
        elif len(self.sequence.known) + 1 >= self.sequence.max_tokens:
            text += self.text.finish()
            self._finish("length", now)
        return Delta(self.id, (token,), text, None if logprob is None else (logprob,))

    def _accept(self, token: int) -> None:
        self.sampler.accept(token)
        if self.matcher is not None:
            self.matcher.accept(token)

    def _finish(self, reason: FinishReason, now: float, *, stop_string: str | None = None) -> None:
        """The token just sampled is the last one; it is not in the sequence yet."""
        sequence = self.sequence
        usage = Usage(sequence.prompt_tokens, sequence.cached, sequence.generated + 1)
        self.finished = Finished(self.id, reason, stop_string, usage, self.clock.timings(now))
