"""What the steps that run teach about how long steps take, and what it says of the next one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from okno.plan.refine import Refinement
from okno.plan.speed_attention import Part, batch_of
from okno.plan.speed_model import SpeedModel
from okno.schedule.cost import Ahead, LearntRows, StepCost
from okno.schedule.step import Step

Lesson = list[list[float]]


class Learner(StepCost, Protocol):
    """A StepCost that the steps correct."""

    def learn(self, step: Step, used_cells: int, seconds: float) -> None:
        """`step` took so long, sampling included. used_cells: of the whole pool, with the step's;
        those that no span sees (parked, or of sequences that wait) are walked beside it."""
        ...

    def lesson(self) -> Lesson | None:
        """What is worth keeping for the next start; None: nothing."""
        ...


@dataclass(slots=True)
class StepLearner:
    """Compares each step with its prediction; about 10 us a step. model: of the calibration
    alone, uncorrected. keeps: the model comes from a calibration, so that a lesson about it holds
    as long as that does."""

    model: SpeedModel
    refinement: Refinement = field(default_factory=Refinement)
    keeps: bool = True

    def seconds(self, ahead: Ahead, prompt_rows: int, guesses: int = 0) -> float:
        """Of the step `ahead` with so many rows of prompts and guesses, as far as it was learnt."""
        n = ahead.decodes
        parts = list(_decoding(n, ahead.decode_cells, guesses))
        if prompt_rows:
            parts.append(Part(1, prompt_rows, ahead.prompt_depth))
        parked = max(0, ahead.used_cells - ahead.decode_cells - ahead.prompt_depth)
        predicted_s = self.model.batch_s(batch_of(parts, parked), n + guesses)
        return predicted_s * self._factor(n + prompt_rows + guesses)

    def learn(self, step: Step, used_cells: int, seconds: float) -> None:
        """See Learner."""
        seen_cells = sum(span.start + len(span.tokens) for span in step.spans)
        predicted_s = self.model.step_s(
            [len(span.tokens) for span in step.spans],
            [span.start for span in step.spans],
            step.outputs,
            parked_cells=max(0, used_cells - seen_cells),
        )
        self.refinement.observe(step.rows, predicted_s, seconds, flash=self.model.flash)

    def _factor(self, rows: int) -> float:
        return self.refinement.correction(rows, flash=self.model.flash).factor

    def lesson(self) -> Lesson | None:
        """The refinement as JSON."""
        return self.refinement.to_json() if self.keeps else None


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

    def seconds(self, ahead: Ahead, prompt_rows: int, guesses: int = 0) -> float:
        """Of the step `ahead` with so many rows of prompts and guesses."""
        return self.rows.seconds(ahead, prompt_rows, guesses)

    def learn(self, step: Step, used_cells: int, seconds: float) -> None:
        """See Learner."""
        self.rows.observe(step.rows, seconds)

    def lesson(self) -> Lesson | None:
        """Nothing is kept."""
        return None
