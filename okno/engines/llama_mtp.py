"""The model's own prediction head as a drafter: a second context of type MTP on the same weights.

A row of the head is a token and the model's hidden state one position before it, and guesses the
token after (llama.cpp, common/speculative.cpp, common_speculative_impl_draft_mtp). The hidden
states come with the model's steps (`observe`) and are kept until guesses are wanted. The head's own
cache has one layer. Where it lacks the beginning of a sequence (a prefix that another sequence had
computed, states that were not kept) it begins later and sees less: its guesses may be worse, the
answers are the same.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import llama_cpp.llama_cpp as lib
import llama_cpp.llama_cpp_ext as ext
import numpy as np
from numpy.typing import NDArray

from okno.core.errors import DoesNotFit
from okno.core.load import Load, head_sizes
from okno.engines.drafter import NEVER, Known
from okno.engines.engine import EngineBroken
from okno.engines.hidden_rows import HiddenRows, Rows
from okno.engines.llama_batch import Batch, float_rows
from okno.engines.llama_draft import fitting
from okno.engines.llama_model import LlamaModel, recent_log, recent_problems
from okno.engines.llama_numbers import FLASH
from okno.engines.llama_threads import Threads
from okno.engines.llama_transfer import replaced
from okno.schedule.resize import Move
from okno.schedule.row_cost import RowCost
from okno.schedule.step import Span

TO_END = -1


@dataclass(slots=True)
class _Followed:
    """A sequence. Its rows from `start` to `end` are in the head's cache, with true hidden states;
    guessed: rows after them in this draft."""

    seq: int
    hidden: HiddenRows
    start: int = 0
    end: int = 0
    guessed: int = 0


@dataclass(frozen=True, slots=True)
class _Piece:
    """Rows for one call, and the hidden states that belong to them."""

    span: Span
    hidden: Rows


class LlamaMtp:
    """drafter.Drafter for a model that was loaded with its head, in the window of `load`. Raises
    DoesNotFit."""

    size_bytes = 0  # its weights count as the model's

    def __init__(self, model: LlamaModel, load: Load, threads: Threads) -> None:
        self._model, self._threads = model, threads
        self._width = int(lib.llama_model_n_embd_out(model.pointer))
        self._n_vocab = int(lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model.pointer)))
        self._context: lib.llama_context_p | None = None
        self._followed: dict[str, _Followed] = {}  # the last observed at the end
        self._cost = RowCost()
        self._use(_open_context(model, load, threads), load)

    def _use(self, context: lib.llama_context_p | None, load: Load) -> None:
        """Go on with `context`, of `load`, in which _followed are its first sequences. None: there
        are no guesses any more."""
        sizes = head_sizes(load)
        self._context, self._load = context, load
        self._batch = _HiddenBatch(sizes.n_batch, self._width)
        if context is not None:
            self._memory = lib.llama_get_memory(context)
        n_seq = sizes.n_seq_max if context is not None else 0
        self._free_seqs = list(range(n_seq - 1, len(self._followed) - 1, -1))

    @property
    def context(self) -> lib.llama_context_p | None:
        """None: there was no memory for it."""
        return self._context

    def observe(self, spans: Sequence[Span], context: lib.llama_context_p) -> None:
        """The model computed `spans` in `context`, which was told to give_hidden_states."""
        if self._context is None:
            return
        n_rows, at = sum(len(span.tokens) for span in spans), 0
        rows = float_rows(ext.llama_get_embeddings_nextn(context), n_rows, self._width)
        for span in spans:
            self._of(span.id).hidden.write(span.start, rows[at : at + len(span.tokens)])
            at += len(span.tokens)

    # As drafter.Drafter asks ---------------------------------------------------------------------

    def seconds(self, rows: int) -> float:
        return self._cost.of(rows)

    def follow(self, load: Load) -> None:
        """See Drafter."""
        if self._context is None or load.window == self._load.window:
            return
        window = load.window
        self._followed = fitting(self._followed, window, lambda one: one.end - one.start)
        moves = tuple(Move(one.seq, seq) for seq, one in enumerate(self._followed.values()))
        context, moved = replaced(
            self._context, moves, lambda: _open_context(self._model, load, self._threads)
        )
        if context is None:
            self._followed.clear()
        for seq, one in enumerate(self._followed.values()):
            one.seq = seq
            if not moved:
                one.start = one.end = 0
        self._use(context, load)

    def keep(self, ids: Collection[str]) -> None:
        for id in [id for id in self._followed if id not in ids]:
            self._drop(id)

    def behind(self, id: str, known: Known) -> int:
        """1 also where nothing can be guessed because the states are missing."""
        if self._context is None:
            return NEVER
        followed = self._followed.get(id)
        if followed is None or not _reaches(followed.hidden, len(known)):
            return 1
        lost = followed.hidden.first >= followed.end
        return max(1, len(known) - (followed.hidden.first + 1 if lost else followed.end))

    def advance(self, id: str, known: Known, rows: int) -> None:
        followed = self._ready(id, known)
        if followed is None:
            return
        rows = min(rows, self._batch.capacity, self._free_cells(), len(known) - 1 - followed.end)
        if rows > 0:
            self._decode([self._next(followed, known[followed.end : followed.end + rows])])

    def draft(self, wanted: Mapping[str, tuple[Known, int]]) -> dict[str, tuple[int, ...]]:
        guessing = self._caught_up(wanted)
        pieces = [
            self._next(followed, wanted[id][0][-1:], id=id) for id, followed in guessing.items()
        ]
        found: dict[str, list[int]] = {id: [] for id in guessing}
        while pieces:
            guesses, hidden = self._decode(pieces)
            going_on = []
            for piece, token, row in zip(pieces, guesses, hidden, strict=True):
                found[piece.span.id].append(token)
                if len(found[piece.span.id]) < wanted[piece.span.id][1]:
                    going_on.append((piece.span.id, token, row))
            pieces = [
                self._guessed(guessing[id], id, token, row)
                for id, token, row in going_on[: max(0, self._free_cells())]
            ]
        for followed in guessing.values():
            self._cut(followed)
        return {id: tuple(tokens) for id, tokens in found.items()}

    def _caught_up(self, wanted: Mapping[str, tuple[Known, int]]) -> dict[str, _Followed]:
        """Those that can guess now, with all but the last known token computed: without outputs,
        because some families give the states of rows with outputs only, others of all rows."""
        found: dict[str, _Followed] = {}
        pieces: list[_Piece] = []
        rows = self._batch.capacity
        for id, (known, _) in wanted.items():
            followed = self._ready(id, known)
            if followed is None:
                continue
            lacks = known[followed.end : -1]
            last_rows = len(found) + 1  # of those found, and its own
            if len(lacks) > rows or len(lacks) + last_rows > self._free_cells():
                continue
            if len(lacks):
                pieces.append(self._next(followed, lacks))
                rows -= len(lacks)
            found[id] = followed
        if pieces:
            self._decode(pieces)
        return found

    # Sequences and cells -------------------------------------------------------------------------

    def _of(self, id: str) -> _Followed:
        """The sequence `id`, as the last observed; the longest unseen one makes room for it."""
        followed = self._followed.pop(id, None)
        if followed is None:
            if not self._free_seqs:
                self._drop(next(iter(self._followed)))
            hidden = HiddenRows(self._width, self._load.kept_hidden_rows)
            followed = _Followed(self._free_seqs.pop(), hidden)
        self._followed[id] = followed
        return followed

    def _drop(self, id: str) -> None:
        followed = self._followed.pop(id)
        lib.llama_memory_seq_rm(self._memory, followed.seq, 0, TO_END)
        self._free_seqs.append(followed.seq)

    def _ready(self, id: str, known: Known) -> _Followed | None:
        """The sequence, so that its next row is that of position `end`; from anew behind states
        that are lost. None where the state before the last known token is not there."""
        followed = self._followed.get(id)
        if followed is None or not _reaches(followed.hidden, len(known)):
            return None
        if followed.hidden.first >= followed.end:
            lib.llama_memory_seq_rm(self._memory, followed.seq, 0, TO_END)
            followed.start = followed.end = followed.hidden.first + 1
        elif followed.end == len(known):  # it guessed here already, and nothing came of it
            followed.end -= 1
            lib.llama_memory_seq_rm(self._memory, followed.seq, followed.end, TO_END)
        return followed

    def _cut(self, followed: _Followed) -> None:
        """Without the rows of guesses: they had no true hidden states."""
        if followed.guessed:
            lib.llama_memory_seq_rm(self._memory, followed.seq, followed.end, TO_END)
            followed.guessed = 0

    def _free_cells(self) -> int:
        followed = self._followed.values()
        return self._load.window.kv_pool_tokens - sum(
            one.end - one.start + one.guessed for one in followed
        )

    # The engine ----------------------------------------------------------------------------------

    def _next(self, followed: _Followed, tokens: Known, *, id: str = "") -> _Piece:
        """The next known tokens with their states; they count as held from now on. id: of a last
        token, whose guess is wanted."""
        start, end = followed.end, followed.end + len(tokens)
        hidden = followed.hidden.read(start - 1, end - 1)
        followed.end = end
        followed.hidden.drop_before(end - 2)
        return _Piece(Span(id, followed.seq, start, tokens, int(bool(id))), hidden)

    def _guessed(self, followed: _Followed, id: str, token: int, hidden: Rows) -> _Piece:
        start = followed.end + followed.guessed
        followed.guessed += 1
        tokens = np.array([token], dtype=np.int32)
        return _Piece(Span(id, followed.seq, start, tokens, 1), hidden[np.newaxis])

    def _decode(self, pieces: list[_Piece]) -> tuple[list[int], Rows]:
        """The best next token of each piece with an output, and the head's own state there."""
        started = time.perf_counter()
        wanted = self._batch.fill_pieces(pieces)
        status = lib.llama_decode(self._context, self._batch.struct)
        if status != 0:
            raise EngineBroken(f"the prediction head's decode returned {status}: {recent_log(5)}")
        best: list[int] = []
        hidden: Rows = np.empty((0, self._width), dtype=np.float32)
        if wanted:
            logits = float_rows(lib.llama_get_logits(self._context), wanted, self._n_vocab)
            best = logits.argmax(axis=1).tolist()
            states = ext.llama_get_embeddings_nextn(self._context)
            hidden = float_rows(states, wanted, self._width).copy()
        self._cost.learn(self._batch.struct.n_tokens, time.perf_counter() - started)
        return best, hidden


