"""Trials are real forks here; a crash is one that the test itself makes."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np
import pytest

from okno.bench.raw import RawOptions, Row, open_raw
from okno.core.load import Load
from okno.core.window import Window
from okno.engines import amx, amx_trial
from okno.engines.dry_run import DryRun
from okno.inspect.cpu import machine_has_amx
from tests.conftest import MakeModel

linux = pytest.mark.skipif(sys.platform != "linux", reason="AMX is used on Linux only")
HERE = Path("a.gguf")


@linux
def test_a_trial_that_dies_costs_this_process_nothing() -> None:
    assert amx_trial.survives(lambda: None)
    assert not amx_trial.survives(lambda: os.kill(os.getpid(), signal.SIGSEGV))
    assert not amx_trial.survives(os.abort)


@linux
def test_an_error_in_a_trial_is_no_crash() -> None:
    assert amx_trial.survives(lambda: os.kill(1 // 0, 0))


@linux
def test_a_trial_that_hangs_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amx_trial, "TIMEOUT_S", 1)
    assert not amx_trial.survives(signal.pause)


@linux
def test_a_trial_whose_end_is_not_known_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # a worker inherits it
    try:
        assert not amx_trial.survives(lambda: None)
    finally:
        signal.signal(signal.SIGCHLD, before)

    def refused() -> int:
        raise BlockingIOError("no more processes")

    monkeypatch.setattr(os, "fork", refused)
    assert not amx_trial.survives(lambda: None)


@linux
def test_a_trial_that_could_not_be_made_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amx_trial, "_alone", lambda: os.open("/no/such/file", os.O_RDONLY))
    assert not amx_trial.survives(lambda: None)


@linux
def test_the_product_that_is_tried_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the plain layout, which every processor has."""
    call, ended = amx_trial._ggml, {}

    def told(name: str, *values: object) -> ctypes.c_void_p:
        ended[name] = call(name, *values)
        return ended[name]

    monkeypatch.setattr(amx_trial, "_ggml", told)
    monkeypatch.setattr(amx_trial, "_tiles", lambda: call("ggml_backend_cpu_buffer_type"))
    amx_trial.multiply()
    assert ended["ggml_backend_graph_compute"].value is None  # GGML_STATUS_SUCCESS


@linux
@pytest.mark.parametrize("shape", ["mha-tiny", "mamba2-tiny"])
def test_a_step_of_a_model_is_planned_without_its_weights(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, shape: str
) -> None:
    """And without accelerators: CUDA ends a fork of a process that has counted its devices."""
    path, opened = make_model(shape, "Q4_0"), []
    load, init = lib.llama_model_load_from_file, lib.llama_init_from_model

    def loaded(name: bytes, params: Any) -> object:
        assert params.no_alloc
        assert ctypes.c_void_p.from_address(params.devices).value is None
        return load(name, params)

    def planned(model: object, params: object) -> object:
        opened.append(init(model, params))
        return opened[-1]

    monkeypatch.setattr(lib, "llama_model_load_from_file", loaded)
    monkeypatch.setattr(lib, "llama_init_from_model", planned)
    amx_trial.plan_graph(path)
    assert [bool(context) for context in opened] == [True]


@contextmanager
def unsettled(
    monkeypatch: pytest.MonkeyPatch, *answers: bool, has_amx: bool = True
) -> Iterator[list[str]]:
    """A process that has loaded nothing yet; `answers` of the trials of one model after another.
    Yields what was refused."""
    refused: list[str] = []
    waiting = iter(answers)
    monkeypatch.setattr(amx, "_granted", None)
    monkeypatch.setattr(amx, "machine_has_amx", lambda: has_amx)
    monkeypatch.setattr(amx, "_sound", lambda _model: next(waiting))
    monkeypatch.setattr(amx, "_refuse", lambda: refused.append("refused"))
    yield refused


def test_a_first_model_that_fails_on_tiles_keeps_them_from_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with unsettled(monkeypatch, False) as refused:
        assert amx.settle_amx(HERE), "it may use the other layouts"
        assert amx.settle_amx(HERE), "no second trial"
        assert refused == ["refused"]


