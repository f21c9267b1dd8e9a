"""The model's own prediction head guesses: answers are unchanged, and its guesses are those of a
head that has seen the whole text."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import llama_cpp.llama_cpp as lib
import numpy as np
import pytest

from okno.bench.shapes import PRESETS, write_gguf
from okno.core.errors import BadSetting, DoesNotFit, ModelUnusable
from okno.core.events import Finished
from okno.core.request import Prompt, Request, Sampling, Stop
from okno.core.window import WindowChange
from okno.engines import draft_source
from okno.engines.choice import choose_for
from okno.engines.llama_breakdown import breakdown
from okno.engines.llama_mtp import LlamaMtp
from okno.engines.llama_threads import Threads
from okno.engines.llamacpp import LlamaCpp
from okno.engines.protocol import Submit, WorkerOptions
from okno.engines.speculation import Speculation, speculation_for
from okno.schedule.step import Copy, Span, Step, Truncate
from tests.conftest import MakeModel
from tests.engines.drive import ask_all, options, running
from tests.engines.loop_bench import CLOCK, Answered, Bench, Flat, fresh
from tests.engines.mtp_models import FIRST, N, successors, write_right_head
from tests.engines.test_draft_model import resized

AFTER = successors()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mtp")


@pytest.fixture(scope="module")
def right(folder: Path) -> WorkerOptions:
    """A model whose head is right as long as it gets the right hidden states."""
    return worker(write_right_head(folder / "right.gguf"))


def worker(path: Path, **changes: object) -> WorkerOptions:
    """Without flash attention, whose kernel for 64 rows and more rounds otherwise than for few:
    how a prompt is cut into steps depends on the time these take, and random weights make much of
    1e-4 (with it the logits of a run differ by 0.01 from those of another, with or without a
    head)."""
    return options(
        WorkerOptions(str(path), "mtp", batch_size=4, ctx=512, threads=1, speculate="mtp"),
        **{"flash_attention": "off", **changes},
    )


def opened(base: WorkerOptions, **changes: object) -> LlamaCpp:
    return LlamaCpp(options(base, **changes), lambda _fraction: None)


def head_of(engine: LlamaCpp) -> LlamaMtp:
    assert isinstance(engine.drafter, LlamaMtp)
    return engine.drafter


def by_head(engine: LlamaCpp) -> Speculation:
    return Speculation(engine.window, clock=CLOCK, cost=Flat(), looks_up=False,
                       drafter=engine.drafter, draft_tokens=6)  # fmt: skip


@cache
def noise(length: int, seed: int) -> tuple[int, ...]:
    rng = random.Random(seed)
    return tuple(rng.randrange(FIRST, N) for _ in range(length))


def asking(
    *prompts: tuple[int, ...],
    most: int = 60,
    sampling: Sampling = Sampling(temperature=0, seed=1),  # noqa: B008 - frozen
) -> list[Request]:
    return [
        Request(f"r{k}", Prompt(tokens=prompt), sampling, Stop(max_tokens=most, ignore_eos=True))
        for k, prompt in enumerate(prompts)
    ]


PROMPTS = (noise(40, 1), noise(3, 2), noise(200, 3), noise(90, 4))


def both(engine: LlamaCpp, asked: list[Request]) -> tuple[Answered, Answered, Speculation]:
    """Without and with the head's guesses."""
    plain, speculation = fresh(engine, None).run(asked), by_head(engine)
    return plain, fresh(engine, speculation).run(asked), speculation


def said_by(
    bench: Bench, requests: list[Request], at: dict[int, Callable[[], None]] | None = None
) -> tuple[dict[str, list[int]], dict[str, Finished]]:
    """All to the end. at: what to do before a pass of the loop."""
    for request in requests:
        bench.loop.arrivals.begin(request.id)
        bench.loop.inbox.put(bench.preparer.task(Submit(request)))
    tokens: dict[str, list[int]] = {request.id: [] for request in requests}
    finished: dict[str, Finished] = {}
    passes = 0
    while len(finished) < len(requests):
        (at or {}).get(passes, lambda: None)()
        bench.loop.once()
        passes += 1
        for event in bench.events:
            for delta in event.deltas:
                tokens[delta.id] += delta.tokens
            finished.update((one.id, one) for one in event.finished)
        bench.events.clear()
    return tokens, finished


