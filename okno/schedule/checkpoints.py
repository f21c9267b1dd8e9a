"""Where the prompts of models that cannot roll back are cut, so that their state can be kept there.

A recurrent state or a sliding window knows only its last token, so another prompt can start from it
only where both are equal up to exactly there. Kept are the states every EVERY tokens (a system
prompt that others share) and shortly before the end of the prompt (the same prompt again, or with
another last message).
"""

from __future__ import annotations

EVERY = 512
GRAIN = 32


def next_checkpoint(computed: int, prompt_tokens: int) -> int | None:
    """The first position after `computed` whose state is worth keeping; None: none is left."""
    last = (prompt_tokens - 1) // GRAIN * GRAIN
    regular = (computed // EVERY + 1) * EVERY
    if computed >= last:
        return None
    return min(regular, last)


def is_checkpoint(computed: int, prompt_tokens: int) -> bool:
    """Whether the state after `computed` tokens is kept."""
    return computed > 0 and next_checkpoint(computed - 1, prompt_tokens) == computed
