"""The sampler against a plain float64 reference, against llama.cpp's own chain, and its limits."""

import ctypes
import math
from collections import Counter
from itertools import pairwise

import llama_cpp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from okno.core.errors import BadRequest, EngineFailed
from okno.core.request import Sampling
from okno.engines.sampling import NoTokenAllowed, Sampler

N_VOCAB = 50


def logits_of(*values):
    return np.array(values, dtype=np.float32)


def sampler(sampling=None, seed=1, n_vocab=N_VOCAB, **more):
    return Sampler(sampling or Sampling(), seed=seed, n_vocab=n_vocab, **more)


# The reference: dictionaries of python floats, one step after the other -------------------------


def softmax(x):
    best = max(x.values())
    weights = {i: math.exp(v - best) for i, v in x.items()}
    total = math.fsum(weights.values())
    return {i: w / total for i, w in weights.items()}


def run_until(order, p, need):
    """The shortest beginning of `order` whose mass reaches `need`; how near it came to a tie."""
    mass, kept, nearest = 0.0, [], 1.0
    for i in order:
        kept.append(i)
        mass += p[i]
        nearest = min(nearest, abs(mass - need))
        if mass >= need:
            break
    return kept, nearest


def reference(logits, s, prompt=(), generated=(), mask=None, banned=()):
    """({token: probability}, distance of the nearest decision from a tie)."""
    allowed = [i for i in range(len(logits)) if (mask is None or mask[i]) and i not in banned]
    x = {i: float(logits[i]) + s.logit_bias.get(i, 0.0) for i in allowed}
    context = [*prompt, *generated]
    last = context if s.penalty_last_n < 0 else context[max(0, len(context) - s.penalty_last_n) :]
    for i in set(last if s.penalty_last_n else []) & set(x):
        x[i] = x[i] / s.repetition_penalty if x[i] > 0 else x[i] * s.repetition_penalty
    for i, count in Counter(generated).items():
        if i in x:
            x[i] -= count * s.frequency_penalty + s.presence_penalty
    gap = 1.0
    if s.top_k:
        x = {i: x[i] for i in sorted(x, key=lambda i: (-x[i], i))[: s.top_k]}
    if s.typical_p < 1:
        p = softmax(x)
        entropy = -math.fsum(q * math.log(q) for q in p.values() if q > 0)
        off = {i: abs(-math.log(q) - entropy) for i, q in p.items()}
        order = sorted(x, key=lambda i: (off[i], i))
        kept, near = run_until(order, p, s.typical_p)
        spread = [off[b] - off[a] for a, b in pairwise(order)]
        gap = min([gap, near, *spread])
        x = {i: x[i] for i in kept}
    if s.top_p < 1:
        kept, near = run_until(sorted(x, key=lambda i: (-x[i], i)), softmax(x), s.top_p)
        gap, x = min(gap, near), {i: x[i] for i in kept}
    if s.min_p > 0:
        least = max(x.values()) + math.log(s.min_p)
        gap = min([gap, *(abs(v - least) for v in x.values() if v < max(x.values()))])
        x = {i: v for i, v in x.items() if v >= least}
    if s.temperature == 0:
        return {min(x, key=lambda i: (-x[i], i)): 1.0}, gap
    best = max(x.values())
    return softmax({i: (v - best) / s.temperature for i, v in x.items()}), gap


