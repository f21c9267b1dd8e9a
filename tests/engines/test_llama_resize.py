"""The real engine in another window: states moved, texts as if nothing had happened."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from okno.core.calibration import Curve
from okno.core.errors import BadRequest, DoesNotFit, WindowInUse
from okno.core.window import WindowChange
from okno.engines.llamacpp import LlamaCpp
from okno.engines.protocol import ResizeCounts, WorkerOptions
from okno.engines.resizing import carry_out
from okno.inspect.hardware.machine import this_machine
from okno.plan.speed_rough import rough_calibration
from okno.schedule.scheduler import Scheduler
from okno.schedule.sequence import Sequence
from okno.schedule.step import Sampled, Step
from tests.conftest import MakeModel
from tests.engines.drive import DEMO, options

SMALL = options(DEMO, batch_size=8, ctx=512, threads=1)
Rows = dict[str, list[NDArray[np.float32]]]


def opened(base: WorkerOptions = SMALL, **changes: object) -> LlamaCpp:
    return LlamaCpp(options(base, **changes), lambda _fraction: None)


@dataclass
class Decoding:
    """Greedy decoding on a real engine; `resize` between any two steps."""

    engine: LlamaCpp
    counts: list[ResizeCounts] = field(default_factory=list)
    texts: dict[str, list[int]] = field(default_factory=dict)
    rows: Rows = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(self.engine.limits)

    def add(self, id: str, prompt: list[int], answer: int) -> None:
        self.texts[id], self.rows[id] = [], []
        self.scheduler.add(Sequence(id, prompt, max_tokens=len(prompt) + answer))

    def step(self) -> Step:
        step = self.scheduler.schedule(self.engine.window.step_tokens)
        logits = self.engine.execute(step)
        sampled: dict[str, Sampled] = {}
        wanting = [span for span in step.spans if span.logits]
        for span, row in zip(wanting, logits, strict=True):
            sequence = self.scheduler.live[span.id]
            token = int(row.argmax())
            self.rows[span.id].append(row.copy())
            self.texts[span.id].append(token)
            sampled[span.id] = Sampled((token,), len(sequence.known) + 1 >= sequence.max_tokens)
        self.scheduler.update(step, sampled)
        return step

    def finish(self) -> Decoding:
        while self.scheduler.live or len(self.scheduler.waiting):
            self.step()
        return self

    def resize(self, change: WindowChange, meanwhile: Callable[[], None] | None = None) -> None:
        """As worker and loop do it. meanwhile: between the preparation and the switch."""
        prepared = self.engine.prepare_resize(change)
        try:
            prepared.open(self.scheduler.pool.used)
            if meanwhile is not None:
                meanwhile()
            self.counts.append(carry_out(prepared, self.scheduler, time.monotonic))
        finally:
            prepared.release()

    def run(self, at: dict[int, WindowChange]) -> Decoding:
        """Step to the end, with the change `at[n]` before step n."""
        for number in range(max(at, default=0) + 1):
            if number in at:
                self.resize(at[number])
            self.step()
        return self.finish()


def prompts(engine: LlamaCpp, count: int, length: int = 40) -> list[list[int]]:
    rng = np.random.default_rng(7)
    made = rng.integers(300, engine.vocab.n_tokens, (count, length))
    return [[int(t) for t in row[: length - k]] for k, row in enumerate(made)]


def streams(engine: LlamaCpp, count: int = 8, answer: int = 48) -> Decoding:
    decoding = Decoding(engine)
    for k, prompt in enumerate(prompts(engine, count)):
        decoding.add(f"r{k}", prompt, answer)
    return decoding


@pytest.fixture(scope="module")
def undisturbed() -> Decoding:
    return streams(opened()).finish()


GROW, SHRINK = WindowChange(ctx=2048), WindowChange(ctx=512)


def test_under_eight_streams_every_logit_is_that_of_the_run_without_resize(
    undisturbed: Decoding,
) -> None:
    decoding = streams(opened()).run({10: GROW, 30: SHRINK})
    assert decoding.texts == undisturbed.texts
    for id, rows in undisturbed.rows.items():
        assert np.array_equal(np.array(rows), np.array(decoding.rows[id]))
    assert [counts.moved for counts in decoding.counts] == [8, 8]
    assert not any(counts.staged for counts in decoding.counts)
    window = decoding.engine.window
    assert (window.ctx, window.kv_pool_tokens) == (512, 8 * 512)


def test_when_both_do_not_fit_the_states_wait_in_main_memory(
    undisturbed: Decoding, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("okno.engines.llama_resize.fits_beside", lambda new, old: False)
    decoding = streams(opened()).run({10: GROW, 30: SHRINK})
    assert decoding.texts == undisturbed.texts
    assert all(counts.staged and counts.moved == 8 for counts in decoding.counts)


def test_shared_prefixes_stay_shared(undisturbed: Decoding) -> None:
    decoding, alone = Decoding(opened()), Decoding(opened())
    prefix = prompts(decoding.engine, 1, 200)[0]
    for one in (decoding, alone):
        for k in range(8):
            one.add(f"r{k}", [*prefix, 400 + k], 30)
    for _ in range(12):
        decoding.step()
    used = decoding.scheduler.pool.used
    assert used < 200 + 8 * 13
    decoding.resize(WindowChange(batch_size=9, kv_pool=640))
    assert decoding.scheduler.pool.used == used
    assert decoding.counts[0].moved == 8
    assert decoding.finish().texts == alone.finish().texts
    assert decoding.scheduler.preemptions == 0, "the pool holds them only as they share"


def test_with_fewer_slots_the_youngest_wait_and_texts_stay(undisturbed: Decoding) -> None:
    decoding = streams(opened()).run({10: WindowChange(batch_size=3)})
    assert decoding.counts[0].moved == 3
    assert decoding.counts[0].waiting_again == 5
    assert decoding.counts[0].parked == 5
    assert {len(text) for text in decoding.texts.values()} == {48}
    for id in ("r0", "r1", "r2"):
        assert decoding.texts[id][:20] == undisturbed.texts[id][:20]
    for id, text in decoding.texts.items():
        assert text[:9] == undisturbed.texts[id][:9]


def test_sequences_of_higher_numbers_move_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """A smaller batch has fewer engine sequences; what is parked in the last one is renumbered."""
    monkeypatch.setattr("okno.core.load.LINE_ROWS", 1)  # 18 sequences, not 32 for both
    engine, fresh = opened(batch_size=2), Decoding(opened(batch_size=2))
    decoding = Decoding(engine)
    made = prompts(engine, engine.limits.seq_ids)
    for k, prompt in enumerate(made):
        decoding.add(f"old{k}", prompt, 4)
    decoding.finish()
    highest = max(decoding.scheduler.parked)
    last = decoding.scheduler.parked[highest]
    decoding.resize(WindowChange(batch_size=1))
    assert highest >= engine.limits.seq_ids
    assert last.seq is not None
    assert decoding.scheduler.parked[last.seq] is last
    turn = [*last.known.view().tolist(), 400, 401]
    for one in (decoding, fresh):
        one.add("again", turn, 20)
        one.step()
    assert decoding.scheduler.live["again"].cached == len(turn) - 2
    assert decoding.finish().texts["again"] == fresh.finish().texts["again"]


def test_what_the_steps_taught_goes_along_to_another_kv_type() -> None:
    engine = opened(calibration=rough_calibration(this_machine()).to_json())
    decoding = Decoding(engine)
    decoding.add("a", [300, 301, 302], 8)
    before = engine.learner
    for _ in range(5):
        before.learn(decoding.step(), decoding.scheduler.pool.end, 0.5)
    taught = before.lesson()
    assert taught is not None
    assert any(weight for weight, *_ in taught)
    decoding.resize(WindowChange(kv_type="q8_0"))
    assert engine.learner is not before
    lesson = engine.learner.lesson()
    assert lesson is not None
    for (weight, mean, variance), kept in zip(taught, lesson, strict=True):
        assert kept == [weight, pytest.approx(mean, abs=0.02), variance]


def test_another_kv_type_computes_all_again_and_goes_on(undisturbed: Decoding) -> None:
    decoding = streams(opened())
    for _ in range(10):
        decoding.step()
    decoding.resize(WindowChange(kv_type="q8_0"))
    assert decoding.counts[0].recomputed == 8
    begun = {id: list(text) for id, text in decoding.texts.items()}
    decoding.finish()
    assert decoding.engine.window.kv_type == "q8_0"
    fresh = Decoding(opened(kv_type="q8_0"))
    for k, prompt in enumerate(prompts(fresh.engine, 8)):
        fresh.add(f"r{k}", [*prompt, *begun[f"r{k}"]], 48 - len(begun[f"r{k}"]))
    fresh.finish()
    for id, text in decoding.texts.items():
        assert text == begun[id] + fresh.texts[id]


def test_without_flash_attention_states_move_too() -> None:
    decoding = streams(opened(flash_attention="off"))
    alone = streams(opened(flash_attention="off")).finish()
    decoding.resize(WindowChange(ctx=1024))
    assert decoding.counts[0].recomputed == 0
    assert decoding.finish().texts == alone.texts


def test_a_window_opened_without_flash_attention_stays_so_while_its_states_are_kept() -> None:
    """What okno chose by itself is not changed under live streams; with another KV type, whose
    states do not fit anyway, it chooses again: quantised values need flash attention."""
    decoding = streams(opened(calibration=plain_is_cheap()))
    assert any("flash attention off" in note for note in decoding.engine.notes)
    decoding.resize(WindowChange(ctx=1024))
    assert decoding.counts[0].recomputed == 0
    assert decoding.engine.load.flash_attention == "off"
    decoding.resize(WindowChange(kv_type="q8_0"))
    assert decoding.engine.load.flash_attention == "auto"
    decoding.finish()


def plain_is_cheap() -> dict[str, object]:
    """A calibration by which flash attention takes nearly all of a step."""
    dear, cheap = Curve((1,), (1e-6,), (0.0,)), Curve((1,), (1e-15,), (0.0,))
    made = rough_calibration(this_machine(), "cpu")
    costs = tuple(
        replace(cost, alone=dear, few=dear, tiled=dear, plain=cheap) for cost in made.attention
    )
    return replace(made, attention=costs).to_json()


SHAPES = ("gemma3-tiny", "gpt-oss-tiny", "mamba2-tiny", "granite-tiny", "lfm2-tiny")


@pytest.mark.parametrize("shape", SHAPES)
def test_windows_of_attention_and_recurrent_states_move_too(
    make_model: MakeModel, shape: str
) -> None:
    base = options(SMALL, model_path=str(make_model(shape)), batch_size=4)
    decoding = streams(opened(base), 4).run(
        {10: WindowChange(batch_size=6, ctx=1024), 20: WindowChange(batch_size=5, ctx=128)}
    )
    assert [counts.moved for counts in decoding.counts] == [4, 4]
    assert decoding.texts == streams(opened(base), 4).finish().texts


def test_streams_move_while_their_number_stays(undisturbed: Decoding) -> None:
    decoding = streams(opened(kv_unified=False)).run({10: GROW, 20: WindowChange(batch_size=9)})
    assert [(c.moved, c.recomputed) for c in decoding.counts] == [(8, 0), (0, 8)]
    assert {len(text) for text in decoding.texts.values()} == {48}


def test_a_request_too_large_for_the_new_ctx_keeps_the_old_window(undisturbed: Decoding) -> None:
    decoding = streams(opened())
    decoding.step()
    with pytest.raises(WindowInUse) as refused:
        decoding.resize(WindowChange(ctx=64))
    assert refused.value.info.details["largest_tokens"] == 40 + 48
    assert decoding.finish().texts == undisturbed.texts


def test_a_window_beyond_all_memory_is_refused_before_anything_moves(
    undisturbed: Decoding,
) -> None:
    decoding = streams(opened())
    decoding.step()
    with pytest.raises(DoesNotFit) as refused:
        decoding.resize(WindowChange(batch_size=256, ctx=2**24))
    details = refused.value.info.details
    assert int(details["needed_bytes"]) > int(details["free_bytes"]) > 0
    assert decoding.finish().texts == undisturbed.texts


def test_when_the_new_window_cannot_be_had_the_old_one_is_back(
    undisturbed: Decoding, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Staged: the old context is gone when memory turns out to be too little."""
    monkeypatch.setattr("okno.engines.llama_resize.fits_beside", lambda new, old: False)
    decoding = streams(opened())
    for _ in range(10):
        decoding.step()
    unlimited = resource.getrlimit(resource.RLIMIT_AS)

    def run_out() -> None:
        now = psutil.Process().memory_info().vms
        resource.setrlimit(resource.RLIMIT_AS, (now + 16 * 2**20, unlimited[1]))

    try:
        with pytest.raises(DoesNotFit, match="cannot open a window"):
            decoding.resize(WindowChange(ctx=32_768), meanwhile=run_out)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, unlimited)
    assert decoding.engine.window.ctx == 512
    assert decoding.scheduler.preemptions == 0
    assert decoding.finish().texts == undisturbed.texts


def test_the_weights_are_not_read_again() -> None:
    engine = opened()
    before = psutil.Process().io_counters().read_chars
    decoding = streams(engine, 2, 8)
    decoding.resize(GROW)
    decoding.finish()
    assert psutil.Process().io_counters().read_chars - before < engine.facts.size_bytes


def test_an_embedding_model_takes_longer_texts_afterwards(make_model: MakeModel) -> None:
    path = str(make_model("bert-tiny"))
    engine = opened(DEMO, model_path=path, batch_size=1, ctx=64)
    decoding = Decoding(engine)
    embedded(engine, 60)
    with pytest.raises(BadRequest):
        embedded(engine, 100)
    decoding.resize(WindowChange(ctx=128))
    embedded(engine, 100)
    assert engine.window.ctx == 128


def embedded(engine: LlamaCpp, n_tokens: int) -> None:
    list(engine.embed([5] * n_tokens, lambda: n_tokens))
