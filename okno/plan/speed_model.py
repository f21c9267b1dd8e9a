"""Speed before loading: the time of a step from a model's header and a machine's calibration.

t(step) = step + ops + sum over types of weights x cost(type, rows) + activations x rows
        + attention(rows, depths) + state x rows + outputs x (output matrix, sampling)

Rates and times to first token follow from it; plan/speed.py puts intervals around them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from okno.core.calibration import Calibration
from okno.core.header import ModelHeader
from okno.plan.speed_attention import Attention, Batch, Part, batch_of, with_filler
from okno.plan.speed_attention_cost import cost_at
from okno.plan.speed_rows import line, slimness, table
from okno.plan.speed_types import bits_of, nearest_type
from okno.plan.speed_work import Experts, Matrices, Work, work_of

TABLE_ROWS = 1024
FILLED_ROWS = 128  # beyond, a few rows more or less matter little
MOST_FILLER, FILLER_GAIN = 15, 0.97
STATE_TRAFFIC_BYTES = 12  # an f32 value read and written, and its inputs
Floats = NDArray[np.float64]


class SpeedModel:
    """The step time of one model on one machine. Pure; safe to share. kv_type: of the cache.
    flash: with flash attention, as the engine has it by itself. What attention costs without it is
    measured only by a calibration of the processor; elsewhere it is taken to cost the same."""

    def __init__(
        self,
        header: ModelHeader,
        calibration: Calibration,
        kv_type: str = "f16",
        flash: bool = True,
    ) -> None:
        self.header, self.calibration = header, calibration
        self.kv_type, self.flash = kv_type, flash
        self.work: Work = work_of(header)
        self._attention = tuple(
            Attention(layers, cost_at(calibration.attention, kv_type, layers, header.weights_bytes),
                      calibration.threads, flash)
            for layers in self.work.attention
        )  # fmt: skip
        self._products = self._matrices_table(self.work.every_row)
        self._products += np.arange(TABLE_ROWS + 1) * self.work.state * self._state_s()
        self._outputs = self._matrices_table(self.work.output_rows)
        self._outputs += self._sampling_table()
        self._fixed = calibration.step_s + self.work.ops * calibration.op_s
        self._filled = _filled(self._products) if header.shares_prefixes else None

    def step_s(
        self, rows: Sequence[int], depths: Sequence[int], outputs: int, *, parked_cells: int = 0
    ) -> float:
        """Seconds of one step as it is served, filled up where that makes it shorter, sampling
        included. rows: of each sequence. depths: tokens each has in the KV cache before. outputs:
        rows with logits. parked_cells: cells of other sequences in the pool."""
        parts = [Part(1, n, depth) for n, depth in zip(rows, depths, strict=True)]
        return self.batch_s(self.filled(batch_of(parts, parked_cells)), outputs)

    def batch_s(self, batch: Batch, outputs: int) -> float:
        """Seconds of one step of just these rows."""
        products = self._at(self._products, batch.n_rows)
        return self._fixed + products + self.outputs_s(outputs) + self.attention_s(batch)

    def outputs_s(self, outputs: int) -> float:
        """Seconds of a step for `outputs` rows with logits: the output matrix and sampling."""
        return self._at(self._outputs, outputs)

    def attention_s(self, batch: Batch) -> float:
        """Seconds of a step that go into attention."""
        return sum(attention.seconds(batch) for attention in self._attention)

    def filled_rows(self, rows: int) -> int:
        """How many rows a step of `rows` takes least time with, by its products alone."""
        if self._filled is None or not 0 < rows < len(self._filled):
            return rows
        return int(self._filled[rows])

    def filled(self, batch: Batch) -> Batch:
        """`batch` with rows that nobody needs, where a step is shorter with them: the products
        take rows in groups. They see no cells but their own, and give no logits."""
        more = self.filled_rows(batch.n_rows) - batch.n_rows
        if not more:
            return batch
        filled = with_filler(batch, more)
        return filled if self.batch_s(filled, 0) < self.batch_s(batch, 0) else batch

    def _at(self, seconds: Floats, rows: int) -> float:
        if rows <= TABLE_ROWS:
            return float(seconds[rows])
        return float(seconds[-1]) * rows / TABLE_ROWS

    def _matrices_table(self, matrices: Matrices) -> Floats:
        """Seconds for 0, 1, ... rows through `matrices`, activations included."""
        total: Floats = (
            np.arange(TABLE_ROWS + 1, dtype=np.float64)
            * matrices.activations
            * self.calibration.activation_s
        )
        for type, n_weights in matrices.weights.items():
            total += n_weights * self._weight_table(type, matrices.inverse_widths[type])
        for experts in matrices.experts:
            total += self._experts_table(experts)
        return total

    def _weight_table(self, type: str, inverse_width: float) -> Floats:
        """Seconds per weight of a product with 0, 1, ... rows; never faster than memory gives
        them: the blocks of a calibration may fit a cache that a model does not."""
        calibration = self.calibration
        known, factor = nearest_type(type, tuple(calibration.weights))
        wide, slim = calibration.weights[known], calibration.slim.get(known)
        seconds = table(wide, TABLE_ROWS)
        if slim is not None:
            low, high = 1 / calibration.wide_width, 1 / calibration.slim_width
            part = (inverse_width - low) / (high - low) if high != low else 0.0
            # Slimmer than the slim blocks costs as they do: such matrices begin to fit caches.
            seconds = seconds + min(max(part, 0.0), 1.0) * slimness(wide, slim, TABLE_ROWS)
        seconds = factor * seconds
        read_s = bits_of(type) / 8 / self.calibration.bandwidth_bytes_s
        seconds[1:] = np.maximum(seconds[1:], read_s)
        return seconds

    def _state_s(self) -> float:
        """Per value of recurrent state and row. Not measured: as if read, changed and written
        back at the speed of memory."""
        return self.calibration.state_s or STATE_TRAFFIC_BYTES / self.calibration.bandwidth_bytes_s

    def _sampling_table(self) -> Floats:
        """Seconds to choose tokens from 0, 1, ... rows with logits."""
        calibration = self.calibration
        row_s = calibration.sample_s + self.work.n_vocab * calibration.sample_entry_s
        seconds = np.arange(TABLE_ROWS + 1, dtype=np.float64) * row_s
        seconds[1:] += calibration.sampling_s
        return seconds

    def _experts_table(self, experts: Experts) -> Floats:
        """With even routing, `rows` rows touch n (1 - (1 - used/n)^rows) experts in expectation;
        each touched one costs a first row, and every row routed to it beyond that a next one."""
        first, following = self._expert_line(experts.type)
        rows = np.arange(TABLE_ROWS + 1)
        touched = experts.n_expert * (1 - (1 - experts.n_used / experts.n_expert) ** rows)
        routed = rows * experts.n_used
        per_expert = experts.n_weights / experts.n_expert
        return per_expert * (touched * first + (routed - touched) * following)

    def _expert_line(self, type: str) -> tuple[float, float]:
        """(first row, next row), seconds per weight. Not measured: each row costs a product."""
        measured = self.calibration.experts
        if measured:
            known, factor = nearest_type(type, tuple(measured))
            first, following = line(measured[known])
            return first * factor, following * factor
        known, factor = nearest_type(type, tuple(self.calibration.weights))
        single = self.calibration.weights[known].seconds[0] * factor
        return single, single


def _filled(seconds: Floats) -> NDArray[np.int64]:
    """For up to FILLED_ROWS rows, how many a step is to have: the count from there on, at most
    MOST_FILLER more, that takes the least time, if that is clearly less. seconds: by rows."""
    counts = np.arange(FILLED_ROWS + 1)
    ahead = np.stack([seconds[counts + more] for more in range(MOST_FILLER + 1)])
    best = ahead.argmin(axis=0)
    pays = ahead[best, counts] < FILLER_GAIN * ahead[0]
    pays[0] = False
    return counts + np.where(pays, best, 0)
