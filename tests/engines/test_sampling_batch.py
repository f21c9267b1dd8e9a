"""Many rows at once choose what each would have chosen alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from okno.core.errors import EngineFailed
from okno.core.request import Sampling
from okno.engines.constraints import ConstraintBroken
from okno.engines.sampling import NoTokenAllowed, SampledToken, Sampler
from okno.engines.sampling_batch import Ask, sample_all

chance = st.sampled_from([1.0, 1.0, 0.95, 0.5, 0.01])
samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.2, 0.8, 1.0, 3.0]),
    top_k=st.sampled_from([0, 0, 1, 20, 300, 30_000]),
    top_p=chance,
    typical_p=st.sampled_from([1.0, 1.0, 1.0, 0.7]),
    min_p=st.sampled_from([0.0, 0.0, 0.05]),
    repetition_penalty=st.sampled_from([1.0, 1.0, 1.2]),
    frequency_penalty=st.sampled_from([0.0, 0.0, 0.5]),
    presence_penalty=st.sampled_from([0.0, 0.0, -0.5]),
    logit_bias=st.dictionaries(st.integers(0, 49), st.floats(-100, 100), max_size=3),
    logprobs=st.sampled_from([None, None, 0, 3]),
)
CHAT = [
    Sampling(temperature=0),
    Sampling(),
    Sampling(temperature=0.7, top_k=20, top_p=0.8),
    Sampling(temperature=0.6, top_p=0.9),
    Sampling(min_p=0.05),
]


def step(kinds, seed, n_vocab, masks=True):
    """(logits, asks): samplers somewhere in their answers, logits of some shape for each."""
    random = np.random.default_rng(seed)
    logits = np.empty((len(kinds), n_vocab), dtype=np.float32)
    asks = []
    for at, sampling in enumerate(kinds):
        logits[at] = random.normal(size=n_vocab) * random.choice([0.0, 0.5, 3.0, 10.0])
        logits[at, random.integers(0, n_vocab)] += random.choice([0, 15])
        allowed = random.random(n_vocab) < 0.3
        allowed[0] = True
        mask = allowed.copy if masks and random.random() < 0.2 else None
        asks.append(Ask(at, sampler(sampling, random, n_vocab), mask))
    return logits, asks


def sampler(sampling, random, n_vocab):
    ours = Sampler(
        sampling,
        seed=int(random.integers(-(2**63), 2**63)),
        n_vocab=n_vocab,
        prompt=random.integers(0, n_vocab, 20).tolist(),
        banned=[3] if random.random() < 0.3 else [],
    )
    for token in random.integers(0, n_vocab, random.integers(0, 30)).tolist():
        ours.accept(token)
    return ours


def alone(logits, asks):
    return [
        ask.sampler.sample(logits[ask.at], None if ask.mask is None else ask.mask()) for ask in asks
    ]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(samplings, min_size=1, max_size=24),
    st.integers(0, 2**32 - 1),
    st.sampled_from([50, 1000, 20_011]),
)
def test_a_batch_chooses_what_each_row_chooses_alone(kinds, seed, n_vocab):
    logits, asks = step(kinds, seed, n_vocab)
    before = logits.copy()
    assert sample_all(logits, asks) == alone(logits, asks)
    assert np.array_equal(logits, before), "the engine's logits are as before"


@pytest.mark.parametrize("only", [*CHAT, None])
def test_thousands_of_rows_choose_what_each_chooses_alone(only):
    kinds = [only or CHAT[i % len(CHAT)] for i in range(64)]
    for seed in range(20):
        logits, asks = step(kinds, seed, 2_500, masks=seed % 2 == 0)
        assert sample_all(logits, asks) == alone(logits, asks)


def test_rows_nobody_asks_for_change_nothing():
    logits, asks = step(CHAT * 3, 1, 20_000)
    asks = [ask for ask in asks if ask.at not in (0, 5)]  # of drafts after which much is open
    assert sample_all(logits, asks) == alone(logits, asks)


def test_no_rows_give_no_answers():
    assert sample_all(np.empty((0, 9), dtype=np.float32), []) == []


def test_a_broken_row_fails_alone():
    def broken():
        raise ConstraintBroken("too deep", param="response_format")

    nothing = np.zeros(4, dtype=bool)
    logits = np.array([[0, 1, 2, 9]] * 6, dtype=np.float32)
    logits[0, 1], logits[1, 2] = np.nan, np.inf
    masks = [None, None, None, nothing.copy, broken, None]
    asks = [
        Ask(at, Sampler(Sampling(temperature=at % 2), seed=1, n_vocab=4), mask)
        for at, mask in enumerate(masks)
    ]
    answers = sample_all(logits, asks)
    assert [type(answer) for answer in answers] == [
        EngineFailed, EngineFailed, SampledToken, NoTokenAllowed, ConstraintBroken, SampledToken,
    ]  # fmt: skip
    assert answers[2] == SampledToken(3)


@pytest.mark.parametrize("s", CHAT)
def test_a_token_asked_ahead_is_the_one_that_comes(s):
    logits = np.random.default_rng(2).normal(size=(6, 500)).astype(np.float32)
    ours = Sampler(s, seed=8, n_vocab=500)
    assert not ours.looks_back
    ahead = sample_all(logits, [Ask(at, ours, None, at) for at in range(6)])
    for row, expected in zip(logits, ahead, strict=True):
        found = ours.sample(row)
        ours.accept(found.token)
        assert found == expected


@pytest.mark.parametrize(
    "s",
    [Sampling(frequency_penalty=1), Sampling(presence_penalty=1), Sampling(repetition_penalty=2)],
)
def test_penalties_look_back(s):
    assert Sampler(s, seed=1, n_vocab=9).looks_back
