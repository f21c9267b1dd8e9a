"""What is computed and where: live and parked sequences in KV cells, states in host memory.

Finished sequences stay parked in free cells, so that the next turn of a conversation, another
choice of the same prompt, or another user with the same system prompt starts from their prefix.
Parked cells are given up, the least worth first, whenever a live sequence needs them; their state
moves to host memory where there is room. What the engine has to do for that collects in
`operations`, in order. Pure: the books of the engine's cache, not the cache.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from okno.schedule.checkpoints import is_checkpoint, next_checkpoint
from okno.schedule.host import LEAST_TOKENS, HostStore
from okno.schedule.pool import KVPool
from okno.schedule.prefix_tree import Node, PrefixTree
from okno.schedule.sequence import IntBuffer, Sequence
from okno.schedule.step import Copy, Limits, Operation, Pack, Restore, Share, Truncate
from okno.schedule.worth import Ranking, Worths, rank

MIN_SHARED_TOKENS = 8  # a shorter common prefix is not worth an engine operation


@dataclass(frozen=True, slots=True)
class Reuse:
    """Start from the first `length` tokens of `donor`: in its place (takes_over), from its cells,
    or from its state in host memory (restores)."""

    donor: Sequence
    length: int
    takes_over: bool = False

    @property
    def restores(self) -> bool:
        return self.donor.seq is None


class Cache:
    """parked: by engine sequence."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.pool = KVPool(limits.pool_cells)
        self.parked: dict[int, Sequence] = {}
        self._tree = PrefixTree()
        self._worths = Worths()
        self._ranking = Ranking(self.is_parked)
        self.host = HostStore(limits, self._worths)
        self._free_seqs = list(range(limits.seq_ids - 1, -1, -1))
        self._operations: list[Operation] = []
        self._made = 0  # sequences made here

    def take_operations(self) -> tuple[Operation, ...]:
        """What the engine has to do before the next rows; asked once."""
        taken, self._operations = tuple(self._operations), []
        return taken

    # Starting from a prefix ------------------------------------------------------------------

    def best_reuse(self, sequence: Sequence) -> Reuse | None:
        """The longest computed prefix to start from, if any; at least one known token is left
        to compute, because its logits are needed."""
        match = self._tree.longest(sequence.known.view()[:-1], sequence.salt)
        if match is None:
            return None
        for length, node in match.places():
            if length < MIN_SHARED_TOKENS:
                return None
            found = self._reuse_at(length, node)
            if found is not None:
                return found
        return None

    def start(self, sequence: Sequence, reuse: Reuse | None) -> None:
        """Give `sequence` an engine sequence, with what `reuse` brings."""
        if reuse is None:
            sequence.seq = self._claim_seq(keep=None)
        elif reuse.takes_over:
            self._take_over(sequence, reuse)
        elif reuse.restores:
            self.host.pinned = reuse.donor
            sequence.seq = self._claim_seq(keep=None)
            self._restore(sequence, reuse)
            self.host.pinned = None
        else:
            self._touch(reuse.donor)  # so that making room does not evict what is shared
            sequence.seq = self._claim_seq(keep=reuse.donor)
            self._copy(sequence, reuse)
        self._tree.put(sequence, sequence.computed)

    def _reuse_at(self, length: int, node: Node) -> Reuse | None:
        """From a sequence that holds the `length` tokens up to `node`: a parked one that ends
        there is taken over, any other shared."""
        exact = list(node.owners.values()) if node.end == length else []
        for donor in exact:
            if self.is_parked(donor):
                return Reuse(donor, length, takes_over=True)
        if self.limits.truncates:
            return self._shared_at(length, node)
        stored = (Reuse(donor, length) for donor in exact if donor.host_key)
        return next(stored, None)

    def _shared_at(self, length: int, node: Node) -> Reuse | None:
        """From part of a sequence, by choice one that has cells."""
        can_copy = self.limits.copies and (bool(self._free_seqs) or len(self.parked) > 1)
        stored = None
        for donor in node.below():
            if can_copy and donor.seq is not None:
                return Reuse(donor, length)
            if self.is_parked(donor):
                return Reuse(donor, length, takes_over=True)
            if donor.host_key and stored is None:
                stored = Reuse(donor, length)
        return stored

    def _take_over(self, sequence: Sequence, reuse: Reuse) -> None:
        donor = reuse.donor
        assert donor.seq is not None
        del self.parked[donor.seq]
        self._tree.remove(donor)
        self.cut(donor, reuse.length)
        sequence.seq, sequence.cells = donor.seq, donor.cells
        sequence.hits = donor.hits + 1

    def _copy(self, sequence: Sequence, reuse: Reuse) -> None:
        assert reuse.donor.seq is not None
        assert sequence.seq is not None
        cells = reuse.donor.cells.view()[: reuse.length]
        self.pool.share(cells)
        sequence.cells.extend(cells)
        self._operations.append(Copy(reuse.donor.seq, sequence.seq, reuse.length))

    def _restore(self, sequence: Sequence, reuse: Reuse) -> None:
        """Bring the donor's state back from host memory, which forgets it if nothing of it is left
        to come back for. Without cells for all of it the sequence starts from nothing."""
        donor = reuse.donor
        assert sequence.seq is not None
        whole = donor.host_tokens
        if self.spare_cells(whole) < whole:
            return
        sequence.cells.extend(self.pool.allocate(whole))
        self._operations.append(Restore(donor.host_key, sequence.seq))
        donor.hits += 1
        if donor.checkpoint or whole - reuse.length >= LEAST_TOKENS:
            self.host.touch(donor)
        else:
            self._operations.append(self.host.forget(donor))
            self._tree.remove(donor)
        self.cut(sequence, reuse.length)
        self._share(sequence)
        sequence.hits = donor.hits

    def _share(self, sequence: Sequence) -> None:
        """A state has come back in cells of its own: what another one in cells begins with too is
        kept once."""
        limits = self.limits
        match = self._tree.longest(sequence.known.view()[: sequence.computed], sequence.salt)
        if match is None or not (limits.copies and limits.truncates):
            return
        for length, node in match.places():
            donor = next((s for s in node.below() if s.seq is not None), None)
            if donor is None or length < MIN_SHARED_TOKENS:
                continue
            assert donor.seq is not None
            assert sequence.seq is not None
            theirs, own = donor.cells.view()[:length], sequence.cells.view()[:length]
            self.pool.share(theirs)
            self.pool.release(own)
            own[:] = theirs
            self._operations.append(Share(donor.seq, sequence.seq, length))
            return

    def _claim_seq(self, keep: Sequence | None) -> int:
        if not self._free_seqs:
            self.evict(keep)
        return self._free_seqs.pop()

    def _touch(self, donor: Sequence) -> None:
        """`donor` was of use."""
        donor.hits += 1
        self._worths.touch(donor, donor.computed)

    # Growing and shrinking -------------------------------------------------------------------

    def extend(self, sequence: Sequence, rows: int) -> int:
        """Cells for the next `rows` tokens, which are free; returns the position of the first."""
        start = sequence.computed
        sequence.cells.extend(self.pool.allocate(rows))
        return start

    def extend_each(self, sequences: Collection[Sequence]) -> None:
        """A cell more for each; so many are free."""
        cells = self.pool.allocate(len(sequences)).tolist()
        for sequence, cell in zip(sequences, cells, strict=True):
            sequence.cells.append(cell)

    def computed_prompt(self, sequence: Sequence) -> None:
        """More of its prompt is computed with the next step: others may start from it then."""
        self._tree.put(sequence, sequence.computed)

    def cut(self, sequence: Sequence, length: int) -> None:
        """Keep the first `length` tokens of what is computed."""
        assert sequence.seq is not None
        if length < sequence.computed:
            self._operations.append(Truncate(sequence.seq, length))
            self.pool.release(sequence.cells.view()[length:])
            sequence.cells.truncate(length)

    def spare_cells(self, wanted: int) -> int:
        """Free cells, after evicting parked sequences as far as `wanted` asks for."""
        while self.pool.free < wanted and self.evict():
            pass
        return self.pool.free

    # Parking ---------------------------------------------------------------------------------

    def is_parked(self, sequence: Sequence) -> bool:
        return sequence.seq is not None and self.parked.get(sequence.seq) is sequence

    def park(self, sequence: Sequence) -> None:
        """Keep what is computed for a later prefix, or drop it when it is not worth keeping."""
        if sequence.seq is None:
            return
        self.cut(sequence, len(sequence.known))  # drafts of a step it was cancelled in
        if not self.limits.parks or sequence.computed < MIN_SHARED_TOKENS:
            self._drop(sequence)
            return
        sequence.known.truncate(sequence.computed)
        self._worths.touch(sequence, sequence.computed)
        self.parked[sequence.seq] = sequence
        self._ranking.add(sequence)
        self._tree.put(sequence, sequence.computed)

    def leave(self, sequence: Sequence) -> Sequence | None:
        """`sequence` goes back to wait; what it has computed is parked as a sequence of its own,
        from which it starts when its turn comes again. None: it was not worth parking."""
        left = self._twin(sequence, "left", sequence.computed)
        left.seq, left.cells = sequence.seq, sequence.cells
        sequence.seq, sequence.cells = None, IntBuffer()
        self._tree.remove(sequence)
        self.park(left)
        return left if self.is_parked(left) else None

    def evict(self, keep: Sequence | None = None) -> bool:
        """Give up the parked sequence of least worth; False when there is none."""
        victim = self._ranking.least(but=keep)
        if victim is None:
            return False
        self._worths.gave_up(victim)
        self.give_up(victim)
        return True

    def give_up(self, victim: Sequence) -> None:
        """Free the cells of a parked sequence; its state moves to host memory if that pays."""
        assert victim.seq is not None
        del self.parked[victim.seq]
        if self.host.takes(victim.computed):
            self._store(victim, victim.seq, victim.computed)
        self._drop(victim)

    def next_to_store(self) -> Sequence | None:
        """The parked sequence worth most of those that host memory takes. None when there is none,
        or when host memory is full of what is worth more than any that is parked."""
        takes = self.host.takes
        fitting = [p for p in self.parked.values() if takes(p.computed)]
        if not fitting:
            return None
        best = max(fitting, key=rank)
        return best if self.host.has_room(best.computed, min(fitting, key=rank)) else None

    def too_short_to_store(self) -> Sequence | None:
        """A parked sequence that host memory does not take for being short."""
        short = (p for p in self.parked.values() if p.computed < LEAST_TOKENS)
        return next(short, None) if self.limits.host_bytes else None

    def pack(self, sequence: Sequence) -> None:
        """Move the state of `sequence`, which shares no cell, to the lowest free cells."""
        assert sequence.seq is not None
        count = sequence.computed
        self.pool.release(sequence.cells.view())
        sequence.cells.truncate(0)
        sequence.cells.extend(self.pool.allocate(count))
        self._operations.append(Pack(sequence.seq))

    def _drop(self, sequence: Sequence) -> None:
        assert sequence.seq is not None
        if sequence.computed:
            self._operations.append(Truncate(sequence.seq, 0))
        self.pool.release(sequence.cells.view())
        sequence.cells.truncate(0)
        self._free_seqs.append(sequence.seq)
        sequence.seq = None
        if not sequence.host_key:
            self._tree.remove(sequence)

    def _store(self, sequence: Sequence, seq: int, tokens: int) -> None:
        operations, forgotten = self.host.store(sequence, seq, tokens)
        self._operations += operations
        for lost in forgotten:
            self._tree.remove(lost)

    def _twin(self, sequence: Sequence, what: str, tokens: int) -> Sequence:
        """A sequence of its own of the first `tokens`."""
        self._made += 1
        return Sequence(
            f"{sequence.id} {what} {self._made}", sequence.known.view()[:tokens].tolist(),
            max_tokens=sequence.max_tokens, client=sequence.client, salt=sequence.salt,
        )  # fmt: skip

    # Checkpoints -----------------------------------------------------------------------------

    @property
    def keeps_checkpoints(self) -> bool:
        """Prompts are cut where their states are kept for others."""
        limits = self.limits
        return not limits.truncates and limits.parks and limits.host_bytes > 0

    def longest_piece(self, sequence: Sequence) -> int:
        """The most rows that the next piece of its prompt may have."""
        stop = None
        if self.keeps_checkpoints:
            stop = next_checkpoint(sequence.computed, sequence.prompt_tokens)
        return sequence.remaining if stop is None else stop - sequence.computed

    def checkpoint(self, sequence: Sequence) -> None:
        """Keep the state of a prompt where it stands, if that is a place for it."""
        tokens = sequence.computed
        if not (
            self.keeps_checkpoints
            and is_checkpoint(tokens, sequence.prompt_tokens)
            and self.host.takes(tokens)
        ):
            return
        match = self._tree.longest(sequence.known.view()[:tokens], sequence.salt)
        if match and match.length == tokens and any(s.host_key for s in match.node.owners.values()):
            return
        assert sequence.seq is not None
        kept = self._twin(sequence, "kept", tokens)
        kept.checkpoint = True
        self._worths.touch(kept, tokens)
        self._store(kept, sequence.seq, tokens)
        self._tree.put(kept, tokens)
