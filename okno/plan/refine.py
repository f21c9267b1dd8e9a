"""Learning from the steps that run: how much longer or shorter they take than predicted.

The state is the log of measured / predicted for groups of row counts, with flash attention and
without. What slows one group down mostly slows the others too (a busy neighbour, a hot processor),
the near ones most; so the groups are one Gaussian process, and a step corrects all of them (a
Kalman filter; Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006, chapter 2).
Corrected each on its own, the groups that never ran would look the fastest on a machine that has
become slower. With the time that steps take a group forgets what it learnt itself (Ornstein and
Uhlenbeck's process), so that one that was slow once and was left alone since is what its neighbours
tell, and is tried again. A single stalled step changes little (Huber), in a group's first steps as
far as they are believed. Not thread-safe; an observation costs about 10 us.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

GROUPS = 11  # 1, 2-3, 4-7, ... 1,024 rows and more
PRIOR_VARIANCE = 0.06  # of a log ratio before anything ran: a quarter more or less
COMMON = 0.6  # of it all groups share; the rest is that of a group, shared with the next ones:
ALIKE = 0.8  # the correlation of one with the next
MEMORY_S = 300.0  # of steps, after which a third is left of what was learnt
KEPT_SHARE = 0.05  # of what a machine may change, between a lesson and the next start
KEPT_NOISE = 1e-5  # variance with which a lesson is taken at its word
LEAST_NOISE = 0.01  # variance of one step's log ratio
FIRST_NOISE = 0.06  # more in a group's first step, half as much in the second, and so on
MEMORY_STEPS = 200.0  # for the noise of a group
LEAST_STEPS = 8  # of a group, before its noise is known
CLIP = 0.2  # of a log ratio: one step counts as at most this far from what was expected,
CLIP_DEVIATIONS = 2.0  # or so many standard deviations
LARGEST = 1.4  # |log ratio| a correction may reach: a factor of four
START_VARIANCE = 0.03
NORMAL_90 = 1.645

_DISTANCE = np.abs(np.subtract.outer(np.arange(GROUPS), np.arange(GROUPS)))
_PRIOR = PRIOR_VARIANCE * (COMMON + (1 - COMMON) * ALIKE**_DISTANCE)


@dataclass(frozen=True, slots=True)
class Correction:
    """Multiply a predicted time by `factor`. error: half width of the 90 % interval of what is
    left, relative; None: too little was learnt."""

    factor: float = 1.0
    error: float | None = None


class _Filter:
    """The groups, with flash attention or without. means, covariance: of the log ratios. weights:
    steps that ran. variances: of steps around the mean."""

    __slots__ = ("covariance", "means", "variances", "weights")

    def __init__(self) -> None:
        self.means: NDArray[np.float64] = np.zeros(GROUPS)
        self.covariance: NDArray[np.float64] = _PRIOR.copy()
        self.weights = [0.0] * GROUPS
        self.variances = [START_VARIANCE] * GROUPS

    def learn(self, group: int, log_ratio: float, predicted_s: float) -> None:
        weight = self.weights[group] = min(self.weights[group] + 1.0, MEMORY_STEPS)
        self._forget(predicted_s)
        limit = max(CLIP, CLIP_DEVIATIONS * self.deviation(group))
        off = max(-limit, min(limit, log_ratio - float(self.means[group])))
        noise = max(LEAST_NOISE, self.variances[group]) + FIRST_NOISE / weight
        gain = self._correct(group, off, noise)
        if weight > LEAST_STEPS:
            # off times what is left of it is the noise, the uncertainty of the mean taken out.
            steps = min(weight - LEAST_STEPS + 4, MEMORY_STEPS)
            self.variances[group] += (off * off * (1 - gain) - self.variances[group]) / steps

    def deviation(self, group: int) -> float:
        """Standard deviation of the next step's log ratio."""
        return math.sqrt(self.variances[group] + float(self.covariance[group, group]))

    def condition(self, group: int, mean: float, variance: float) -> None:
        """The group's mean is known to be so much, with that variance."""
        self._correct(group, mean - float(self.means[group]), variance)

    def _correct(self, group: int, off: float, noise: float) -> float:
        """The gain of the group itself."""
        towards = self.covariance[group].copy()
        gains = towards / (towards[group] + noise)
        self.means += gains * off
        self.covariance -= np.outer(gains, towards)
        return float(gains[group])

    def _forget(self, seconds: float) -> None:
        """So much time passes."""
        kept = math.exp(-seconds / MEMORY_S)
        self.means *= kept
        self.covariance *= kept * kept
        self.covariance += _PRIOR * (1 - kept * kept)


