"""What the steps that run teach about how long steps take, and what it says of the next one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from okno.plan.refine import Refinement
from okno.plan.speed_attention import Batch, Part, batch_of, with_filler
from okno.plan.speed_model import SpeedModel
from okno.schedule.cost import Ahead, LearntRows, StepCost
from okno.schedule.step import Step

Lesson = list[list[float]]


class Learner(StepCost, Protocol):
    """A StepCost that the steps correct. keeps: it starts from a calibration."""

    @property
    def keeps(self) -> bool: ...

    def filler(self, step: Step, used_cells: int) -> int:
        """Rows that nobody needs, with which `step` is shorter than without; mostly 0. used_cells:
        as in learn."""
        ...

    def spare_rows(self, ahead: Ahead, prompt_rows: int) -> int:
        """Likewise for the step `ahead` with so many rows of prompts: guesses there cost nothing
        but their logits."""
        ...

    def learn(self, step: Step, used_cells: int, seconds: float) -> None:
        """`step` took so long, sampling included. used_cells: of the whole pool, with the step's;
        those that no span sees (parked, or of sequences that wait) are walked beside it."""
        ...

    def lesson(self) -> Lesson | None:
        """What is worth keeping for the next start; None: nothing."""
        ...


@dataclass(slots=True)
class StepLearner:
    """Compares each step with its prediction; about 20 us a step. model: of the calibration
    alone, uncorrected. keeps: the model comes from a calibration, so that a lesson about it holds
    as long as that does. fills: steps are filled up to where they are shortest."""

    model: SpeedModel
    refinement: Refinement = field(default_factory=Refinement)
    keeps: bool = True
    fills: bool = False

    def seconds(self, ahead: Ahead, prompt_rows: int, guesses: int = 0) -> float:
        """Of the step `ahead` with so many rows of prompts and guesses, as far as it was learnt."""
        batch = self._filled(_batch(ahead, prompt_rows, guesses))
        predicted_s = self.model.batch_s(batch, ahead.decodes + guesses)
        return predicted_s * self._factor(batch.n_rows)

    def spare_rows(self, ahead: Ahead, prompt_rows: int) -> int:
        """See Learner."""
        if not self._may_fill(ahead.decodes + prompt_rows):
            return 0
        return self._filler(_batch(ahead, prompt_rows, 0))

    def filler(self, step: Step, used_cells: int) -> int:
        """See Learner."""
        if not self._may_fill(step.rows):
            return 0
        return self._filler(_batch_of(step, used_cells))

    def _may_fill(self, rows: int) -> bool:
        """Most steps are as short as they get: that is known before their parts are looked at."""
        return self.fills and self.model.filled_rows(rows) != rows

    def _filler(self, batch: Batch) -> int:
        return self._filled(batch).n_rows - batch.n_rows

    def _filled(self, batch: Batch) -> Batch:
        return self.model.filled(batch) if self.fills else batch

    def learn(self, step: Step, used_cells: int, seconds: float) -> None:
        """See Learner."""
        batch = with_filler(_batch_of(step, used_cells), step.filler)
        predicted_s = self.model.batch_s(batch, step.outputs)
        self.refinement.observe(batch.n_rows, predicted_s, seconds, flash=self.model.flash)

    def _factor(self, rows: int) -> float:
        return self.refinement.correction(rows, flash=self.model.flash).factor

    def lesson(self) -> Lesson | None:
        """The refinement as JSON."""
        return self.refinement.to_json() if self.keeps else None


def _batch_of(step: Step, used_cells: int) -> Batch:
    """Without filler."""
    seen_cells = sum(span.start + len(span.tokens) for span in step.spans)
    parts = [Part(1, len(span.tokens), span.start) for span in step.spans]
    return batch_of(parts, max(0, used_cells - seen_cells))


def _batch(ahead: Ahead, prompt_rows: int, guesses: int) -> Batch:
    parts = list(_decoding(ahead.decodes, ahead.decode_cells, guesses))
    if prompt_rows:
        parts.append(Part(1, prompt_rows, ahead.prompt_depth))
    parked = max(0, ahead.used_cells - ahead.decode_cells - ahead.prompt_depth)
    return batch_of(parts, parked)


def _decoding(count: int, cells: int, guesses: int) -> Iterator[Part]:
    """`count` sequences that decode, over `cells` in all, with guesses spread evenly."""
    if not count:
        return
    each, more = divmod(guesses, count)
    yield Part(count - more, 1 + each, cells // count)
    if more:
        yield Part(more, 2 + each, cells // count)


@dataclass(slots=True)
class RowLearner:
    """Where no speed is predicted (the scripted engine, embedding models): every row costs the
    same."""

    rows: LearntRows = field(default_factory=LearntRows)
    keeps: bool = False

    def seconds(self, ahead: Ahead, prompt_rows: int, guesses: int = 0) -> float:
        """Of the step `ahead` with so many rows of prompts and guesses."""
        return self.rows.seconds(ahead, prompt_rows, guesses)

    def spare_rows(self, ahead: Ahead, prompt_rows: int) -> int:
        """None."""
        return 0

    def filler(self, step: Step, used_cells: int) -> int:
        """None."""
        return 0

    def learn(self, step: Step, used_cells: int, seconds: float) -> None:
        """See Learner."""
        self.rows.observe(step.rows, seconds)

    def lesson(self) -> Lesson | None:
        """Nothing is kept."""
        return None
