"""Which device gets what when layers are offloaded (llama-model.cpp, load_tensors).

The last layers and the output go to the devices, shared out by their free memory; the input stays
in main memory. Not measured here (no such hardware at hand): the sizes of weights and caches
follow the source, scratch and context are estimates.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate, pairwise

from okno.core.header import ModelHeader
from okno.core.load import Load
from okno.core.machine import Cpu, Device, DeviceKind, Machine
from okno.core.plan import MemoryParts
from okno.plan.memory_parts import kv_bytes, split_weights, state_bytes
from okno.plan.memory_sizes import QUANTISED_KV, Sizes

MIB = 2**20
# A context of the driver and its libraries with their workspace, as llama.cpp uses them: figures
# commonly reported for CUDA (250-450 MiB with cuBLAS' 4-32 MiB), less for the others.
CONTEXT_BYTES: dict[DeviceKind, int] = {
    "cuda": 400 * MIB, "rocm": 400 * MIB, "vulkan": 150 * MIB, "sycl": 300 * MIB, "metal": 64 * MIB,
}  # fmt: skip
Compute = Callable[[Sizes], int]


@dataclass(frozen=True, slots=True)
class Split:
    """Layers from first_layer on are on `devices`; bounds: where each device's share begins, and
    the end. The output counts as one more layer. Without devices first_layer is beyond all."""

    first_layer: int
    devices: tuple[Device, ...] = ()
    bounds: tuple[int, ...] = ()

    def host_compute_bytes(self, header: ModelHeader, sizes: Sizes, compute: Compute) -> int:
        """Scratch in main memory: all of it while some layer is there, else the embedded rows and
        the step's inputs."""
        if self.first_layer > 0:
            return compute(sizes)
        mask = (2 if sizes.flash else 4) * sizes.cells * sizes.rows
        return 2 * 4 * header.n_embd * sizes.rows + mask

    def device_parts(
        self, header: ModelHeader, load: Load, sizes: Sizes, compute: Compute
    ) -> dict[str, MemoryParts]:
        """Parts on each device that holds layers."""
        parts = {}
        for device, (first, end) in zip(self.devices, pairwise(self.bounds), strict=True):
            if first < end:
                layers = slice(first, end)
                parts[device.id] = MemoryParts(
                    weights_bytes=_weights_between(header, first, end),
                    kv_bytes=kv_bytes(header, sizes, load.window.kv_type, layers),
                    state_bytes=state_bytes(header, sizes, layers),
                    compute_bytes=compute(sizes) + _unpacked_bytes(header, load, sizes),
                    process_bytes=CONTEXT_BYTES[device.kind],
                )
        return parts


def split_layers(header: ModelHeader, machine: Machine, load: Load) -> Split:
    """Where llama.cpp puts the layers under load.gpu_layers (-1: all and the output)."""
    total = len(header.layers) + 1
    wanted = total if load.gpu_layers < 0 else min(load.gpu_layers, total)
    devices = machine.usable_devices
    if not devices or wanted == 0:
        return Split(total)
    first = total - wanted
    shares = [float(device.free_bytes or device.total_bytes) for device in devices]
    whole = sum(shares) or 1.0
    ends = [share / whole for share in accumulate(shares)]
    owners = [min(bisect_right(ends, layer / wanted), len(shares) - 1) for layer in range(wanted)]
    bounds = [first + sum(owner < device for owner in owners) for device in range(len(shares))]
    return Split(first, devices, (*bounds, total))


def _weights_between(header: ModelHeader, first: int, end: int) -> int:
    """Bytes of the layers from first to end; the output is the layer after the last."""
    _, after_first = split_weights(header, _ANY_CPU, first)
    _, after_end = split_weights(header, _ANY_CPU, end)
    return after_first - after_end


_ANY_CPU = Cpu("", "", 1, 1, 1)


def _unpacked_bytes(header: ModelHeader, load: Load, sizes: Sizes) -> int:
    """CUDA's flash attention reads a quantised cache through f16 copies of one layer
    (ggml-cuda/fattn-common.cuh)."""
    if load.window.kv_type not in QUANTISED_KV or header.is_embedding_model:
        return 0
    widest = max((layer.k_width + layer.v_width for layer in header.layers), default=0)
    return 2 * widest * sizes.cells * sizes.n_stream
