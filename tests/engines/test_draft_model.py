"""Guesses of a draft model in the loop: answers are unchanged, also over a resize."""

from __future__ import annotations

import itertools
import random
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from okno.bench.shapes import PRESETS, write_header
from okno.core.errors import BadSetting, DoesNotFit
from okno.core.request import Sampling, Stop
from okno.core.window import WindowChange
from okno.engines import draft_source
from okno.engines.choice import choose_for
from okno.engines.draft_source import DraftSource
from okno.engines.drafter import NEVER
from okno.engines.llama_draft import LlamaDraft
from okno.engines.llamacpp import LlamaCpp
from okno.engines.protocol import ResizeCounts
from okno.engines.resizing import ResizeJob, carry_out
from okno.engines.speculation import (
    Speculation,
)
from okno.engines.tally import Drafts
from okno.schedule.drafting import Account
from okno.schedule.lookup_source import LookupSource
from okno.schedule.sequence import Sequence as TokenSequence
from tests.conftest import MakeModel
from tests.engines.drive import DEMO, options
from tests.engines.loop_bench import (
    CLOCK,
    COPY,
    TEXTS,
    Bench,
    Flat,
    fresh,
    requests,
)

Wanted = Mapping[str, tuple[NDArray[np.int32], int]]


@pytest.fixture(scope="module")
def with_draft() -> LlamaCpp:
    """The demo model drafts for itself: nearly always right."""
    asked = options(DEMO, threads=1, prefix_cache=False, draft_path=DEMO.model_path)
    return LlamaCpp(asked, lambda _fraction: None)


def by_model(engine: LlamaCpp) -> Speculation:
    return Speculation(engine.window, clock=CLOCK, cost=Flat(), looks_up=False,
                       drafter=engine.drafter, draft_tokens=6)  # fmt: skip


def test_a_draft_model_changes_no_answer_and_saves_steps(with_draft: LlamaCpp) -> None:
    asked = requests(*TEXTS)
    speculation = by_model(with_draft)
    plain = fresh(with_draft, None).run(asked)
    bench = fresh(with_draft, speculation)
    drafted = bench.run(asked)
    assert drafted.texts == plain.texts
    assert drafted.steps < plain.steps / 2
    counts, tally = speculation.counts, bench.loop.meter.tally
    assert tally.from_model == Drafts(counts.checked, counts.right)
    assert tally.from_text == Drafts()
    assert tally.checking_steps == counts.checking_steps
    assert speculation.counts.right > 0.8 * speculation.counts.checked