def test_a_later_model_that_fails_on_tiles_goes_without_layouts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with unsettled(monkeypatch, True, False, True) as refused:
        assert [amx.settle_amx(HERE) for _ in range(3)] == [True, False, True]
        assert not refused


def test_nothing_is_tried_on_a_machine_without_amx(monkeypatch: pytest.MonkeyPatch) -> None:
    with unsettled(monkeypatch, has_amx=False):
        assert amx.settle_amx(HERE)


def test_a_model_is_tried_once_in_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its dry runs and its loading have the same layout, however a second trial would end."""
    trials = iter([True, False])
    monkeypatch.delenv("OKNO_AMX", raising=False)
    monkeypatch.setattr(amx, "_granted", None)
    monkeypatch.setattr(amx, "machine_has_amx", lambda: True)
    monkeypatch.setattr(amx, "_kernels_work", lambda: True)
    monkeypatch.setattr(amx, "survives", lambda _job: next(trials))
    assert [amx.settle_amx(Path("tried once.gguf")) for _ in range(3)] == [True] * 3
    assert not amx._sound(Path("another.gguf"))


@pytest.mark.parametrize(("asked", "sound"), [("0", False), ("1", True)])
def test_a_user_has_the_last_word(monkeypatch: pytest.MonkeyPatch, asked: str, sound: bool) -> None:
    monkeypatch.setenv("OKNO_AMX", asked)
    monkeypatch.setattr(amx, "survives", lambda _job: pytest.fail("tried"))
    assert amx._sound(HERE) is sound


@pytest.mark.parametrize("file_type", ["Q4_0", "Q8_0", "Q4_K_M", "F16"])
def test_the_processors_layouts_give_the_logits_of_plain_ones(
    make_model: MakeModel, file_type: str
) -> None:
    """Up to the rounding of activations: with AMX wherever this machine and build have it."""
    path = make_model("mha-tiny", file_type)
    plain, laid_out = (logits(path, repack=repack) for repack in (False, True))
    assert np.sqrt(np.mean((plain - laid_out) ** 2)) < 0.06 * plain.std()


def logits(path: Path, *, repack: bool) -> np.ndarray:
    """After steps of 1, 3, 16 and 40 rows."""
    found, position = [], 0
    with open_raw(path, RawOptions(ctx=128, repack=repack)) as engine:
        for count in (1, 3, 16, 40):
            engine.decode([Row(7 + i, i) for i in range(position, position + count)])
            found += [engine.logits(i).copy() for i in range(count)]
            position += count
    return np.stack(found)


def test_a_model_that_llamacpp_cannot_use_in_tiles_answers_after_one_that_it_can(
    make_model: MakeModel,
) -> None:
    """MLA's matrices per head: an assert of llama.cpp ended the process."""
    for shape in ("mha-tiny", "deepseek2-tiny"):
        assert np.isfinite(logits(make_model(shape, "Q4_0"), repack=True)).all()


@linux
@pytest.mark.skipif(not machine_has_amx(), reason="needs a processor with AMX")
@pytest.mark.parametrize("asked", ["0", None])
def test_the_dry_run_sees_the_layout_that_loading_uses(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, asked: str | None
) -> None:
    """Q8_0 has no layout of its own on x86 but AMX's, which takes 38 bytes where it takes 34."""
    monkeypatch.delenv("OKNO_AMX", raising=False)
    if asked:
        monkeypatch.setenv("OKNO_AMX", asked)
    with DryRun(make_model("mha-tiny", "Q8_0")) as dry:
        parts = dry.memory(Load(Window(1, 512, 512))).devices[0].parts
    expected = asked is None and works()
    assert bool(parts.repacked_bytes) is expected


def works() -> bool:
    """Whether this build's kernels live, found in a process of its own."""
    code = "from okno.engines import amx; raise SystemExit(not amx._kernels_work())"
    return subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
