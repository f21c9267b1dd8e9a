"""The real engine: llama.cpp through the low-level API of llama-cpp-python."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path

import llama_cpp.llama_cpp as lib
import msgspec
import numpy as np
import psutil
from numpy.typing import NDArray

from okno.core.errors import BadRequest, BadSetting, DoesNotFit
from okno.core.load import ContextSizes, Load, context_sizes
from okno.core.plan import MemoryPlan
from okno.core.window import KVType, MemoryUse, ModelFacts, Window, WindowChange
from okno.engines.auto_window import Chosen
from okno.engines.choice import Loaded, choose_for
from okno.engines.engine import EngineBroken
from okno.engines.knee import measure_rows
from okno.engines.llama_adapters import Adapters
from okno.engines.llama_batch import Batch, float_rows
from okno.engines.llama_draft import LlamaDraft
from okno.engines.llama_embed import Embedder
from okno.engines.llama_model import LlamaModel, recent_log, recent_problems, start_backend
from okno.engines.llama_mtp import LlamaMtp, give_hidden_states
from okno.engines.llama_numbers import FLASH, KV_TYPES, kv_type_named
from okno.engines.llama_resize import LlamaResize
from okno.engines.llama_slides import slides_back
from okno.engines.llama_states import HostStates, host_bytes
from okno.engines.llama_threads import threads_for
from okno.engines.llama_vocab import LlamaVocabulary, vocabulary_of_model
from okno.engines.protocol import WorkerOptions
from okno.engines.resizing import changed_options
from okno.engines.thread_trial import ThreadTrial
from okno.inspect.memory import free_memory, own_bytes
from okno.plan.memory_sizes import NO_FLASH_ATTENTION
from okno.schedule.step import (
    Copy,
    Forget,
    Limits,
    Operation,
    Pack,
    Restore,
    Save,
    Share,
    Step,
    Truncate,
)

TO_END = -1  # as a position: to the end of the sequence
WALK_CELLS = 256  # src/llama-kv-cache.cpp, get_n_kv


class LlamaCpp:
    """A model and a context. The KV pool is unified unless options say otherwise: one pool of
    cells for all sequences, prefixes shared by metadata only. With kv_unified False each sequence
    has its own stream: no sharing, and logits that do not depend on the neighbours."""

    def __init__(self, options: WorkerOptions, on_progress: Callable[[float], None]) -> None:
        kv_type = _checked_kv_type(options)
        self._options = options
        start_backend()
        choice = choose_for(options, kv_type)
        chosen, self.learner, self._has_head = choice.chosen, choice.learner, choice.head
        self.load, self.notes, self._planned = chosen.load, chosen.notes, chosen.memory
        self._model = LlamaModel(options, on_progress, with_head=self._has_head)
        self._adapters = Adapters(self._model, options.adapters)
        self.vocab = vocabulary_of_model(self._model.pointer, Path(options.model_path))
        self.chat_template = self._model.chat_template
        self.adds_bos = self.vocab.adds_bos
        self.limits = _limits(self._model, chosen, options)
        self.facts = _facts(self._model, self.vocab, options)
        self._threads = threads_for(self._model.size_bytes, options.threads)
        self._trial = ThreadTrial(*self._threads) if len(set(self._threads)) > 1 else None
        self._batch = Batch(self.window.step_tokens)
        self._states = HostStates()
        self._context: lib.llama_context_p | None = None
        self._embedder: Embedder | None = None
        self._head: LlamaMtp | None = None
        if not self._model.is_embedding_model:
            self._context = self.open_context(self.load)
            self._memory = lib.llama_get_memory(self._context)
            slides = options.kv_unified and slides_back(self._model, self._context)
            self.limits = replace(self.limits, slides=slides)
            if not choice.knows_rows:
                measure_rows(self.execute, self.learner, time.perf_counter, self._batch.capacity)
        if self._has_head:
            self._head = LlamaMtp(self._model, self.load, self._threads)
        self.drafter = self._draft_model(options) if options.draft_path else self._head

    def execute(self, step: Step) -> NDArray[np.float32]:
        if self._context is None:
            raise BadRequest(
                f"{self.facts.name} is an embedding model; it has no next token. "
                "Use /v1/embeddings, or serve a generative model."
            )
        self.execute_operations(step.operations)
        if not step.spans:
            return np.empty((0, self.vocab.n_tokens), dtype=np.float32)
        filler_seq = self.limits.filler_seq if step.filler else None
        filler = 0 if filler_seq is None else step.filler
        wanted = self._batch.fill(step.spans, filler, filler_seq or 0)
        self._decode(step.rows + filler)
        if self._head is not None:
            self._head.observe(step.spans, self._context)
        if filler_seq is not None:
            lib.llama_memory_seq_rm(self._memory, filler_seq, -1, -1)
        if wanted == 0:
            return np.empty((0, self.vocab.n_tokens), dtype=np.float32)
        return float_rows(lib.llama_get_logits(self._context), wanted, self.vocab.n_tokens)

    def _decode(self, rows: int) -> None:
        trial = self._trial
        if trial is not None:
            threads = trial.begins(rows, time.perf_counter())
            lib.llama_set_n_threads(self._context, threads, threads)
        status = lib.llama_decode(self._context, self._batch.struct)
        if status != 0:
            raise EngineBroken(f"llama_decode returned {status}: {' | '.join(recent_log(10))}")
        if trial is not None:
            trial.ended(time.perf_counter())

    def execute_operations(self, operations: Sequence[Operation]) -> None:
        """Apply operations on sequences, in order."""
        for operation in operations:
            self._apply(operation)

    def prepare_copy(self, seq: int) -> bool:
        return self._states.prepare(self._context, seq)

    def embed(
        self, tokens: Sequence[int], piece_rows: Callable[[], int]
    ) -> Generator[None, None, NDArray[np.float32]]:
        if self._embedder is None:
            self._embedder = Embedder(self._model, self._adapters, self.window, self._threads)
        return (yield from self._embedder.embed(tokens, piece_rows))

    def _draft_model(self, options: WorkerOptions) -> LlamaDraft:
        if not self.limits.takes_back:
            raise BadSetting(
                f"--draft is of no use to {self.facts.name}: models of type "
                f"{self._model.architecture} cannot take a wrong guess back. Leave it out."
            )
        return LlamaDraft(options, self.window, self.vocab)

    def memory(self) -> MemoryUse:
        parts = [device.parts for device in self._planned.devices]
        return MemoryUse(
            process_bytes=psutil.Process().memory_info().rss,
            weights_bytes=self._weights_bytes(),
            kv_bytes=sum(part.kv_bytes + part.state_bytes for part in parts),
            free_bytes=free_memory().free_bytes,
            own_bytes=own_bytes(),
            device_bytes=on_accelerators(self._planned),
        )

    def _weights_bytes(self) -> int:
        draft_bytes = self.drafter.size_bytes if self.drafter else 0
        return self._model.size_bytes + self._adapters.size_bytes + draft_bytes

    def _apply(self, operation: Operation) -> None:
        match operation:
            case Copy(src, dst, length):
                lib.llama_memory_seq_cp(self._memory, src, dst, 0, length)
            case Truncate(seq, length):
                if not lib.llama_memory_seq_rm(self._memory, seq, length, TO_END):
                    raise EngineBroken(f"sequence {seq} cannot be cut to {length}")
            case Save(seq, key):
                self._states.save(self._context, seq, key)
            case Restore(key, seq):
                self._states.restore(self._context, key, seq)
            case Forget(key):
                self._states.forget(key)
            case Pack(seq):
                self._states.pack(self._context, seq)
            case Share(src, dst, length):
                lib.llama_memory_seq_rm(self._memory, dst, 0, length)
                lib.llama_memory_seq_cp(self._memory, src, dst, 0, length)

    # Another window (engines/llama_resize.py) ------------------------------------------------

    def prepare_resize(self, change: WindowChange) -> LlamaResize:
        """See engines.engine.Engine.prepare_resize."""
        options = changed_options(self._options, self.window, change)
        loaded = Loaded(on_accelerators(self._planned), self._has_head)
        same = self._with_same_attention(self._with_lessons(options))
        choice = choose_for(same, _checked_kv_type(options), loaded)
        limits = _limits(self._model, choice.chosen, options)
        limits = replace(limits, slides=self.limits.slides)
        return LlamaResize(self, options, choice, limits)

    def _with_lessons(self, options: WorkerOptions) -> WorkerOptions:
        """`options` that know what the steps have taught since the start."""
        lesson = self.learner.lesson()
        return options if lesson is None else msgspec.structs.replace(options, refinement=lesson)

    def _with_same_attention(self, options: WorkerOptions) -> WorkerOptions:
        """`options` that keep flash attention on or off, if the states are to be kept: a state of
        a cache that it reads fits no other (values are stored transposed without it)."""
        if options.flash_attention != "auto" or options.kv_type != self.window.kv_type:
            return options
        is_off = self.load.flash_attention == "off"
        never = self._model.architecture in NO_FLASH_ATTENTION
        return msgspec.structs.replace(options, flash_attention="off" if is_off or never else "on")

    @property
    def window(self) -> Window:
        """Of the context that serves."""
        return self.load.window

    @property
    def model(self) -> LlamaModel:
        """What is loaded."""
        return self._model

    @property
    def context(self) -> lib.llama_context_p | None:
        """None: an embedding model, which has none of its own."""
        return self._context

    @property
    def planned(self) -> MemoryPlan:
        """What the load takes, predicted."""
        return self._planned

    def become(
        self, resize: LlamaResize, context: lib.llama_context_p | None
    ) -> lib.llama_context_p | None:
        """Go on with `context`, opened for `resize`. Returns the one that served until now."""
        chosen, before = resize.choice.chosen, self._context
        same_filling = (resize.limits.filler_seq is None) == (self.limits.filler_seq is None)
        if chosen.window.kv_type != self.window.kv_type or not same_filling:
            self.learner = resize.choice.learner
        if chosen.window.ctx != self.window.ctx and self._embedder is not None:
            self._embedder.close()
            self._embedder = None
        self.load, self.notes, self._planned = chosen.load, chosen.notes, chosen.memory
        self.limits, self._options = resize.limits, resize.options
        self._batch = Batch(self.window.step_tokens)
        self._hold(context)
        if self.drafter is not None:
            self.drafter.follow(self.load)
        return before

    def close_context(self) -> None:
        """Free it; nothing can be computed until another one is there."""
        if self._context is not None:
            lib.llama_free(self._context)
            self._context = None

    def reopen(self) -> None:
        """The context of this window again, empty. Raises DoesNotFit."""
        self._hold(self.open_context(self.load))

    def _hold(self, context: lib.llama_context_p | None) -> None:
        self._context = context
        if context is not None:
            self._memory = lib.llama_get_memory(context)

    def open_context(self, load: Load) -> lib.llama_context_p:
        """A new context on the loaded model. Raises DoesNotFit."""
        window = load.window
        sizes = _sizes(self._model, load)
        params = lib.llama_context_default_params()
        params.n_ctx = sizes.n_ctx
        params.n_batch = params.n_ubatch = sizes.n_batch
        params.n_seq_max = sizes.n_seq_max
        params.n_outputs_max = sizes.n_outputs_max
        self._threads.apply_to(params)
        params.type_k = params.type_v = KV_TYPES[window.kv_type]
        params.flash_attn_type = FLASH[load.flash_attention]
        params.kv_unified = load.kv_unified
        params.swa_full = False
        params.no_perf = True
        context = lib.llama_init_from_model(self._model.pointer, params)
        if not context:
            raise DoesNotFit(
                f"The engine cannot open a window of batch {window.batch_size} x ctx "
                f"{window.ctx:,} ({window.kv_type}): {' | '.join(recent_problems())}. "
                "Ask for a smaller --ctx or --batch-size."
            )
        self._adapters.apply_to(context)
        if self._has_head:
            give_hidden_states(context)
        return context


def on_accelerators(plan: MemoryPlan) -> dict[str, int]:
    """What `plan` puts on each accelerator, by its id."""
    return {
        device.device: device.parts.needed_bytes
        for device in plan.devices
        if device.device != "cpu"
    }


def _checked_kv_type(options: WorkerOptions) -> KVType:
    kv_type = kv_type_named(options.kv_type)
    if kv_type in ("q8_0", "q4_0") and options.flash_attention == "off":
        raise BadSetting(
            f"--kv-type {kv_type} needs flash attention, which is switched off. Use "
            "--flash-attention auto, or --kv-type f16."
        )
    return kv_type


def _sizes(model: LlamaModel, load: Load) -> ContextSizes:
    return context_sizes(
        load, shares_prefixes=model.has_plain_attention, keeps_state=model.keeps_state
    )


def _limits(model: LlamaModel, chosen: Chosen, options: WorkerOptions) -> Limits:
    window = chosen.window
    parts = [device.parts for device in chosen.memory.devices]
    plain = model.has_plain_attention
    shares = plain and options.kv_unified
    sizes = _sizes(model, chosen.load)
    return Limits(
        batch_size=window.batch_size,
        seq_ids=sizes.n_seq_max - (sizes.filler_seq is not None),
        pool_cells=window.kv_pool_tokens,
        copies=shares,
        truncates=plain,
        parks=options.prefix_cache,
        host_bytes=host_bytes(chosen.memory) if options.swap_bytes is None else options.swap_bytes,
        cell_bytes=-(-sum(part.kv_bytes for part in parts) // window.kv_pool_tokens),
        state_bytes=-(-sum(part.state_bytes for part in parts) // sizes.n_seq_max),
        outputs=sizes.n_outputs_max,
        walk_cells=WALK_CELLS if options.kv_unified and any(p.kv_bytes for p in parts) else 0,
        filler_seq=sizes.filler_seq,
    )


def _facts(model: LlamaModel, vocab: LlamaVocabulary, options: WorkerOptions) -> ModelFacts:
    pooling = {1: "mean", 2: "cls", 3: "last", 4: "rank"}.get(model.pooling, "none")
    return ModelFacts(
        name=options.name,
        path=options.model_path,
        architecture=model.architecture,
        description=model.description,
        n_params=model.n_params,
        size_bytes=model.size_bytes,
        n_vocab=vocab.n_tokens,
        n_embd=model.n_embd,
        n_layer=model.n_layer,
        ctx_train=model.ctx_train,
        shares_prefixes=model.has_plain_attention,
        has_chat_template=model.chat_template is not None,
        is_embedding_model=model.is_embedding_model,
        pooling=pooling,
        special_tokens=vocab.special_tokens(),
        adapters=options.adapters,
    )
