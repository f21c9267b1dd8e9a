"""Weights, caches and outputs in closed form: exact sizes of llama.cpp's buffers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from okno.core.header import ModelHeader, TensorInfo
from okno.core.machine import Cpu
from okno.core.window import KVType
from okno.plan.memory_sizes import Sizes

ALIGNMENT = 32
KV_BLOCK = {"f32": (1, 4), "f16": (1, 2), "bf16": (1, 2), "q8_0": (32, 34), "q4_0": (32, 18)}
ROW_TABLES = ("token_embd", "position_embd", "token_types", "per_layer_token_embd")
X86_REPACKED = {"Q4_0": "avx2", "Q4_K": "avx2", "IQ4_NL": "avx2", "MXFP4": "avx2",
                "Q2_K": "avx512f"}  # fmt: skip
ARM_REPACKED = ("Q4_0", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "IQ4_NL", "MXFP4")
ARM_FOUR_ROWS = ("Q4_0", "Q8_0", "IQ4_NL", "MXFP4")


@dataclass(frozen=True, slots=True)
class Weights:
    """Bytes of weights: stored as they are in the file, and rewritten for this CPU. largest: the
    largest rewritten tensor, which loading reads into a buffer first, less the weights that are
    loaded after it. Kinds of memory are loaded by name (llama-model-loader.h,
    ggml_backend_buft_comparator): AMX, CPU, CPU_REPACK."""

    stored_bytes: int = 0
    repacked_bytes: int = 0
    largest_repacked_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Tiles:
    """A type in AMX's layout: inputs: a matrix has a multiple of them. more_bytes: what each block
    of block values takes beside what is stored (ggml-cpu/amx/amx.cpp, supports_op, and mmq.cpp,
    get_row_size)."""

    inputs: int
    more_bytes: int = 0
    block: int = 256


TILED = {"F16": Tiles(16), "Q4_0": Tiles(32), "Q4_1": Tiles(32), "Q8_0": Tiles(32, 4, 32),
         "Q4_K": Tiles(256, 4), "Q5_K": Tiles(256, 4), "Q6_K": Tiles(256),
         "IQ4_XS": Tiles(256, 2)}  # fmt: skip
TILED_OUTPUTS = 32  # a multiple of them


@dataclass(frozen=True, slots=True)
class Layouts:
    """How a CPU wants weights. rows: of repacked types, what a tensor's outputs are a multiple of.
    tiles: AMX is there and goes first, except for experts."""

    rows: dict[str, int]
    tiles: bool = False

    def bytes_of(self, tensor: TensorInfo) -> int | None:
        """A matrix's bytes rewritten; None: used as it is stored."""
        if self.is_tiled(tensor):
            inputs, outputs = tensor.dimensions
            kind = TILED[tensor.type]
            return tensor.n_bytes + inputs // kind.block * kind.more_bytes * outputs
        return tensor.n_bytes if _fits_repack(tensor, self.rows) else None

    def is_tiled(self, tensor: TensorInfo) -> bool:
        """AMX takes it."""
        if not self.tiles or len(tensor.dimensions) != 2 or tensor.type not in TILED:
            return False
        inputs, outputs = tensor.dimensions
        return inputs % TILED[tensor.type].inputs == 0 and outputs % TILED_OUTPUTS == 0


def layouts_for(cpu: Cpu, header: ModelHeader) -> Layouts:
    """AMX is not used for a model with matrices per head, as MLA has them (engines/amx.py)."""
    tiles = "amx_int8" in cpu.simd and "avx512_vnni" in cpu.simd
    per_head = any(
        len(tensor.dimensions) > 2 and tensor.type in TILED and "_exps." not in tensor.name
        for tensor in header.tensors
    )
    return Layouts(repacked_types(cpu), tiles and not per_head)


def repacked_types(cpu: Cpu) -> dict[str, int]:
    """The types whose tensors the CPU backend rewrites on this CPU, each with the rows a tensor
    must be a multiple of (ggml-cpu/repack.cpp, ggml_repack_get_optimal_repack_type)."""
    if cpu.architecture in ("x86_64", "AMD64"):
        return {name: 8 for name, needs in X86_REPACKED.items() if needs in cpu.simd}
    if cpu.architecture in ("aarch64", "arm64"):
        return {name: 4 if name in ARM_FOUR_ROWS else 8 for name in ARM_REPACKED}
    return {}


def layer_of(tensor: TensorInfo) -> int | None:
    """The layer a tensor belongs to; None for input and output."""
    prefix, _, rest = tensor.name.partition(".")
    number = rest.partition(".")[0]
    return int(number) if prefix == "blk" and number.isdigit() else None