@dataclass(slots=True, eq=False)
class Refinement:
    """What serving has taught about one model on one machine. Equal: what is kept of them is."""

    with_flash: _Filter = field(default_factory=_Filter)
    without: _Filter = field(default_factory=_Filter)

    def observe(
        self, rows: int, predicted_s: float, measured_s: float, *, flash: bool = True
    ) -> None:
        """A step of `rows` rows was predicted and took so long; flash: with flash attention. Times
        that are not positive numbers, and rows below 1, are ignored."""
        if rows < 1 or not 0 < predicted_s < math.inf or not 0 < measured_s < math.inf:
            return
        log_ratio = math.log(measured_s) - math.log(predicted_s)
        bounded = max(-LARGEST, min(LARGEST, log_ratio))
        self._of(flash).learn(_group(rows), bounded, predicted_s)

    def correction(self, rows: int, *, flash: bool = True) -> Correction:
        """For steps of `rows` rows. Where nothing was learnt with flash attention (or without),
        what the other taught holds: most of a step is the same, and a choice between them must not
        hang on which of them has run."""
        group, learnt = _group(rows), self._of(flash)
        if not any(learnt.weights):
            learnt = self._of(not flash)
        mean = max(-LARGEST, min(LARGEST, float(learnt.means[group])))
        is_known = learnt.weights[group] >= LEAST_STEPS
        error = NORMAL_90 * learnt.deviation(group) if is_known else None
        return Correction(math.exp(mean), error)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Refinement) and self.to_json() == other.to_json()

    def to_json(self) -> list[list[float]]:
        """[weight, mean, variance] of each group; those with flash attention first."""
        return [
            [weight, float(mean), variance]
            for one in (self.with_flash, self.without)
            for weight, mean, variance in zip(one.weights, one.means, one.variances, strict=True)
        ]

    def _of(self, flash: bool) -> _Filter:
        return self.with_flash if flash else self.without


def refinement_from(data: object) -> Refinement:
    """The refinement of `to_json`, less sure than it was; an empty one for anything else."""
    if not isinstance(data, list) or len(data) != 2 * GROUPS or not all(map(_is_group, data)):
        return Refinement()
    return Refinement(_filter_from(data[:GROUPS]), _filter_from(data[GROUPS:]))


def _filter_from(groups: list[list[float]]) -> _Filter:
    """Groups that never ran are what those that did tell."""
    found = _Filter()
    for group, (weight, mean, variance) in enumerate(groups):
        if weight >= 1:
            found.weights[group], found.variances[group] = float(weight), float(variance)
            found.condition(group, float(mean), KEPT_NOISE)
    if any(found.weights):
        found.covariance += KEPT_SHARE * (_PRIOR - found.covariance)
    return found


def _is_group(entry: object) -> bool:
    if not isinstance(entry, list) or len(entry) != 3:
        return False
    if not all(isinstance(x, int | float) and math.isfinite(x) for x in entry):
        return False
    weight, mean, variance = map(float, entry)
    return 0 <= weight <= MEMORY_STEPS and abs(mean) <= 2 * LARGEST and variance >= 0


def _group(rows: int) -> int:
    return max(0, min(rows.bit_length() - 1, GROUPS - 1))
