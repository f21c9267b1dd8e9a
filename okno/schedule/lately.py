"""What the last steps were like: the time of a step, what a prompt row adds, how much is cached.

Running figures in which the newest count most, for estimates of waiting (schedule/wait.py). They
follow the load: the step of a full batch, prompts at the depth they have now.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from okno.schedule.lengths import AnswerLengths

NEWEST = 0.1  # the share of the newest observation in a running mean


@dataclass(frozen=True, slots=True)
class Pace:
    """step_s: seconds of a step in which all decode. row_s: what each prompt row adds to it.
    piece_rows: prompt rows of a step that has some. advance: tokens that a decoding sequence gets
    in a step (more than one with drafts)."""

    step_s: float
    row_s: float
    piece_rows: float
    advance: float = 1.0


@dataclass(slots=True)
class _Ratio:
    """A running mean of a quantity per unit, in which large observations count as what they are."""

    amount: float = 0.0
    units: float = 0.0

    def add(self, amount: float, units: float) -> None:
        kept = 1 - NEWEST
        self.amount = kept * self.amount + NEWEST * amount
        self.units = kept * self.units + NEWEST * units

    @property
    def value(self) -> float | None:
        return self.amount / self.units if self.units else None


@dataclass(slots=True)
class Lately:
    """Learns from every step, every start and every end of an answer."""

    lengths: AnswerLengths = field(default_factory=AnswerLengths)
    _step_s: _Ratio = field(default_factory=_Ratio)
    _row_s: _Ratio = field(default_factory=_Ratio)
    _piece_rows: _Ratio = field(default_factory=_Ratio)
    _advance: _Ratio = field(default_factory=_Ratio)
    _cached: _Ratio = field(default_factory=_Ratio)

    def ran(self, decodes: int, prompt_rows: int, seconds: float, accepted: int = 0) -> None:
        """A step took `seconds`: `decodes` sequences decoded, of whose drafts `accepted` were
        right, beside `prompt_rows` rows of prompts."""
        if decodes:
            self._advance.add(decodes + accepted, decodes)
        if not prompt_rows:
            self._step_s.add(seconds, 1)
            return
        if decodes and self._step_s.value is None and self._row_s.value is not None:
            # There may be prompts in every step: what their rows do not explain is the step.
            self._step_s.add(max(0.0, seconds - self._row_s.value * prompt_rows), 1)
        beside_s = (self._step_s.value or 0.0) if decodes else 0.0
        self._row_s.add(max(0.0, seconds - beside_s), prompt_rows)
        self._piece_rows.add(prompt_rows, 1)

    def started(self, prompt_tokens: int, cached: int) -> None:
        """A prompt's computing began, `cached` of its tokens were there already."""
        self._cached.add(cached, prompt_tokens)

    @property
    def cached_share(self) -> float:
        """Of the tokens of prompts, those that were in the cache."""
        return self._cached.value or 0.0

    @property
    def pace(self) -> Pace | None:
        """None until there was a step of prompts alone and one in which somebody decoded."""
        step_s, row_s, piece_rows = (
            self._step_s.value, self._row_s.value, self._piece_rows.value,
        )  # fmt: skip
        if step_s is None or row_s is None or piece_rows is None:
            return None
        return Pace(step_s, row_s, piece_rows, self._advance.value or 1.0)
