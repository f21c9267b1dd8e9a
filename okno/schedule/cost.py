"""What a step will cost: the question asked before rows of prompts or of guesses are added."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

FIRST_GUESS_ROW_S = 0.004
LEARN_FROM_ROWS = 8


@dataclass(frozen=True, slots=True)
class Ahead:
    """A step before its prompt rows are chosen. decodes: rows of sequences that decode;
    decode_cells: cells before them, summed. prompt_depth: cells before the next piece of a prompt;
    prompt_tokens: known of all live prompts and not computed; prompt_end: length of the prompt
    that ends last; prompts: how many are live. used_cells: of the pool, up to the highest used
    one: all are walked."""

    decodes: int = 0
    decode_cells: int = 0
    prompt_depth: int = 0
    prompt_tokens: int = 0
    prompt_end: int = 0
    prompts: int = 0
    used_cells: int = 0


class StepCost(Protocol):
    """Predicts the time of steps. For prompts engines/learning.py's StepLearner serves, for guesses
    row_cost.py's RowCost."""

    def seconds(self, ahead: Ahead, prompt_rows: int, guesses: int = 0) -> float:
        """Of the step `ahead` with so many rows of prompts, and so many guessed tokens behind those
        of sequences that decode; 0: nothing is known yet."""
        ...


class LearntRows:
    """Rows that all cost the same, learnt from the steps: where nothing else is known."""

    def __init__(self) -> None:
        self._row_s: float | None = None

    def seconds(self, ahead: Ahead, prompt_rows: int, guesses: int = 0) -> float:
        row_s = FIRST_GUESS_ROW_S if self._row_s is None else self._row_s
        return row_s * (ahead.decodes + prompt_rows + guesses)

    def observe(self, rows: int, seconds: float) -> None:
        """A step of `rows` rows took `seconds`; those of a few rows teach nothing about prompts."""
        if rows < LEARN_FROM_ROWS:
            return
        row_s = seconds / rows
        self._row_s = row_s if self._row_s is None else 0.7 * self._row_s + 0.3 * row_s
