"""The window a worker opens: an asked one as asked, else the planner's; never more than is free."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from okno.core.errors import BadSetting, DoesNotFit
from okno.engines.auto_window import Asked, choose_window
from tests.plan.fakes import MIB, KneeSpeed, LinearMemory, a_header, a_machine

GIB = 1 << 30
AUTO = Asked(None, None, None, "f16", 256)


def choose(asked=AUTO, free_bytes=8 * GIB, speed=None, **header):
    memory = LinearMemory(free_bytes)
    return choose_window(asked, a_header(**header), a_machine(free_bytes), memory, speed)


def needed_bytes(chosen):
    return chosen.memory.needed_bytes


def test_what_was_asked_is_what_is_opened():
    chosen = choose(replace(AUTO, batch_size=3, ctx=1000))
    window = chosen.window
    assert (window.batch_size, window.ctx, window.kv_pool_tokens) == (3, 1000, 3000)
    assert chosen.notes == ()


def test_auto_is_the_planners_pick_and_says_why():
    chosen = choose(speed=KneeSpeed(knee=8))
    assert chosen.window.ctx == 8192
    assert chosen.window.batch_size >= 8
    assert chosen.notes[0] == f"auto: batch {chosen.window.batch_size} x ctx 8,192, for speed"
    assert any("tokens/s in all" in note for note in chosen.notes)


@pytest.mark.parametrize("name", ["batch_size", "ctx"])
def test_what_was_asked_stays_while_okno_picks_the_other(name):
    chosen = choose(replace(AUTO, **{name: 6 if name == "batch_size" else 1536}))
    assert getattr(chosen.window, name) == (6 if name == "batch_size" else 1536)


def test_the_preference_steers_auto():
    free = 400 * MIB + 600 * MIB
    users = choose(replace(AUTO, prefer="users"), free, KneeSpeed()).window
    context = choose(replace(AUTO, prefer="context"), free, KneeSpeed()).window
    assert users.batch_size > context.batch_size
    assert users.ctx < context.ctx


def test_an_asked_window_that_does_not_fit_is_refused_with_what_would():
    asked = replace(AUTO, batch_size=8, ctx=8192)
    with pytest.raises(DoesNotFit) as caught:
        choose(asked, 800 * MIB)
    message = caught.value.message
    assert message.startswith("A window of batch 8 x ctx 8,192 does not fit: 920 MiB needed")
    assert "800 MiB free on cpu" in message
    assert "Possible here: --ctx 6,144" in message or "Possible here: --ctx 6144" in message
    assert caught.value.info.details["free_bytes"] == 800 * MIB


def test_an_asked_window_that_fits_only_just_is_opened_and_said():
    asked = replace(AUTO, batch_size=8, ctx=8192)
    exact = needed_bytes(choose(asked))
    chosen = choose(asked, exact)
    assert chosen.window.ctx == 8192
    assert "fits only just" in chosen.notes[0]
    with pytest.raises(DoesNotFit):
        choose(asked, exact - 1)


def test_when_nothing_fits_the_least_window_is_named():
    with pytest.raises(
        DoesNotFit, match=r"the least, does not fit: .* and 8.0 MiB of margin, .*another"
    ):
        choose(free_bytes=300 * MIB)


def test_a_ctx_beyond_training_is_opened_and_said():
    chosen = choose(replace(AUTO, batch_size=1, ctx=10_000))
    assert "beyond the 8,192 tokens" in chosen.notes[0]


def test_a_pool_is_taken_as_asked():
    window = choose(replace(AUTO, kv_pool_tokens=2000)).window
    assert (window.batch_size, window.ctx, window.kv_pool_tokens) == (4, 2000, 2000)
    with pytest.raises(BadSetting, match="smaller than the context window"):
        choose(replace(AUTO, kv_pool_tokens=500, ctx=1000))


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"batch_size": 257}, "--step-tokens"), ({"batch_size": 0}, "1 to 256"), ({"ctx": 8}, "16")],
)
def test_values_out_of_range_are_refused(changes, message):
    with pytest.raises(BadSetting, match=message):
        choose(replace(AUTO, **changes))


@given(
    free_mib=st.integers(0, 4000),
    batch_size=st.none() | st.integers(1, 256),
    ctx=st.none() | st.integers(16, 16_384),
    with_speed=st.booleans(),
)
def test_what_is_opened_always_fits_and_what_fits_with_room_is_never_refused(
    free_mib, batch_size, ctx, with_speed
):
    asked = replace(AUTO, batch_size=batch_size, ctx=ctx)
    free = free_mib * MIB
    try:
        chosen = choose(asked, free, KneeSpeed() if with_speed else None)
    except DoesNotFit:
        least = replace(AUTO, batch_size=batch_size or 1, ctx=ctx or 512)
        assert needed_bytes(choose(least, 1 << 50)) + 256 * MIB > free
    else:
        assert needed_bytes(chosen) <= free
        assert chosen.window.ctx == (ctx or chosen.window.ctx)
        assert chosen.window.batch_size == (batch_size or chosen.window.batch_size)
