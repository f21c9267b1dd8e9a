"""Does a sequence get the same logits beside others as alone? Teacher-forced, in the raw engine.

The sequence's tokens are given, so that both runs see the same history, and the logits of every
generated position are compared.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from okno.bench.raw import RawEngine, Row

Logits = npt.NDArray[np.float32]  # (positions, vocabulary)


@dataclass(frozen=True, slots=True)
class Text:
    """Tokens of one sequence: the prompt, and what is then fed one token per step."""

    prompt: tuple[int, ...]
    forced: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """Two runs compared over all positions. KL in nats, of the second run from the first.

    spread: standard deviation of the first run's logits, to judge largest by. lost_margin: the
    greatest lead that a token had in the first run where the second chose another (0: nowhere).
    """

    largest: float
    mean_kl: float
    largest_kl: float
    top1_equal: int
    positions: int
    lost_margin: float
    spread: float

    @property
    def identical(self) -> bool:
        """Bit for bit."""
        return self.largest == 0.0


def random_text(source: random.Random, n_vocab: int, prompt: int, forced: int) -> Text:
    """Random tokens of the given lengths."""
    draw = [source.randrange(n_vocab) for _ in range(prompt + forced)]
    return Text(tuple(draw[:prompt]), tuple(draw[prompt:]))


def alone(engine: RawEngine, text: Text, piece_tokens: int = 0) -> Logits:
    """The logits of the last prompt position and of every forced one, nothing else in memory.

    piece_tokens: compute the prompt in calls of so many tokens instead of the largest possible.
    """
    engine.forget()
    size = piece_tokens or len(text.prompt)
    for start in range(0, len(text.prompt), size):
        engine.prefill(text.prompt[start : start + size], start=start)
    found = [engine.logits().copy()]
    for offset, token in enumerate(text.forced):
        engine.decode([Row(token, len(text.prompt) + offset)])
        found.append(engine.logits().copy())
    return np.stack(found)


def beside(
    engine: RawEngine,
    text: Text,
    others: Sequence[Text],
    seed: int,
    *,
    mixed_prompts: bool = True,
    swap: bool = False,
) -> Logits:
    """The same logits while `others` decode in the same calls, rows in random order.

    All texts have as many forced tokens. mixed_prompts: the prompts too share calls, in random
    pieces; else each prompt is computed alone, as in `alone`. swap: the negative control, a defect
    on purpose: from the first step on, the sequence and its first neighbour continue in each
    other's memory.
    """
    engine.forget()
    source = random.Random(seed)
    texts = [text, *others]
    prefill = _mixed_prefill if mixed_prompts else _separate_prefill
    found = [prefill(engine, texts, source)]
    home = [1, 0, *range(2, len(texts))] if swap else list(range(len(texts)))
    for step in range(len(text.forced)):
        order = source.sample(range(len(texts)), len(texts))
        rows = [_step_row(texts, number, home[number], step) for number in order]
        engine.decode(rows)
        found.append(engine.logits(order.index(0)).copy())
    return np.stack(found)


def _step_row(texts: Sequence[Text], number: int, seq: int, step: int) -> Row:
    """The next token of text `number`, put where the sequence `seq` goes on."""
    return Row(texts[number].forced[step], len(texts[seq].prompt) + step, seq)


def _separate_prefill(engine: RawEngine, texts: Sequence[Text], source: random.Random) -> Logits:
    """Compute the prompts one after another, in random order; text 0's last logits."""
    found: Logits | None = None
    for seq in source.sample(range(len(texts)), len(texts)):
        engine.prefill(texts[seq].prompt, seq=seq)
        if seq == 0:
            found = engine.logits().copy()
    assert found is not None
    return found


def _mixed_prefill(engine: RawEngine, texts: Sequence[Text], source: random.Random) -> Logits:
    """Compute all prompts in shared calls; the logits of text 0's last position."""
    wanted = len(texts[0].prompt) - 1
    found: Logits | None = None
    for rows in _calls(list(_pieces(texts, source)), engine.options.step_tokens):
        engine.decode(rows)
        at = next((i for i, r in enumerate(rows) if r.seq == 0 and r.position == wanted), None)
        if at is not None:
            found = engine.logits(at).copy()
    assert found is not None
    return found


def _pieces(texts: Sequence[Text], source: random.Random) -> Iterator[Row]:
    """The rows of all prompts: pieces of 1 to 32 tokens of a randomly chosen sequence."""
    done = [0] * len(texts)
    open_ = [number for number, text in enumerate(texts) if text.prompt]
    while open_:
        seq = source.choice(open_)
        prompt, start = texts[seq].prompt, done[seq]
        done[seq] = min(len(prompt), start + source.randint(1, 32))
        for position in range(start, done[seq]):
            yield Row(prompt[position], position, seq, output=position == len(prompt) - 1)
        if done[seq] == len(prompt):
            open_.remove(seq)


def _calls(rows: list[Row], size: int) -> Iterator[list[Row]]:
    for first in range(0, len(rows), size):
        yield rows[first : first + size]


def compare(first: Logits, second: Logits) -> Difference:
    """How far `second` is from `first`, position by position."""
    p, q = _log_softmax(first), _log_softmax(second)
    kl = np.maximum((np.exp(p) * (p - q)).sum(axis=1), 0.0)
    best = first.argmax(axis=1)
    equal = best == second.argmax(axis=1)
    two = np.sort(np.partition(first, -2, axis=1)[:, -2:], axis=1)
    margins = (two[:, 1] - two[:, 0])[~equal]
    return Difference(
        largest=float(np.abs(first - second).max()),
        mean_kl=float(kl.mean()),
        largest_kl=float(kl.max()),
        top1_equal=int(equal.sum()),
        positions=len(first),
        lost_margin=float(margins.max(initial=0.0)),
        spread=float(first.std()),
    )


def _log_softmax(logits: Logits) -> npt.NDArray[np.float64]:
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    normal: npt.NDArray[np.float64] = wide - np.log(np.exp(wide).sum(axis=1, keepdims=True))
    return normal
