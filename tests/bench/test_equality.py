from __future__ import annotations

import random

import numpy as np
import pytest

from okno.bench.equality import alone, beside, compare, random_text
from okno.bench.quantise import FileType
from okno.bench.raw import RawEngine, RawOptions, open_raw
from tests.conftest import MakeModel

# What cutting a prompt into other pieces changes by itself: random Q4_0 weights up to 4e-4.
NOISE_KL: dict[FileType, float] = {"F32": 1e-4, "Q4_0": 1e-3}
OPTIONS = {
    layout: RawOptions(ctx=256, n_seq=8, step_tokens=64, kv_unified=layout == "unified")
    for layout in ("unified", "streams")
}


def eight_texts(engine: RawEngine):
    source = random.Random(1)
    return [random_text(source, engine.n_vocab, source.randint(20, 60), 12) for _ in range(8)]


@pytest.mark.parametrize("layout", OPTIONS)
@pytest.mark.parametrize("file_type", NOISE_KL)
def test_a_sequence_beside_seven_others_has_the_logits_it_has_alone(
    make_model: MakeModel, layout: str, file_type: FileType
) -> None:
    with open_raw(make_model("tiny", file_type), OPTIONS[layout]) as engine:
        text, *others = eight_texts(engine)
        found = compare(alone(engine, text), beside(engine, text, others, seed=2))
    assert found.positions == 13
    assert found.mean_kl <= NOISE_KL[file_type]
    assert found.lost_margin < 0.1


@pytest.mark.parametrize("layout", OPTIONS)
def test_a_swapped_sequence_id_is_noticed(make_model: MakeModel, layout: str) -> None:
    with open_raw(make_model("tiny"), OPTIONS[layout]) as engine:
        text, other, *_ = eight_texts(engine)
        found = compare(alone(engine, text), beside(engine, text, [other], seed=2, swap=True))
    assert found.mean_kl > 100 * NOISE_KL["F32"]


def test_q4_0_with_prompts_of_their_own_is_equal_bit_for_bit_in_streams(
    make_model: MakeModel,
) -> None:
    with open_raw(make_model("tiny", "Q4_0"), OPTIONS["streams"]) as engine:
        text, *others = eight_texts(engine)
        there = beside(engine, text, others, seed=2, mixed_prompts=False)
        assert compare(alone(engine, text), there).identical


def test_cutting_the_prompt_changes_no_more_than_the_rounding_of_the_type(
    make_model: MakeModel,
) -> None:
    with open_raw(make_model("tiny"), OPTIONS["unified"]) as engine:
        text, *_ = eight_texts(engine)
        cut = alone(engine, text, piece_tokens=3)
        assert compare(alone(engine, text), cut).mean_kl <= NOISE_KL["F32"]


def test_comparing_a_run_with_itself_finds_nothing() -> None:
    logits = np.random.default_rng(0).standard_normal((5, 100)).astype(np.float32)
    found = compare(logits, logits)
    assert found.identical
    assert (found.mean_kl, found.top1_equal, found.lost_margin) == (0, 5, 0)


def test_a_comparison_reports_the_lead_that_was_lost_and_the_divergence() -> None:
    first = np.array([[2.0, 1.5, 0.0], [0.0, 1.0, 5.0]], np.float32)
    second = np.array([[1.5, 2.0, 0.0], [0.0, 1.0, 5.0]], np.float32)
    found = compare(first, second)
    assert found.largest == 0.5
    assert found.top1_equal == 1
    assert found.lost_margin == pytest.approx(0.5)
    p = np.exp(first[0]) / np.exp(first[0]).sum()
    q = np.exp(second[0]) / np.exp(second[0]).sum()
    assert found.largest_kl == pytest.approx((p * np.log(p / q)).sum(), rel=1e-5)
    assert found.mean_kl == pytest.approx(found.largest_kl / 2)
