"""A sequence: known tokens, of which the first `computed` are in the KV cache."""

from __future__ import annotations

from collections.abc import Sequence as Tokens

import numpy as np
from numpy.typing import NDArray


class IntBuffer:
    """A growable int32 array. `view()` shares memory and is valid until the next append."""

    __slots__ = ("_data", "_len")

    def __init__(self, values: Tokens[int] | NDArray[np.int32] = ()) -> None:
        self._len = len(values)
        self._data = np.empty(max(16, self._len), dtype=np.int32)
        self._data[: self._len] = values

    def __len__(self) -> int:
        return self._len

    def view(self) -> NDArray[np.int32]:
        return self._data[: self._len]

    def copied(self, start: int, end: int) -> NDArray[np.int32]:
        """A copy of the values from `start` to `end`."""
        return self._data[start:end].copy()

    def append(self, value: int) -> None:
        if self._len == len(self._data):
            self._reserve(self._len + 1)
        self._data[self._len] = value
        self._len += 1

    def extend(self, values: NDArray[np.int32]) -> None:
        end = self._len + len(values)
        self._reserve(end)
        self._data[self._len : end] = values
        self._len = end

    def truncate(self, length: int) -> None:
        assert length <= self._len
        self._len = length

    def _reserve(self, length: int) -> None:
        if length > len(self._data):
            grown = np.empty(max(length, 2 * len(self._data)), dtype=np.int32)
            grown[: self._len] = self._data[: self._len]
            self._data = grown


class Sequence:
    """One request's tokens on their way through the engine.

    known: prompt and generated tokens. computed: how many of them the KV cache holds (equals
    len(cells)). max_tokens: `known` never grows beyond it (window and max_tokens of the request).
    seq: the engine's sequence id while live or parked. cached: prompt tokens taken from cache.
    salt: prefixes are shared among equal ones. weight: its share of service, above 1 for a high
    priority. due: when its turn comes, in rows of work (see schedule/fair.py). hits: how often its
    tokens were of use to another; worth, parked_at: see schedule/worth.py. host_key, host_tokens:
    its state in host memory, 0 without. checkpoint: it is nothing but a state for others.
    """

    __slots__ = (
        "arrival",
        "cached",
        "cells",
        "checkpoint",
        "client",
        "due",
        "hits",
        "host_key",
        "host_tokens",
        "id",
        "known",
        "max_tokens",
        "parked_at",
        "prompt_tokens",
        "salt",
        "seq",
        "started",
        "weight",
        "worth",
    )  # fmt: skip

    def __init__(
        self,
        id: str,
        prompt: Tokens[int],
        *,
        max_tokens: int,
        emitted: Tokens[int] = (),
        client: str = "",
        salt: str = "",
        weight: float = 1.0,
    ) -> None:
        self.id = id
        self.client = client
        self.known = IntBuffer([*prompt, *emitted])
        self.prompt_tokens = len(prompt)
        self.max_tokens = max_tokens
        self.cells = IntBuffer()
        self.seq: int | None = None
        self.cached = 0
        self.arrival = 0
        self.parked_at = 0
        self.started = False
        self.salt = salt
        self.weight = weight
        self.due = 0.0
        self.hits = 0
        self.worth = 0.0
        self.host_key = 0
        self.host_tokens = 0
        self.checkpoint = False

    @property
    def computed(self) -> int:
        return self.cells._len

    @property
    def remaining(self) -> int:
        """Known tokens not in the cache yet; a sequence that decodes always has one."""
        return self.known._len - self.cells._len

    @property
    def generated(self) -> int:
        return len(self.known) - self.prompt_tokens

    @property
    def decoding(self) -> bool:
        """Only its newest token is left to compute."""
        known = self.known._len
        return known - self.cells._len == 1 and known > self.prompt_tokens


def common_prefix(a: NDArray[np.int32], b: NDArray[np.int32]) -> int:
    """Length of the longest common prefix, in tokens."""
    n = min(len(a), len(b))
    if n == 0:
        return 0
    differ = a[:n] != b[:n]
    first = int(differ.argmax())
    return first if differ[first] else n