def test_a_draft_model_that_is_always_wrong_is_left_alone(
    with_draft: LlamaCpp, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = requests(*TEXTS)
    plain = fresh(with_draft, None).run(asked)
    drafter = with_draft.drafter
    assert drafter is not None

    def wrong(self: LlamaDraft, wanted: Wanted) -> dict[str, tuple[int, ...]]:
        return {id: (5,) * count for id, (_, count) in wanted.items()}

    monkeypatch.setattr(LlamaDraft, "draft", wrong)
    speculation = by_model(with_draft)
    drafted = fresh(with_draft, speculation).run(asked)
    assert drafted.texts == plain.texts
    assert speculation.counts.checking_steps < 0.5 * speculation.counts.steps


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_draft_model_beside_a_text_whose_words_come_in_another_order(
    with_draft: LlamaCpp, temperature: float
) -> None:
    """Single words that stood once are bad guesses here, and soon not worth an offer. Answers so
    long may differ from those without in one draw of a thousand: only that they end is asked."""
    words = list(dict.fromkeys(" ".join(TEXTS).split()))
    random.Random(3).shuffle(words)
    asked = [
        replace(request, stop=Stop(max_tokens=150, ignore_eos=True))
        for request in requests(
            *(" ".join(words[k:] + words[:k]) for k in range(8)),
            sampling=Sampling(temperature=temperature, seed=5),
        )
    ]
    speculation = Speculation(with_draft.window, clock=CLOCK, cost=Flat(),
                              drafter=with_draft.drafter, draft_tokens=6)  # fmt: skip
    drafted = fresh(with_draft, speculation).run(asked)
    assert list(map(len, drafted.tokens.values())) == [150] * len(asked)


def test_guesses_of_the_text_that_are_never_right_leave_the_draft_model_its_turn() -> None:
    """Every word of the prompt comes once more, none where it came before."""
    text, model = LookupSource(), DraftSource(Right(), 4, Account(), lambda: 0.0)
    prompt = list(range(100, 200))
    sequence = TokenSequence("a", prompt, max_tokens=400)
    for token in prompt[::-2]:
        sequence.known.append(token)
        offers = text.offers([sequence])
        assert all(offer.chances for offer in offers.values())
        model.offers([sequence], offers, lambda _offer: True)
        text.compare("a", (1,))
    assert text.guesses
    assert not offers


class Right:
    """A drafter that follows at once."""

    size_bytes = 0

    def seconds(self, _tokens: int) -> float:
        return 0.001

    def keep(self, _ids: Collection[str]) -> None: ...

    def behind(self, _id: str, _known: NDArray[np.int32]) -> int:
        return 0

    def advance(self, _id: str, _known: NDArray[np.int32], _rows: int) -> None: ...

    def draft(self, wanted: Wanted) -> dict[str, tuple[int, ...]]:
        return {id: (1,) * count for id, (_, count) in wanted.items()}


def test_the_draft_model_catches_up_in_pieces(
    with_draft: LlamaCpp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draft_source, "PIECE_ROWS", 8)
    long = requests("Repeat: " + " ".join(f"word{k}" for k in range(30)), TEXTS[1])
    asked = [replace(r, stop=Stop(max_tokens=80, ignore_eos=True)) for r in long]
    plain = fresh(with_draft, None).run(asked)
    speculation = by_model(with_draft)
    drafted = fresh(with_draft, speculation).run(asked)
    assert drafted.texts == plain.texts
    assert speculation.counts.right > 0


# A resize -----------------------------------------------------------------------------------------


def resized(bench: Bench, change: WindowChange) -> None:
    """As the loop does it between two steps."""
    prepared = bench.loop.engine.prepare_resize(change)
    try:
        prepared.open(bench.loop.scheduler.pool.used)
        carry_out(prepared, bench.loop.scheduler, CLOCK)
    finally:
        prepared.release()


def test_the_draft_model_follows_into_another_window() -> None:
    """With what it has computed; sequences beyond the old window get guesses too."""
    engine = LlamaCpp(
        options(DEMO, threads=1, batch_size=2, ctx=256, draft_path=DEMO.model_path), lambda _f: None
    )
    drafter, text = engine.drafter, np.arange(300, 360, dtype=np.int32)
    assert isinstance(drafter, LlamaDraft)
    assert drafter.draft({"other": (text[::-1].copy(), 4)})
    guesses = drafter.draft({"a": (text, 4)})
    assert drafter.draft({"b": (text, 4)}) == {}, "no place"
    drafter.keep(["a"])
    lacks = drafter.behind("a", text)
    resized(Bench(engine, None), WindowChange(batch_size=3, ctx=512))
    assert drafter.behind("a", text) == lacks < 5
    assert drafter.behind("b", text) == 60
    again = drafter.draft(dict.fromkeys("abc", (text, 4)))
    assert again == dict.fromkeys("abc", guesses["a"])
    resized(Bench(engine, None), WindowChange(batch_size=1, ctx=256))
    assert drafter.draft({"a": (text, 4)}) == guesses
    assert drafter.draft({"b": (text, 4)}) == {}


def test_a_resize_under_way_changes_no_answer() -> None:
    engine = LlamaCpp(options(DEMO, threads=1, draft_path=DEMO.model_path), lambda _fraction: None)
    asked = requests(*TEXTS)
    plain = fresh(engine, None).run(asked)
    speculation = by_model(engine)
    bench = fresh(engine, speculation)
    once, passes = bench.loop.once, itertools.count()

    def once_and_resize() -> None:
        if (count := next(passes)) in (6, 12):
            resized(bench, WindowChange(ctx=2048 if count == 6 else 1024))
        once()

    bench.loop.once = once_and_resize  # type: ignore[method-assign]
    drafted = bench.run(asked)
    assert drafted.texts == plain.texts
    assert speculation.counts.right > 0.8 * speculation.counts.checked
    assert drafted.steps < plain.steps / 2


def test_without_memory_in_the_new_window_nothing_is_guessed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = LlamaCpp(options(DEMO, threads=1, draft_path=DEMO.model_path), lambda _fraction: None)
    drafter, text = engine.drafter, np.arange(300, 360, dtype=np.int32)
    assert drafter is not None
    assert drafter.draft({"a": (text, 4)})

    def refuse(*_arguments: object) -> None:
        raise DoesNotFit("no memory")

    monkeypatch.setattr("okno.engines.llama_draft._open_context", refuse)
    bench = fresh(engine, by_model(engine))
    resized(bench, WindowChange(ctx=2048))
    assert drafter.draft({"a": (text, 4)}) == {}
    assert drafter.behind("a", text) == NEVER
    drafter.advance("a", text, 8)
    assert engine.window.ctx == 2048
    assert bench.run(requests(TEXTS[0])).texts["0"]


def test_where_the_draft_model_found_no_memory_its_guesses_are_not_offered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They took the place of the text's own, which was checked as far as they were believed."""
    engine = LlamaCpp(options(DEMO, threads=1, draft_path=DEMO.model_path), lambda _fraction: None)
    drafter, sequence = engine.drafter, TokenSequence("a", [*range(300, 360)], max_tokens=400)
    assert drafter is not None
    assert drafter.draft({"a": (sequence.known.view(), 1)})
    source = draft_source.DraftSource(drafter, 4, Account(), CLOCK)
    assert source.offers([sequence], {}, lambda _offer: True).keys() == {"a"}

    def refuse(*_arguments: object) -> None:
        raise DoesNotFit("no memory")

    monkeypatch.setattr("okno.engines.llama_draft._open_context", refuse)
    resized(Bench(engine, None), WindowChange(ctx=2048))
    assert source.offers([sequence], {}, lambda _offer: True) == {}
    assert source.draft([sequence], {}, {}) == {}


def test_in_a_larger_window_guesses_fill_its_steps() -> None:
    engine = LlamaCpp(
        options(DEMO, threads=1, batch_size=2, step_tokens=4, ctx=512), lambda _fraction: None
    )
    speculation = Speculation(engine.window, clock=CLOCK, cost=Flat())
    bench = fresh(engine, speculation)
    job = ResizeJob(1, engine.prepare_resize(WindowChange(batch_size=16)))
    job.prepared.open(0)
    bench.loop.arrivals.begin(1)
    bench.loop.inbox.put(job)
    bench.loop.once()
    assert isinstance(job.outcome.get(), ResizeCounts)
    assert engine.window.step_tokens == 16
    bench.run(requests(COPY))
    assert speculation.counts.checked > 4 * speculation.counts.checking_steps


# What is asked ------------------------------------------------------------------------------------


def test_a_draft_model_of_another_vocabulary_is_refused(make_model: MakeModel) -> None:
    asked = options(DEMO, threads=1, draft_path=str(make_model("tiny")))
    with pytest.raises(BadSetting, match="another vocabulary"):
        LlamaCpp(asked, lambda _fraction: None)


def test_a_draft_model_that_keeps_a_state_is_refused(make_model: MakeModel) -> None:
    asked = options(DEMO, threads=1, draft_path=str(make_model("mamba2-tiny")))
    with pytest.raises(BadSetting, match="plain attention"):
        LlamaCpp(asked, lambda _fraction: None)


def test_the_memory_of_the_draft_model_is_part_of_the_choice() -> None:
    both = options(DEMO, draft_path=DEMO.model_path)
    choice, alone = choose_for(both, "f16"), choose_for(DEMO, "f16")
    assert any(note.startswith("draft model demo: ") for note in choice.chosen.notes)
    more = choice.chosen.memory.needed_bytes - alone.chosen.memory.needed_bytes
    assert more == sum(choice.draft_bytes.values()) > alone.chosen.memory.needed_bytes // 4


def test_what_does_not_fit_beside_the_draft_model_is_refused(
    tmp_path: Path,
) -> None:
    huge = tmp_path / "huge.gguf"
    write_header(PRESETS["llama-13b"], huge, "F32")
    with pytest.raises(DoesNotFit, match=r"guesses [\d.]+ GiB.*The draft model huge needs"):
        choose_for(options(DEMO, draft_path=str(huge)), "f16")
