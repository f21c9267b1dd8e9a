from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from okno.bench import depth_math
from okno.bench.depth_math import agreement, divergences, log_normalisers, losses


def rows(seed: int, count: int = 7, width: int = 50, scale: float = 5.0) -> np.ndarray:
    source = np.random.default_rng(seed)
    return (source.normal(size=(count, width)) * scale).astype(np.float32)


def naive(logits: np.ndarray) -> np.ndarray:
    wide = logits.astype(np.float64)
    return wide - np.log(np.exp(wide).sum(axis=1, keepdims=True))


@given(st.integers(0, 10**6), st.floats(0.01, 30))
def test_losses_are_those_of_the_definition(seed: int, scale: float) -> None:
    logits, targets = rows(seed, scale=scale), np.arange(7, dtype=np.int32)
    expected = -naive(logits)[np.arange(7), targets]
    assert losses(logits, targets) == pytest.approx(expected, abs=1e-4)


@given(st.integers(0, 10**6))
def test_divergences_are_those_of_the_definition(seed: int) -> None:
    p, q = rows(seed), rows(seed + 1)
    log_p, log_q = naive(p), naive(q)
    expected = (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
    assert divergences(p, q) == pytest.approx(expected, abs=1e-4)


def test_a_row_does_not_diverge_from_itself_and_agrees() -> None:
    logits = rows(3)
    assert divergences(logits, logits).tolist() == [0.0] * 7
    assert agreement(logits, logits).tolist() == [1] * 7
    assert agreement(logits, -logits).tolist() == [0] * 7


def test_huge_logits_neither_overflow_nor_vanish() -> None:
    logits = np.array([[1e4, 0.0, -1e4], [-1e4, -1e4, -1e4]], dtype=np.float32)
    assert log_normalisers(logits) == pytest.approx([1e4, -1e4 + np.log(3)])
    assert np.isfinite(divergences(logits, logits[::-1])).all()


def test_a_wide_vocabulary_is_worked_on_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    p, q, targets = rows(1, 9), rows(2, 9), np.zeros(9, dtype=np.int32)
    whole = (losses(p, targets), divergences(p, q))
    monkeypatch.setattr(depth_math, "BLOCK_VALUES", 120)  # two rows of 50
    assert losses(p, targets) == pytest.approx(whole[0], abs=1e-12)
    assert divergences(p, q) == pytest.approx(whole[1], abs=1e-6)
