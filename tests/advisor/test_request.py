"""Questions are read as people and programs write them; each refusal names the field."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from okno.advisor.request import Words, goal_of, load_template
from okno.core.errors import BadSetting

words = st.none() | st.integers() | st.floats() | st.text(max_size=20)


def test_numbers_may_be_text_and_auto_leaves_the_choice():
    goal = goal_of(Words(batch_size="4", ctx="auto", max_ttft="2.5", min_tok_s=7, fill="100"))
    assert (goal.batch_size, goal.ctx, goal.max_ttft_s, goal.min_tok_s) == (4, None, 2.5, 7)
    assert (goal.fill, goal.kv_types) == (100, ())
    assert goal_of(Words(kv_type="f16,q8_0")).kv_types == ("f16", "q8_0")


def test_rates_are_judged_at_the_prompt_s_length_unless_told():
    assert goal_of(Words(prompt_tokens=2000)).fill == 2000


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("batch_size", "many"), ("batch_size", 1.5), ("ctx", "nan"), ("ctx", "inf"),
        ("kv_type", "q3"), ("prefer", "luck"), ("max_ttft", "soon"), ("prompt_tokens", ""),
    ],
)  # fmt: skip
def test_a_word_that_means_nothing_is_refused_by_name(field, value):
    with pytest.raises(BadSetting, match=field):
        goal_of(Words(**{field: value}))


@given(words, words, words, words, words, words)
def test_any_words_give_a_goal_or_a_typed_refusal(batch, ctx, ttft, rate, prompt, fill):
    try:
        goal_of(Words(batch_size=batch, ctx=ctx, max_ttft=ttft, min_tok_s=rate,
                      prompt_tokens=prompt, fill=fill))  # fmt: skip
    except BadSetting:
        return


def test_what_is_not_searched_is_kept():
    template = load_template(mmap=True, gpu_layers=3, step_tokens=64, flash_attention="on")
    assert (template.mmap, template.gpu_layers, template.flash_attention) == (True, 3, "on")
    assert template.window.step_tokens == 64
