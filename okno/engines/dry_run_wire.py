"""What dry_run.py and its child say to each other: frames as in protocol.py."""

from __future__ import annotations

import msgspec

from okno.core.errors import ErrorInfo

OUTPUT_STEP_BYTES = 2**20 / 100  # llama.cpp logs this buffer as "%.2f MiB"


class ModelJob(msgspec.Struct, tag="model"):
    """Read the header of `path`; name: for messages. head: with its prediction head."""

    path: str
    name: str
    gpu_layers: int
    head: bool = False


class ContextJob(msgspec.Struct, tag="context"):
    """Open a context on it. kv_type, flash_attention: as llama_context_params has them. head: that
    of its prediction head."""

    n_ctx: int
    n_batch: int
    n_seq_max: int
    n_outputs_max: int
    kv_type: int
    flash_attention: int
    kv_unified: bool
    embeds: bool
    head: bool = False


class Buffer(msgspec.Struct):
    """Bytes in one kind of memory: weights, caches, scratch."""

    kind: str
    model_bytes: int
    context_bytes: int
    compute_bytes: int


class Measured(msgspec.Struct, tag="measured"):
    """state_bytes: the recurrent part of context_bytes. output_bytes: logits, as near
    as the engine's log states them (`OUTPUT_STEP_BYTES`)."""

    buffers: list[Buffer]
    state_bytes: int = 0
    output_bytes: int = 0


class Refused(msgspec.Struct, tag="refused"):
    """The job's own error."""

    error: ErrorInfo


Job = ModelJob | ContextJob
Reply = Measured | Refused

encode = msgspec.msgpack.Encoder().encode
decode_job = msgspec.msgpack.Decoder(Job).decode
_reply_decoder: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)
decode_reply = _reply_decoder.decode
