"""The closed form of a prediction head beside the engine's own answer."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from okno.core.load import Load
from okno.core.machine import Device
from okno.core.window import Window
from okno.engines.dry_run import DryRun
from okno.inspect.hardware.machine import this_machine
from okno.inspect.header import read_header
from okno.plan.memory import ClosedForm
from okno.plan.memory_head import HeadMemory, head_alone, hidden_bytes
from tests.conftest import MakeModel

KIB = 1024


def load(batch: int, ctx: int) -> Load:
    return Load(Window(batch, ctx, batch * ctx), gpu_layers=0)


@pytest.mark.parametrize("shape", ["glm-mtp-tiny", "deepseek2-mtp-tiny"])
def test_without_the_engine_it_is_the_same_but_for_the_weights(
    make_model: MakeModel, shape: str
) -> None:
    """Those the closed form of the model holds already; scratch is near."""
    path = make_model(shape)
    header, machine = read_header(path), replace(this_machine(), devices=())
    weights = sum(t.n_bytes for t in header.tensors if t.name.startswith("blk.2."))
    closed = HeadMemory(header, machine)
    with DryRun(path, header, head=True) as context:
        told = HeadMemory(header, machine, context)
        for at in (load(1, 512), load(4, 2048), load(16, 8192)):
            exact = told(at)["cpu"] - weights
            assert closed(at)["cpu"] == pytest.approx(exact, rel=0.1, abs=KIB * 128), at.window


def test_its_weights_lie_with_the_last_layers(make_model: MakeModel) -> None:
    header = read_header(make_model("glm-mtp-tiny"))
    sizes = [t.n_bytes for t in header.tensors if t.name.startswith("blk.2.")]
    weights = sum(-(-n_bytes // 32) * 32 for n_bytes in sizes)
    gpu = Device("CUDA0", "cuda", "a card", 8 << 30, 8 << 30)
    machine = replace(this_machine(), devices=(gpu,))
    head = HeadMemory(header, machine, ClosedForm(head_alone(header), machine))
    without = HeadMemory(header, machine)

    def more(at: Load) -> dict[str, int]:
        return dict(Counter(head(at)) - Counter(without(at)))

    assert more(load(2, 512)) == {"cpu": weights}
    assert more(replace(load(2, 512), mmap=True)) == {}
    assert more(replace(load(2, 512), gpu_layers=-1)) == {"CUDA0": weights}


def test_kept_states_are_bounded(make_model: MakeModel) -> None:
    header = read_header(make_model("glm-mtp-tiny"))
    row = 4 * header.n_embd
    assert hidden_bytes(header, load(1, 65_536)) // row == 4096 + 256 + 1
    assert hidden_bytes(header, load(2, 512)) // row == 2 * 512 + 256 + 2
    assert hidden_bytes(header, load(64, 65_536)) // row == 64 * 256 + 256 + 64