probability = st.sampled_from([1.0, 0.999, 0.9, 0.5, 0.1, 0.001])
samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.1, 0.7, 1.0, 1.8, 10.0]),
    top_k=st.sampled_from([0, 1, 3, 20, N_VOCAB, 10**6]),
    top_p=probability,
    typical_p=probability,
    min_p=st.sampled_from([0.0, 0.01, 0.3, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.5]),
    penalty_last_n=st.sampled_from([-1, 0, 1, 4, 64]),
    frequency_penalty=st.sampled_from([0.0, 0.5, -2.0]),
    presence_penalty=st.sampled_from([0.0, 1.0, -0.7]),
    logit_bias=st.dictionaries(st.integers(0, N_VOCAB - 1), st.floats(-100, 100), max_size=3),
)
tokens = st.lists(st.integers(0, N_VOCAB - 1), max_size=12)
some_logits = st.integers(0, 2**32 - 1).flatmap(
    lambda seed: st.sampled_from([0.5, 3.0, 8.0]).map(
        lambda scale: (np.random.default_rng(seed).normal(size=N_VOCAB) * scale).astype(np.float32)
    )
)
masks = st.one_of(
    st.none(),
    st.sets(st.integers(0, N_VOCAB - 1), min_size=1).map(
        lambda ids: np.isin(np.arange(N_VOCAB), list(ids))
    ),
)


@settings(max_examples=400, deadline=None)
@given(some_logits, samplings, tokens, tokens, masks)
def test_the_distribution_is_the_reference_distribution(logits, s, prompt, generated, mask):
    expected, gap = reference(logits, s, prompt, generated, mask)
    assume(gap > 1e-4)
    ours = sampler(s, prompt=prompt)
    for token in generated:
        ours.accept(token)
    ids, probabilities = ours.distribution(logits, mask)
    got = dict(zip(ids.tolist(), probabilities.tolist(), strict=True))
    assert ids.tolist() == sorted(ids.tolist())
    for i in {*expected, *got}:
        assert got.get(i, 0.0) == pytest.approx(expected.get(i, 0.0), rel=1e-4, abs=1e-9)


@settings(deadline=None)
@given(some_logits, samplings, tokens, tokens, masks)
def test_greedy_is_the_reference_argmax(logits, s, prompt, generated, mask):
    greedy = Sampling(
        temperature=0,
        repetition_penalty=s.repetition_penalty,
        penalty_last_n=s.penalty_last_n,
        frequency_penalty=s.frequency_penalty,
        presence_penalty=s.presence_penalty,
        logit_bias=s.logit_bias,
    )
    expected, _ = reference(logits, greedy, prompt, generated, mask)
    ours = sampler(greedy, prompt=prompt)
    for token in generated:
        ours.accept(token)
    assert [ours.sample(logits, mask).token] == list(expected)


def test_a_large_vocabulary_is_truncated_as_the_reference_does():
    logits = (np.random.default_rng(3).normal(size=20_000) * 2).astype(np.float32)
    for s in (Sampling(top_p=0.9), Sampling(typical_p=0.6), Sampling(top_k=3000, top_p=0.99)):
        expected, gap = reference(logits, s)
        ids, probabilities = sampler(s, n_vocab=len(logits)).distribution(logits)
        assert abs(len(ids) - len(expected)) <= (0 if gap > 1e-6 else 1)
        shared = [
            (p, expected[i])
            for i, p in zip(ids.tolist(), probabilities, strict=True)
            if i in expected
        ]
        assert all(p == pytest.approx(q, rel=1e-3) for p, q in shared)
        assert len(shared) >= len(expected) - 1


# llama.cpp's own chain --------------------------------------------------------------------------


def llama_chain(s):
    make = [
        llama_cpp.llama_sampler_init_top_k(s.top_k),
        llama_cpp.llama_sampler_init_typical(s.typical_p, 1),
        llama_cpp.llama_sampler_init_top_p(s.top_p, 1),
        llama_cpp.llama_sampler_init_min_p(s.min_p, 1),
        llama_cpp.llama_sampler_init_temp(s.temperature),
        llama_cpp.llama_sampler_init_dist(1),
    ]
    chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
    for link in make:
        llama_cpp.llama_sampler_chain_add(chain, link)
    return chain