def split_weights(header: ModelHeader, cpu: Cpu, first_layer: int) -> tuple[Weights, int]:
    """Weights in main memory, and bytes on a device that holds the layers from first_layer on (the
    number of layers: only the output; more: nothing)."""
    layouts, stored, on_device = layouts_for(cpu, header), 0, 0
    tiled, repacked = _Rewritten(), _Rewritten()
    for tensor, layer in _placed(header):
        n_bytes = _aligned(tensor.n_bytes)
        if layer >= first_layer:
            on_device += n_bytes
        elif layer >= 0 and (inside := layouts.bytes_of(tensor)) is not None:
            (tiled if layouts.is_tiled(tensor) else repacked).add(tensor, inside)
        else:
            stored += n_bytes
    tied, in_output = _tied_output(header), len(header.layers)
    if tied is not None:
        if in_output >= first_layer:
            on_device += _aligned(tied.n_bytes)
        elif (inside := layouts.bytes_of(tied)) is not None:
            (tiled if layouts.is_tiled(tied) else repacked).add(tied, inside)
    largest = max(tiled.largest_bytes - stored - repacked.n_bytes, repacked.largest_bytes)
    return Weights(stored, tiled.n_bytes + repacked.n_bytes, max(0, largest)), on_device


@dataclass(slots=True)
class _Rewritten:
    """Tensors of one layout. largest_bytes: as stored."""

    n_bytes: int = 0
    largest_bytes: int = 0

    def add(self, tensor: TensorInfo, inside: int) -> None:
        self.n_bytes += _aligned(inside)
        self.largest_bytes = max(self.largest_bytes, tensor.n_bytes)


def _placed(header: ModelHeader) -> list[tuple[TensorInfo, int]]:
    """Each tensor with its layer; -1 for the input, the number of layers for the output."""
    after = len(header.layers)
    placed = []
    for tensor in header.tensors:
        layer = layer_of(tensor)
        if layer is None:
            layer = -1 if _is_input(tensor) else after
        placed.append((tensor, layer))
    return placed


def _is_input(tensor: TensorInfo) -> bool:
    return tensor.name.startswith(ROW_TABLES) and not tensor.name.startswith("token_embd_norm")


def _fits_repack(tensor: TensorInfo, repacked: dict[str, int]) -> bool:
    """A matrix, or the matrices of experts; single heads' matrices are left alone."""
    rows = repacked.get(tensor.type)
    if rows is None or len(tensor.dimensions) < 2 or tensor.dimensions[1] % rows:
        return False
    return len(tensor.dimensions) == 2 or "_exps." in tensor.name


def _tied_output(header: ModelHeader) -> TensorInfo | None:
    """The embedding table when it is the output layer too: a second copy is made where the output
    needs another kind of memory."""
    tensors = {tensor.name: tensor for tensor in header.tensors}
    if header.is_embedding_model or "output.weight" in tensors:
        return None
    return tensors.get("token_embd.weight")


ALL_LAYERS = slice(None)


def kv_bytes(header: ModelHeader, sizes: Sizes, kv_type: KVType, layers: slice = ALL_LAYERS) -> int:
    """Bytes of keys and values of `layers`.

    llama-kv-cache.cpp: per layer row(width) x cells x streams; without flash attention values are
    as wide as the widest layer's.
    """
    widest = max((layer.v_width for layer in header.layers), default=0)
    total = 0
    for layer in header.layers[layers]:
        if not layer.k_width:
            continue
        cells = sizes.cells if layer.window is None else sizes.window_cells(layer.window)
        value = layer.v_width if sizes.flash or not layer.v_width else widest
        for width in (layer.k_width, value):
            total += _aligned(row_bytes(kv_type, width) * cells * sizes.n_stream)
    return total


def row_bytes(kv_type: KVType, width: int) -> int:
    """Bytes of `width` values."""
    values, n_bytes = KV_BLOCK[kv_type]
    return width * n_bytes // values


def state_bytes(header: ModelHeader, sizes: Sizes, layers: slice = ALL_LAYERS) -> int:
    """Recurrent state of `layers`: float32 per sequence (llama-memory-recurrent.cpp)."""
    widths = Counter(layer.state_width for layer in header.layers[layers])
    return sum(4 * width * sizes.n_seq * count for width, count in widths.items())


def output_bytes(header: ModelHeader, sizes: Sizes) -> int:
    """Logits, and vectors of an embedding model (llama-context.cpp, output_reserve)."""
    rows = max(sizes.outputs, sizes.n_seq)
    width = header.n_vocab + (header.n_embd if sizes.embeds else 0)
    return 4 * width * rows


def _aligned(n_bytes: int) -> int:
    return (n_bytes + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
