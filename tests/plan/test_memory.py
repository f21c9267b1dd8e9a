"""Predicted memory against the engine's own dry run, for every family."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from okno.bench.quantise import FileType
from okno.bench.shapes import PRESETS, write_header
from okno.core.errors import BadSetting, DoesNotFit
from okno.core.header import TensorInfo
from okno.core.load import FlashAttention, Load
from okno.core.machine import Cpu, Device, Machine, Ram
from okno.core.plan import MemoryParts, MemoryPlan
from okno.core.window import KVType, Window
from okno.engines.dry_run import DryRun
from okno.inspect.gguf_types import BY_NAME, tensor_bytes
from okno.inspect.hardware.machine import this_machine
from okno.inspect.header import read_header
from okno.plan.memory import Anchored, ClosedForm, Overhead, predict_memory
from okno.plan.memory_parts import Layouts, repacked_types, split_weights
from tests.conftest import MakeModel

MIB, GIB = 2**20, 2**30
FAMILIES: tuple[tuple[str, FileType], ...] = (
    ("llama-mid", "Q4_0"), ("mha-mid", "Q8_0"), ("qwen3-mid", "Q4_K_M"), ("gemma3-mid", "Q4_0"),
    ("gpt-oss-mid", "MXFP4"), ("qwen3moe-mid", "Q4_K_M"), ("deepseek2-mid", "Q4_0"),
    ("mamba2-mid", "F16"), ("granite-mid", "Q4_0"), ("lfm2-mid", "Q8_0"), ("phi-mid", "Q4_K_M"),
    ("bert-mid", "F16"), ("llama-13b", "Q4_0"), ("bert-tiny", "F32"), ("tiny", "Q4_0"),
)  # fmt: skip
WINDOWS = ((1, 512, 256), (4, 8192, 512), (3, 1000, 64), (16, 2048, 256), (2, 1024, 128))
CLOSED_PARTS = ("weights", "repacked", "kv", "state")
LOGGED_BYTES = 0.01 * 2**20  # as exactly as the engine's log states outputs


@pytest.fixture(scope="module")
def headers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("headers")
    for shape, file_type in FAMILIES:
        write_header(PRESETS[shape], folder / f"{shape}.gguf", file_type)
    return folder


@pytest.fixture(scope="module")
def here() -> Machine:
    return this_machine()


def machine(*devices: Device, simd: tuple[str, ...] = ("avx2",)) -> Machine:
    return Machine("linux", Cpu("a", "x86_64", 4, 8, 4, simd), Ram(16 * GIB, 12 * GIB), devices)


def gpu(gib: float, name: str = "cuda0") -> Device:
    return Device(name, "cuda", "a card", int(gib * GIB), int(gib * GIB))


def load(batch: int = 1, ctx: int = 2048, kv_type: KVType = "f16", **changes: object) -> Load:
    return Load(Window(batch, ctx, batch * ctx, kv_type), **changes)  # type: ignore[arg-type]


def loads() -> Iterator[Load]:
    kinds: tuple[tuple[KVType, FlashAttention], ...] = (
        ("f16", "auto"), ("q8_0", "auto"), ("q4_0", "on"), ("f32", "auto"), ("f16", "off"),
    )  # fmt: skip
    for kv_type, flash in kinds:
        for unified in (True, False):
            for batch, ctx, step_tokens in WINDOWS:
                window = Window(batch, ctx, batch * ctx, kv_type, step_tokens)
                yield Load(window, False, flash, -1, unified)


@pytest.mark.parametrize("shape", [shape for shape, _ in FAMILIES])
def test_every_part_of_every_family_is_what_the_engine_says(
    headers: Path, here: Machine, shape: str
) -> None:
    """Weights, caches and scratch to the byte, output as exactly as the engine states it."""
    with DryRun(headers / f"{shape}.gguf") as dry_run:
        closed = ClosedForm(dry_run.header, here)
        for one in loads():
            try:
                ours = closed.memory(one).devices[0].parts
            except BadSetting:
                with pytest.raises(DoesNotFit):
                    dry_run.memory(one)
                continue
            told = dry_run.memory(one).devices[0].parts
            assert _closed(ours) == _closed(told), one
            assert ours.output_bytes == pytest.approx(told.output_bytes, abs=LOGGED_BYTES), one
            assert ours.compute_bytes == told.compute_bytes, one


def _closed(parts: MemoryParts) -> list[int]:
    return [getattr(parts, f"{part}_bytes") for part in CLOSED_PARTS]


def test_anchors_give_the_engines_own_answers(headers: Path, here: Machine) -> None:
    for shape in ("llama-mid", "deepseek2-mid", "granite-mid"):
        with DryRun(headers / f"{shape}.gguf") as dry_run:
            model = Anchored(dry_run.header, here, dry_run.memory)
            for ctx in (512, 3000, 32_768):
                plan, told = model.memory(load(2, ctx)), dry_run.memory(load(2, ctx))
                ours = plan.devices[0].parts
                assert plan.source == "engine"
                assert _closed(ours) == _closed(told.devices[0].parts)
                assert ours.compute_bytes == pytest.approx(
                    told.devices[0].parts.compute_bytes, rel=0.001
                )


def test_where_the_closed_form_errs_the_anchors_correct_it(headers: Path) -> None:
    """An engine that takes 10 % more scratch than we know, and 5 MiB more weights."""
    header = read_header(headers / "llama-mid.gguf")
    asked: list[Load] = []

    def engine(one: Load) -> MemoryPlan:
        asked.append(one)
        plan = ClosedForm(header, machine()).memory(one)
        parts = plan.devices[0].parts
        more = replace(
            parts,
            weights_bytes=parts.weights_bytes + 5 * MIB,
            compute_bytes=parts.compute_bytes + 1000 * one.window.ctx,
        )
        return replace(plan, devices=(replace(plan.devices[0], parts=more),))

    model = Anchored(header, machine(), engine)
    for batch in (1, 4):
        for ctx in (512, 2048, 8192, 30_208):
            got = model.memory(load(batch, ctx)).devices[0].parts
            want = engine(load(batch, ctx)).devices[0].parts
            assert got.weights_bytes == want.weights_bytes
            assert got.compute_bytes == pytest.approx(want.compute_bytes, abs=2)
    questions = {one.window.ctx for one in asked}
    assert {1024, 16_384} <= questions


def test_a_handful_of_dry_runs_answers_a_whole_grid(headers: Path) -> None:
    header = read_header(headers / "gemma3-mid.gguf")
    asked: list[Load] = []

    def engine(one: Load) -> MemoryPlan:
        asked.append(one)
        return ClosedForm(header, machine()).memory(one)

    model = Anchored(header, machine(), engine)
    for batch in (1, 2, 4, 8, 16):
        for ctx in range(512, 16_384, 512):
            model.memory(load(batch, ctx))
    assert len(asked) == 2


def test_a_window_the_engine_refuses_falls_back_to_the_closed_form(headers: Path) -> None:
    asked = []

    def engine(one: Load) -> MemoryPlan:
        asked.append(one.window.batch_size)
        raise DoesNotFit("no")

    header = read_header(headers / "llama-mid.gguf")
    anchored, closed = Anchored(header, machine(), engine), ClosedForm(header, machine())
    for batch in (64, 2):
        assert anchored.memory(load(batch, 1024)) == closed.memory(load(batch, 1024))
    assert plan_source(anchored, load(64, 1024)) == "closed form"
    assert set(asked) == {64, 2}, "a refusal says nothing of other batch sizes"


def plan_source(memory: Anchored, one: Load) -> str:
    return memory.memory(one).source


def test_state_too_large_to_be_really_allocated_is_not_asked_of_the_engine(headers: Path) -> None:
    header = read_header(headers / "mamba2-mid.gguf")
    closed = ClosedForm(header, machine())
    asked = []

    def engine(one: Load) -> MemoryPlan:
        asked.append(one.window.batch_size)
        return closed.memory(one)

    state = closed.memory(load(1, 1024)).devices[0].parts.state_bytes
    assert state > 0
    many = 2**30 // state + 1
    anchored = Anchored(header, machine(), engine)
    assert anchored.memory(load(many, 1024)).source == "closed form"
    assert asked == []
    assert anchored.memory(load(1, 1024)).source == "engine"
    tight = replace(machine(), ram=Ram(GIB, 2 * state))
    assert Anchored(header, tight, engine).memory(load(1, 1024)).source == "closed form"


def test_mapped_weights_can_be_taken_back_but_repacked_ones_cannot(headers: Path) -> None:
    closed = ClosedForm(read_header(headers / "llama-mid.gguf"), machine())
    read, mapped = (closed.memory(load(mmap=mmap)).devices[0].parts for mmap in (False, True))
    assert mapped.mapped_bytes == (headers / "llama-mid.gguf").stat().st_size
    assert mapped.weights_bytes == 0
    assert mapped.repacked_bytes == read.repacked_bytes > 0
    assert mapped.needed_bytes < read.needed_bytes


@pytest.mark.parametrize(
    ("architecture", "simd", "repacked"),
    [
        ("x86_64", ("sse4_2",), set()),
        ("x86_64", ("avx2",), {"Q4_0", "Q4_K", "IQ4_NL", "MXFP4"}),
        ("x86_64", ("avx2", "avx512f"), {"Q4_0", "Q4_K", "IQ4_NL", "MXFP4", "Q2_K"}),
        ("aarch64", ("neon",), {"Q4_0", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "IQ4_NL", "MXFP4"}),
        ("riscv64", (), set()),
    ],
)
def test_the_processor_decides_what_is_repacked(
    architecture: str, simd: tuple[str, ...], repacked: set[str]
) -> None:
    assert set(repacked_types(Cpu("a", architecture, 1, 1, 1, simd))) == repacked


TILES = ("avx2", "avx512f", "avx512_vnni", "amx_tile", "amx_int8")


@pytest.mark.parametrize(
    ("file_type", "stored", "tiled"),
    [("Q8_0", 34, 38), ("F16", 2, 2), ("BF16", None, None)],
)
def test_amx_lays_out_what_it_multiplies(
    make_model: MakeModel, file_type: str, stored: int | None, tiled: int | None
) -> None:
    """Bytes of a block in the file and in tiles; with Q8_0 each block carries a sum."""
    header = read_header(make_model("mha-tiny", file_type))
    weights, _ = split_weights(header, Cpu("a", "x86_64", 1, 1, 1, TILES), 99)
    matrices = sum(
        t.n_bytes for t in header.tensors if t.type == file_type and t.name != "token_embd.weight"
    )
    assert weights.repacked_bytes == (matrices * tiled // stored if stored and tiled else 0)


@pytest.mark.parametrize(
    ("file_type", "values", "tiled"),
    [("Q4_0", 32, 18), ("Q4_1", 32, 20), ("Q8_0", 32, 38), ("F16", 32, 64), ("Q4_K", 256, 148),
     ("Q5_K", 256, 180), ("Q6_K", 256, 210), ("IQ4_XS", 256, 138)],
)  # fmt: skip
def test_a_block_in_tiles_takes_what_llama_cpp_says(
    file_type: str, values: int, tiled: int
) -> None:
    """Sizes of the structs and get_row_size of ggml-cpu/amx/mmq.cpp. Matrices that do not divide
    into tiles, and experts, are left to AVX-512."""
    stored = BY_NAME[file_type]

    def inside(*dimensions: int, tiles: bool = True) -> int | None:
        n_bytes = tensor_bytes(stored, dimensions)
        tensor = TensorInfo("blk.0.ffn_up.weight", file_type, dimensions, n_bytes)
        return Layouts({}, tiles).bytes_of(tensor)

    assert inside(1024, 64) == 1024 // values * tiled * 64
    assert inside(1024, 48) is None
    assert inside(1024, 64, 4) is None
    assert inside(1024, 64, tiles=False) is None


def test_what_amx_takes_is_loaded_before_the_weights_that_stay_as_they_are(headers: Path) -> None:
    """So the buffer that the largest matrix is read into is gone when they come: measured on
    gemma3-mid, 900 MiB at most and 900 MiB when ready."""
    header = read_header(headers / "gemma3-mid.gguf")  # tied: the table is there as stored too
    [tied] = [t for t in header.tensors if t.name == "token_embd.weight"]
    for simd, is_read_first in ((TILES, False), (("avx2",), True)):
        weights, _ = split_weights(header, Cpu("a", "x86_64", 1, 1, 1, simd), 99)
        assert weights.stored_bytes >= tied.n_bytes
        assert bool(weights.largest_repacked_bytes) is is_read_first


def test_amx_is_not_planned_for_a_model_with_matrices_per_head(make_model: MakeModel) -> None:
    """MLA: llama.cpp cannot use them so, and engines/amx.py keeps AMX from the whole model."""
    header = read_header(make_model("deepseek2-tiny", "Q8_0"))
    weights, _ = split_weights(header, Cpu("a", "x86_64", 1, 1, 1, TILES), 99)
    assert not weights.repacked_bytes


def test_all_weights_are_somewhere(headers: Path) -> None:
    header = read_header(headers / "mha-mid.gguf")  # its output is not tied
    for first_layer in range(len(header.layers) + 2):
        weights, on_device = split_weights(header, machine().cpu, first_layer)
        total = weights.stored_bytes + weights.repacked_bytes + on_device
        assert total == pytest.approx(header.weights_bytes, abs=32 * len(header.tensors))


# Devices that are not here ------------------------------------------------------------------------


def test_without_a_device_everything_is_in_main_memory(headers: Path) -> None:
    plan = predict_memory(read_header(headers / "llama-13b.gguf"), load(), machine())
    assert [device.device for device in plan.devices] == ["cpu"]
    assert plan.devices[0].parts.weights_bytes + plan.devices[0].parts.repacked_bytes > 6 * GIB


def test_all_layers_on_a_card_leave_the_input_in_main_memory(headers: Path) -> None:
    header = read_header(headers / "llama-13b.gguf")
    cpu, card = predict_memory(header, load(), machine(gpu(12))).devices
    embedding = next(t for t in header.tensors if t.name == "token_embd.weight")
    assert cpu.parts.weights_bytes == embedding.n_bytes
    assert cpu.parts.kv_bytes == 0
    assert card.parts.weights_bytes + embedding.n_bytes == pytest.approx(
        header.weights_bytes, rel=1e-5
    )
    assert card.parts.kv_bytes == 40 * 2 * 5120 * 2 * 2048
    assert card.free_bytes == 12 * GIB


def test_a_tied_output_is_copied_to_the_card(headers: Path) -> None:
    header = read_header(headers / "llama-mid.gguf")
    cpu, card = predict_memory(header, load(), machine(gpu(8))).devices
    embedding = next(t for t in header.tensors if t.name == "token_embd.weight")
    assert card.parts.weights_bytes > embedding.n_bytes
    assert cpu.parts.weights_bytes == embedding.n_bytes
    assert card.parts.weights_bytes + cpu.parts.weights_bytes == pytest.approx(
        header.weights_bytes + embedding.n_bytes, rel=1e-4
    )


def test_each_layer_more_on_the_card_moves_its_weights_and_cache(headers: Path) -> None:
    header = read_header(headers / "llama-13b.gguf")
    answer = partial(predict_memory, header, machine=machine(gpu(12)))
    before = answer(load(gpu_layers=0))
    assert [device.device for device in before.devices] == ["cpu"]
    for count in (1, 10, 41):
        cpu, card = answer(load(gpu_layers=count)).devices
        layers = count - 1  # the output is the first to go
        assert card.parts.kv_bytes == layers * 2 * 5120 * 2 * 2048
        total = cpu.parts.kv_bytes + card.parts.kv_bytes
        assert total == before.devices[0].parts.kv_bytes


def test_two_cards_share_the_layers_by_their_free_memory(headers: Path) -> None:
    header = read_header(headers / "llama-13b.gguf")
    both = machine(gpu(6, "cuda0"), gpu(2, "cuda1"))
    _, first, second = predict_memory(header, load(), both).devices
    assert first.parts.kv_bytes == pytest.approx(3 * second.parts.kv_bytes, rel=0.15)


def test_layers_do_not_go_where_the_engine_cannot_put_them(headers: Path) -> None:
    header = read_header(headers / "llama-13b.gguf")
    useless = replace(gpu(12), unusable="this llama.cpp has no CUDA backend")
    assert predict_memory(header, load(), machine(useless)) == predict_memory(
        header, load(), machine()
    )
    _, card = predict_memory(header, load(), machine(useless, gpu(12, "cuda1"))).devices
    assert card.device == "cuda1"


def test_a_plan_fits_only_with_its_margin(headers: Path) -> None:
    header = read_header(headers / "llama-mid.gguf")
    plan = predict_memory(header, load(), machine())
    exactly = plan.needed_bytes + plan.margin_bytes
    roomy = replace(machine(), ram=Ram(GIB, exactly))
    tight = replace(machine(), ram=Ram(GIB, exactly - 1))
    assert predict_memory(header, load(), roomy).fits
    assert not predict_memory(header, load(), tight).fits


def test_memory_that_is_main_memory_too_is_not_promised_twice(headers: Path) -> None:
    header = read_header(headers / "llama-13b.gguf")
    integrated = replace(gpu(12), unified=True)
    plan = predict_memory(header, load(), machine(integrated))
    assert [device.unified for device in plan.devices] == [False, True]
    free = max(device.parts.needed_bytes for device in plan.devices) + plan.margin_bytes
    shares = replace(integrated, free_bytes=free)
    here = replace(machine(shares), ram=Ram(16 * GIB, free))
    assert not predict_memory(header, load(), here).fits
    apart = replace(here, devices=(replace(shares, unified=False),))
    assert predict_memory(header, load(), apart).fits


# The process around the engine --------------------------------------------------------------------


def test_the_process_grows_with_vocabulary_and_cells_and_with_what_was_learnt(
    headers: Path,
) -> None:
    small, large = (read_header(headers / f"{name}.gguf") for name in ("tiny", "gemma3-mid"))

    def process(header: object, one: Load, overhead: Overhead = Overhead()) -> int:  # noqa: B008
        plan = predict_memory(header, one, machine(), overhead)  # type: ignore[arg-type]
        return plan.devices[0].parts.process_bytes

    assert process(large, load()) > process(small, load()) + 50 * MIB
    assert process(small, load(16, 8192)) > process(small, load()) + 10 * MIB
    learnt = Overhead(process_bytes=100 * MIB)
    default = Overhead()
    assert process(small, load(), learnt) - process(small, load()) == (
        learnt.process_bytes - default.process_bytes
    )


def test_without_flash_attention_the_product_with_the_values_needs_scratch(
    headers: Path, here: Machine
) -> None:
    """Measured: llama-mid at 16 x 1,024 took 265 MiB more than predicted without this."""
    header = read_header(headers / "llama-mid.gguf")
    window = Window(16, 1024, 16 * 1024, "f16", 256)

    def process_bytes(flash: FlashAttention, kv_type: KVType = "f16") -> int:
        load = Load(replace(window, kv_type=kv_type), flash_attention=flash)
        return predict_memory(header, load, here).devices[0].parts.process_bytes

    n_head = header.layers[0].n_head
    attention_bytes = n_head * 16 * 1024 * 256 * 2
    grown = process_bytes("off") - process_bytes("on")
    assert attention_bytes * 0.95 < grown < attention_bytes * 1.1
    assert process_bytes("off", "f32") == process_bytes("on", "f32")


@pytest.mark.parametrize("kv_type", ["q8_0", "q4_0"])
def test_a_cache_type_that_does_not_divide_a_head_is_refused(
    headers: Path, kv_type: KVType
) -> None:
    header = read_header(headers / "tiny.gguf")
    with pytest.raises(BadSetting, match="32 values together"):
        predict_memory(header, load(kv_type=kv_type), machine())
    with pytest.raises(BadSetting, match="needs flash attention"):
        predict_memory(header, load(kv_type=kv_type, flash_attention="off"), machine())
