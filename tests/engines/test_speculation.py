"""Speculation in the loop, on the scripted engine and on the real one: answers are unchanged."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from okno.bench.shapes import PRESETS, write_header
from okno.core.errors import BadSetting, DoesNotFit
from okno.core.request import Constraint, Request, Sampling, Stop
from okno.core.window import WindowChange
from okno.engines import draft_source
from okno.engines.choice import choose_for
from okno.engines.drafter import NEVER
from okno.engines.engine import Engine
from okno.engines.llama_draft import LlamaDraft
from okno.engines.llamacpp import LlamaCpp
from okno.engines.loop import EngineLoop, Leave
from okno.engines.prepare import Preparer
from okno.engines.prompt import PromptEncoder
from okno.engines.protocol import Events, FromWorker, ResizeCounts, Submit
from okno.engines.resizing import ResizeJob, carry_out
from okno.engines.sandbox import Sandbox
from okno.engines.scripted import ScriptedEngine
from okno.engines.speculation import (
    IN_VAIN,
    LOOKED_EVERY,
    PLAIN_EVERY,
    Speculation,
    speculation_for,
)
from okno.engines.tally import Drafts
from okno.schedule.cost import Ahead
from okno.schedule.drafting import Account
from okno.schedule.lookup_source import LookupSource
from okno.schedule.pacer import Pacer, Target
from okno.schedule.scheduler import Scheduler
from okno.schedule.sequence import Sequence as TokenSequence
from okno.schedule.step import Limits, Sampled, Truncate
from tests.conftest import MakeModel
from tests.engines.drive import DEMO, SCRIPTED, ask, chat, options, running

FOUR = Stop(max_tokens=80)
COPY = "Copy this list exactly:\nriver stone\ngreen lamp\nwooden chair\ncold morning\nold bridge"
TEXTS = (COPY, "What is okno?", "Count to 20", "Привет! Кто ты?")


class Flat:
    """Every step costs the same: all guesses are checked."""

    def seconds(self, ahead: Ahead, prompt_rows: int, guesses: int = 0) -> float:
        return 1.0


class Barely:
    """Guesses that are right for certain would pay, others not."""

    def seconds(self, ahead: Ahead, prompt_rows: int, guesses: int = 0) -> float:
        return 1.0 if not guesses else 14.0 if guesses >= 16 * ahead.decodes else 100.0


class Steep:
    """Each row costs its share: no guess ever pays."""

    def seconds(self, ahead: Ahead, prompt_rows: int, guesses: int = 0) -> float:
        return float(ahead.decodes + prompt_rows + guesses)


@dataclass
class Ticking:
    """A clock that moves a fixed time at every look."""

    now: float = 0.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


CLOCK = Ticking()  # of loops and speculation alike


@dataclass
class Answered:
    tokens: dict[str, list[int]]
    texts: dict[str, str]
    steps: int


@cache
def preparer_of(engine: Engine) -> Preparer:
    return Preparer(engine, PromptEncoder(engine, Sandbox()))


class Bench:
    """A loop in this process; requests are prepared as a worker does. Prompts are cut alike in all
    runs, whatever the steps took: other pieces give other last bits of the logits."""

    def __init__(self, engine: Engine, speculation: Speculation | None) -> None:
        self.loop = EngineLoop(engine, self._take, CLOCK, speculation)
        self.loop._pacer = Pacer(engine.window.step_tokens, Flat())
        self.preparer = preparer_of(engine)
        self.events: list[Events] = []

    def _take(self, message: FromWorker) -> None:
        assert isinstance(message, Events)
        self.events.append(message)

    def run(self, requests: list[Request], leave: str = "", after: int = 0) -> Answered:
        """All at once, to the end. leave: a request whose client goes after so many passes."""
        for request in requests:
            self.loop.arrivals.begin(request.id)
            self.loop.inbox.put(self.preparer.task(Submit(request)))
        tokens: dict[str, list[int]] = {request.id: [] for request in requests}
        texts = {request.id: "" for request in requests}
        open_, before, passes = set(tokens), self.loop.steps, 0
        while open_:
            self.loop.once()
            passes += 1
            if leave in open_ and passes == after:
                self.loop.inbox.put(Leave(leave))
                open_.discard(leave)
            for event in self.events:
                for delta in event.deltas:
                    tokens[delta.id] += delta.tokens
                    texts[delta.id] += delta.text
                assert not event.failed
                open_ -= {finished.id for finished in event.finished}
            self.events.clear()
        return Answered(tokens, texts, self.loop.steps - before)


def requests(*texts: str, **changes: Any) -> list[Request]:
    made = [chat(text, stop=FOUR) for text in texts]
    sampling = changes.pop("sampling", Sampling(temperature=0, seed=1))
    return [replace(r, id=str(k), sampling=sampling, **changes) for k, r in enumerate(made)]


def scripted(speculation: bool = True, **changes: Any) -> Bench:
    engine = ScriptedEngine(options(SCRIPTED, **changes))
    return Bench(
        engine, Speculation(engine.window, clock=CLOCK, cost=Flat()) if speculation else None
    )


# On the scripted engine ---------------------------------------------------------------------------


def test_a_text_that_repeats_itself_takes_fewer_steps() -> None:
    asked = requests("long 77")
    plain, drafted = scripted(speculation=False).run(asked), scripted().run(asked)
    assert drafted.texts == plain.texts == {"0": "abcdefghij " * 7}
    assert drafted.steps < plain.steps / 2


def test_where_no_guess_pays_every_step_is_a_plain_one() -> None:
    engine = ScriptedEngine(SCRIPTED)
    speculation = Speculation(engine.window, clock=CLOCK, cost=Steep())
    Bench(engine, speculation).run(requests("long 77"))
    assert speculation.counts.checked == 0


def test_what_the_engine_learnt_of_its_steps_can_say_what_guesses_cost(engine: LlamaCpp) -> None:
    """The learner knows the depth of the KV cache; through it guesses change no answer either."""
    asked = requests("Repeat: one two three one two three one two three")
    plain = fresh(engine, None).run(asked)
    speculation = Speculation(engine.window, clock=CLOCK, cost=engine.learner)
    assert fresh(engine, speculation).run(asked).texts == plain.texts


def test_now_and_then_a_step_goes_without_guesses() -> None:
    engine = ScriptedEngine(SCRIPTED)
    speculation = Speculation(engine.window, clock=CLOCK, cost=Flat())
    bench = Bench(engine, speculation)
    bench.run([replace(r, stop=Stop(max_tokens=400)) for r in requests("long 400", "long 390")])
    counts = speculation.counts
    assert 0 < counts.checking_steps <= counts.steps - counts.steps // PLAIN_EVERY
    assert 0 < counts.right <= counts.checked


def test_what_a_step_takes_beside_its_engine_is_learnt() -> None:
    """The first step of a worker is slow; one that met something else, an hour, counts as a few."""
    speculation = Speculation(ScriptedEngine(SCRIPTED).window, clock=CLOCK, cost=Steep())
    scheduler = Scheduler(Limits(1, 1, 64))
    scheduler.add(TokenSequence("a", range(4), max_tokens=9))
    prompt = scheduler.schedule(8)
    speculation.learn(prompt, {})
    speculation.took(99.0, 1.0)
    assert speculation._beside_s == 0.0, "a step of prompts says nothing"
    scheduler.update(prompt, {"a": Sampled((7,))})
    speculation.learn(scheduler.schedule(8), {})
    for seconds in (9.0, 3.0, 3.0, 3.0, 3.0, 3600.0):
        speculation.took(seconds, 2.0)
    assert 1.0 <= speculation._beside_s < 1.5
    for _ in range(60):
        speculation.took(2.5, 2.0)
    assert speculation._beside_s == pytest.approx(0.5, rel=0.01)


@pytest.mark.parametrize(("target_s", "gap_s"), [(4.0, 4.0), (0.0, math.inf), (None, 1.5)])
def test_the_gap_that_guesses_of_others_may_cost(target_s: float | None, gap_s: float) -> None:
    window = ScriptedEngine(SCRIPTED).window
    speculation = Speculation(window, clock=CLOCK, cost=Steep(), target=Target(target_s))
    scheduler = Scheduler(Limits(1, 1, 64))
    scheduler.add(TokenSequence("a", range(4), max_tokens=9))
    assert speculation._plain(scheduler, scheduler.ahead(), 8).gap_s(1.0) == gap_s


def test_many_texts_that_offer_nothing_are_looked_at_in_one_step_of_four(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks: dict[int, int] = {}
    offers = LookupSource.offers

    def counted(source: LookupSource, sequences: Any) -> Any:
        looks[len(sequences)] = looks.get(len(sequences), 0) + 1
        return offers(source, sequences)

    monkeypatch.setattr(LookupSource, "offers", counted)
    for streams in (4, 8):
        engine = ScriptedEngine(options(SCRIPTED, batch_size=8, step_tokens=256))
        speculation = Speculation(engine.window, clock=CLOCK, cost=Barely())
        Bench(engine, speculation).run(requests(*["long 77"] * streams))
        assert speculation.counts.checked == 0
    assert looks[4] > 60
    assert IN_VAIN < looks[8] < IN_VAIN + 77 / LOOKED_EVERY + 2


def test_without_a_cost_it_learns_its_own() -> None:
    """The ticking clock gives every step the same time, so all guesses pay once that is known."""
    engine = ScriptedEngine(SCRIPTED)
    speculation = Speculation(engine.window, clock=CLOCK)
    answered = Bench(engine, speculation).run(
        [replace(r, stop=Stop(max_tokens=300)) for r in requests("long 300")]
    )
    assert answered.texts["0"] == ("abcdefghij " * 30)[:300]
    assert speculation.counts.right > 100


def test_many_streams_keep_their_texts() -> None:
    texts = [f"long {30 + k}" if k % 2 else f"say {'lorem ipsum ' * (k % 5)}{k}" for k in range(40)]
    asked = requests(*texts)
    changes = {"batch_size": 32, "kv_pool_tokens": 2200}
    plain, drafted = scripted(False, **changes).run(asked), scripted(True, **changes).run(asked)
    assert drafted.texts == plain.texts
    assert drafted.tokens == plain.tokens


def test_a_client_that_leaves_in_the_middle_disturbs_nobody() -> None:
    asked = requests("long 70", "long 75", "say abc abc abc abc abc abc")
    whole, left = scripted().run(asked), scripted().run(asked, leave="1", after=4)
    assert {id: whole.texts[id] for id in "02"} == {id: left.texts[id] for id in "02"}
    assert whole.texts["1"].startswith(left.texts["1"])


def test_no_guesses_for_models_that_cannot_take_them_back() -> None:
    engine = ScriptedEngine(SCRIPTED)
    engine.limits = replace(engine.limits, truncates=False)
    assert speculation_for(engine, SCRIPTED) is None
    assert speculation_for(ScriptedEngine(SCRIPTED), options(SCRIPTED, speculate="off")) is None


# On the real engine -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine() -> LlamaCpp:
    return LlamaCpp(options(DEMO, threads=1, prefix_cache=False), lambda _fraction: None)


@pytest.fixture(scope="module")
def with_draft() -> LlamaCpp:
    """The demo model drafts for itself: nearly always right."""
    asked = options(DEMO, threads=1, prefix_cache=False, draft_path=DEMO.model_path)
    return LlamaCpp(asked, lambda _fraction: None)


def by_text(engine: LlamaCpp) -> Speculation:
    return Speculation(engine.window, clock=CLOCK, cost=Flat())


def by_model(engine: LlamaCpp) -> Speculation:
    return Speculation(engine.window, clock=CLOCK, cost=Flat(), looks_up=False,
                       drafter=engine.drafter, draft_tokens=6)  # fmt: skip


def fresh(engine: LlamaCpp, speculation: Speculation | None) -> Bench:
    """A loop on an engine whose cache is empty."""
    bench = Bench(engine, speculation)
    engine.execute_operations([Truncate(seq, 0) for seq in range(engine.limits.seq_ids)])
    return bench


@pytest.mark.parametrize("together", [False, True])
def test_greedy_answers_are_those_without(engine: LlamaCpp, together: bool) -> None:
    asked = requests(*TEXTS)
    groups = [asked] if together else [[one] for one in asked]
    speculation = by_text(engine)
    for group in groups:
        plain = fresh(engine, None).run(group)
        drafted = fresh(engine, speculation).run(group)
        assert drafted.texts == plain.texts
        assert drafted.tokens == plain.tokens
    assert speculation.counts.checked > 0


def test_a_copy_takes_less_than_half_the_steps(engine: LlamaCpp) -> None:
    asked = requests(COPY)
    plain, drafted = fresh(engine, None).run(asked), fresh(engine, by_text(engine)).run(asked)
    assert drafted.texts == plain.texts
    assert drafted.steps < plain.steps / 2


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=1.0, seed=7),
        Sampling(temperature=0.8, top_p=0.9, repetition_penalty=1.2, seed=8, logprobs=2),
        Sampling(temperature=1.0, frequency_penalty=0.5, logit_bias={300: 2.0}, seed=9),
    ],
)
def test_sampled_answers_with_a_seed_are_those_without(
    engine: LlamaCpp, sampling: Sampling
) -> None:
    asked = requests(*TEXTS, sampling=sampling)
    plain, drafted = fresh(engine, None).run(asked), fresh(engine, by_text(engine)).run(asked)
    assert drafted.texts == plain.texts


def test_constrained_answers_are_those_without(engine: LlamaCpp) -> None:
    asked = requests(*TEXTS, constraint=Constraint("regex", "(river|green|cold| |\\n){4,30}"))
    plain, drafted = fresh(engine, None).run(asked), fresh(engine, by_text(engine)).run(asked)
    assert drafted.texts == plain.texts


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

    def wrong(self: LlamaDraft, wanted: Any) -> dict[str, tuple[int, ...]]:
        return {id: (5,) * count for id, (_, count) in wanted.items()}

    monkeypatch.setattr(LlamaDraft, "draft", wrong)
    speculation = by_model(with_draft)
    drafted = fresh(with_draft, speculation).run(asked)
    assert drafted.texts == plain.texts
    assert speculation.counts.checking_steps < 0.5 * speculation.counts.steps


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


async def test_a_worker_speculates_and_its_answers_are_those_without() -> None:
    answers = {}
    for how in ("off", "auto"):
        async with running(DEMO, speculate=how, batch_size=1) as supervisor:
            answers[how] = [(await ask(supervisor, chat(text, stop=FOUR))).text for text in TEXTS]
    assert answers["auto"] == answers["off"]
