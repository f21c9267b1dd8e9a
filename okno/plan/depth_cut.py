"""How a text is cut: into passes of the trained context, and under a narrower window as a chat
server would cut it.

The server's rule, for a window of ctx tokens: a token is predicted from at most ctx - 1 tokens
before it, so that both together fit. When the next one does not fit, the oldest quarter of the
window is dropped (as a server drops its oldest messages, the first `keep` tokens, BOS, stay), and
what remains is computed anew from position 0. So a full window always sees between 3/4 ctx and
ctx tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

USUAL_NARROWEST = 512
LEAST_WINDOW = 16
LEAST_NARROWEST = 64
DOUBLINGS = 4  # at least so many, where the trained context allows
DROPPED_SHARE = 4  # a quarter


@dataclass(frozen=True, slots=True)
class Slide:
    """One state of a sliding window. The engine computes the kept tokens, then those from `start`;
    it judges tokens judged_from <= i < judged_to."""

    start: int
    judged_from: int
    judged_to: int


def dropped_tokens(ctx: int) -> int:
    """Tokens that leave a full window at once."""
    return max(1, ctx // DROPPED_SHARE)


def slides(n_tokens: int, ctx: int, judged_from: int, keep: int = 0) -> Iterator[Slide]:
    """The states in which the tokens from `judged_from` to the end are predicted, in order.

    keep: tokens at the beginning of the text that are never dropped (BOS).
    """
    step = dropped_tokens(ctx - keep)
    index = judged_from
    while index < n_tokens:
        times = max(0, -(-(index + 1 - ctx) // step))  # how often the oldest were dropped before
        full_at = ctx + times * step  # the first token that does not fit any more
        end = min(n_tokens, full_at)
        yield Slide(keep + times * step, index, end)
        index = end


def narrowest_window(limit: int) -> int:
    """512, or less for a model of a small context, so that there are doublings to compare."""
    floor = _power_of_two(max(1, limit >> DOUBLINGS))
    return min(USUAL_NARROWEST, max(LEAST_NARROWEST, floor))


def windows_to_try(longest_pass: int, limit: int) -> tuple[int, ...]:
    """Doublings from the narrowest one to the first that holds the longest pass, `limit` (what
    the model was trained for, or was asked for) at most."""
    found = []
    ctx = narrowest_window(limit)
    while ctx < longest_pass:
        found.append(ctx)
        ctx *= 2
    return (*found, min(ctx, max(limit, longest_pass)))


def pass_lengths(n_tokens: int, limit: int) -> list[int]:
    """Lengths of the consecutive passes a text of n_tokens is cut into: full ones, and the rest
    if it is at least half a pass (or all there is)."""
    full, rest = divmod(n_tokens, limit)
    lengths = [limit] * full
    if rest and (not full or rest >= limit // 2):
        lengths.append(rest)
    return lengths


def first_judged(lengths: Sequence[int], judged_tokens: int) -> list[int]:
    """Where the late tokens begin in each pass: its second half, but at most an even share of
    `judged_tokens` of each, counted from the end."""
    share = max(1, judged_tokens // max(1, len(lengths)))
    return [length - min(share, length - length // 2) for length in lengths]


def _power_of_two(value: int) -> int:
    """The greatest power of two that is at most `value`."""
    return 1 << (value.bit_length() - 1)
