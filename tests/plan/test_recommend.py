"""Models are compared by what this machine gives, in an order that can be told in a sentence."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from okno.core.header import ModelHeader
from okno.plan.goals import Goal
from okno.plan.recommend import (
    Candidate,
    Offer,
    Prospects,
    Published,
    Variant,
    offer,
    ranked,
)
from tests.plan.fakes import MIB, KneeSpeed, LinearMemory, a_header

GENEROUS = Goal(max_ttft_s=1000, min_tok_s=0.1)


def variant(quant: str, weights_mib: int) -> Variant:
    header = replace(a_header(weights_mib=weights_mib), file_type=quant)
    return Variant(quant, header, header.file_bytes)


VARIANTS = [variant("Q8_0", 800), variant("Q4_K_M", 450), variant("Q2_K", 300)]
CANDIDATE = Candidate("a", "chat", 10**9, "mit")


def on(free_mib: int, tok_s_per_gib: float = 100.0):
    """A machine whose speed is in proportion to the weights it reads."""

    def prospects_of(header: ModelHeader) -> Prospects:
        step_s = header.weights_bytes / (1 << 30) / tok_s_per_gib
        memory = LinearMemory(free_mib * MIB, weights_bytes=header.weights_bytes)
        return Prospects(memory, KneeSpeed(step_s=step_s, prefill_tok_s=1e6))

    return prospects_of


def test_the_finest_format_that_fits_is_offered():
    assert offer(CANDIDATE, VARIANTS, on(2000), GENEROUS).variant.quant == "Q8_0"
    assert offer(CANDIDATE, VARIANTS, on(600), GENEROUS).variant.quant == "Q4_K_M"
    assert offer(CANDIDATE, VARIANTS, on(200), GENEROUS) is None


def test_a_coarser_format_is_offered_when_only_that_is_fast_enough():
    found = offer(CANDIDATE, VARIANTS, on(2000, tok_s_per_gib=10), Goal(min_tok_s=20))
    assert (found.variant.quant, found.meets_limits) == ("Q4_K_M", True)
    found = offer(CANDIDATE, VARIANTS, on(2000, tok_s_per_gib=1), Goal(min_tok_s=20))
    assert (found.variant.quant, found.meets_limits) == ("Q2_K", False)


def test_the_window_judged_is_the_asked_one():
    window = offer(CANDIDATE, VARIANTS, on(2000), Goal(batch_size=4, ctx=1000)).planned.load.window
    assert (window.batch_size, window.ctx) == (4, 1000)


def an_offer(name: str, *, meets: bool = True, **fields) -> Offer:
    found = offer(CANDIDATE, VARIANTS, on(2000), GENEROUS)
    candidate = replace(CANDIDATE, name=name, **fields)
    return replace(found, candidate=candidate, meets_limits=meets)


def test_the_order_is_limits_then_language_then_published_quality_then_size():
    good, fair = (Published("arena", value, "a table") for value in (80.0, 40.0))
    expected = [
        an_offer("made for it", speaks="specialised"),
        an_offer("good", speaks="declared", quality=good),
        an_offer("fair", speaks="declared", quality=fair),
        an_offer("large", speaks="declared", n_params=10**10),
        an_offer("small", speaks="declared"),
        an_offer("unknown size", speaks="declared", n_params=None),
        an_offer("good, language unknown", quality=good),
        an_offer("too slow", meets=False, speaks="specialised", quality=good),
    ]
    assert list(ranked(expected[::-1])) == expected


@given(st.permutations(range(6)))
def test_the_order_does_not_depend_on_how_models_are_listed(order):
    offers = [an_offer(str(number), n_params=number // 2) for number in range(6)]
    assert ranked([offers[number] for number in order]) == ranked(offers)
