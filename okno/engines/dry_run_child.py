"""The child of dry_run.py: loads a header without its weights and tells what contexts would take.

Started as `python -m okno.engines.dry_run_child PARENT_PID` with one socket as both standard input
and standard output. A header is untrusted: whatever it makes the engine do ends this process only.
"""

from __future__ import annotations

import ctypes
import math
import re
import resource
import sys
from pathlib import Path

import llama_cpp.llama_cpp as lib

from okno.core.errors import DoesNotFit, ModelUnusable, OknoError
from okno.engines.amx import settle_amx
from okno.engines.asked_process import Channel, die_with, limit_resource
from okno.engines.dry_run_wire import (
    Buffer,
    ContextJob,
    Job,
    Measured,
    ModelJob,
    Refused,
    Reply,
    decode_job,
    encode,
)
from okno.engines.llama_breakdown import breakdown
from okno.engines.llama_model import start_backend

DATA_BYTES = 4 * 2**30  # recurrent state is really allocated
CPU_S = 600
_INFO, _WARNING = 2, 3  # GGML_LOG_LEVEL_INFO, _WARN (ggml.h)
_OUTPUT_LINE = re.compile(r"output buffer size =\s*([0-9.]+) MiB")


_log: list[tuple[int, str]] = []


def _keep(level: int, text: bytes | None, _data: object) -> None:
    if text and level >= _INFO:
        _log.append((level, text.decode(errors="replace").strip()))


_keep_callback = lib.llama_log_callback(_keep)


def keep_log() -> None:
    """What the engine says from now on explains its refusals."""
    lib.llama_log_set(_keep_callback, ctypes.c_void_p(0))


def main() -> None:
    """Answer jobs until the parent closes its end."""
    channel = Channel()
    die_with(parent=int(sys.argv[1]))
    start_backend()
    keep_log()
    _limit_resources()
    dry = Dry()
    for job in channel.jobs():
        channel.reply(encode(answer(dry, decode_job(job))))


def answer(dry: Dry, job: Job) -> Reply:
    try:
        if isinstance(job, ModelJob):
            dry.load(job)
            return Measured([])
        return dry.measure(job)
    except OknoError as error:
        return Refused(error.info)


class Dry:
    """A model without its weights, and contexts on it one after the other."""

    def __init__(self) -> None:
        self._model: lib.llama_model_p | None = None
        self._state_bytes: dict[int, int] = {}

    def load(self, job: ModelJob) -> None:
        """Read the header again, for another split between devices. Raises ModelUnusable."""
        self.close()
        self._state_bytes.clear()
        params = lib.llama_model_default_params()
        params.no_alloc = True
        params.load_mode = lib.LLAMA_LOAD_MODE_NONE
        params.n_gpu_layers = job.gpu_layers
        params.load_mtp = job.head
        params.use_extra_bufts = settle_amx(Path(job.path))
        _log.clear()
        self._model = lib.llama_model_load_from_file(job.path.encode(), params)
        if not self._model:
            raise ModelUnusable(
                f"The engine cannot read the header of {job.name}: {_problems()}. The file may be "
                "damaged or of a newer format; get it again, or try another quantisation."
            )

    def close(self) -> None:
        """Forget the model."""
        if self._model is not None:
            lib.llama_model_free(self._model)
            self._model = None

    def measure(self, job: ContextJob) -> Measured:
        """The buffers of one context. Raises DoesNotFit when the engine refuses it."""
        context = self._open(job)
        try:
            buffers = [Buffer(name, *sizes) for name, sizes in breakdown(context).items()]
            output = _logged(_OUTPUT_LINE)
        finally:
            lib.llama_free(context)
        return Measured(buffers, self._state(job, buffers), output)

    def _open(self, job: ContextJob) -> lib.llama_context_p:
        params = lib.llama_context_default_params()
        if job.head:
            params.ctx_type = lib.LLAMA_CONTEXT_TYPE_MTP
        params.n_ctx = job.n_ctx
        params.n_batch = params.n_ubatch = job.n_batch
        params.n_seq_max = job.n_seq_max
        params.n_outputs_max = job.n_outputs_max
        params.type_k = params.type_v = job.kv_type
        params.flash_attn_type = job.flash_attention
        params.kv_unified = job.kv_unified
        params.embeddings = job.embeds
        params.swa_full = False
        params.no_perf = True
        _log.clear()
        context = lib.llama_init_from_model(self._model, params)
        if not context:
            raise DoesNotFit(
                f"The engine refuses a context of {job.n_ctx:,} tokens for {job.n_seq_max} "
                f"sequences: {_problems()}. Ask for a "
                "smaller --ctx or --batch-size, or another --kv-type."
            )
        return context

    def _state(self, job: ContextJob, buffers: list[Buffer]) -> int:
        """Bytes of recurrent state, which the engine counts together with keys and values. In a
        hybrid it is what remains at zero cells: cells are linear, so two contexts tell."""
        if lib.llama_model_is_recurrent(self._model):
            return sum(buffer.context_bytes for buffer in buffers)
        if not lib.llama_model_is_hybrid(self._model):
            return 0
        if job.n_seq_max not in self._state_bytes:
            small, twice = (self._small(job, n_ctx) for n_ctx in (256, 512))
            self._state_bytes[job.n_seq_max] = 2 * small - twice
        return self._state_bytes[job.n_seq_max]

    def _small(self, job: ContextJob, n_ctx: int) -> int:
        context = self._open(
            ContextJob(n_ctx, 512, job.n_seq_max, job.n_outputs_max, job.kv_type,
                       job.flash_attention, True, False)
        )  # fmt: skip
        try:
            return sum(sizes[1] for sizes in breakdown(context).values())
        finally:
            lib.llama_free(context)


def _logged(pattern: re.Pattern[str]) -> int:
    """Bytes a log line states in MiB, as exactly as it states them; 0 without such a line."""
    found = (pattern.search(line) for _, line in _log)
    return sum(round(float(match[1]) * 2**20) for match in found if match)


def _problems() -> str:
    """The last warnings and errors."""
    said = [line.split("error loading model: ")[-1] for level, line in _log if level >= _WARNING]
    return " | ".join(said[-2:]) or "no reason given"


def _limit_resources() -> None:
    """Memory and processor time; no file can be written, no core dumped."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    for kind, value in (
        (resource.RLIMIT_DATA, DATA_BYTES),
        (resource.RLIMIT_CPU, math.ceil(used.ru_utime) + CPU_S),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        limit_resource(kind, value)


if __name__ == "__main__":
    main()
