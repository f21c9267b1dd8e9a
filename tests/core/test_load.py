"""What a window asks of the engine."""

from __future__ import annotations

import pytest

from okno.core.load import LEAST_OUTPUTS, Load, context_sizes
from okno.core.window import Window


@pytest.mark.parametrize(
    ("shares", "keeps", "unified", "batch", "sequences", "outputs"),
    [
        (True, False, True, 1, 32, 32),  # parked ones beside it, on whole cache lines
        (False, False, True, 1, 1, LEAST_OUTPUTS),  # sliding window: guesses of one sequence
        (False, False, True, 20, 20, 20),
        (False, True, True, 1, 1, 1),  # recurrent: no guess can be taken back
        (False, False, False, 1, 1, 1),  # sliding, in streams: nor here
        (True, False, False, 1, 1, LEAST_OUTPUTS),
    ],
)
def test_rows_with_logits_are_for_every_sequence_and_for_guesses(
    shares: bool, keeps: bool, unified: bool, batch: int, sequences: int, outputs: int
) -> None:
    load = Load(Window(batch, 512, batch * 512, "f16"), kv_unified=unified)
    sizes = context_sizes(load, shares_prefixes=shares, keeps_state=keeps)
    assert (sizes.n_seq_max, sizes.n_outputs_max) == (sequences, outputs)
