"""LoRA on the real engine: its logits are those of the merged weights, whatever happens to it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from okno.core.adapter import Adapter
from okno.core.errors import ModelNotFound, ModelUnusable
from okno.core.header import TensorInfo
from okno.core.request import Prompt, Stop
from okno.core.window import WindowChange
from okno.engines.choice import choose_for
from okno.engines.llamacpp import LlamaCpp
from okno.engines.protocol import WorkerOptions
from okno.schedule.step import Span, Step
from tests.conftest import MakeModel
from tests.engines.drive import ask, chat, options, running, worker_pid
from tests.engines.test_llama_resize import Decoding
from tests.lora import Factors, is_matrix, merged, random_factors, write_adapter

TOKENS = np.arange(40, 72, dtype=np.int32)
Row = NDArray[np.float32]


def worker(model: Path, *adapters: Adapter, **changes: object) -> WorkerOptions:
    exact = {"kv_type": "f32", "flash_attention": "off"}  # nothing but the sums is rounded
    base = WorkerOptions(str(model), "tiny", batch_size=4, ctx=256, threads=1)
    return options(base, adapters=adapters, **exact | changes)


def opened(model: Path, *adapters: Adapter, **changes: object) -> LlamaCpp:
    return LlamaCpp(worker(model, *adapters, **changes), lambda _fraction: None)


def logits(engine: LlamaCpp) -> Row:
    """Of every position of TOKENS."""
    rows = [
        engine.execute(Step((), (Span("", 0, at, TOKENS[at : at + 1], 1),)))[0].copy()
        for at in range(len(TOKENS))
    ]
    return np.array(rows)


def alike(found: Row, expected: Row) -> bool:
    """Equal to the rounding of f32 sums in another order, and of gemma's GELU, a table in f16."""
    return bool(np.abs(found - expected).max() < 4e-4 * np.abs(expected).max())


@pytest.fixture(scope="module")
def tiny(make_model: MakeModel) -> Path:
    return make_model("tiny")


@pytest.fixture(scope="module")
def factors(tiny: Path) -> dict[str, Factors]:
    return random_factors(tiny)


@pytest.fixture(scope="module")
def adapter(
    tiny: Path, factors: dict[str, Factors], tmp_path_factory: pytest.TempPathFactory
) -> Adapter:
    path = tmp_path_factory.mktemp("lora") / "mine.gguf"
    return Adapter("mine", str(write_adapter(path, factors)))


@pytest.mark.parametrize(
    ("shape", "architecture"),
    [
        ("tiny", "llama"), ("qwen3-tiny", "qwen3"), ("gemma3-tiny", "gemma3"),
        ("phi-tiny", "phi3"), ("qwen3moe-tiny", "qwen3moe"),
    ],
)  # fmt: skip
def test_logits_are_those_of_the_merged_weights(
    make_model: MakeModel, tmp_path: Path, shape: str, architecture: str
) -> None:
    base = make_model(shape)
    factors = random_factors(base)
    file = write_adapter(tmp_path / "a.gguf", factors, architecture=architecture)
    found = logits(opened(base, Adapter("a", str(file))))
    assert alike(found, logits(opened(merged(base, factors, tmp_path / "merged.gguf"))))
    assert not alike(found, logits(opened(base)))


def test_the_embedding_can_be_adapted_where_it_is_not_the_output_too(
    tiny: Path, tmp_path: Path
) -> None:
    def is_embedding(tensor: TensorInfo) -> bool:
        return tensor.name == "token_embd.weight"

    [(name, found)] = random_factors(tiny, wanted=is_embedding).items()
    # of an embedding the engine looks rows up: a is tokens x rank, b width x rank
    a, b = found.b, np.ascontiguousarray(found.a.T)
    file = write_adapter(tmp_path / "a.gguf", {name: Factors(a, b)})
    expected = logits(opened(merged(tiny, {name: found}, tmp_path / "merged.gguf")))
    assert alike(logits(opened(tiny, Adapter("a", str(file)))), expected)


@pytest.mark.parametrize("scale", [0.5, -1.0])
def test_the_scale_multiplies_what_is_added(
    tiny: Path, factors: dict[str, Factors], adapter: Adapter, tmp_path: Path, scale: float
) -> None:
    expected = logits(opened(merged(tiny, factors, tmp_path / "merged.gguf", scale)))
    assert alike(logits(opened(tiny, replace(adapter, scale=scale))), expected)


def test_a_scale_of_0_is_the_model_alone(tiny: Path, adapter: Adapter) -> None:
    assert np.array_equal(logits(opened(tiny, replace(adapter, scale=0.0))), logits(opened(tiny)))


def test_several_adapters_add_up(
    tiny: Path, factors: dict[str, Factors], adapter: Adapter, tmp_path: Path
) -> None:
    more = random_factors(tiny, rank=2, seed=1, wanted=lambda t: "attn" in t.name and is_matrix(t))
    second = Adapter("more", str(write_adapter(tmp_path / "more.gguf", more)), scale=0.5)
    once = merged(tiny, factors, tmp_path / "once.gguf")
    expected = logits(opened(merged(once, more, tmp_path / "twice.gguf", 0.5)))
    assert alike(logits(opened(tiny, adapter, second)), expected)


def test_on_quantised_weights_the_adapter_is_added_too(
    make_model: MakeModel, adapter: Adapter
) -> None:
    """The layout of this processor (repacked) takes no adapter: it stays beside it."""
    base = make_model("tiny", "Q8_0")
    assert alike_roughly(logits(opened(base, adapter)), logits(opened(make_model("tiny"), adapter)))
    assert not alike_roughly(logits(opened(base, adapter)), logits(opened(base)))


