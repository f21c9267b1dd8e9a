"""A request inside the worker: its sequence, sampler, constraint and text."""

from __future__ import annotations

from collections.abc import Sequence as Tokens
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from okno.core.errors import OknoError
from okno.core.events import Delta, Finished, FinishReason, Timings, TokenLogprob, Usage
from okno.core.request import Request
from okno.engines.constraints import Matcher
from okno.engines.engine import Vocabulary
from okno.engines.prompt import context_exceeded
from okno.engines.sampling import SampledToken, Sampler
from okno.engines.sampling_batch import Answer, Ask
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
    ahead: int = 0  # tokens sampled in this step that the sequence does not know yet

    @property
    def id(self) -> str:
        return self.request.id

    def fit(self, ctx: int) -> None:
        """The window may have become smaller since this was prepared. Raises ContextExceeded."""
        sequence = self.sequence
        if len(sequence.known) >= ctx:
            is_chat = self.request.prompt.messages is not None
            param = "messages" if is_chat else "prompt"
            raise context_exceeded(sequence.prompt_tokens, ctx, param)
        sequence.max_tokens = min(sequence.max_tokens, ctx)

    def replay(self, emitted: Tokens[int]) -> None:
        """Bring sampler, constraint and text to where they were after `emitted`; the text that
        comes out was sent before and is dropped."""
        for token in emitted:
            self._accept(token)
            self.text.push(self.vocab.pieces[token])

    def asks(self, first: int, count: int) -> list[Ask]:
        """What can be sampled before anything of this step is accepted, of `count` rows of logits
        from `first` on: the next token, and those after drafts where only their number matters."""
        if self.matcher is not None:
            return [Ask(first, self.sampler, self.matcher.mask)]
        known = 1 if self.sampler.looks_back else count
        if known == 1:
            return [Ask(first, self.sampler)]
        return [Ask(first + ahead, self.sampler, None, ahead) for ahead in range(known)]

    def sample(
        self,
        rows: NDArray[np.float32],
        drafts: NDArray[np.int32],
        answers: Tokens[Answer],
        now: float,
    ) -> Delta:
        """The next tokens of this sequence: one, and one more for each draft that sampling from
        the row before it agrees with. rows: (1 + drafts, n_vocab). answers: to `asks`. Sets
        `finished` when one was the last.

        A draft is a guess of certainty, so sampling the token and comparing is rejection sampling
        (Leviathan et al. 2023): the distribution is that of the model, the tokens even are those
        that the same seed gives without drafts.

        Raises OknoError when no token is possible; only this request fails then. After a draft
        that was right the error waits for the next step, which meets it again: what came before
        it reaches the client.
        """
        first = answers[0]
        if isinstance(first, OknoError):
            raise first
        delta = self._take(first, now)
        if not len(drafts):
            return delta
        with suppress(OknoError):
            for i, draft in enumerate(drafts.tolist(), 1):
                if self.finished is not None or delta.tokens[-1] != draft:
                    break
                self.ahead = len(delta.tokens)
                chosen = self._chosen(rows[i], answers[i] if i < len(answers) else None)
                delta = joined(delta, self._take(chosen, now))
        self.ahead = 0
        return delta

    def _chosen(self, row: NDArray[np.float32], answer: Answer | None) -> SampledToken:
        if answer is None:
            return self.sampler.sample(row, self.matcher.mask() if self.matcher else None)
        if isinstance(answer, OknoError):
            raise answer
        return answer

    def _take(self, chosen: SampledToken, now: float) -> Delta:
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
        elif len(self.sequence.known) + self.ahead + 1 >= self.sequence.max_tokens:
            text += self.text.finish()
            self._finish("length", now)
        return Delta(self.id, (token,), text, None if logprob is None else (logprob,))

    def _accept(self, token: int) -> None:
        self.sampler.accept(token)
        if self.matcher is not None:
            self.matcher.accept(token)

    def _finish(self, reason: FinishReason, now: float, *, stop_string: str | None = None) -> None:
        """The token just sampled is the last one; it and `ahead` more are not in the sequence
        yet."""
        sequence = self.sequence
        usage = Usage(sequence.prompt_tokens, sequence.cached, sequence.generated + self.ahead + 1)
        self.finished = Finished(self.id, reason, stop_string, usage, self.clock.timings(now))


def joined(first: Delta, second: Delta) -> Delta:
    """Two deltas of one request as one. A token that ends the answer has no log probability."""
    logprobs = None
    if first.logprobs is not None or second.logprobs is not None:
        logprobs = (first.logprobs or ()) + (second.logprobs or ())
    return Delta(first.id, first.tokens + second.tokens, first.text + second.text, logprobs)
