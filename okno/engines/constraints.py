"""What a constraint allows next: llguidance's matcher behind a small, strict face.

Grammar text and its checks are in constraint_grammar.py; here it meets the model's vocabulary.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

import numpy as np
from llguidance import LLMatcher, LLTokenizer
from numpy.typing import NDArray

from okno.core.errors import BadConstraint
from okno.core.request import Constraint
from okno.engines.constraint_grammar import compile_grammar, make_tokenizer

CACHED_GRAMMARS = 32

__all__ = ["ConstraintBroken", "GrammarCompiler", "Matcher", "make_tokenizer"]


class ConstraintBroken(BadConstraint):
    """A compiled constraint gave up: a resource limit while matching, or a token it forbids."""


class Matcher:
    """The state of one constrained sequence. Methods raise ConstraintBroken and stay broken."""

    def __init__(self, matcher: LLMatcher, n_vocab: int) -> None:
        self._matcher = matcher
        self._n_vocab = n_vocab

    def mask(self) -> NDArray[np.bool_]:
        """(n_vocab,), True where the token may come next. Ends of generation are allowed where
        the text may end. Releases the GIL while it computes."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        self._check()
        return np.unpackbits(bits, count=self._n_vocab, bitorder="little").view(np.bool_)

    def accept(self, token: int) -> None:
        """Advance by a token that the mask allowed."""
        self._matcher.consume_token(token)
        self._check()

    def is_done(self) -> bool:
        """Nothing but an end of generation can follow."""
        return bool(self._matcher.is_stopped())

    def may_end(self) -> bool:
        """The text so far satisfies the constraint."""
        return bool(self._matcher.is_accepting())

    def _check(self) -> None:
        if self._matcher.is_error():
            reason = " ".join(self._matcher.get_error().split())[:300]
            raise ConstraintBroken(
                f"The constraint could not be followed further: {reason}. Make it simpler.",
                param="response_format",
            )


class GrammarCompiler:
    """Compiles constraints for one vocabulary; keeps the last ones. Thread-safe."""

    def __init__(self, tokenizer: LLTokenizer) -> None:
        self._tokenizer = tokenizer
        self._compiled: OrderedDict[Constraint, LLMatcher] = OrderedDict()
        self._lock = threading.Lock()

    def compile(self, constraint: Constraint) -> Matcher:
        """A fresh matcher. Raises BadConstraint; untrusted input belongs through
        Sandbox.check_constraint first, which bounds time and memory."""
        with self._lock:
            if constraint not in self._compiled:
                self._compiled[constraint] = compile_grammar(constraint, self._tokenizer)
                if len(self._compiled) > CACHED_GRAMMARS:
                    self._compiled.popitem(last=False)
            self._compiled.move_to_end(constraint)
            fresh = self._compiled[constraint].deep_copy()
        return Matcher(fresh, self._tokenizer.vocab_size)