# Answers ------------------------------------------------------------------------------------------


def test_a_head_that_is_right_saves_most_steps(right: WorkerOptions) -> None:
    """Its guesses come from hidden states alone: one row out of place, and all were wrong."""
    engine = opened(right, prefix_cache=False)
    plain, drafted, speculation = both(engine, asking(*PROMPTS))
    assert drafted.tokens == plain.tokens
    token, said = PROMPTS[0][-1], []
    for _ in range(60):
        token = AFTER[token]
        said.append(token)
    assert plain.tokens["r0"] == said
    assert drafted.steps < plain.steps / 3
    assert speculation.counts.right == speculation.counts.checked > 150


@pytest.mark.parametrize("shape", ["glm-mtp-tiny", "deepseek2-mtp-tiny"])
@pytest.mark.parametrize("together", [False, True])
def test_a_head_that_is_wrong_changes_no_answer(
    make_model: MakeModel, shape: str, together: bool
) -> None:
    engine = opened(worker(make_model(shape), prefix_cache=False))
    asked = asking(*PROMPTS)
    for group in [asked] if together else [[one] for one in asked]:
        plain, drafted, speculation = both(engine, group)
        assert drafted.tokens == plain.tokens
        assert speculation.counts.checked > speculation.counts.right


@pytest.mark.parametrize("seed", [3, 4])
def test_sampled_answers_with_a_seed_are_those_without(folder: Path, seed: int) -> None:
    """Right and wrong guesses in turn: an unlikely token sampled puts the head off for a token. The
    distribution is that of the model, because the tokens of a seed are (tests/engines/
    test_drafts.py has the test of the distribution)."""
    engine = opened(worker(write_right_head(folder / "blunt.gguf", sharpness=0.32)))
    asked = asking(*PROMPTS, sampling=Sampling(temperature=1.0, seed=seed))
    plain, drafted, speculation = both(engine, asked)
    assert drafted.tokens == plain.tokens
    assert drafted.steps < plain.steps
    assert 0.1 < speculation.counts.right / speculation.counts.checked < 0.95


def test_more_sequences_than_places_take_turns(right: WorkerOptions) -> None:
    prompts = [noise(5 + 7 * k, k) for k in range(11)]
    plain, drafted, speculation = both(opened(right), asking(*prompts))
    assert drafted.tokens == plain.tokens
    assert speculation.counts.right > 0.9 * speculation.counts.checked > 0


def test_behind_a_shared_prefix_the_head_begins_later(right: WorkerOptions) -> None:
    """A second request finds the prefix computed: its states are gone, its guesses right."""
    engine = opened(right)
    prefix = noise(120, 9)
    asked = [replace(asking((*prefix, *noise(10, k)))[0], id=f"{k}") for k in range(2)]
    alone = fresh(engine, None).run(asked[1:])
    speculation = by_head(engine)
    bench = fresh(engine, speculation)
    said_by(bench, asked[:1])
    before = speculation.counts.right
    tokens, finished = said_by(bench, asked[1:])
    assert finished["1"].usage.cached_tokens == 120
    assert speculation.counts.right - before > 30
    assert tokens == alone.tokens


def test_under_pool_pressure_answers_are_those_without(right: WorkerOptions) -> None:
    """Sequences lose their cells and are computed again while others guess."""
    engine = opened(right, kv_pool_tokens=512, swap_bytes=0)
    asked = asking(*(noise(100, k) for k in range(4)), most=120)
    plain, drafted, speculation = both(engine, asked)
    assert drafted.tokens == plain.tokens
    assert speculation.counts.right > 0


