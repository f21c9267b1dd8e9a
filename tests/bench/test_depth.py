"""What okno depth measures, through a real child process and the real engine."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from okno.bench import depth
from okno.bench.depth import measure_depth, run_child, with_text
from okno.bench.depth_demo import Chat, flat_chat, returning_chat
from okno.bench.depth_job import Job, Measured, floats
from okno.bench.depth_text import DepthText
from okno.bench.raw import RawEngine, RawOptions, open_raw
from okno.core.errors import BadSetting, EngineFailed, ModelUnusable
from okno.inspect.models import demo_model
from okno.plan.depth import DepthCurve
from okno.plan.depth_cut import slides
from tests.conftest import MakeModel

DEMO = str(demo_model().path)
NOISE = 0.01  # nats: random weights, other chunks and so other kernels; another token is 0.5 off
WORDS = DepthText("words", (" ".join(f"word {n} and" for n in range(400)),))


def silent(stage: str, fraction: float) -> None:
    """Nobody watches."""


def chats(make: object, *more: object) -> list[Chat]:
    source = random.Random(3)
    return [make(source, lang, *more) for lang in ("en", "ru") * 3]  # type: ignore[operator]


def on_demo(told: Sequence[Chat], **changes: object) -> DepthCurve:
    text = DepthText("chats", tuple(chat.text for chat in told), special=True)
    job = Job(DEMO, "demo", (), **{"kv_types": (), "judged_tokens": 1000, **changes})  # type: ignore[arg-type]
    return measure_depth(job, text, silent)


def tiny(make_model: MakeModel, shape: str = "tiny", **changes: object) -> Measured:
    job = Job(str(make_model(shape)), shape, (), **{"kv_types": (), **changes})  # type: ignore[arg-type]
    return run_child(with_text(job, WORDS), silent)


def gains(curve: DepthCurve) -> dict[int, float]:
    return {window.ctx: window.gain_bits.value for window in curve.windows if window.gain_bits}


# Facts that return ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("characters", "helps"),
    [(100, 128), (900, 512)],  # 46-64 and 227-271 tokens: the window is the first that holds them
)
def test_only_the_window_that_reaches_the_telling_helps(characters: int, helps: int) -> None:
    found = gains(on_demo(chats(returning_chat, (characters,) * 4)))
    assert found.pop(helps) > 0.3
    assert all(abs(gain) < 0.1 for gain in found.values())


def test_where_nothing_returns_no_window_helps() -> None:
    curve = on_demo(chats(flat_chat))
    assert all(abs(gain) < 0.1 for gain in gains(curve).values())
    assert abs(curve.windows[0].lost_bits.value) < 0.1


def test_the_curve_falls_by_position_where_facts_return_and_is_flat_where_they_do_not() -> None:
    def level(curve: DepthCurve, first: int, last: int) -> float:
        inside = [p for p in curve.positions if first <= p.first and p.last <= last]
        weights = [p.n_tokens for p in inside]
        return float(np.average([p.bits.value for p in inside], weights=weights))

    returning = on_demo(chats(returning_chat, (900,) * 4))  # told by 256, asked for after that
    flat = on_demo(chats(flat_chat))
    assert level(returning, 96, 256) - level(returning, 256, 1024) > 0.8
    assert abs(level(flat, 96, 256) - level(flat, 256, 1024)) < 0.3


def test_an_answer_is_known_at_every_distance_when_nothing_is_cut() -> None:
    """Bits per code of four digits: told before, or never (log2 of 10,000 is 13.3)."""
    returning = bits_per_answer(chats(returning_chat, (60, 350, 1500)))
    flat = bits_per_answer(chats(flat_chat))
    assert np.mean(returning) < 0.5
    assert min(flat) > 8.0


def bits_per_answer(told: Sequence[Chat]) -> list[float]:
    text = DepthText("chats", tuple(chat.text for chat in told), special=True)
    run = run_child(with_text(Job(DEMO, "demo", (), kv_types=(), windows=(512,)), text), silent)
    found = []
    with open_raw(demo_model().path, RawOptions(ctx=64)) as engine:
        for chat, tokens, losses in zip(told, run.tokens, run.losses, strict=True):
            ids = np.frombuffer(tokens, dtype=np.int32)
            ends = np.cumsum([width(engine, int(token)) for token in ids])
            for start, end, _ in chat.answers:
                first, last = (len(chat.text[:at].encode()) for at in (start, end))
                digits = floats(losses)[(ends > first) & (ends <= last)]
                found.append(float(digits.sum() / np.log(2)))
    return found


SPECIAL_BYTES = [len(s) for s in ("<|bos|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")]


def width(engine: RawEngine, token: int) -> int:
    """Bytes of the text that a token of the demo model stands for."""
    if token < len(SPECIAL_BYTES):
        return SPECIAL_BYTES[token]
    return len(engine.piece(token))


# What the figures are ---------------------------------------------------------------------------


def test_losses_are_those_of_the_engine_row_by_row(make_model: MakeModel) -> None:
    found = tiny(make_model)
    tokens = np.frombuffer(found.tokens[0], dtype=np.int32).tolist()
    losses = floats(found.losses[0])
    with open_raw(make_model("tiny"), RawOptions(ctx=1024)) as engine:
        for position in (1, 2, 255, 256, 257, 600, len(tokens) - 1):
            expected = loss_after(engine, tokens[: position + 1])
            assert losses[position] == pytest.approx(expected, abs=NOISE)
    assert np.isnan(losses[0])
    assert not np.isnan(losses[1:]).any()


@pytest.mark.parametrize("shape", ["tiny", "tiny with bos", "gemma3-tiny", "mamba2-tiny"])
def test_a_window_sees_what_a_server_that_cuts_would_compute(
    make_model: MakeModel, shape: str
) -> None:
    keep = int(shape == "tiny with bos")
    path = with_bos(make_model("tiny")) if keep else make_model(shape)
    job = Job(str(path), shape, (), windows=(100, 1024), judged_tokens=90, kv_types=())
    found = run_child(with_text(job, WORDS), silent)
    tokens = np.frombuffer(found.tokens[0], dtype=np.int32).tolist()
    narrow, begun = floats(found.windows[0].losses[0]), found.judged_from[0]
    with open_raw(path, RawOptions(ctx=1024)) as engine:
        for slide in slides(len(tokens), 100, begun, keep):
            for index in {slide.judged_from, slide.judged_to - 1}:
                expected = loss_after(engine, tokens[:keep] + tokens[slide.start : index + 1])
                assert narrow[index - begun] == pytest.approx(expected, abs=NOISE)


def loss_after(engine: RawEngine, tokens: list[int]) -> float:
    """Of the last token after those before it."""
    engine.forget()
    engine.prefill(tokens[:-1])
    logits = engine.logits().astype(np.float64)
    best = logits.max()
    return float(np.log(np.exp(logits - best).sum()) + best - logits[tokens[-1]])


def with_bos(path: Path) -> Path:
    """A copy of the model that asks for BOS before every text."""
    data = bytearray(path.read_bytes())
    key = b"tokenizer.ggml.add_bos_token"
    data[data.index(key) + len(key) + 4] = 1
    copy = path.with_name("bos-" + path.name)
    copy.write_bytes(data)
    return copy


def test_the_window_that_holds_everything_is_the_uncut_pass(make_model: MakeModel) -> None:
    found = tiny(make_model, windows=(64, 1024))
    for losses, begun, late in zip(
        found.losses, found.judged_from, found.windows[-1].losses, strict=True
    ):
        assert floats(losses)[begun:].tolist() == floats(late).tolist()


def test_a_long_text_is_read_in_passes_of_the_trained_context(make_model: MakeModel) -> None:
    job = Job(str(with_bos(make_model("tiny"))), "tiny", (), kv_types=())
    found = run_child(with_text(job, WORDS), silent)
    lengths = [len(raw) // 4 for raw in found.tokens]
    assert len(lengths) > 2
    assert lengths[:-1] == [1024] * (len(lengths) - 1)
    assert {raw[:4] for raw in found.tokens} == {bytes(4)}  # BOS is token 0


# KV types and weights ---------------------------------------------------------------------------


def test_fewer_bits_of_kv_diverge_more() -> None:
    curve = on_demo(chats(returning_chat, (350,))[:2], kv_types=("q8_0", "q4_0"))
    eight, four = curve.kv_types
    assert (eight.name, four.name, eight.reference) == ("q8_0", "q4_0", "f16")
    assert 0 < eight.kl_bits.value < four.kl_bits.value / 10
    assert 1 >= eight.top1.value >= four.top1.value > 0.5


def test_a_model_does_not_diverge_from_itself(make_model: MakeModel) -> None:
    path = str(make_model("tiny"))
    found = tiny(make_model, reference_path=path, reference_name="same")
    assert found.weights is not None
    assert max(floats(found.weights.kl[0])) == 0.0
    assert set(found.weights.agree[0]) == {1}


def test_quantised_weights_diverge_from_their_reference(make_model: MakeModel) -> None:
    job = Job(
        str(make_model("tiny", "Q4_0")), "tiny-q4", (), kv_types=(),
        reference_path=str(make_model("tiny")), reference_name="tiny-f32",
    )  # fmt: skip
    curve = measure_depth(job, WORDS, silent)
    assert curve.weights is not None
    assert (curve.weights.name, curve.weights.reference) == ("tiny-q4", "tiny-f32")
    assert curve.weights.kl_bits.low > 0
    assert 0 < curve.weights.top1.value < 1


def test_a_reference_with_other_tokens_is_refused(make_model: MakeModel) -> None:
    with pytest.raises(BadSetting, match="their tokens differ"):
        tiny(make_model, reference_path=DEMO, reference_name="demo")


def test_a_recurrent_model_has_windows_but_no_kv_types(make_model: MakeModel) -> None:
    found = tiny(make_model, "mamba2-tiny", kv_types=("q8_0",))
    assert len(found.windows) == 5
    assert found.kv_types == ()
    assert "recurrent" in found.notes[-1]


def test_a_hybrid_model_compares_the_kv_it_has(make_model: MakeModel) -> None:
    found = tiny(make_model, "lfm2-tiny", kv_types=("bf16",))
    assert [run.name for run in found.kv_types] == ["bf16"]


def test_a_kv_type_that_does_not_fit_the_heads_becomes_a_note(make_model: MakeModel) -> None:
    found = tiny(make_model, kv_types=("q8_0", "bf16"))  # heads of 16; q8_0 blocks hold 32
    assert [run.name for run in found.kv_types] == ["bf16"]
    assert "KV type q8_0 was not compared" in found.notes[-1]


# Refusals ---------------------------------------------------------------------------------------


def test_an_embedding_model_predicts_nothing(make_model: MakeModel) -> None:
    with pytest.raises(ModelUnusable, match="embedding model"):
        tiny(make_model, "bert-tiny")


def test_a_text_shorter_than_the_narrowest_window_is_refused(make_model: MakeModel) -> None:
    short = DepthText("short", ("only a few words",))
    with pytest.raises(BadSetting, match="too short"):
        measure_depth(Job(DEMO, "demo", (), kv_types=()), short, silent)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"ctx": 4096}, "trained for 1,024"),
        ({"windows": (8,)}, "possible are 16 to"),
        ({"windows": (64, 4096)}, "possible are 16 to"),
    ],
)
def test_windows_that_make_no_sense_are_refused(
    make_model: MakeModel, changes: dict[str, object], says: str
) -> None:
    with pytest.raises(BadSetting, match=says):
        tiny(make_model, **changes)


def test_more_text_than_asked_for_is_left_out_with_a_note(make_model: MakeModel) -> None:
    found = tiny(make_model, max_tokens=1500)
    assert sum(len(raw) // 4 for raw in found.tokens) <= 1501
    assert "left out" in found.notes[0]


def test_a_file_that_is_no_model_is_refused(make_model: MakeModel) -> None:
    path = make_model("tiny").with_name("depth-cut.gguf")
    path.write_bytes(make_model("tiny").read_bytes()[:5000])
    with pytest.raises(ModelUnusable, match="cannot be loaded"):
        measure_depth(Job(str(path), "cut", ()), WORDS, silent)


def test_a_child_that_dies_is_told_with_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    dying = [sys.executable, "-c", "import sys; sys.exit('no room')"]
    monkeypatch.setattr(depth, "module_command", lambda _: dying)
    with pytest.raises(EngineFailed, match=r"ended early .*no room"):
        measure_depth(Job(DEMO, "demo", ()), WORDS, silent)


def test_progress_ends_at_one(make_model: MakeModel) -> None:
    seen: list[tuple[str, float]] = []
    job = with_text(Job(str(make_model("tiny")), "tiny", (), kv_types=()), WORDS)
    run_child(job, lambda stage, fraction: seen.append((stage, fraction)))
    assert list(dict(seen)) == ["load", "pass", "windows"]
    assert dict(seen)["windows"] == 1.0
    assert dict(seen)["pass"] > 0.99
