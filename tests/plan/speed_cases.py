"""Headers, loads and calibrations for tests of speed, made by hand."""

from __future__ import annotations

from dataclasses import replace

from okno.core.calibration import AttentionCost, Calibration, Curve
from okno.core.header import Layer, ModelHeader, TensorInfo
from okno.core.load import Load
from okno.core.window import Window
from okno.plan.speed_attention import Part, batch_of
from okno.plan.speed_model import SpeedModel

MATRICES = {
    "attn_q": (1024, 1024), "attn_k": (1024, 256), "attn_v": (1024, 256),
    "attn_output": (1024, 1024), "ffn_gate": (1024, 3072), "ffn_up": (1024, 3072),
    "ffn_down": (3072, 1024),
}  # fmt: skip


def header(type: str = "Q4_0", n_layer: int = 8, window: int | None = None) -> ModelHeader:
    """A small dense Llama with a tied vocabulary."""
    tensors = [TensorInfo("token_embd.weight", "Q6_K", (1024, 32_000), 0)]
    for layer in range(n_layer):
        tensors += [
            TensorInfo(f"blk.{layer}.{name}.weight", type, size, 0)
            for name, size in MATRICES.items()
        ]
        tensors.append(TensorInfo(f"blk.{layer}.attn_norm.weight", "F32", (1024,), 0))
    layers = (Layer(16, 64, 256, 256, window=window),) * n_layer
    return ModelHeader("case", "gguf", "llama", n_layer, 1024, 32_000, 8192, layers,
                       tuple(tensors), type, 0)  # fmt: skip


def mixture(n_expert: int = 8, used: int = 2) -> ModelHeader:
    """The same with experts in place of the feed-forward matrices."""
    dense = header()
    tensors = tuple(
        replace(t, name=t.name.replace(".weight", "_exps.weight"),
                dimensions=(*t.dimensions, n_expert)) if ".ffn_" in t.name else t
        for t in dense.tensors
    )  # fmt: skip
    return replace(dense, tensors=tensors, n_expert=n_expert, n_expert_used=used)


def flat(seconds: float, at: int = 1024) -> Curve:
    return Curve((at,), (seconds,), (0.01,))


def in_fours(base_s: float) -> Curve:
    """A curve like that of repacked products: groups of four cost the same as one row and a bit."""
    rows = (*range(1, 25), 32, 33, 48, 64, 128, 256, 512)
    seconds = tuple(base_s * (1 + 0.5 * (n // 4) + 0.4 * (n % 4)) for n in rows)
    return Curve(rows, seconds, (0.01,) * len(rows))


def calibration(**changes: object) -> Calibration:
    """Round numbers: 50 ps a Q4_0 weight, 20 ns a cell."""
    made = Calibration(
        engine="test", machine="test", threads=2, created="2026-01-01T00:00:00+00:00",
        kind="measured", bandwidth_bytes_s=40e9,
        weights={"Q4_0": in_fours(50e-12), "Q6_K": in_fours(80e-12)},
        attention=(
            AttentionCost("f16", 64, flat(10e-9), flat(20e-9), flat(3e-9), 1e-9, 0.5e-9),
            AttentionCost("f16", 128, flat(20e-9), flat(40e-9), flat(5e-9), 1e-9, 0.5e-9),
            AttentionCost("q8_0", 64, flat(15e-9), flat(15e-9), None, 1e-9),
        ),
        step_s=50e-6, op_s=2e-6, activation_s=0.5e-9,
        sampling_s=20e-6, sample_s=50e-6, sample_entry_s=1e-9,
        noise=0.03, seen_depth_tokens=8192,
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


def load(batch: int = 4, ctx: int = 4096, kv_type: str = "f16") -> Load:
    return Load(Window(batch, ctx, batch * ctx, kv_type))  # type: ignore[arg-type]


def bare_step_s(
    model: SpeedModel, rows: list[int], depths: list[int], outputs: int | None = None,
    parked_cells: int = 0,
) -> float:  # fmt: skip
    """Of a step of just these rows, without filler. outputs None: one per sequence."""
    parts = [Part(1, n, depth) for n, depth in zip(rows, depths, strict=True)]
    return model.batch_s(batch_of(parts, parked_cells), len(rows) if outputs is None else outputs)
