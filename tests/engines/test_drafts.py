"""Task.sample with drafts: the tokens, texts and log probabilities of one token at a time."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from okno.core.errors import EngineFailed
from okno.core.events import Delta, Finished, TokenLogprob
from okno.core.request import Constraint, Prompt, Request, Sampling, Stop
from okno.engines.constraints import GrammarCompiler, make_tokenizer
from okno.engines.sampling import Sampler
from okno.engines.sampling_batch import sample_all
from okno.engines.scripted import END, ByteVocabulary
from okno.engines.task import Task
from okno.engines.text import TextStream
from okno.schedule.sequence import Sequence

VOCAB = ByteVocabulary()
PROMPT = list(b"abc")
Row = NDArray[np.float32]
Model = Callable[[list[int]], Row]
COMPILER = GrammarCompiler(
    make_tokenizer(
        [VOCAB.label(token) for token in range(VOCAB.n_tokens)],
        VOCAB.special,
        sorted(VOCAB.end_tokens),
        lambda text: VOCAB.encode(text, add_special=False, parse_special=False),
    )
)


def wild(tokens: list[int]) -> Row:
    """Logits that depend on every token before; letters a to h and the end are likely."""
    rng = np.random.default_rng(tokens)
    logits = rng.normal(size=VOCAB.n_tokens).astype(np.float32)
    logits[97:105] += 4
    logits[END] += 2
    return logits


def saying(text: bytes) -> Model:
    """A model that says `text`, then ends."""

    def model(tokens: list[int]) -> Row:
        said = len(tokens) - len(PROMPT)
        logits = np.zeros(VOCAB.n_tokens, dtype=np.float32)
        logits[text[said] if said < len(text) else END] = 20
        return logits

    return model


GREEDY, TO_THE_END = Sampling(temperature=0), Stop()


@dataclass
class Answer:
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finished: Finished | None = None
    steps: int = 0


def task_of(sampling: Sampling, stop: Stop, constraint: Constraint | None, seed: int) -> Task:
    request = Request("r", Prompt(tokens=tuple(PROMPT)), sampling, stop, constraint)
    banned = VOCAB.end_tokens if stop.ignore_eos else ()
    return Task(
        request,
        Sequence("r", PROMPT, max_tokens=len(PROMPT) + (stop.max_tokens or 40)),
        Sampler(sampling, seed=seed, n_vocab=VOCAB.n_tokens, prompt=PROMPT, banned=banned,
                piece_of=VOCAB.label),
        TextStream(stop.strings),
        VOCAB,
        COMPILER.compile(constraint) if constraint else None,
    )  # fmt: skip


def run(
    model: Model,
    guess: Callable[[list[int]], list[int]] = lambda _known: [],
    sampling: Sampling = GREEDY,
    stop: Stop = TO_THE_END,
    constraint: Constraint | None = None,
    seed: int = 0,
) -> Answer:
    """Answer as the loop does; guess: drafts after the known tokens."""
    task, answer = task_of(sampling, stop, constraint, seed), Answer()
    while task.finished is None:
        known = task.sequence.known.view().tolist()
        room = task.sequence.max_tokens - len(known) - 1
        drafts = guess(known)[:room]
        rows = np.array([model(known + drafts[:i]) for i in range(len(drafts) + 1)])
        delta = sampled(task, rows, drafts)
        assert list(delta.tokens[:-1]) == drafts[: len(delta.tokens) - 1]
        task.sequence.known.extend(np.array(delta.tokens, dtype=np.int32))
        answer.tokens += delta.tokens
        answer.text += delta.text
        answer.logprobs += delta.logprobs or ()
        answer.steps += 1
    answer.finished = task.finished
    return answer


def sampled(task: Task, rows: NDArray[np.float32], drafts: list[int]) -> Delta:
    """As the loop does."""
    rows = np.array(rows, dtype=np.float32)
    answers = sample_all(rows, task.asks(0, len(rows)))
    return task.sample(rows, np.array(drafts, dtype=np.int32), answers, 0.0)


def same(one: Answer, other: Answer) -> None:
    assert (one.tokens, one.text) == (other.tokens, other.text)
    assert one.finished == other.finished
    assert one.logprobs == other.logprobs


def ahead(text: bytes, count: int) -> Callable[[list[int]], list[int]]:
    """Drafts that are right if the model says `text`."""
    return lambda known: list(text[len(known) - len(PROMPT) :][:count])


def test_right_drafts_make_fewer_steps() -> None:
    text = b"hello world, hello moon"
    drafted = run(saying(text), ahead(text, 5))
    same(drafted, run(saying(text)))
    assert drafted.steps == 4
    assert drafted.finished is not None
    assert drafted.finished.usage.completion_tokens == len(text) + 1


def test_wrong_drafts_change_nothing() -> None:
    text = b"hello"
    drafted = run(saying(text), lambda _known: [1, 2, 3])
    same(drafted, run(saying(text)))
    assert drafted.steps == 6


def test_an_end_inside_a_draft_ends_the_answer_there() -> None:
    drafted = run(saying(b"hel"), ahead(b"hello", 5))
    same(drafted, run(saying(b"hel")))
    assert drafted.tokens == [*b"hel", END]
    assert drafted.steps == 1


def test_a_stop_string_inside_a_draft_ends_the_answer_there() -> None:
    text, stop = b"one, two, three", Stop(("two", "x"))
    drafted = run(saying(text), ahead(text, 16), stop=stop)
    same(drafted, run(saying(text), stop=stop))
    assert drafted.text == "one, "
    assert drafted.tokens == list(b"one, two")
    assert drafted.steps == 1


@pytest.mark.parametrize("most", [1, 2, 3, 7])
def test_max_tokens_inside_a_draft(most: int) -> None:
    text = b"hello world"
    stop = Stop(max_tokens=most)
    drafted = run(saying(text), ahead(text, 16), stop=stop)
    same(drafted, run(saying(text), stop=stop))
    assert len(drafted.tokens) == most


def test_an_error_behind_a_right_draft_waits_for_the_next_step() -> None:
    """The client gets the tokens before it, as it would have without drafts."""

    def breaking(tokens: list[int]) -> Row:
        if len(tokens) >= len(PROMPT) + 2:
            return np.full(VOCAB.n_tokens, np.nan, dtype=np.float32)
        return saying(b"hello")(tokens)

    task = task_of(Sampling(temperature=0), Stop(), None, 0)
    drafts = list(b"hello")
    rows = np.array([breaking(PROMPT + drafts[:i]) for i in range(6)])
    delta = sampled(task, rows, drafts)
    assert (delta.tokens, delta.text, task.finished) == (tuple(b"he"), "he", None)
    task.sequence.known.extend(np.array(delta.tokens, dtype=np.int32))
    with pytest.raises(EngineFailed, match="NaN"):
        sampled(task, rows[2:3], [])


def test_log_probabilities_come_with_every_token_but_the_end() -> None:
    asked = Sampling(temperature=0, logprobs=2)
    drafted = run(saying(b"abcd"), ahead(b"abcd", 8), sampling=asked)
    same(drafted, run(saying(b"abcd"), sampling=asked))
    assert [entry.token for entry in drafted.logprobs] == list(b"abcd")


samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.7, 1.0]),
    top_k=st.sampled_from([0, 5]),
    top_p=st.sampled_from([1.0, 0.9]),
    repetition_penalty=st.sampled_from([1.0, 1.5]),
    frequency_penalty=st.sampled_from([0.0, 1.0]),
    presence_penalty=st.sampled_from([0.0, 1.0]),
    logit_bias=st.sampled_from([{}, {98: 3.0, 99: -50.0}]),
    logprobs=st.sampled_from([None, 1]),
)
constraints = st.sampled_from(
    [None, Constraint("regex", "[a-d]{3,9}(xy|z)?"), Constraint("json_object"),
     Constraint("regex", "(ab|cd)+e")]
)  # fmt: skip


@settings(max_examples=250, deadline=None)
@given(samplings, constraints, st.integers(0, 10**6), st.sampled_from([(), ("ab", "c"), ("h",)]))
def test_with_a_seed_the_answer_is_that_without_drafts(
    sampling: Sampling, constraint: Constraint | None, seed: int, strings: tuple[str, ...]
) -> None:
    """Masks, penalties and biases see the tokens before, right up to the draft's last row."""
    stop = Stop(strings, max_tokens=24)
    plain = run(wild, sampling=sampling, stop=stop, constraint=constraint, seed=seed)
    rng = random.Random(seed)

    def guess(known: list[int]) -> list[int]:
        right = plain.tokens[len(known) - len(PROMPT) :][: rng.randint(0, 6)]
        return right + [rng.randrange(VOCAB.n_tokens) for _ in range(rng.randint(0, 2))]

    drafted = run(wild, guess, sampling, stop, constraint, seed)
    same(drafted, plain)
    assert drafted.steps <= plain.steps


