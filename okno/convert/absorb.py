"""Columns of a packed layer in another order, where the layer before can give its rows in it.

GPTQ with act-order puts inputs into groups by how active they are, so that 32 neighbours are of
many groups. If the inputs came sorted by group, each block of 32 would be of one. What comes in is
what the layer before gives out: a down projection's inputs are the rows of gate and up projection,
element by element, so any order will do. Inputs of an attention's output projection are values of
heads, so their order may change within a head alone. Inputs that the residual stream brings are
shared by all layers and stay as they are.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from okno.convert.packed_blocks import BLOCK
from okno.convert.packed_layer import Order


def absorbed_order(group_of: npt.NDArray[np.int32], span: int) -> Order | None:
    """The order of columns in which each block of 32 is of one group: column n of the new layer is
    `order[n]` of the old. Columns move within each `span` of them only. None when they are well as
    they are, or when no order helps.

    The layer before then gives its rows in this order.
    """
    n = group_of.size
    if n % BLOCK or span % BLOCK or n % span or _is_blocked(group_of):
        return None
    within = np.argsort(group_of.reshape(-1, span), axis=1, kind="stable")
    order = (within + np.arange(0, n, span)[:, None]).reshape(-1)
    return order if _is_blocked(group_of[order]) else None


def _is_blocked(groups: npt.NDArray[np.int32]) -> bool:
    blocks = groups.reshape(-1, BLOCK)
    return bool((blocks == blocks[:, :1]).all())
