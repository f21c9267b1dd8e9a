"""Speculation in the loop, on the scripted engine and on the real one: answers are unchanged."""

from __future__ import annotations

import math
from collections.abc import Sequence as Items
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from okno.core.request import Constraint, Sampling, Stop
from okno.engines.llamacpp import LlamaCpp
from okno.engines.scripted import ScriptedEngine
from okno.engines.speculation import (
    IN_VAIN,
    LOOKED_EVERY,
    PLAIN_EVERY,
    Speculation,
    speculation_for,
)
from okno.schedule.cost import Ahead
from okno.schedule.drafting import Offer
from okno.schedule.lookup_source import LookupSource
from okno.schedule.pacer import Target
from okno.schedule.scheduler import Scheduler
from okno.schedule.sequence import Sequence as TokenSequence
from okno.schedule.step import Limits, Sampled, Step
from tests.engines.drive import DEMO, SCRIPTED, ask, chat, options, running
from tests.engines.loop_bench import (
    CLOCK,
    COPY,
    FOUR,
    TEXTS,
    Bench,
    Flat,
    fresh,
    requests,
)


class Barely:
    """Guesses that are right for certain would pay, others not."""

    def seconds(self, ahead: Ahead, prompt_rows: int, guesses: int = 0) -> float:
        return 1.0 if not guesses else 14.0 if guesses >= 16 * ahead.decodes else 100.0


class Steep:
    """Each row costs its share: no guess ever pays."""

    def seconds(self, ahead: Ahead, prompt_rows: int, guesses: int = 0) -> float:
        return float(ahead.decodes + prompt_rows + guesses)


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


@pytest.mark.parametrize(("asked_s", "target_s"), [(4.0, 4.0), (0.0, math.inf), (None, None)])
def test_the_gap_asked_for_bounds_what_guesses_of_others_cost(
    asked_s: float | None, target_s: float | None
) -> None:
    window = ScriptedEngine(SCRIPTED).window
    speculation = Speculation(window, clock=CLOCK, cost=Steep(), target=Target(asked_s))
    scheduler = Scheduler(Limits(1, 1, 64))
    scheduler.add(TokenSequence("a", range(4), max_tokens=9))
    assert speculation._plain(scheduler, scheduler.ahead(), 8).target_s == target_s


def test_many_texts_that_offer_nothing_are_looked_at_in_one_step_of_four(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks: dict[int, int] = {}
    offers = LookupSource.offers

    def counted(source: LookupSource, sequences: Items[TokenSequence]) -> dict[str, Offer]:
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


def by_text(engine: LlamaCpp) -> Speculation:
    return Speculation(engine.window, clock=CLOCK, cost=Flat())


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


def test_no_guess_goes_beyond_the_end_of_a_text(
    engine: LlamaCpp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message ends with the template's end of turn, which ends the answer too."""
    ends, guesses = engine.vocab.end_tokens, []

    def execute(step: Step) -> NDArray[np.float32]:
        guesses.extend(span.drafts.tolist() for span in step.spans if span.logits > 1)
        return LlamaCpp.execute(engine, step)

    speculation = speculation_for(engine, options(DEMO))
    assert speculation is not None
    monkeypatch.setattr(speculation, "_cost", Flat())
    monkeypatch.setattr(engine, "execute", execute)
    fresh(engine, speculation).run(requests(COPY))
    assert any(guess[-1] in ends for guess in guesses)
    assert all(ends.isdisjoint(guess[:-1]) for guess in guesses)


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


async def test_a_worker_speculates_and_its_answers_are_those_without() -> None:
    answers = {}
    for how in ("off", "auto"):
        async with running(DEMO, speculate=how, batch_size=1) as supervisor:
            answers[how] = [(await ask(supervisor, chat(text, stop=FOUR))).text for text in TEXTS]
    assert answers["auto"] == answers["off"]
