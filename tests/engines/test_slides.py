"""Sliding windows: wrong drafts are taken back, and nothing a later token sees is gone."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

import pytest

from okno.core.load import Load
from okno.core.request import Prompt, Request, Sampling, Stop
from okno.engines.drafter import Known
from okno.engines.llamacpp import LlamaCpp
from okno.engines.protocol import WorkerOptions
from okno.engines.speculation import Speculation
from tests.conftest import MakeModel
from tests.engines.drive import options
from tests.engines.loop_bench import CLOCK, Bench, Flat, fresh

WINDOW = 64  # of the tiny shapes


@dataclass
class Knowing:
    """A drafter that knows the answers: its guesses begin right and end wrong."""

    texts: dict[str, list[int]]
    rng: random.Random = field(default_factory=lambda: random.Random(3))

    def behind(self, id: str, known: Known) -> int:
        return 1

    def advance(self, id: str, known: Known, rows: int) -> None: ...

    def draft(self, wanted: Mapping[str, tuple[Known, int]]) -> dict[str, tuple[int, ...]]:
        found = {}
        for id, (known, count) in wanted.items():
            right = self.texts[id][len(known) :][: self.rng.randint(0, count)]
            wrong = [self.rng.randrange(300, 500) for _ in range(count - len(right))]
            found[id] = (*right, *wrong)
        return found

    def seconds(self, rows: int) -> float:
        return 0.0

    def follow(self, load: Load) -> None: ...

    def keep(self, ids: Collection[str]) -> None: ...


def asking(count: int) -> list[Request]:
    rng = random.Random(9)
    prompts = [tuple(rng.randrange(300, 500) for _ in range(20 + 45 * k)) for k in range(count)]
    stop = Stop(max_tokens=150, ignore_eos=True)
    return [
        Request(f"r{k}", Prompt(tokens=prompt), Sampling(temperature=0, seed=1), stop)
        for k, prompt in enumerate(prompts)
    ]


def opened(make_model: MakeModel, shape: str, **changes: object) -> LlamaCpp:
    base = WorkerOptions(
        str(make_model(shape)), shape, batch_size=16, ctx=512, threads=1, flash_attention="off"
    )
    return LlamaCpp(options(base, **changes), lambda _fraction: None)


@pytest.mark.parametrize("shape", ["gemma3-tiny", "gpt-oss-tiny"])
@pytest.mark.parametrize("count", [1, 4])
def test_answers_far_beyond_the_window_are_those_without_guesses(
    make_model: MakeModel, shape: str, count: int
) -> None:
    engine = opened(make_model, shape)
    assert engine.limits.slides
    assert not engine.limits.truncates
    asked = asking(count)
    plain = fresh(engine, None).run(asked)
    texts = {one.id: [*(one.prompt.tokens or ()), *plain.tokens[one.id]] for one in asked}
    speculation = Speculation(engine.window, clock=CLOCK, cost=Flat(), looks_up=False,
                              drafter=Knowing(texts), draft_tokens=12)  # fmt: skip
    drafted = fresh(engine, speculation).run(asked)
    assert drafted.tokens == plain.tokens
    counts = speculation.counts
    assert counts.right > 60
    assert counts.checked - counts.right > 60
    assert drafted.steps < plain.steps


@pytest.mark.parametrize("shape", ["gemma3-tiny", "gpt-oss-tiny"])
def test_cells_of_the_window_that_are_used_again_are_those_nobody_sees(
    make_model: MakeModel, shape: str
) -> None:
    """The cache of the window has 768 cells; from there on every row takes the cell of another."""
    engine = opened(make_model, shape, batch_size=8, ctx=1024, step_tokens=32)
    rng = random.Random(2)
    prompt = tuple(rng.randrange(300, 500) for _ in range(700))
    asked = replace(asking(1)[0], prompt=Prompt(tokens=prompt))
    asked = replace(asked, stop=Stop(max_tokens=300, ignore_eos=True))
    plain = fresh(engine, None).run([asked]).tokens["r0"]
    speculation = Speculation(engine.window, clock=CLOCK, cost=Flat(), looks_up=False,
                              drafter=Knowing({"r0": [*prompt, *plain]}),
                              draft_tokens=7)  # fmt: skip
    assert fresh(engine, speculation).run([asked]).tokens["r0"] == plain
    assert speculation.counts.checked - speculation.counts.right > 60


def test_the_only_sequence_of_a_window_checks_guesses(make_model: MakeModel) -> None:
    engine = opened(make_model, "gemma3-tiny", batch_size=1)
    [asked] = asking(1)
    plain = fresh(engine, None).run([asked])
    known = Knowing({"r0": [*(asked.prompt.tokens or ()), *plain.tokens["r0"]]})
    speculation = Speculation(engine.window, clock=CLOCK, cost=Flat(), looks_up=False,
                              drafter=known, draft_tokens=12)  # fmt: skip
    drafted = fresh(engine, speculation).run([asked])
    assert drafted.tokens == plain.tokens
    assert speculation.counts.right > 60
    assert drafted.steps < plain.steps


def test_a_conversation_goes_on_behind_drafts_that_were_taken_back(make_model: MakeModel) -> None:
    """Parked after wrong drafts, its state copied, and taken up again."""
    engine = opened(make_model, "gemma3-tiny", batch_size=2)
    [asked] = asking(1)
    plain = fresh(engine, None).run([asked]).tokens["r0"]
    begun = [*(asked.prompt.tokens or ()), *plain]
    more = replace(asked, id="r1", prompt=Prompt(tokens=(*begun, 301, 302)))
    alone = fresh(engine, None).run([more]).tokens["r1"]
    drafter = Knowing({"r0": begun, "r1": [*begun, 301, 302, *alone]})
    speculation = Speculation(engine.window, clock=CLOCK, cost=Flat(), looks_up=False,
                              drafter=drafter, draft_tokens=12)  # fmt: skip
    bench = fresh(engine, speculation)
    assert bench.run([asked]).tokens["r0"] == plain
    assert bench.run([more]).tokens["r1"] == alone
    assert speculation.counts.checked > speculation.counts.right > 60


def test_recurrent_models_and_streams_of_their_own_take_nothing_back(
    make_model: MakeModel,
) -> None:
    for shape in ("mamba2-tiny", "lfm2-tiny", "granite-tiny"):
        assert not opened(make_model, shape).limits.takes_back
    assert not opened(make_model, "gemma3-tiny", kv_unified=False).limits.takes_back
    alone = opened(make_model, "mamba2-tiny", batch_size=1).limits
    assert alone.outputs == 1, "rows for guesses that are never made"
    assert Bench(opened(make_model, "gemma3-tiny"), None).loop.scheduler.limits.takes_back
