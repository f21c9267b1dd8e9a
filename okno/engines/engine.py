"""What the loop needs of an engine. llamacpp.py is the real one, scripted.py ships for tests."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from okno.core.window import MemoryUse, ModelFacts, Window, WindowChange
from okno.engines.drafter import Drafter
from okno.engines.learning import Learner
from okno.engines.resizing import Prepared
from okno.schedule.step import Limits, Step


class Vocabulary(Protocol):
    """Text to token ids and back."""

    @property
    def n_tokens(self) -> int: ...

    @property
    def pieces(self) -> list[bytes]:
        """The bytes each token adds to the text; empty for control tokens."""
        ...

    @property
    def special(self) -> list[bool]:
        """Control tokens, never part of the text."""
        ...

    @property
    def end_tokens(self) -> frozenset[int]:
        """Tokens that end a generation."""
        ...

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids of `text`. add_special: BOS/EOS as the model asks. parse_special: names of
        control tokens in the text become those tokens."""
        ...

    def encode_parts(self, parts: Sequence[tuple[str, bool]]) -> list[int]:
        """Token ids of one text in parts, nothing put around it. Names of control tokens become
        those tokens in the parts with True; in the others they are only characters."""
        ...

    def label(self, token: int) -> bytes:
        """The token's bytes, a control token by its name."""
        ...


class Engine(Protocol):
    """A loaded model with a window. One thread at a time; `execute` releases the GIL."""

    @property
    def facts(self) -> ModelFacts: ...

    @property
    def window(self) -> Window: ...

    @property
    def limits(self) -> Limits: ...

    @property
    def vocab(self) -> Vocabulary: ...

    @property
    def chat_template(self) -> str | None: ...

    @property
    def adds_bos(self) -> bool:
        """The model expects BOS before every prompt."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What `auto` decided, for people."""
        ...

    @property
    def learner(self) -> Learner:
        """Says what steps will take, and learns from those that ran."""
        ...

    @property
    def drafter(self) -> Drafter | None:
        """A draft model beside the model, if one was asked."""
        ...

    def execute(self, step: Step) -> NDArray[np.float32]:
        """Apply the operations, compute the rows. Rows of n_vocab logits, `span.logits` of each
        span, in span order; valid until the next call.

        Raises EngineBroken when the cache can no longer be trusted: the process must end.
        """
        ...

    def prepare_copy(self, seq: int) -> bool:
        """Get memory for a Save or Pack of `seq`, in pieces of a few milliseconds, one per call;
        True when it is there. Without, the operation itself takes the time."""
        ...

    def embed(
        self, tokens: Sequence[int], piece_rows: Callable[[], int]
    ) -> Generator[None, None, NDArray[np.float32]]:
        """The pooled vector of `tokens`, not normalised, in pieces: each `next` computes one of
        at most piece_rows() tokens, so that the loop can decode between them. An embedding model
        needs all tokens in one piece. Raises OknoError if it cannot."""
        ...

    def memory(self) -> MemoryUse: ...

    def prepare_resize(self, change: WindowChange) -> Prepared:
        """The window with `change`, chosen and found to fit, not opened yet. From another thread,
        while the engine serves. Raises BadSetting, DoesNotFit."""
        ...


class EngineBroken(RuntimeError):
    """The engine failed in a way that leaves its cache undefined; only a restart helps."""
