"""A draft model through llama.cpp: a second model and context in the same process.

It follows the sequences of the large model lazily: what it lacks is computed when guesses are
wanted, what differs is cut. Its cache has as many cells and live sequences as the large one's, also
after a resize; a sequence that finds no room in it gets no guesses.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeVar

import llama_cpp.llama_cpp as lib
import msgspec
import numpy as np
from numpy.typing import NDArray

from okno.core.errors import BadSetting, DoesNotFit
from okno.core.load import CELL_PAD, Load
from okno.core.window import Window
from okno.engines.drafter import NEVER, Known
from okno.engines.engine import EngineBroken
from okno.engines.llama_batch import Batch, float_rows
from okno.engines.llama_model import LlamaModel, recent_log, recent_problems
from okno.engines.llama_numbers import FLASH
from okno.engines.llama_threads import Threads, threads_for
from okno.engines.llama_transfer import replaced
from okno.engines.llama_vocab import LlamaVocabulary
from okno.engines.protocol import WorkerOptions
from okno.schedule.resize import Move
from okno.schedule.row_cost import RowCost
from okno.schedule.sequence import IntBuffer, common_prefix
from okno.schedule.step import Span

TO_END = -1
# Published pairs pad their vocabularies differently; so much is allowed (llama.cpp,
# common/speculative.cpp, SPEC_VOCAB_MAX_SIZE_DIFFERENCE).
MOST_VOCAB_DIFFERENCE = 128

T = TypeVar("T")


@dataclass(slots=True)
class _Held:
    """A sequence in the draft model's cache. agreed: so many of its tokens are surely the large
    model's; beyond them it holds its own guesses."""

    seq: int
    tokens: IntBuffer = field(default_factory=IntBuffer)
    agreed: int = 0


class LlamaDraft:
    """drafter.Drafter. Raises BadSetting for a model that cannot draft for `vocab`, ModelUnusable,
    DoesNotFit."""

    def __init__(self, options: WorkerOptions, window: Window, vocab: LlamaVocabulary) -> None:
        model = LlamaModel(
            msgspec.structs.replace(options, model_path=options.draft_path), lambda _fraction: None
        )
        _check_cuts(model, options.draft_path)
        own_vocab = LlamaVocabulary(lib.llama_model_get_vocab(model.pointer))
        check_vocabularies(vocab, own_vocab, options.draft_path)
        self.size_bytes = model.size_bytes
        self._model = model
        self._n_own, self._n_common = own_vocab.n_tokens, min(own_vocab.n_tokens, vocab.n_tokens)
        self._options = options
        self._threads = threads_for(model.size_bytes, options.threads)
        self._context: lib.llama_context_p | None = None
        self._held: dict[str, _Held] = {}
        self._cost = RowCost()
        self._use(_open_context(model, window, options, self._threads), window)

    def follow(self, load: Load) -> None:
        """See Drafter."""
        window = load.window
        if self._context is None or window == self._window:
            return
        self._held = fitting(self._held, window, lambda held: len(held.tokens))
        moves = tuple(Move(held.seq, seq) for seq, held in enumerate(self._held.values()))
        context, moved = replaced(
            self._context,
            moves,
            lambda: _open_context(self._model, window, self._options, self._threads),
        )
        if not moved:
            self._held.clear()
        for seq, held in enumerate(self._held.values()):
            held.seq = seq
        self._use(context, window)

    def _use(self, context: lib.llama_context_p | None, window: Window) -> None:
        """Go on with `context`, of `window`, in which _held are its first sequences. None: there
        are no guesses any more."""
        self._context, self._window = context, window
        self._batch = Batch(window.step_tokens)
        if context is not None:
            self._memory = lib.llama_get_memory(context)
        n_seq = window.batch_size if context is not None else 0
        self._free_seqs = list(range(n_seq - 1, len(self._held) - 1, -1))

    def seconds(self, rows: int) -> float:
        return self._cost.of(rows)

    def keep(self, ids: Collection[str]) -> None:
        for id in [id for id in self._held if id not in ids]:
            held = self._held.pop(id)
            self._cut(held, 0)
            self._free_seqs.append(held.seq)

    def behind(self, id: str, known: Known) -> int:
        held = self._held.get(id)
        if self._context is None:
            return NEVER
        return len(known) - (self._agreement(held, known) if held is not None else 0)

    def advance(self, id: str, known: Known, rows: int) -> None:
        held = self._prepared(id, known)
        if held is None:
            return
        start = len(held.tokens)
        end = min(len(known), start + min(rows, self._batch.capacity, self._free_cells()))
        if start < end and self._reads(known[start:end]):
            self._decode([self._span(held, known[start:end], wants=False)])
        held.agreed = len(held.tokens)

    def draft(self, wanted: Mapping[str, tuple[Known, int]]) -> dict[str, tuple[int, ...]]:
        found: dict[str, list[int]] = {}
        spans, rows = [], self._batch.capacity
        for id, (known, count) in wanted.items():
            span = self._first_span(id, known, count, rows)
            if span is not None:
                spans.append(span)
                rows -= len(span.tokens)
        while spans:
            guesses = self._decode(spans)
            for span, token in zip(spans, guesses, strict=True):
                found.setdefault(span.id, []).append(token)
            going_on = [span for span in spans if self._goes_on(found[span.id], wanted[span.id][1])]
            spans = [
                self._span(self._held[span.id], [found[span.id][-1]], id=span.id)
                for span in islice(going_on, max(0, self._free_cells()))
            ]
        return {id: self._usable(tokens) for id, tokens in found.items()}

    def _first_span(self, id: str, known: Known, count: int, rows: int) -> Span | None:
        """What it lacks of `known`; None without room for that."""
        held = self._prepared(id, known)
        if held is None:
            return None
        lacks = known[len(held.tokens) :]
        if len(lacks) > rows or len(lacks) + count > self._free_cells() or not self._reads(lacks):
            return None
        held.agreed = len(known)
        return self._span(held, lacks, id=id)

    def _reads(self, tokens: Known) -> bool:
        """It has all these tokens itself."""
        return bool(tokens.max() < self._n_own)

    def _goes_on(self, tokens: list[int], count: int) -> bool:
        return len(tokens) < count and tokens[-1] < self._n_common

    def _usable(self, tokens: list[int]) -> tuple[int, ...]:
        """Without a token that the large model does not have; only the last can be one."""
        return tuple(token for token in tokens if token < self._n_common)

    # Sequences and cells -------------------------------------------------------------------------

    def _prepared(self, id: str, known: Known) -> _Held | None:
        """The sequence, cut to what agrees with `known`, so that at least the last token is left
        to compute. None when there is no place for another."""
        held = self._held.get(id)
        if held is None:
            if not self._free_seqs:
                return None
            held = self._held[id] = _Held(self._free_seqs.pop())
        self._cut(held, self._agreement(held, known))
        return held

    def _agreement(self, held: _Held, known: Known) -> int:
        agreed = held.agreed
        agreed += common_prefix(held.tokens.view()[agreed:], known[agreed:])
        return min(agreed, len(known) - 1)

    def _cut(self, held: _Held, length: int) -> None:
        if length < len(held.tokens):
            lib.llama_memory_seq_rm(self._memory, held.seq, length, TO_END)
            held.tokens.truncate(length)
        held.agreed = min(held.agreed, length)

    def _free_cells(self) -> int:
        return self._window.kv_pool_tokens - sum(len(h.tokens) for h in self._held.values())

    # The engine ----------------------------------------------------------------------------------

    def _span(
        self, held: _Held, tokens: Known | list[int], *, id: str = "", wants: bool = True
    ) -> Span:
        """The next rows of a sequence; they count as held from now on."""
        start, added = len(held.tokens), np.asarray(tokens, dtype=np.int32)
        held.tokens.extend(added)
        return Span(id, held.seq, start, added, int(wants))

    def _decode(self, spans: list[Span]) -> list[int]:
        """The best next token of each span."""
        started = time.perf_counter()
        wanted = self._batch.fill(spans)
        status = lib.llama_decode(self._context, self._batch.struct)
        if status != 0:
            raise EngineBroken(f"the draft model's decode returned {status}: {recent_log(5)}")
        best: NDArray[np.intp] = np.empty(0, dtype=np.intp)
        if wanted:
            rows = float_rows(lib.llama_get_logits(self._context), wanted, self._n_own)
            best = rows.argmax(axis=1)
        self._cost.learn(sum(len(span.tokens) for span in spans), time.perf_counter() - started)
        return [int(token) for token in best]