class _HiddenBatch(Batch):
    """Rows of a token and a hidden state each."""

    def __init__(self, capacity: int, width: int) -> None:
        super().__init__(capacity)
        self._hidden: NDArray[np.float32] = np.zeros((capacity, width), dtype=np.float32)
        pointer = ctypes.POINTER(ctypes.c_float)
        self.struct.embd = ctypes.cast(self._hidden.ctypes.data, pointer)

    def fill_pieces(self, pieces: Sequence[_Piece]) -> int:
        at = 0
        for piece in pieces:
            self._hidden[at : at + len(piece.hidden)] = piece.hidden
            at += len(piece.hidden)
        return self.fill([piece.span for piece in pieces])


def give_hidden_states(context: lib.llama_context_p) -> None:
    """`context` computes the state before the output layer for every row, for `observe`."""
    ext.llama_set_embeddings_nextn(context, True, False)


def _reaches(hidden: HiddenRows, n_known: int) -> bool:
    """The state of the last token but one is held."""
    return hidden.first <= n_known - 2 < hidden.end


def _open_context(model: LlamaModel, load: Load, threads: Threads) -> lib.llama_context_p:
    sizes = head_sizes(load)
    params = lib.llama_context_default_params()
    params.ctx_type = lib.LLAMA_CONTEXT_TYPE_MTP
    params.n_ctx = sizes.n_ctx
    params.n_batch = params.n_ubatch = sizes.n_batch
    params.n_seq_max = sizes.n_seq_max
    params.n_outputs_max = sizes.n_outputs_max
    threads.apply_to(params)
    params.flash_attn_type = FLASH[load.flash_attention]
    params.kv_unified = True
    params.no_perf = True
    context = lib.llama_init_from_model(model.pointer, params)
    if not context:
        raise DoesNotFit(
            f"The model's prediction head finds no memory for {sizes.n_ctx:,} tokens: "
            f"{' | '.join(recent_problems())}. Ask for a smaller --ctx or --batch-size, or for "
            "--speculate lookup."
        )
    ext.llama_set_embeddings_nextn(context, True, True)
    return context
