"""The engine's dry run against the engine itself, on headers alone, and on headers that lie."""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
import sys
from pathlib import Path

import llama_cpp.llama_cpp as lib
import psutil
import pytest

from okno.bench.shapes import PRESETS, write_header
from okno.core.errors import DoesNotFit, ModelUnusable
from okno.core.load import Load
from okno.core.window import KVType, Window
from okno.engines.amx import settle_amx
from okno.engines.dry_run import DryRun
from okno.engines.llama_breakdown import breakdown
from okno.engines.llama_model import start_backend
from okno.inspect.header import read_header
from okno.inspect.sparse import write_sparse
from tests.conftest import MakeModel

MIB = 2**20


def load(batch: int = 2, ctx: int = 512, kv_type: KVType = "f16", **changes: object) -> Load:
    return Load(Window(batch, ctx, batch * ctx, kv_type), **changes)  # type: ignore[arg-type]


def test_the_sizes_are_those_the_engine_really_allocates(make_model: MakeModel) -> None:
    """The layout of the C++ map is checked against sizes known otherwise."""
    path = make_model("tiny", "Q4_0")
    start_backend()
    params = lib.llama_model_default_params()
    params.load_mode = lib.LLAMA_LOAD_MODE_NONE
    params.use_extra_bufts = settle_amx(path)
    model = lib.llama_model_load_from_file(str(path).encode(), params)
    asked = lib.llama_context_default_params()
    asked.n_ctx, asked.n_batch, asked.n_ubatch, asked.n_seq_max = 1024, 256, 256, 32
    asked.n_outputs_max, asked.kv_unified = 32, True
    context = lib.llama_init_from_model(model, asked)
    try:
        really = breakdown(context)
    finally:
        lib.llama_free(context)
        lib.llama_model_free(model)
    with DryRun(path) as dry_run:
        parts = dry_run.memory(load(2, 512)).devices[0].parts
    assert sum(model for model, _, _ in really.values()) == (
        parts.weights_bytes + parts.repacked_bytes
    )
    assert really["CPU"][1] == parts.kv_bytes == 1024 * 2 * 2 * 32 * 2
    assert really["CPU"][2] == parts.compute_bytes


def test_the_output_buffer_is_what_the_engine_logs(make_model: MakeModel) -> None:
    with DryRun(make_model("tiny")) as dry_run:
        parts = dry_run.memory(load(16, 512)).devices[0].parts
    assert parts.output_bytes == pytest.approx(512 * 32 * 4, abs=0.01 * MIB)  # 32 sequences


def test_a_header_without_weights_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "llama-13b.gguf"
    size = write_header(PRESETS["llama-13b"], path, "Q4_0")
    assert path.stat().st_blocks * 512 < 8 * MIB
    with DryRun(path) as dry_run:
        parts = dry_run.memory(load(1, 2048)).devices[0].parts
    assert parts.weights_bytes + parts.repacked_bytes == pytest.approx(size, rel=0.001)
    assert parts.kv_bytes == 40 * 2 * 5120 * 2 * 2048


def test_a_downloaded_header_becomes_a_sparse_file(make_model: MakeModel, tmp_path: Path) -> None:
    whole = make_model("qwen3-tiny")
    sparse = write_sparse(str(whole), tmp_path / "sparse.gguf")
    with DryRun(whole) as one, DryRun(sparse) as other:
        assert one.memory(load()) == other.memory(load())


def test_one_child_answers_many_loads(make_model: MakeModel) -> None:
    with DryRun(make_model("tiny")) as dry_run:
        small, large = dry_run.memory(load(1, 512)), dry_run.memory(load(1, 4096))
        first = children()
        dry_run.memory(load(16, 1024, "f32"))
        assert children() == first
    assert large.devices[0].parts.kv_bytes == 8 * small.devices[0].parts.kv_bytes
    assert children() == set()


def test_mapped_weights_are_not_counted_as_needed(make_model: MakeModel) -> None:
    path = make_model("tiny", "Q4_0")
    with DryRun(path) as dry_run:
        read, mapped = (dry_run.memory(load(mmap=mmap)).devices[0].parts for mmap in (False, True))
    assert mapped.mapped_bytes == path.stat().st_size
    assert mapped.weights_bytes == 0 < read.weights_bytes
    assert mapped.repacked_bytes == read.repacked_bytes  # repacked weights are kept twice


