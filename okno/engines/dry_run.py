"""The engine's own dry run: what a load would take, from a header, without reading a weight.

llama.cpp loads the header with `no_alloc` and reserves everything for a context without allocating
it (llama.h, llama_model_params.no_alloc); about 3 ms a context once the child has started. A
sparse file that holds only a header is enough (inspect/sparse.py).
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from okno.core.errors import ModelUnusable, OknoError, from_info
from okno.core.header import ModelHeader
from okno.core.load import Load, head_sizes
from okno.core.plan import DeviceMemory, MemoryParts, MemoryPlan
from okno.engines.asked_child import AskedChild
from okno.engines.dry_run_wire import (
    Buffer,
    ContextJob,
    Job,
    Measured,
    ModelJob,
    Refused,
    Reply,
    decode_reply,
    encode,
)
from okno.engines.llama_numbers import FLASH, KV_TYPES
from okno.engines.process import worker_environment
from okno.inspect.header import read_header
from okno.plan.memory_parts import output_bytes
from okno.plan.memory_sizes import asked_sizes, sizes_of

START_TIMEOUT_S = 60.0
JOB_TIMEOUT_S = 30.0
MAX_REPLY_BYTES = 1 << 20
HOST_KINDS = ("CPU", "AMX")  # and the like: CPU_REPACK, CUDA_Host


class DryRun:
    """An engine that holds the header of `path`; a context manager, not thread-safe.

    It runs in a child process; in_process: right here, in a process that has started the engine
    and may die of the header (a worker about to load it).

    header: of the same file, read again when not given. head: of its prediction head's context, on
    a model loaded with the head. The plans hold what the engine itself allocates; process memory
    and margin are added by plan.memory.
    """

    def __init__(
        self,
        path: str | Path,
        header: ModelHeader | None = None,
        *,
        in_process: bool = False,
        head: bool = False,
    ) -> None:
        self._path = Path(path)
        self.header = header or read_header(self._path)
        self._head = head
        self._start: Callable[[], _Child | _Here] = _Here if in_process else _Child
        self._starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="okno-dry-run")
        self._child: _Child | _Here | None = None
        self._gpu_layers: int | None = None

    def memory(self, load: Load) -> MemoryPlan:
        """What the engine would allocate. Raises ModelUnusable when the header is not good enough
        for the engine (also when it crashes on it), DoesNotFit when it refuses the window."""
        self._load_model(load.gpu_layers)
        measured = self._ask(self._context_job(load))
        return self._plan(measured, load)

    def close(self) -> None:
        """End the child."""
        self._drop()
        self._starter.shutdown()

    def __enter__(self) -> DryRun:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _load_model(self, gpu_layers: int) -> None:
        if self._child is None or self._gpu_layers != gpu_layers:
            job = ModelJob(str(self._path), self._path.name, gpu_layers, self._head)
            self._gpu_layers = None
            self._ask(job)
            self._gpu_layers = gpu_layers

    def _ask(self, job: Job) -> Measured:
        if self._child is None:
            self._child = self._starter.submit(self._start).result()
        try:
            reply = self._child.ask(job)
        except OSError as error:
            how = self._child.how_it_ended()
            self._drop()
            raise self._crashed(f"{error}; {how}") from None
        if isinstance(reply, Refused):
            raise from_info(reply.error)
        return reply

    def _crashed(self, how: str) -> OknoError:
        return ModelUnusable(
            f"The engine crashed on the header of {self._path.name} ({how}). The file may be "
            "damaged or of a newer format; get it again, or try another quantisation."
        )

    def _drop(self) -> None:
        self._gpu_layers = None
        if self._child is not None:
            self._child.end()
            self._child = None

    def _context_job(self, load: Load) -> ContextJob:
        if self._head:
            return self._head_job(load)
        asked, embeds = asked_sizes(self.header, load), self.header.is_embedding_model
        return ContextJob(
            n_ctx=asked.n_ctx,
            n_batch=asked.n_batch,
            n_seq_max=asked.n_seq_max,
            n_outputs_max=0 if embeds else asked.n_outputs_max,
            kv_type=KV_TYPES["f16" if embeds else load.window.kv_type],
            flash_attention=FLASH["auto" if embeds else load.flash_attention],
            kv_unified=load.kv_unified and not embeds,
            embeds=embeds,
        )

    def _head_job(self, load: Load) -> ContextJob:
        sizes, flash = head_sizes(load), FLASH[load.flash_attention]
        return ContextJob(
            sizes.n_ctx, sizes.n_batch, sizes.n_seq_max, sizes.n_outputs_max, KV_TYPES["f16"],
            flash, True, False, head=True,
        )  # fmt: skip

    def _plan(self, measured: Measured, load: Load) -> MemoryPlan:
        output, sizes = measured.output_bytes, sizes_of(self.header, load)
        more = not self._head and sizes.outputs > sizes.n_seq  # allocated when a step asks for them
        if not output or more:
            output = output_bytes(self.header, sizes)
        cpu, devices = MemoryParts(output_bytes=output), {}
        for buffer in measured.buffers:
            if buffer.kind.startswith(HOST_KINDS) or buffer.kind.endswith("_Host"):
                cpu = _with_host(cpu, buffer)
            else:
                devices[buffer.kind] = _on_device(buffer)
        if measured.state_bytes:
            cpu, devices = _with_state(cpu, devices, measured.state_bytes)
        if load.mmap:
            cpu = replace(cpu, weights_bytes=0, mapped_bytes=self.header.file_bytes)
        plans = [DeviceMemory("cpu", cpu), *(DeviceMemory(k, p) for k, p in devices.items())]
        return MemoryPlan(tuple(plans), "engine")


def _with_host(parts: MemoryParts, buffer: Buffer) -> MemoryParts:
    """Main memory: plain buffers hold weights as stored, others a layout for this CPU."""
    plain = buffer.kind == "CPU" or buffer.kind.endswith("_Host")
    return replace(
        parts,
        weights_bytes=parts.weights_bytes + buffer.model_bytes * plain,
        repacked_bytes=parts.repacked_bytes + buffer.model_bytes * (not plain),
        kv_bytes=parts.kv_bytes + buffer.context_bytes,
        compute_bytes=parts.compute_bytes + buffer.compute_bytes,
    )


def _on_device(buffer: Buffer) -> MemoryParts:
    return MemoryParts(
        weights_bytes=buffer.model_bytes,
        kv_bytes=buffer.context_bytes,
        compute_bytes=buffer.compute_bytes,
    )


def _with_state(
    cpu: MemoryParts, devices: dict[str, MemoryParts], state: int
) -> tuple[MemoryParts, dict[str, MemoryParts]]:
    """Recurrent state moved out of kv_bytes, in proportion where it is on several devices."""
    total = cpu.kv_bytes + sum(parts.kv_bytes for parts in devices.values())

    def moved(parts: MemoryParts) -> MemoryParts:
        share = state * parts.kv_bytes // total
        return replace(parts, kv_bytes=parts.kv_bytes - share, state_bytes=share)

    return moved(cpu), {kind: moved(parts) for kind, parts in devices.items()}


class _Child:
    """The child process. Its first answer may take as long as it takes to start."""

    def __init__(self) -> None:
        self._asked = AskedChild(
            "okno.engines.dry_run_child", worker_environment(), MAX_REPLY_BYTES
        )
        self._timeout_s = START_TIMEOUT_S
        self.how_it_ended, self.end = self._asked.how_it_ended, self._asked.end

    def ask(self, job: Job) -> Reply:
        """Raises OSError when it died or took too long."""
        body = self._asked.ask(encode(job), self._timeout_s)
        self._timeout_s = JOB_TIMEOUT_S
        return decode_reply(body)


class _Here:
    """The child's work, in this process."""

    def __init__(self) -> None:
        from okno.engines import dry_run_child

        dry_run_child.keep_log()
        self._dry = dry_run_child.Dry()
        self._answer = dry_run_child.answer

    def ask(self, job: Job) -> Reply:
        return self._answer(self._dry, job)

    def end(self) -> None:
        """Free the model and give the engine's log back."""
        from okno.engines.llama_model import keep_log

        self._dry.close()
        keep_log()

    def how_it_ended(self) -> str:
        return "in this process"