def llama_distribution(logits, s, penalties=None, context=()):
    """{token: probability} that llama.cpp leaves, after its own softmax in `dist`."""
    rows = (llama_cpp.llama_token_data * len(logits))(
        *(llama_cpp.llama_token_data(i, float(v), 0.0) for i, v in enumerate(logits))
    )
    data = llama_cpp.llama_token_data_array(rows, len(logits), -1, False)
    if penalties is not None:
        for token in context:
            llama_cpp.llama_sampler_accept(penalties, token)
        llama_cpp.llama_sampler_apply(penalties, ctypes.byref(data))
        llama_cpp.llama_sampler_free(penalties)
    chain = llama_chain(s)
    llama_cpp.llama_sampler_apply(chain, ctypes.byref(data))
    llama_cpp.llama_sampler_free(chain)
    return {data.data[i].id: data.data[i].p for i in range(data.size)}


@settings(deadline=None, max_examples=150)
@given(some_logits, samplings)
def test_llama_cpp_leaves_the_same_tokens_with_the_same_probabilities(logits, drawn):
    s = Sampling(
        temperature=drawn.temperature, top_k=drawn.top_k, top_p=drawn.top_p,
        typical_p=drawn.typical_p, min_p=drawn.min_p,
    )  # fmt: skip
    _, gap = reference(logits, s)
    assume(gap > 1e-4)
    expected = llama_distribution(logits, s)
    ids, probabilities = sampler(s).distribution(logits)
    got = dict(zip(ids.tolist(), probabilities.tolist(), strict=True))
    for i in {*expected, *got}:
        assert got.get(i, 0.0) == pytest.approx(expected.get(i, 0.0), rel=1e-3, abs=1e-6)


@settings(deadline=None, max_examples=100)
@given(some_logits, tokens, st.sampled_from([0.5, 1.0, 1.3]))
def test_llama_cpp_penalises_the_same(logits, generated, repetition):
    s = Sampling(
        repetition_penalty=repetition,
        penalty_last_n=64,
        frequency_penalty=0.5,
        presence_penalty=-0.7,
    )
    penalties = llama_cpp.llama_sampler_init_penalties(N_VOCAB, 64, repetition, 0.5, -0.7)
    expected = llama_distribution(logits, Sampling(), penalties, generated)
    ours = sampler(s)
    for token in generated:
        ours.accept(token)
    ids, probabilities = ours.distribution(logits)
    for i, p in zip(ids.tolist(), probabilities.tolist(), strict=True):
        assert p == pytest.approx(expected[i], rel=1e-3, abs=1e-6)


# Randomness -------------------------------------------------------------------------------------


def draw(ours, logits, n):
    out = []
    for _ in range(n):
        out.append(ours.sample(logits).token)
        ours.accept(out[-1])
    return out


@pytest.mark.parametrize(
    "s", [Sampling(), Sampling(temperature=0.5, top_p=0.9), Sampling(temperature=3.0, top_k=12)]
)
def test_drawn_frequencies_match_the_distribution(s):
    logits = (np.random.default_rng(5).normal(size=N_VOCAB) * 1.5).astype(np.float32)
    expected, _ = reference(logits, s)
    n = 20_000
    counts = Counter(draw(sampler(s, seed=7), logits, n))
    assert set(counts) <= set(expected)
    cells = {i: p * n for i, p in expected.items() if p * n >= 5}
    rest = n - sum(cells.values())
    chi2 = sum((counts[i] - e) ** 2 / e for i, e in cells.items())
    if rest >= 5:
        chi2 += (n - sum(counts[i] for i in cells) - rest) ** 2 / rest
    degrees = len(cells) - (rest < 5)
    assert chi2 < degrees + 4 * math.sqrt(2 * degrees)


