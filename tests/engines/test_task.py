"""A task's tokens: the same with drafts and without."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from okno.core.request import Prompt, Request, Sampling, Stop
from okno.engines.sampling import Sampler
from okno.engines.sampling_batch import sample_all
from okno.engines.scripted import END, ByteVocabulary
from okno.engines.task import Task
from okno.engines.text import TextStream
from okno.schedule.sequence import Sequence

VOCAB = ByteVocabulary()
PROMPT = [104, 105]
KINDS = [
    Sampling(temperature=0),
    Sampling(temperature=0.8, top_p=0.9),
    Sampling(repetition_penalty=1.5, frequency_penalty=0.4),
]


def task(sampling, stop=()):
    request = Request("a", Prompt(tokens=tuple(PROMPT)), sampling, Stop(strings=stop))
    return Task(
        request,
        Sequence("a", PROMPT, max_tokens=40),
        Sampler(sampling, seed=5, n_vocab=VOCAB.n_tokens, prompt=PROMPT),
        TextStream(stop),
        VOCAB,
    )


def logits_after(known, seed):
    """What a model would say: a function of the tokens before."""
    random = np.random.default_rng([seed, *known])
    return (random.normal(size=VOCAB.n_tokens) * 2).astype(np.float32)


def generate(ours, seed, drafts_of):
    """Tokens and text until the end; drafts_of(known): guesses for the next tokens."""
    tokens, text = [], ""
    while ours.finished is None:
        known = ours.sequence.known.view().tolist()
        room = 40 - len(known) - 1
        drafts = np.array(drafts_of(known)[:room], dtype=np.int32)
        rows = np.array(
            [logits_after([*known, *drafts[:i].tolist()], seed) for i in range(len(drafts) + 1)]
        )
        delta = ours.sample(rows, drafts, sample_all(rows, ours.asks(0, len(rows))), 0.0)
        ours.sequence.known.extend(np.array(delta.tokens, dtype=np.int32))
        tokens += delta.tokens
        text += delta.text
    return tokens, text, ours.finished


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(KINDS), st.integers(0, 2**32), st.data())
def test_drafts_change_no_token(sampling, seed, data):
    tokens, text, finished = generate(task(sampling), seed, lambda known: [])
    right = data.draw(st.lists(st.booleans(), min_size=40, max_size=40))

    def guess(known):
        true = [*PROMPT, *tokens][len(known) : len(known) + 4]
        return [t if right[len(known) + i - 2] else (t + 1) % 256 for i, t in enumerate(true)]

    assert generate(task(sampling), seed, guess) == (tokens, text, finished)


@pytest.mark.parametrize("sampling", KINDS)
def test_what_can_be_asked_ahead_is_asked(sampling):
    expected = 1 if sampling.repetition_penalty != 1 else 4
    asks = task(sampling).asks(10, 4)
    assert [(ask.at, ask.ahead) for ask in asks] == [(10 + i, i) for i in range(expected)]


def test_an_end_within_the_drafts_ends_the_answer_there():
    rows = np.full((3, VOCAB.n_tokens), -5.0, dtype=np.float32)
    rows[0, 65] = rows[1, END] = rows[2, 66] = 9.0
    ours = task(Sampling(temperature=0))
    drafts = np.array([65, 66], dtype=np.int32)
    delta = ours.sample(rows, drafts, sample_all(rows, ours.asks(0, len(rows))), 0.0)
    assert (delta.tokens, delta.text) == ((65, END), "A")
    assert ours.finished is not None
    assert ours.finished.usage.completion_tokens == 2
