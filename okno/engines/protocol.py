"""The messages between server and worker: typed, length-prefixed msgpack over a Unix socket.

Server to worker: `ToWorker`. Worker to server: `FromWorker`. Calls carry a `call` number that the
answer repeats. A frame is 4 bytes little-endian length, then the msgpack body.
"""

from __future__ import annotations

import struct
from typing import Any, Literal

import msgspec

from okno.core.adapter import Adapter
from okno.core.errors import ErrorInfo
from okno.core.events import Accepted, Delta, Failed, Finished, Queued
from okno.core.request import Message, Request
from okno.core.window import MemoryUse, ModelFacts, Window, WindowChange
from okno.engines.steps import StepRecord
from okno.engines.tally import Tally

MAX_FRAME_BYTES = 256 * 1024 * 1024
HEADER = struct.Struct("<I")


class WorkerOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything a worker needs to load a model. batch_size, ctx, threads None mean `auto`.

    engine `scripted` loads no file (see engines/scripted.py). queue_limit: waiting requests.
    swap_bytes: host memory for states that lose their cells (None: auto).
    prefer, max_ttft_s, min_tok_s steer `auto`; target_itl_s: the gap between tokens that prompts
    and guesses of others may cost (None: auto, 0: no limit); calibration (core/calibration.py, as
    JSON), refinement (plan/refine.py, as JSON) and process_bytes are what was learnt of this
    machine and model, None: nothing yet. trace: send the record of every step.
    speculate: who guesses next tokens; draft_path: a draft model's file, empty: none; it guesses at
    most draft_tokens at once. adapters: GGUF files of LoRA, all applied to all that is computed.
    """

    model_path: str
    name: str
    engine: Literal["llamacpp", "scripted"] = "llamacpp"
    batch_size: int | None = None
    ctx: int | None = None
    kv_pool_tokens: int | None = None
    kv_type: str = "f16"
    kv_unified: bool = True
    step_tokens: int = 256
    threads: int | None = None
    gpu_layers: int = -1
    mmap: bool = False
    flash_attention: Literal["auto", "on", "off"] = "auto"
    queue_limit: int = 256
    prefix_cache: bool = True
    swap_bytes: int | None = None
    template_timeout_s: float = 2.0
    script: str = ""
    prefer: Literal["speed", "quality", "context", "users"] = "speed"
    max_ttft_s: float | None = None
    min_tok_s: float | None = None
    target_itl_s: float | None = None
    calibration: dict[str, Any] | None = None
    refinement: list[list[float]] | None = None
    process_bytes: int | None = None
    trace: bool = False
    speculate: Literal["auto", "lookup", "draft", "mtp", "off"] = "auto"
    draft_path: str = ""
    draft_tokens: int = 8
    adapters: tuple[Adapter, ...] = ()


# Server to worker ------------------------------------------------------------------------------


class Submit(msgspec.Struct, tag="submit"):
    """Admit a request. `emitted` are tokens the client already has (replay after a restart):
    they are computed again as input, never sent again."""

    request: Request
    emitted: tuple[int, ...] = ()


class Cancel(msgspec.Struct, tag="cancel"):
    """Forget a request in any state; unknown ids are ignored."""

    id: str


class Tokenize(msgspec.Struct, tag="tokenize"):
    """Text or chat messages to token ids. add_special: BOS/EOS as the model asks. with_pieces:
    the answer has the bytes of each token."""

    call: int
    text: str | None = None
    messages: tuple[Message, ...] | None = None
    add_special: bool = False
    parse_special: bool = False
    continue_last: bool = False
    with_pieces: bool = False


class Detokenize(msgspec.Struct, tag="detokenize"):
    """Token ids to bytes."""

    call: int
    tokens: tuple[int, ...]
    special: bool = True


class Embed(msgspec.Struct, tag="embed"):
    """One pooled, L2-normalised vector per input (text, or token ids)."""

    call: int
    inputs: tuple[str | tuple[int, ...], ...]
    normalize: bool = True


class CancelCall(msgspec.Struct, tag="cancel_call"):
    """The caller of `call` left."""

    call: int


class Inspect(msgspec.Struct, tag="inspect"):
    """Ask for the state of slots and pool."""

    call: int


class Recall(msgspec.Struct, tag="recall"):
    """Ask for the records of the last steps, so many at most."""

    call: int
    last: int


class Resize(msgspec.Struct, tag="resize"):
    """Open another window for the loaded model, while requests go on."""

    call: int
    change: WindowChange


class Shutdown(msgspec.Struct, tag="shutdown"):
    """Exit now (draining is the server's business)."""


Call = Tokenize | Detokenize | Embed | Inspect | Recall | Resize
ToWorker = Submit | Cancel | Call | CancelCall | Shutdown


# Worker to server ------------------------------------------------------------------------------


class Loading(msgspec.Struct, tag="loading"):
    """Progress of loading, 0..1."""

    fraction: float


class Ready(msgspec.Struct, tag="ready"):
    """The model is loaded with this window. notes: what `auto` decided and why, for people."""

    facts: ModelFacts
    window: Window
    memory: MemoryUse
    notes: tuple[str, ...] = ()


class LoadFailed(msgspec.Struct, tag="load_failed"):
    """Loading ended with an error the user can act on; the worker exits."""

    error: ErrorInfo


class Events(msgspec.Struct, tag="events"):
    """What one step brought, per request, in order. Kept apart by kind for cheap encoding."""

    accepted: list[Accepted] = []
    queued: list[Queued] = []
    deltas: list[Delta] = []
    finished: list[Finished] = []
    failed: list[Failed] = []


class Heartbeat(msgspec.Struct, tag="heartbeat"):
    """Sent four times a second by a thread beside the loop.

    `loops` counts every pass of the loop, also idle ones: a live loop always moves it, unless
    a single step is under way. steps: engine calls; rows: tokens computed in all. patience: by how
    much the hang bound is to be stretched (work under way that cannot be cut into pieces). tally:
    what all steps of this worker did.
    """

    loops: int
    steps: int
    rows: int
    live: int
    waiting: int
    used_cells: int
    pool_cells: int
    process_bytes: int
    patience: float = 1.0
    tally: Tally = msgspec.field(default_factory=Tally)


class Traced(msgspec.Struct, tag="traced"):
    """The steps since the last of these, with WorkerOptions.trace. began_s: the moment of the
    machine's monotonic clock from which their times count; each worker has its own."""

    began_s: float
    steps: list[StepRecord]


class Slot(msgspec.Struct):
    """One sequence of the engine, live or parked."""

    seq: int
    request: str | None
    state: Literal["live", "parked"]
    prompt_tokens: int
    computed_tokens: int
    generated_tokens: int
    client: str = ""


class Inspection(msgspec.Struct, tag="inspection"):
    """Answer to Inspect. refinement: what the steps so far have taught, None: nothing is learnt."""

    call: int
    slots: list[Slot]
    waiting: list[str]
    used_cells: int
    pool_cells: int
    steps: int
    refinement: list[list[float]] | None = None


class Recalled(msgspec.Struct, tag="recalled"):
    """Answer to Recall: the last steps, oldest first. count: steps of this worker in all."""

    call: int
    steps: list[StepRecord]
    count: int


class Tokenized(msgspec.Struct, tag="tokenized"):
    """Answer to Tokenize. `pieces` are the bytes of each token, if they were asked for; `prompt`
    the rendered text."""

    call: int
    tokens: list[int]
    pieces: list[bytes]
    prompt: str


class Detokenized(msgspec.Struct, tag="detokenized"):
    """Answer to Detokenize."""

    call: int
    text: bytes


class Embedded(msgspec.Struct, tag="embedded"):
    """Answer to Embed. vectors: float32 little-endian, n_embd values each."""

    call: int
    vectors: list[bytes]
    tokens: int
    note: str


class ResizeCounts(msgspec.Struct, frozen=True):
    """What a resize did. pause_s: no step ran so long. staged: the old context was freed before the
    new one was opened. state_bytes: copied. Live sequences: moved with their state; waiting_again,
    for a slot or cells; recomputed, because states could not be moved. parked: prefixes kept of
    those that were there (parked_before) or were set aside."""

    pause_s: float = 0.0
    staged: bool = False
    state_bytes: int = 0
    moved: int = 0
    waiting_again: int = 0
    recomputed: int = 0
    parked_before: int = 0
    parked: int = 0


class Resized(msgspec.Struct, tag="resized"):
    """Answer to Resize: the window is `window` now. needed_bytes: predicted, of the whole load."""

    call: int
    before: Window
    window: Window
    memory: MemoryUse
    needed_bytes: int
    notes: tuple[str, ...]
    counts: ResizeCounts


class CallFailed(msgspec.Struct, tag="call_failed"):
    """Answer to any call that could not be done."""

    call: int
    error: ErrorInfo


Answer = Tokenized | Detokenized | Embedded | Inspection | Recalled | Resized | CallFailed
FromWorker = Loading | Ready | LoadFailed | Events | Heartbeat | Traced | Answer

encode = msgspec.msgpack.Encoder().encode
decode_to_worker = msgspec.msgpack.Decoder(ToWorker).decode
decode_from_worker = msgspec.msgpack.Decoder(FromWorker).decode


def frame(message: ToWorker | FromWorker) -> bytes:
    """`message` as one frame, header included."""
    body = encode(message)
    if len(body) > MAX_FRAME_BYTES:
        raise ValueError(f"a message of {len(body)} bytes exceeds the frame limit")
    return HEADER.pack(len(body)) + body