def test_a_large_vocabulary_is_drawn_from_all_its_blocks_evenly():
    n_vocab, n = 10_000, 20_000
    flat = np.zeros(n_vocab, dtype=np.float32)
    drawn = np.array(draw(sampler(n_vocab=n_vocab, seed=11), flat, n))
    counts = np.bincount(drawn // 500, minlength=20)
    expected = n / 20
    chi2 = float(((counts - expected) ** 2 / expected).sum())
    assert chi2 < 19 + 4 * math.sqrt(38)


def test_a_replay_of_accepted_tokens_continues_identically():
    s = Sampling(temperature=1.2, repetition_penalty=1.2, frequency_penalty=0.3)
    logits = (np.random.default_rng(1).normal(size=N_VOCAB)).astype(np.float32)
    whole = draw(sampler(s, seed=-5, prompt=[1, 2, 3]), logits, 30)
    replayed = sampler(s, seed=-5, prompt=[1, 2, 3])
    for token in whole[:17]:
        replayed.accept(token)
    assert draw(replayed, logits, 13) == whole[17:]


def test_sampling_twice_without_accepting_gives_the_same_token():
    logits = np.zeros(N_VOCAB, dtype=np.float32)
    ours = sampler()
    assert ours.sample(logits) == ours.sample(logits)


@pytest.mark.parametrize("seed", [-(2**63), -1, 0, 2**63, 2**64 - 1])
def test_every_seed_gives_its_own_sequence(seed):
    logits = np.zeros(N_VOCAB, dtype=np.float32)
    mine = draw(sampler(seed=seed), logits, 20)
    assert mine == draw(sampler(seed=seed), logits, 20)
    assert mine != draw(sampler(seed=seed ^ 1), logits, 20)
    assert mine != draw(sampler(seed=42), logits, 20)


def test_a_negative_seed_is_not_the_same_as_the_large_one_it_wraps_to():
    logits = np.zeros(N_VOCAB, dtype=np.float32)
    assert draw(sampler(seed=-1), logits, 20) != draw(sampler(seed=2**64 - 1), logits, 20)


# Limits -----------------------------------------------------------------------------------------


def test_equal_logits_give_the_lowest_id_when_greedy():
    assert sampler(Sampling(temperature=0), n_vocab=4).sample(logits_of(1, 5, 5, 5)).token == 1


@pytest.mark.parametrize("s", [Sampling(temperature=0), Sampling(temperature=1e-300)])
def test_a_vanishing_temperature_is_greedy(s):
    assert sampler(s, n_vocab=3).sample(logits_of(1, 3, 2)).token == 1


@pytest.mark.parametrize(
    "s", [Sampling(top_p=1e-12), Sampling(min_p=1.0), Sampling(top_k=1), Sampling(typical_p=1e-9)]
)
def test_at_least_one_token_is_always_left(s):
    ids, _ = sampler(s, n_vocab=3).distribution(logits_of(1, 9, 2))
    assert ids.tolist() == [1]


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("top_k", [0, 2])
def test_masked_and_banned_tokens_are_never_drawn(temperature, top_k):
    mask = np.array([True, True, False, True])
    ours = sampler(Sampling(temperature=temperature, top_k=top_k), n_vocab=4, banned=[1])
    for _ in range(50):
        token = ours.sample(logits_of(0, 90, 80, 1), mask).token
        assert token in (0, 3)
        ours.accept(token)


@pytest.mark.parametrize("temperature", [0, 1])
def test_no_allowed_token_is_its_own_error(temperature):
    ours = sampler(Sampling(temperature=temperature), n_vocab=2, banned=[1])
    with pytest.raises(NoTokenAllowed, match="No token is allowed"):
        ours.sample(logits_of(1, 2), np.array([False, True]))


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("penalty", [1.0, 1.1])
def test_broken_logits_are_an_error_that_says_so(temperature, bad, penalty):
    ours = sampler(
        Sampling(temperature=temperature, repetition_penalty=penalty), n_vocab=3, prompt=[0]
    )
    with pytest.raises(EngineFailed, match="NaN or infinite"):
        ours.sample(logits_of(1, bad, 2))


def test_the_models_own_minus_infinity_is_never_drawn():
    flat = np.full(2000, -np.inf, dtype=np.float32)
    flat[[3, 1999]] = 0
    assert set(draw(sampler(n_vocab=2000), flat, 50)) == {3, 1999}


def test_a_tiny_repetition_penalty_does_not_overflow():
    ours = sampler(Sampling(repetition_penalty=1e-320), n_vocab=3, prompt=[1])
    assert ours.sample(logits_of(1, 2, 3)).token == 1


@pytest.mark.parametrize("token", [-1, N_VOCAB])
def test_a_bias_for_an_unknown_token_is_refused(token):
    with pytest.raises(BadRequest, match=f"token {token}") as caught:
        sampler(Sampling(logit_bias={token: 1.0}))
    assert caught.value.info.param == "logit_bias"


@settings(deadline=None)
@given(some_logits, samplings, masks)
def test_the_engines_logits_are_never_modified(logits, s, mask):
    before = logits.copy()
    ours = sampler(s, prompt=[1, 2])
    ours.accept(ours.sample(logits, mask).token)
    ours.sample(logits, mask)
    assert np.array_equal(logits, before)


def test_the_repetition_window_forgets_old_tokens():
    s = Sampling(temperature=0, repetition_penalty=2.0, penalty_last_n=2)
    ours = sampler(s, n_vocab=3, prompt=[0, 1])
    assert ours.sample(logits_of(4, 3, 2.5)).token == 2
    ours.accept(2)
    assert ours.sample(logits_of(4, 3, 2.5)).token == 0


def test_of_a_long_prompt_only_the_last_tokens_count():
    s = Sampling(temperature=0, repetition_penalty=2.0, penalty_last_n=2)
    assert sampler(s, n_vocab=3, prompt=[0, 1, 2, 1]).sample(logits_of(4, 3, 2.5)).token == 0
    assert sampler(s, n_vocab=3, prompt=[1, 2, 0, 1]).sample(logits_of(4, 3, 2.5)).token == 2


# Log probabilities ------------------------------------------------------------------------------


@settings(deadline=None)
@given(some_logits, st.integers(0, 20))
def test_logprobs_are_of_the_models_own_distribution(logits, n_top):
    s = Sampling(temperature=0.3, top_k=5, logit_bias={0: 50.0}, logprobs=n_top)
    got = sampler(s, piece_of=lambda t: f"<{t}>".encode()).sample(logits).logprobs
    p = softmax(dict(enumerate(map(float, logits))))
    best = sorted(p, key=lambda i: (-p[i], i))[:n_top]
    assert got.piece == f"<{got.token}>".encode()
    assert got.logprob == pytest.approx(math.log(p[got.token]), abs=1e-5)
    assert [t.token for t in got.top] == best
    assert [t.logprob for t in got.top] == pytest.approx([math.log(p[i]) for i in best], abs=1e-5)


def test_logprobs_are_not_computed_unless_asked_for():
    assert sampler().sample(np.zeros(N_VOCAB, dtype=np.float32)).logprobs is None


def test_impossible_tokens_are_not_listed_as_alternatives():
    got = sampler(Sampling(logprobs=20), n_vocab=3).sample(logits_of(1, -np.inf, 0)).logprobs
    assert [t.token for t in got.top] == [0, 2]


def test_a_small_change_of_the_logits_rarely_changes_the_draw() -> None:
    """The winner changes with at most twice the total variation; dividing [0, 1) by ids would
    change one draw in ten here."""
    rng = np.random.default_rng(0)
    sampler = Sampler(Sampling(temperature=1.0), seed=5, n_vocab=2560)
    changed = moved = 0.0
    for _ in range(500):
        logits = (3 * rng.standard_normal(2560)).astype(np.float32)
        other = logits + 0.007 * rng.standard_normal(2560).astype(np.float32)
        token = sampler.sample(logits).token
        changed += token != sampler.sample(other).token
        p, q = (np.exp(x - x.max()) / np.exp(x - x.max()).sum() for x in (logits, other))
        moved += np.abs(p - q).sum() / 2
        sampler.accept(token)
    assert changed <= 2 * moved + 3
