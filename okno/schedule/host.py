"""The books of host memory: states of sequences, beside the cells or in their place."""

from __future__ import annotations

from okno.schedule.sequence import Sequence
from okno.schedule.step import Forget, Limits, Operation, Save
from okno.schedule.worth import Ranking, Worths, rank

# Fewer tokens are computed again sooner than an engine call per state costs; from here on copying
# wins by far (134 MB of 4,096 tokens: 13-19 ms each way, computing them: 40 s; facts/engine.md).
LEAST_TOKENS = 16


class HostStore:
    """Stored sequences, within the bytes of `limits`; the least worthy makes room. worths: the same
    for sequences in cells, so that they compare. pinned: one that is not to be forgotten now,
    because it is just coming back."""

    def __init__(self, limits: Limits, worths: Worths) -> None:
        self._limits = limits
        self.used_bytes = 0
        self.held: dict[str, Sequence] = {}
        self.pinned: Sequence | None = None
        self._worths = worths
        self._ranking = Ranking(self._holds)
        self._keys = 0

    def takes(self, tokens: int) -> bool:
        """Whether a state of so many tokens is to be stored rather than computed again."""
        pinned = 0 if self.pinned is None else self._bytes(self.pinned.host_tokens)
        room = self._limits.host_bytes - pinned
        return tokens >= LEAST_TOKENS and self._bytes(tokens) <= room

    def has_room(self, tokens: int, least: Sequence) -> bool:
        """A state of so many tokens fits if only what is worth less than `least` is forgotten."""
        wanted = self._bytes(tokens)
        if self.used_bytes + wanted <= self._limits.host_bytes:
            return True
        kept = sum(self._bytes(s.host_tokens) for s in self.held.values() if rank(s) >= rank(least))
        return kept + wanted <= self._limits.host_bytes

    def store(
        self, sequence: Sequence, seq: int, tokens: int
    ) -> tuple[list[Operation], list[Sequence]]:
        """Keep the state of engine sequence `seq`, the first `tokens` of `sequence`. Returns what
        the engine has to do, and the sequences that are forgotten for it."""
        operations: list[Operation] = []
        forgotten: list[Sequence] = []
        while self.used_bytes + self._bytes(tokens) > self._limits.host_bytes:
            victim = self._ranking.least(but=self.pinned)
            assert victim is not None, "a store in use holds something"
            self._worths.gave_up(victim)
            operations.append(self.forget(victim))
            forgotten.append(victim)
        self._keys += 1
        sequence.host_key, sequence.host_tokens = self._keys, tokens
        self.held[sequence.id] = sequence
        self._ranking.add(sequence)
        self.used_bytes += self._bytes(tokens)
        operations.append(Save(seq, self._keys))
        return operations, forgotten

    def touch(self, sequence: Sequence) -> None:
        """A stored sequence was of use."""
        self._worths.touch(sequence, sequence.host_tokens)

    def forget(self, sequence: Sequence) -> Forget:
        """Drop a stored sequence."""
        del self.held[sequence.id]
        self.used_bytes -= self._bytes(sequence.host_tokens)
        key, sequence.host_key, sequence.host_tokens = sequence.host_key, 0, 0
        return Forget(key)

    def resize(self, limits: Limits, *, keeps: bool) -> list[Sequence]:
        """Other limits for the same states. Returns those to be forgotten, the least worthy first:
        for lack of bytes, and all that are larger than the pool; keeps False: every one."""
        self._limits = limits
        self.used_bytes = sum(self._bytes(one.host_tokens) for one in self.held.values())
        over = self.used_bytes - limits.host_bytes
        lost: list[Sequence] = []
        for one in sorted(self.held.values(), key=rank):
            if not keeps or over > 0 or one.host_tokens > limits.pool_cells:
                over -= self._bytes(one.host_tokens)
                lost.append(one)
        return lost

    def _holds(self, sequence: Sequence) -> bool:
        return self.held.get(sequence.id) is sequence

    def _bytes(self, tokens: int) -> int:
        return self._limits.stored_bytes(tokens)