def test_the_distribution_is_the_model_s() -> None:
    """Chi-square over 4,000 seeds: pairs of tokens with a draft that is right at times, against
    the exact probabilities. 8 x 8 pairs: 63 degrees of freedom, 1e-4 quantile 112.3."""
    letters = list(range(97, 105))

    def narrow(tokens: list[int]) -> Row:
        logits = np.full(VOCAB.n_tokens, -np.inf, dtype=np.float32)
        logits[letters] = np.random.default_rng(tokens).normal(size=8) * 0.7
        return logits

    def probabilities(tokens: list[int]) -> NDArray[np.float64]:
        weights = np.exp(narrow(tokens)[letters].astype(np.float64))
        return weights / weights.sum()  # type: ignore[no-any-return]

    likeliest = 97 + int(probabilities(PROMPT).argmax())
    seen: Counter[tuple[int, ...]] = Counter()
    n_seeds, steps = 4000, 0
    for seed in range(n_seeds):
        answer = run(narrow, lambda _known: [likeliest], Sampling(), Stop(max_tokens=2), seed=seed)
        seen[tuple(answer.tokens)] += 1
        steps += answer.steps
    assert n_seeds < steps < 2 * n_seeds, "drafts were right and wrong"
    chi_square = 0.0
    for first, p in zip(letters, probabilities(PROMPT), strict=True):
        for second, q in zip(letters, probabilities([*PROMPT, first]), strict=True):
            expected = n_seeds * p * q
            chi_square += (seen[first, second] - expected) ** 2 / expected
    assert chi_square < 112.3
