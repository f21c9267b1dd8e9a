"""The messages between `okno depth` and the child process that holds the model.

One Job goes in; Progress messages and at last Measured or Refused come out. A frame is 4 bytes
little-endian length and a msgpack body, as between server and worker (engines/protocol.py).
"""

from __future__ import annotations

from typing import IO, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from okno.core.errors import ErrorInfo
from okno.core.window import KVType
from okno.engines.protocol import HEADER

Stage = Literal["load", "reference", "pass", "windows"]
MAX_FRAME_BYTES = 256 * 1024 * 1024


class Job(msgspec.Struct, frozen=True):
    """What to measure.

    documents: parts of the text that know nothing of each other. special: `<|...|>` in them are
    the model's special tokens. ctx: the widest window, None for the trained one. windows: None for
    doublings. kv_types: to compare with f16. reference_path: a model to compare the weights with,
    empty for none. max_tokens: of text, all passes; judged_tokens: for the windows.
    """

    model_path: str
    name: str
    documents: tuple[str, ...]
    special: bool = False
    ctx: int | None = None
    windows: tuple[int, ...] | None = None
    kv_types: tuple[KVType, ...] = ("q8_0", "q4_0")
    reference_path: str = ""
    reference_name: str = ""
    max_tokens: int = 32768
    judged_tokens: int = 2048
    threads: int | None = None
    gpu_layers: int = -1
    mmap: bool = False
    flash_attention: Literal["auto", "on", "off"] = "auto"


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """fraction: 0..1 of `stage`."""

    stage: Stage
    fraction: float


class WindowRun(msgspec.Struct, frozen=True):
    """losses: float32 nats of the judged tokens of each pass."""

    ctx: int
    losses: tuple[bytes, ...]


class VariantRun(msgspec.Struct, frozen=True):
    """A variant beside its reference, over all predicted tokens of each pass: KL(reference ||
    variant) in nats and the variant's loss minus the reference's, float32; whether their most
    probable tokens agree, uint8."""

    name: str
    reference: str
    kl: tuple[bytes, ...]
    lost: tuple[bytes, ...]
    agree: tuple[bytes, ...]


class Measured(msgspec.Struct, frozen=True, tag="measured"):
    """tokens: int32 ids of each pass. losses: float32 nats of each token of each pass, NaN where
    nothing stands before it. judged_from: per pass. weights: the model beside its reference."""

    ctx_train: int
    tokens: tuple[bytes, ...]
    losses: tuple[bytes, ...]
    judged_from: tuple[int, ...]
    windows: tuple[WindowRun, ...]
    kv_types: tuple[VariantRun, ...] = ()
    weights: VariantRun | None = None
    notes: tuple[str, ...] = ()


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """The job cannot be done."""

    error: ErrorInfo


FromChild = Progress | Measured | Refused
encode = msgspec.msgpack.Encoder().encode
decode_job = msgspec.msgpack.Decoder(Job).decode
decode_reply = msgspec.msgpack.Decoder(FromChild).decode


def write_frame(stream: IO[bytes], message: Job | FromChild) -> None:
    """Send one message."""
    body = encode(message)
    stream.write(HEADER.pack(len(body)) + body)
    stream.flush()


def read_frame(stream: IO[bytes]) -> bytes | None:
    """The body of the next frame; None at the end of the stream, also one within a frame."""
    head = stream.read(HEADER.size)
    if len(head) < HEADER.size:
        return None
    (size,) = HEADER.unpack(head)
    if size > MAX_FRAME_BYTES:
        return None
    body = stream.read(size)
    return body if len(body) == size else None


def floats(raw: bytes) -> NDArray[np.float64]:
    """float32 bytes as an array to compute with."""
    return np.frombuffer(raw, dtype=np.float32).astype(np.float64)
