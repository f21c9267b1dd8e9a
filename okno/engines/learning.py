"""What the steps that run teach about how long steps take."""

from __future__ import annotations

from dataclasses import dataclass, field

from okno.plan.refine import Refinement
from okno.plan.speed_model import SpeedModel
from okno.schedule.scheduler import Step


@dataclass(slots=True)
class StepLearner:
    """Compares each step with its prediction; about 10 us a step. model: of the calibration
    alone, uncorrected."""

    model: SpeedModel
    refinement: Refinement = field(default_factory=Refinement)

    def learn(self, step: Step, used_cells: int, seconds: float) -> None:
        """`step` took so long, sampling included. used_cells: of the whole pool, with the step's;
        those that no span sees (parked, or of sequences that wait) are walked beside it."""
        seen_cells = sum(span.start + len(span.tokens) for span in step.spans)
        predicted_s = self.model.step_s(
            [len(span.tokens) for span in step.spans],
            [span.start for span in step.spans],
            step.outputs,
            parked_cells=max(0, used_cells - seen_cells),
        )
        self.refinement.observe(step.rows, predicted_s, seconds)
