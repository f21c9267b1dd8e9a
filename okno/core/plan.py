"""What a plan says: memory in parts, speed as figures with intervals, and the pick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from okno.core.load import Load

FigureKind = Literal["predicted", "measured"]
MemorySource = Literal["engine", "closed form"]


@dataclass(frozen=True, slots=True)
class Figure:
    """A number with its 90 % interval, and whether it was predicted or measured."""

    value: float
    low: float
    high: float
    kind: FigureKind = "predicted"


@dataclass(frozen=True, slots=True)
class MemoryParts:
    """Bytes on one device, by what they are for.

    weights: resident weights as stored; repacked: weights in a CPU-specific layout that replaces
    (without mmap) or doubles (with mmap) the stored ones; mapped: pages of the file itself, which
    the kernel can take back; kv: keys and values; state: recurrent; compute: scratch of a step;
    output: logits; process: interpreter, libraries, the engine's own books. Beside the model:
    adapter: LoRA; draft: a draft model or prediction head, with its cache and scratch; swap: main
    memory for states that lose their cells, where so much was asked for.
    """

    weights_bytes: int = 0
    repacked_bytes: int = 0
    mapped_bytes: int = 0
    kv_bytes: int = 0
    state_bytes: int = 0
    compute_bytes: int = 0
    output_bytes: int = 0
    process_bytes: int = 0
    adapter_bytes: int = 0
    draft_bytes: int = 0
    swap_bytes: int = 0

    @property
    def needed_bytes(self) -> int:
        """What cannot be taken back: everything but the mapped pages."""
        return self.model_bytes + self.process_bytes + self.extra_bytes

    @property
    def model_bytes(self) -> int:
        """Of the model and its window."""
        return sum(
            (self.weights_bytes, self.repacked_bytes, self.kv_bytes, self.state_bytes,
             self.compute_bytes, self.output_bytes)
        )  # fmt: skip

    @property
    def extra_bytes(self) -> int:
        """Of what is beside the model."""
        return self.adapter_bytes + self.draft_bytes + self.swap_bytes


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Memory on `device`: `cpu`, or the id of one of the machine's devices. free_bytes: before
    loading. unified: its memory is main memory, so what it takes is taken from `cpu` too."""

    device: str
    parts: MemoryParts
    free_bytes: int | None = None
    unified: bool = False


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """source: the engine's own dry run, or the closed form. margin_bytes: the 90 % (one-sided)
    bound on how much more it may really take."""

    devices: tuple[DeviceMemory, ...]
    source: MemorySource
    margin_bytes: int = 0

    @property
    def needed_bytes(self) -> int:
        """Over all devices."""
        return sum(device.parts.needed_bytes for device in self.devices)

    @property
    def fits(self) -> bool:
        """Each device has room for its part and the margin."""
        return not self.over_bytes()

    def over_bytes(self, room_bytes: int = 0) -> dict[str, int]:
        """What is too much, by device; empty when it fits. Each needs room for its part and the
        margin; main memory also for what unified devices take of it, and for room_bytes."""
        shared = sum(device.parts.needed_bytes for device in self.devices if device.unified)
        over = {}
        for device in self.devices:
            needed = device.parts.needed_bytes + self.margin_bytes
            if device.device == "cpu":
                needed += shared + room_bytes
            if device.free_bytes is not None and needed > device.free_bytes:
                over[device.device] = needed - device.free_bytes
        return over


@dataclass(frozen=True, slots=True)
class SpeedPlan:
    """Rates in tokens/s, times in s. At `fill` tokens in each of the window's sequences:
    user_tok_s is what one of batch_size users gets, total_tok_s all together, alone_tok_s a single
    user. prefill_tok_s and ttft_s: a prompt of prompt_tokens on an idle server; ttft_loaded_s:
    when batch_size such prompts arrive at once, the last one's first token.

    request_s, full_request_s: what a request of prompt_tokens and a short answer takes of the
    engine's time on an idle server, and in a full batch, where its prompt is computed beside the
    others' answers without holding them up; by the calibration alone, for choosing between loads.
    """

    fill_tokens: int
    prompt_tokens: int
    alone_tok_s: Figure
    user_tok_s: Figure
    total_tok_s: Figure
    prefill_tok_s: Figure
    ttft_s: Figure
    ttft_loaded_s: Figure
    request_s: float = 0.0
    full_request_s: float = 0.0


@dataclass(frozen=True, slots=True)
class PlannedLoad:
    """One window of the grid. speed None: nothing is known of this machine's speed."""

    load: Load
    memory: MemoryPlan
    speed: SpeedPlan | None = None
