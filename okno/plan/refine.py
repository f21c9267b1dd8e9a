"""Learning from the steps that run: how much longer or shorter they take than predicted.

For groups of row counts, with flash attention and without, an exponentially weighted mean of
log(measured / predicted), clipped so that a single stalled step changes little (Huber), with its
own uncertainty. Not thread-safe; an observation costs about a microsecond.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

MEMORY_STEPS = 200.0  # steps a group remembers
LEAST_STEPS = 8  # before that, a group corrects only in part
CLIP = 0.25  # of a log ratio: one observation counts as at most this far from the mean
LARGEST = 1.4  # |log ratio| a correction may reach: a factor of four
START_VARIANCE = 0.03
GROUPS = 11  # 1, 2-3, 4-7, ... 1,024 rows and more
NORMAL_90 = 1.645


@dataclass(slots=True)
class _Group:
    weight: float = 0.0
    mean: float = 0.0
    variance: float = START_VARIANCE

    def learn(self, log_ratio: float) -> None:
        self.weight = min(self.weight + 1.0, MEMORY_STEPS)
        off = log_ratio - self.mean
        # The first steps are taken as they are: the prediction may be far off.
        clipped = off if self.weight <= LEAST_STEPS else max(-CLIP, min(CLIP, off))
        self.mean += clipped / self.weight
        left = clipped * (1 - 1 / self.weight)  # from the new mean
        self.variance += (left * left - self.variance) / min(self.weight + 4, MEMORY_STEPS)


@dataclass(frozen=True, slots=True)
class Correction:
    """Multiply a predicted time by `factor`. error: half width of the 90 % interval of what is
    left, relative; None: too little was learnt."""

    factor: float = 1.0
    error: float | None = None


@dataclass(slots=True)
class Refinement:
    """What serving has taught about one model on one machine."""

    groups: list[_Group] = field(default_factory=lambda: [_Group() for _ in range(2 * GROUPS)])

    def observe(
        self, rows: int, predicted_s: float, measured_s: float, *, flash: bool = True
    ) -> None:
        """A step of `rows` rows was predicted and took so long; flash: with flash attention. Times
        that are not positive numbers, and rows below 1, are ignored."""
        if rows < 1 or not 0 < predicted_s < math.inf or not 0 < measured_s < math.inf:
            return
        log_ratio = math.log(measured_s) - math.log(predicted_s)
        self._alike(flash)[_group(rows)].learn(max(-LARGEST, min(LARGEST, log_ratio)))

    def correction(self, rows: int, *, flash: bool = True) -> Correction:
        """For steps of `rows` rows: what their group learnt, or the nearest one that did. Where
        nothing was learnt with flash attention (or without), what the other taught holds: most of
        a step is the same, and a choice between them must not hang on which of them has run."""
        place, groups = _group(rows), self._alike(flash)
        if not any(group.weight >= 1 for group in groups):
            groups = self._alike(not flash)
        known = [i for i, group in enumerate(groups) if group.weight >= 1]
        if not known:
            return Correction()
        nearest = min(known, key=lambda i: (abs(i - place), i))
        group = groups[nearest]
        trust = min(1.0, group.weight / LEAST_STEPS) / (1 + abs(nearest - place))
        error = NORMAL_90 * math.sqrt(group.variance) + 0.05 * abs(nearest - place)
        return Correction(math.exp(trust * group.mean), error if trust >= 1 else None)

    def to_json(self) -> list[list[float]]:
        """[weight, mean, variance] of each group; those with flash attention first."""
        return [[g.weight, g.mean, g.variance] for g in self.groups]

    def _alike(self, flash: bool) -> list[_Group]:
        return self.groups[:GROUPS] if flash else self.groups[GROUPS:]


def refinement_from(data: object) -> Refinement:
    """The refinement of `to_json`; an empty one for anything else."""
    if not isinstance(data, list) or len(data) != 2 * GROUPS:
        return Refinement()
    groups = [_group_from(entry) for entry in data]
    return Refinement([group for group in groups if group is not None]) if all(
        group is not None for group in groups
    ) else Refinement()  # fmt: skip


def _group_from(entry: object) -> _Group | None:
    if not isinstance(entry, list) or len(entry) != 3:
        return None
    if not all(isinstance(x, int | float) and math.isfinite(x) for x in entry):
        return None
    weight, mean, variance = map(float, entry)
    if not (0 <= weight <= MEMORY_STEPS and abs(mean) <= LARGEST and variance >= 0):
        return None
    return _Group(weight, mean, variance)


def _group(rows: int) -> int:
    return min(rows.bit_length() - 1, GROUPS - 1)
