"""What speculation needs of a draft model (llama_draft.py), or of the model's own prediction head
(llama_mtp.py)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from okno.core.load import Load

Known = NDArray[np.int32]
NEVER = 2**31  # rows behind: of who cannot guess any more


class Drafter(Protocol):
    """A small model with the vocabulary of the large one, which follows its sequences (by request
    id) in a KV cache of its own. Ids are never reused for other tokens."""

    def behind(self, id: str, known: Known) -> int:
        """How many rows it has to compute before it can guess what follows `known`; at least 1,
        NEVER where it found no memory for the window."""
        ...

    def advance(self, id: str, known: Known, rows: int) -> None:
        """Compute up to `rows` of them."""
        ...

    def draft(self, wanted: Mapping[str, tuple[Known, int]]) -> dict[str, tuple[int, ...]]:
        """Its own best next tokens of each sequence, as many as wanted; none where it has no room.
        One engine call for the first of all sequences, one for the second, and so on."""
        ...

    def seconds(self, rows: int) -> float:
        """What one of its engine calls takes, as measured; 0: not measured yet."""
        ...

    def follow(self, load: Load) -> None:
        """The large model's window has become that of `load`. Sequences that it has no place for
        are forgotten; without memory for it there are no guesses any more."""
        ...

    def keep(self, ids: Collection[str]) -> None:
        """Forget all sequences but these."""
        ...
