"""A model and a machine with simple arithmetic, for tests of choosing."""

from __future__ import annotations

from dataclasses import dataclass

from okno.core.header import Layer, ModelHeader, TensorInfo
from okno.core.load import Load
from okno.core.machine import Cpu, Machine, Ram
from okno.core.plan import DeviceMemory, Figure, MemoryParts, MemoryPlan, SpeedPlan
from okno.core.window import KVType

MIB = 1 << 20
KV_BYTES: dict[KVType, float] = {"f16": 2, "q8_0": 34 / 32, "q4_0": 18 / 32}


def a_header(ctx_train: int = 8192, n_layer: int = 4, weights_mib: int = 400) -> ModelHeader:
    layer = Layer(n_head=8, head_dim=64, k_width=512, v_width=512)
    tensor = TensorInfo("blk.0.attn_q.weight", "Q4_0", (1024, 1024), weights_mib * MIB)
    return ModelHeader(
        name="a-model", source="gguf", architecture="llama", n_layer=n_layer, n_embd=512,
        n_vocab=32_000, ctx_train=ctx_train, layers=(layer,) * n_layer, tensors=(tensor,),
        file_type="Q4_0", file_bytes=weights_mib * MIB,
    )  # fmt: skip


def a_machine(free_bytes: int = 8 << 30, bound_by: str = "given") -> Machine:
    cpu = Cpu("a cpu", "x86_64", 2, 2, 2, ("avx2",))
    return Machine("linux", cpu, Ram(max(free_bytes, 1), free_bytes, bound_by))


@dataclass
class LinearMemory:
    """Weights, KV in proportion to the pool, and a fixed part per sequence."""

    free_bytes: int
    weights_bytes: int = 400 * MIB
    token_values: int = 4096
    seq_bytes: int = MIB
    margin_bytes: int = 8 * MIB
    n_asked: int = 0

    def memory(self, load: Load) -> MemoryPlan:
        self.n_asked += 1
        window = load.window
        parts = MemoryParts(
            weights_bytes=self.weights_bytes,
            kv_bytes=int(window.kv_pool_tokens * self.token_values * KV_BYTES[window.kv_type]),
            compute_bytes=window.batch_size * self.seq_bytes,
        )
        device = DeviceMemory("cpu", parts, self.free_bytes)
        return MemoryPlan((device,), "closed form", self.margin_bytes)


def figure(value: float) -> Figure:
    return Figure(value, value * 0.9, value * 1.1)


@dataclass(frozen=True)
class KneeSpeed:
    """Free rows up to `knee`, then time in proportion to rows."""

    step_s: float = 0.02
    knee: int = 8
    prefill_tok_s: float = 500.0
    prompt_tokens: int = 512

    def __call__(self, load: Load) -> SpeedPlan:
        batch = load.window.batch_size
        step_s = self.step_s * max(1.0, batch / self.knee) * (1 + 0.01 * batch)
        ttft_s = self.prompt_tokens / self.prefill_tok_s
        return SpeedPlan(
            1024, self.prompt_tokens, figure(1 / self.step_s), figure(1 / step_s),
            figure(batch / step_s), figure(self.prefill_tok_s), figure(ttft_s),
            figure(ttft_s * batch), ttft_s + self.step_s, ttft_s + step_s,
        )  # fmt: skip