@pytest.mark.parametrize("shape", ["mamba2-tiny", "granite-tiny", "lfm2-tiny"])
def test_recurrent_state_is_told_apart_from_keys_and_values(
    make_model: MakeModel, shape: str
) -> None:
    with DryRun(make_model(shape)) as dry_run:
        one, four = (dry_run.memory(load(b, 512)).devices[0].parts for b in (1, 4))
        header = dry_run.header
    width = sum(layer.state_width for layer in header.layers)
    assert (one.state_bytes, four.state_bytes) == (4 * width, 16 * width)
    assert four.kv_bytes == 4 * one.kv_bytes


def test_a_damaged_header_is_refused_with_the_engines_reason(
    make_model: MakeModel, tmp_path: Path
) -> None:
    header = read_header(make_model("tiny"))
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(make_model("tiny").read_bytes()[:1000])
    with DryRun(broken, header) as dry_run, pytest.raises(ModelUnusable, match="cannot read"):
        dry_run.memory(load())


def test_a_header_that_crashes_the_engine_costs_only_the_child(
    make_model: MakeModel, tmp_path: Path
) -> None:
    """More experts used than a layer has: an assertion inside llama.cpp aborts the process."""
    good = make_model("qwen3moe-tiny")
    data = bytearray(good.read_bytes())
    key = b"qwen3moe.expert_used_count"
    at = data.index(key) + len(key) + 4
    assert struct.unpack_from("<I", data, at) == (2,)
    struct.pack_into("<I", data, at, 100_000)
    lying = tmp_path / "lying.gguf"
    lying.write_bytes(data)
    with DryRun(lying, read_header(good)) as dry_run:
        for _ in range(2):  # and again: the dead child is replaced
            with pytest.raises(ModelUnusable, match=r"lying\.gguf .*SIGABRT"):
                dry_run.memory(load())


def test_a_child_that_does_not_answer_is_killed(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with DryRun(make_model("tiny")) as dry_run:
        dry_run.memory(load())
        (child,) = children()
        psutil.Process(child).suspend()
        monkeypatch.setattr(dry_run._child, "_timeout_s", 0.2)
        with pytest.raises(ModelUnusable, match="crashed on the header"):
            dry_run.memory(load())
        assert not psutil.pid_exists(child)
        monkeypatch.undo()
        assert dry_run.memory(load()).needed_bytes > 0


def test_a_window_the_engine_refuses_says_why(make_model: MakeModel) -> None:
    with DryRun(make_model("tiny")) as dry_run, pytest.raises(DoesNotFit, match="block size 32"):
        dry_run.memory(load(kv_type="q8_0"))


@pytest.mark.skipif(sys.platform != "linux", reason="parent-death signals are Linux's")
def test_the_child_dies_with_its_parent(make_model: MakeModel) -> None:
    script = (
        "import sys, psutil, okno.engines.dry_run as d, tests.engines.test_dry_run as t\n"
        f"dry = d.DryRun({str(make_model('tiny'))!r}); dry.memory(t.load())\n"
        "print(psutil.Process().children()[0].pid, flush=True); sys.stdin.read()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    child.wait(10)
    parent.stdout.close()


def test_the_child_cannot_write_files_nor_take_all_memory(make_model: MakeModel) -> None:
    with DryRun(make_model("tiny")) as dry_run:
        dry_run.memory(load())
        (child,) = children()
        limits = Path(f"/proc/{child}/limits").read_text()
    lines = {line[:25].strip(): line[25:].split()[0] for line in limits.splitlines()}
    assert lines["Max file size"] == lines["Max core file size"] == "0"
    assert int(lines["Max data size"]) == 4 * 2**30


def test_a_build_without_the_breakdown_is_an_os_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import okno.engines.llama_breakdown as llama_breakdown

    monkeypatch.setattr(llama_breakdown, "SYMBOL", "llama_get_no_such_thing")
    llama_breakdown._function.cache_clear()
    with pytest.raises(OSError, match="no llama_get_no_such_thing"):
        breakdown(ctypes.c_void_p(0))
    llama_breakdown._function.cache_clear()


def children() -> set[int]:
    """Process ids of the dry runs that this process started."""
    mine = psutil.Process(os.getpid()).children()
    return {child.pid for child in mine if "dry_run_child" in " ".join(child.cmdline())}


def test_closing_twice_is_harmless(make_model: MakeModel) -> None:
    dry_run = DryRun(make_model("tiny"))
    dry_run.memory(load())
    dry_run.close()
    dry_run.close()