def fitting(held: Mapping[str, T], window: Window, cells: Callable[[T], int]) -> dict[str, T]:
    """Of the sequences `held`, as many as `window` has places for and cells, which each takes."""
    found: dict[str, T] = {}
    left = window.kv_pool_tokens
    for id, one in held.items():
        if len(found) < window.batch_size and cells(one) <= left:
            found[id] = one
            left -= cells(one)
    return found


def check_vocabularies(vocab: LlamaVocabulary, other: LlamaVocabulary, draft: str) -> None:
    """Raise BadSetting unless both models mean the same by every token they both have."""
    small, large = sorted((vocab.n_tokens, other.n_tokens))
    if large - small > MOST_VOCAB_DIFFERENCE:
        raise BadSetting(
            f"The draft model {draft} has {other.n_tokens:,} tokens, the model {vocab.n_tokens:,}: "
            "another vocabulary. Give --draft a smaller model of the same family."
        )
    for token in range(small):
        if vocab.label(token) != other.label(token):
            raise BadSetting(
                f"Token {token} is {vocab.label(token)!r} in the model and {other.label(token)!r} "
                f"in the draft model {draft}: another vocabulary. Give --draft a smaller model of "
                "the same family."
            )


def _check_cuts(model: LlamaModel, draft: str) -> None:
    if model.is_embedding_model or not model.has_plain_attention:
        raise BadSetting(
            f"{draft} ({model.architecture}) cannot draft: a draft model has to be a generative "
            "one with plain attention, so that wrong guesses can be taken back. Leave out --draft; "
            "--speculate lookup needs no model."
        )


def _open_context(
    model: LlamaModel, window: Window, options: WorkerOptions, threads: Threads
) -> lib.llama_context_p:
    params = lib.llama_context_default_params()
    params.n_ctx = (window.kv_pool_tokens + CELL_PAD - 1) // CELL_PAD * CELL_PAD
    params.n_batch = params.n_ubatch = window.step_tokens
    params.n_seq_max = params.n_outputs_max = window.batch_size
    threads.apply_to(params)
    params.flash_attn_type = FLASH[options.flash_attention]
    params.kv_unified = True
    params.no_perf = True
    context = lib.llama_init_from_model(model.pointer, params)
    if not context:
        raise DoesNotFit(
            f"The draft model {options.draft_path} finds no memory for {window.kv_pool_tokens:,} "
            f"tokens: {' | '.join(recent_problems())}. Ask for a smaller --ctx or --batch-size, or "
            "leave out --draft."
        )
    return context