def test_states_that_were_not_kept_are_gone_and_guesses_go_on(
    right: WorkerOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("okno.core.load.HIDDEN_ROWS", 16)
    monkeypatch.setattr("okno.core.load.LEAST_HIDDEN_ROWS", 16)
    monkeypatch.setattr(draft_source, "PIECE_ROWS", 8)
    plain, drafted, speculation = both(opened(right, prefix_cache=False), asking(*PROMPTS))
    assert drafted.tokens == plain.tokens
    assert speculation.counts.right == speculation.counts.checked > 150


# The guesses themselves ---------------------------------------------------------------------------


def step_of(engine: LlamaCpp, id: str, seq: int, start: int, tokens: list[int]) -> list[int]:
    """Compute `tokens` as one span, with logits at every row: the best token after each."""
    span = Span(id, seq, start, np.array(tokens, dtype=np.int32), len(tokens))
    return [int(t) for t in engine.execute(Step((), (span,))).argmax(axis=1)]


@pytest.mark.parametrize("shape", ["glm-mtp-tiny", "deepseek2-mtp-tiny"])
def test_after_any_rejections_it_guesses_as_if_it_had_seen_all_at_once(
    make_model: MakeModel, shape: str
) -> None:
    """Random weights: attention over the whole text decides. Steps with random drafts, of which the
    model takes none or some, and guesses in between; then a head that follows the same text from
    its beginning, computed in one step, guesses the same."""
    engine = opened(worker(make_model(shape)))
    head, rng = head_of(engine), random.Random(11)
    known, computed = [rng.randrange(10, 500) for _ in range(9)], 0
    for _ in range(25):
        drafts, lacks = [rng.randrange(10, 500) for _ in range(rng.randrange(4))], known[computed:]
        best = step_of(engine, "a", 0, computed, lacks + drafts)
        taken = rng.randrange(len(drafts) + 1)  # as if sampling had agreed with so many
        known += [*drafts[:taken], best[len(lacks) + taken - 1]]
        computed = len(known) - 1
        engine.execute_operations([Truncate(0, computed)])
        if rng.random() < 0.5:
            head.draft({"a": (np.array(known, np.int32), rng.randrange(1, 5))})
        elif rng.random() < 0.3:
            head.advance("a", np.array(known, np.int32), 3)
    for start in range(0, len(known) - 1, 16):
        step_of(engine, "b", 1, start, known[start : min(start + 16, len(known) - 1)])
    text = np.array(known, np.int32)
    guesses = head.draft({"a": (text, 6), "b": (text, 6)})
    assert guesses["a"] == guesses["b"]
    assert len(guesses["a"]) == 6
    assert head.draft({"a": (text, 6)})["a"] == guesses["a"], "guessing leaves nothing behind"


def first_position(head: LlamaMtp, seq: int) -> int:
    return int(lib.llama_memory_seq_pos_min(lib.llama_get_memory(head.context), seq))


def test_it_begins_with_the_token_after_the_first_state_it_got(make_model: MakeModel) -> None:
    """Of the text, or of what comes behind a prefix that another sequence had computed."""
    engine = opened(worker(make_model("glm-mtp-tiny")))
    head, text = head_of(engine), list(range(20, 70))
    step_of(engine, "x", 0, 0, text[:20])
    step_of(engine, "x", 0, 20, text[20:40])
    assert head.draft({"x": (np.array(text[:41], np.int32), 1)})
    assert first_position(head, 0) == 1
    engine.execute_operations([Copy(0, 1, 40)])
    step_of(engine, "y", 1, 40, text[40:49])
    known = np.array(text, np.int32)
    assert head.behind("y", known) == 9
    assert len(head.draft({"y": (known, 3)})["y"]) == 3
    assert first_position(head, 1) == 41


def test_it_begins_anew_behind_states_that_were_lost(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guesses are those of a head that never saw what was before."""
    monkeypatch.setattr("okno.core.load.HIDDEN_ROWS", 16)
    monkeypatch.setattr("okno.core.load.LEAST_HIDDEN_ROWS", 16)
    engine = opened(worker(make_model("glm-mtp-tiny")))
    head, text = head_of(engine), list(range(20, 90))
    for start in range(0, 69, 3):
        step_of(engine, "a", 0, start, text[start : start + 3])
        if start == 9:
            assert head.draft({"a": (np.array(text[: start + 4], np.int32), 2)})
    known = np.array(text, np.int32)
    lacks = head.behind("a", known)
    assert 8 <= lacks <= 16
    guesses = head.draft({"a": (known, 5)})["a"]
    begins = first_position(head, 0)
    assert begins == len(text) - lacks
    engine.execute_operations([Copy(0, 1, begins - 1)])
    step_of(engine, "b", 1, begins - 1, text[begins - 1 : -1])
    assert head.draft({"b": (known, 5)})["b"] == guesses


def test_what_it_has_not_seen_it_does_not_guess(make_model: MakeModel) -> None:
    head = head_of(opened(worker(make_model("glm-mtp-tiny"))))
    known = np.array([30, 31, 32], np.int32)
    assert head.behind("unseen", known) == 1
    head.advance("unseen", known, 8)
    assert head.draft({"unseen": (known, 3)}) == {}


def test_guesses_of_many_wait_for_cells_of_the_head(make_model: MakeModel) -> None:
    """Two cells are left for the last tokens of three: a third row would end the worker."""
    engine = opened(worker(make_model("glm-mtp-tiny"), kv_pool_tokens=512))
    head, known = head_of(engine), np.arange(20, 192, dtype=np.int32)
    for id in "abc":
        engine.execute(Step((), (Span(id, 0, 0, known[:-1], 0),)))
        engine.execute_operations([Truncate(0, 0)])
        while head.behind(id, known) > 1:
            head.advance(id, known, 100)
    assert set(head.draft(dict.fromkeys("abc", (known, 1)))) == {"a", "b"}


# A resize -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [WindowChange(ctx=1024), WindowChange(batch_size=2)])
def test_a_resize_takes_the_head_along(right: WorkerOptions, change: WindowChange) -> None:
    engine = opened(right)
    asked = asking(noise(20, 1), noise(30, 2))
    plain = fresh(engine, None).run(asked)
    speculation = by_head(engine)
    bench = fresh(engine, speculation)
    before = 0

    def resize() -> None:
        nonlocal before
        resized(bench, change)
        before = speculation.counts.right

    tokens, _ = said_by(bench, asked, {4: resize})
    assert tokens == plain.tokens
    assert speculation.counts.right - before > 50
    assert speculation.counts.right == speculation.counts.checked


def test_a_larger_batch_has_a_place_for_each_sequence(right: WorkerOptions) -> None:
    engine = opened(right, batch_size=1)
    head = head_of(engine)
    fresh(engine, None).run(asking(*PROMPTS[:1], most=4))
    bench = fresh(engine, by_head(engine))
    resized(bench, WindowChange(batch_size=3))
    known = {}
    for seq in range(3):
        text = list(noise(12, seq))
        step_of(engine, f"s{seq}", seq, 0, text[:-1])
        known[f"s{seq}"] = np.array(text, np.int32)
    guesses = head.draft({id: (text, 2) for id, text in known.items()})
    assert guesses.keys() == known.keys()


def test_what_the_head_knew_before_a_resize_it_knows_after(make_model: MakeModel) -> None:
    """Random weights: a head that began anew would see less of the text and guess otherwise."""
    engine = opened(worker(make_model("glm-mtp-tiny")))
    head, text = head_of(engine), np.array([*range(20, 80)], np.int32)
    for start in range(0, 59, 10):
        step_of(engine, "a", 0, start, [int(t) for t in text[start : min(start + 10, 59)]])
    before = head.draft({"a": (text, 6)})
    resized(Bench(engine, None), WindowChange(ctx=1024, batch_size=2))
    assert head.draft({"a": (text, 6)}) == before
    engine.execute_operations([Truncate(1, 0)])
    late = LlamaMtp(engine.model, engine.load, Threads(1, 1))
    assert late.draft({"a": (text, 6)}) == {}


def model_bytes(engine: LlamaCpp) -> int:
    """Weights that are loaded."""
    return sum(sizes[0] for sizes in breakdown(engine.context).values())


# What is asked ------------------------------------------------------------------------------------


def test_auto_takes_the_head_and_a_named_source_only_itself(right: WorkerOptions) -> None:
    auto = opened(right, speculate="auto")
    assert any(note.startswith("prediction head (MTP): ") for note in auto.notes)
    assert isinstance(auto.drafter, LlamaMtp)
    speculation = speculation_for(auto, options(right, speculate="auto"))
    assert speculation is not None
    for other in ("lookup", "off"):
        engine = opened(right, speculate=other)
        assert engine.drafter is None
        assert model_bytes(engine) < model_bytes(auto)


def test_a_model_without_a_head_is_told_so(make_model: MakeModel) -> None:
    with pytest.raises(BadSetting, match=r"--speculate mtp is not possible.*no prediction head"):
        opened(worker(make_model("tiny")))


@pytest.fixture(scope="module")
def unrunnable(folder: Path) -> Path:
    """The engine ends its process over this head: it wants one with experts
    (llama_model_deepseek2::graph_mtp)."""
    path = folder / "unrunnable.gguf"
    write_gguf(replace(PRESETS["deepseek2-mtp-tiny"], dense_layers=3), path, "F32")
    return path


def test_a_head_the_engine_dies_of_is_left_out(unrunnable: Path) -> None:
    engine = opened(worker(unrunnable, speculate="auto"))
    assert engine.drafter is None
    assert any("prediction head (MTP) is not used" in note for note in engine.notes)
    assert step_of(engine, "a", 0, 0, [5, 6, 7])


def test_asked_for_by_name_it_is_an_error(unrunnable: Path) -> None:
    with pytest.raises(ModelUnusable, match="crashed on the header"):
        opened(worker(unrunnable))


def test_where_nothing_fits_beside_the_head_it_is_left_out(
    right: WorkerOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("okno.plan.memory_head.hidden_bytes", lambda header, load: 1 << 50)
    choice = choose_for(options(right, speculate="auto"), "f16")
    assert not choice.head
    assert choice.chosen.notes[-1].endswith("is not used: nothing fits beside it")
    with pytest.raises(DoesNotFit, match=r"prediction head needs .* --speculate lookup"):
        choose_for(right, "f16")


# What it takes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["glm-mtp-tiny", "deepseek2-mtp-tiny"])
def test_its_memory_is_what_the_engine_allocates(make_model: MakeModel, shape: str) -> None:
    """The contexts of a real load, and the weights a model has more with the head."""
    asked = worker(make_model(shape), batch_size=3, ctx=1000)
    choice, engine = choose_for(asked, "f16"), opened(asked)
    alone = opened(asked, speculate="off")
    context = sum(sum(sizes[1:]) for sizes in breakdown(head_of(engine).context).values())
    weights = model_bytes(engine) - model_bytes(alone)
    logits = 4 * 3 * 512
    states = 4 * 64 * (3 * 1000 + engine.window.step_tokens + 3)
    told = choice.draft_bytes["cpu"]
    assert choice.chosen.memory.devices[0].parts.draft_bytes == told
    assert abs(told - (context + weights + logits + states)) < 64 * 1024


async def test_a_worker_guesses_with_its_head_and_answers_as_without(right: WorkerOptions) -> None:
    answers = {}
    for how in ("off", "mtp", "auto"):
        async with running(right, speculate=how) as supervisor:
            asked = [replace(one, id=f"{how}{one.id}") for one in asking(*PROMPTS)]
            answers[how] = [answer.tokens for answer in await ask_all(supervisor, *asked)]
    assert answers["mtp"] == answers["auto"] == answers["off"]