def alike_roughly(found: Row, expected: Row) -> bool:
    """To the rounding of 8-bit weights."""
    return bool(np.abs(found - expected).mean() < 0.05 * np.abs(expected).mean())


# Other contexts ------------------------------------------------------------------------------


@pytest.mark.parametrize("staged", [False, True])
def test_another_window_keeps_the_adapter(
    tiny: Path, adapter: Adapter, monkeypatch: pytest.MonkeyPatch, staged: bool
) -> None:
    if staged:
        monkeypatch.setattr("okno.engines.llama_resize.fits_beside", lambda _new, _old: False)
    plain, resized = (Decoding(opened(tiny, adapter)) for _ in range(2))
    for decoding in (plain, resized):
        decoding.add("r", [int(t) for t in TOKENS], 30)
    plain.finish()
    resized.run({5: WindowChange(ctx=512), 15: WindowChange(ctx=256, kv_type="f16")})
    assert resized.texts == plain.texts
    assert [counts.staged for counts in resized.counts] == [staged, staged]
    assert alike(np.array(resized.rows["r"][:15]), np.array(plain.rows["r"][:15]))
    assert not alike(logits(opened(tiny))[-1], plain.rows["r"][0])


def test_embeddings_are_computed_with_the_adapter(tiny: Path, adapter: Adapter) -> None:
    def vector(engine: LlamaCpp) -> Row:
        running = engine.embed([int(t) for t in TOKENS], lambda: 256)
        try:
            while True:
                next(running)
        except StopIteration as stop:
            return np.asarray(stop.value)

    with_adapter, without = vector(opened(tiny, adapter)), vector(opened(tiny))
    assert not np.allclose(with_adapter, without, rtol=0.01)
    assert np.allclose(vector(opened(tiny, replace(adapter, scale=0.0))), without)


async def test_a_restarted_worker_goes_on_with_the_adapter(tiny: Path, adapter: Adapter) -> None:
    def request() -> object:
        prompt = Prompt(tokens=tuple(map(int, TOKENS)))
        return chat("", prompt=prompt, stop=Stop(max_tokens=40, ignore_eos=True))

    async def answer(
        *adapters: Adapter, kill_at: int | None = None, **changes: object
    ) -> list[int]:
        async with running(worker(tiny, *adapters, **changes)) as supervisor:
            after: dict[int, Callable[[], None]] = {}
            if kill_at is not None:
                after[kill_at] = lambda: os.kill(worker_pid(supervisor), signal.SIGKILL)
            return (await ask(supervisor, request(), after)).tokens  # type: ignore[arg-type]

    plain = await answer(adapter)
    assert len(plain) == 40
    assert await answer(adapter, kill_at=10) == plain
    assert await answer() != plain
    assert await answer(adapter, draft_path=str(tiny)) == plain  # the draft has no adapter


# Memory --------------------------------------------------------------------------------------


def test_its_bytes_are_part_of_the_plan(tiny: Path, adapter: Adapter) -> None:
    alone, beside = (choose_for(worker(tiny, *a), "f32").chosen.memory for a in ((), (adapter,)))
    (before,), (after,) = alone.devices, beside.devices
    tensors = sum(f.a.nbytes + f.b.nbytes for f in random_factors(tiny).values())
    assert after.parts.adapter_bytes == tensors
    scratch = after.parts.compute_bytes - before.parts.compute_bytes
    assert beside.needed_bytes - alone.needed_bytes == tensors + scratch
    assert 0 < scratch <= 260 * 4 * (128 + 4)  # the widest product of a step, in f32


def test_it_is_told_with_the_model(tiny: Path, adapter: Adapter) -> None:
    half = replace(adapter, scale=0.5)
    engine = opened(tiny, half)
    assert engine.facts.adapters == (half,)
    assert engine.memory().weights_bytes > opened(tiny).memory().weights_bytes
    assert "adapter mine: scale 0.5" in engine.notes


# What does not fit ---------------------------------------------------------------------------


def test_an_adapter_of_another_model_is_refused(
    make_model: MakeModel, tiny: Path, adapter: Adapter, tmp_path: Path
) -> None:
    with pytest.raises(ModelUnusable, match=r"for llama models, and .* is a qwen3 model"):
        opened(make_model("qwen3-tiny"), adapter)
    other = random_factors(make_model("mha-tiny"))
    wrong = Adapter("wrong", str(write_adapter(tmp_path / "wrong.gguf", other)))
    with pytest.raises(ModelUnusable, match=r"attn_k.weight' by \(64, 4\) x \(4, 64\).*\(32, 64"):
        opened(tiny, wrong)


def test_a_missing_adapter_and_a_model_are_refused(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"no file .*nowhere\.gguf"):
        opened(tiny, Adapter("x", str(tmp_path / "nowhere.gguf")))
    with pytest.raises(ModelUnusable, match="is no adapter"):
        opened(tiny, Adapter("x", str(tiny)))


def test_norms_that_the_engine_leaves_out_are_said(
    tiny: Path, factors: dict[str, Factors], tmp_path: Path
) -> None:
    norm = {"blk.0.attn_norm.weight": np.ones(64, dtype=np.float32)}
    file = write_adapter(tmp_path / "norms.gguf", factors, more=norm)
    engine = opened(tiny, Adapter("n", str(file)))
    assert any("1 vectors of norms in it are left out" in note for note in engine.notes)
