"""What a step costs by its rows, as measured: a running figure for each row count that ran, drawn
towards the straight line through all of them.

A choice among many noisy figures finds the luckiest, not the best. So a figure counts for as much
as it has samples, and the line, fitted to relative errors, for STIFFNESS samples; where nothing ran
the line answers alone. A knee shows as soon as steps on both of its sides have run a few times.
Made for machines on which other programs run: single measurements move a figure little, and what
was not confirmed for long is forgotten, so one bad moment bars no count for ever.
"""

from __future__ import annotations

from statistics import median

from okno.schedule.cost import Ahead

LEARNING_RATE = 0.125
MOST_JUMP = 2.0
UNKNOWN_GROWTH = 0.5  # of proportional, where only one count is known
FEW_SAMPLES = 3  # the first step of a kind is often slow: graphs are built, pages touched
MOST_SAMPLES = 64
STIFFNESS = 8
FORGOTTEN_AFTER = 512  # steps
REFRESH_EVERY = 16  # steps after which predictions are made anew


class _Figure:
    """Of one row count."""

    __slots__ = ("confirmed", "first", "samples", "seconds")

    def __init__(self) -> None:
        self.seconds = 0.0
        self.samples = 0
        self.confirmed = 0
        self.first: list[float] = []

    def learn(self, seconds: float, step: int) -> None:
        self.samples = min(self.samples + 1, MOST_SAMPLES)
        self.confirmed = step
        if self.samples <= FEW_SAMPLES:
            self.first.append(seconds)
            self.seconds = median(self.first)
            return
        bounded = min(max(seconds, self.seconds / MOST_JUMP), self.seconds * MOST_JUMP)
        self.seconds += LEARNING_RATE * (bounded - self.seconds)

    @property
    def is_known(self) -> bool:
        return self.samples >= FEW_SAMPLES


class RowCost:
    """cost.StepCost of what ran; cells and outputs are taken to go with the rows."""

    def __init__(self) -> None:
        self._figures: dict[int, _Figure] = {}
        self._predicted: dict[int, float] = {}
        self._line: tuple[float, float] | None = None
        self._step = 0

    def learn(self, rows: int, seconds: float) -> None:
        """A step of `rows` rows took `seconds`."""
        self._step += 1
        if rows not in self._figures:
            self._figures[rows] = _Figure()
        figure = self._figures[rows]
        figure.learn(seconds, self._step)
        if figure.samples <= FEW_SAMPLES or self._step % REFRESH_EVERY == 0:
            self._refresh()

    def is_known(self, rows: int) -> bool:
        """Enough steps of `rows` rows ran for their figure to be more than a first impression."""
        return rows in self._figures and self._figures[rows].is_known

    def seconds(self, ahead: Ahead, prompt_rows: int, guesses: int = 0) -> float:
        """See StepCost."""
        return self.of(ahead.decodes + prompt_rows + guesses)

    def of(self, rows: int) -> float:
        """Predicted seconds of a step of `rows` rows; 0 before any count is known."""
        found = self._predicted.get(rows)
        if found is None:
            found = self._predicted[rows] = self._predict(rows)
        return found

    def _predict(self, rows: int) -> float:
        if self._line is None:
            return 0.0
        least = min(n for n, figure in self._figures.items() if figure.is_known)
        if rows < least:  # else guesses beside fewer rows than ever ran would seem free
            return self.of(least) * rows / least
        fixed_s, row_s = self._line
        drawn_s = fixed_s + row_s * rows
        if not self.is_known(rows):
            return drawn_s
        figure = self._figures[rows]
        together = figure.samples * figure.seconds + STIFFNESS * drawn_s
        return together / (figure.samples + STIFFNESS)

    def _refresh(self) -> None:
        oldest = self._step - FORGOTTEN_AFTER
        self._figures = {n: f for n, f in self._figures.items() if f.confirmed > oldest}
        points = [(n, f) for n, f in self._figures.items() if f.is_known]
        self._line = _line([(n, f.seconds, f.samples) for n, f in points]) if points else None
        self._predicted = {}


def _line(points: list[tuple[int, float, int]]) -> tuple[float, float]:
    """(seconds of a step, seconds per row) by least squares of the relative errors; neither is
    negative. points: rows, seconds, samples."""
    if len(points) == 1:
        ((rows, seconds, _),) = points
        return seconds * (1 - UNKNOWN_GROWTH), seconds * UNKNOWN_GROWTH / rows
    weights = [(n, s, samples / n**2) for n, s, samples in points]
    total = sum(w for _, _, w in weights)
    mean_n = sum(w * n for n, _, w in weights) / total
    mean_s = sum(w * s for _, s, w in weights) / total
    spread = sum(w * (n - mean_n) ** 2 for n, _, w in weights)
    row_s = sum(w * (n - mean_n) * (s - mean_s) for n, s, w in weights) / spread
    row_s = min(max(row_s, 0.0), mean_s / mean_n)
    return mean_s - row_s * mean_n, row_s
