"""How long prompts and answers are: mixes drawn by seed.

`fixed:IN,OUT`   every prompt IN words, every answer OUT tokens.
`short-long`     80 % of prompts 40 words, 20 % 800 words, answers of 32 tokens; `short-long:OUT`.
`sharegpt`       log-normal with the means of ShareGPT in Kwon et al., "Efficient Memory Management
                 for Large Language Model Serving with PagedAttention", SOSP 2023, figure 11:
                 prompts 161.31 tokens, answers 337.99 (from memory: the paper could not be read
                 here). Sigma = 1 is our choice.
`burstgpt`       log-normal fitted to 38 rows of the public BurstGPT trace (Wang et al., arXiv
                 2401.17644): the answered requests among those that its data set page
                 (lzzmm/BurstGPT) shows first, all of the conversation log. A small sample. Its
                 logarithms: prompts 5.98 ± 1.49, answers 5.60 ± 0.90 (mean ± standard deviation).

Log-normal lengths are cut to MOST_TOKENS for prompt and answer each, as vLLM's benchmark drops
longer prompts; that lowers the means (see `LogNormal`). A prompt is made of common words, each
about one token of a usual tokenizer; how many tokens it really had is in the report.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Protocol

from okno.core.errors import BadSetting

MOST_TOKENS = 1024
LEAST_TOKENS = 4
DIGITS = 6
SHORT_WORDS, LONG_WORDS, LONG_SHARE = 40, 800, 0.2
SHORT_LONG_TOKENS = 32


@dataclass(frozen=True, slots=True)
class Lengths:
    """prompt_words: of the prompt; max_tokens: asked of the answer."""

    prompt_words: int
    max_tokens: int


class Mix(Protocol):
    """Draws the lengths of one request after another."""

    def draw(self, source: random.Random) -> Lengths:
        """The next request's lengths."""
        ...


@dataclass(frozen=True, slots=True)
class Fixed:
    """Always the same."""

    lengths: Lengths

    def draw(self, source: random.Random) -> Lengths:
        return self.lengths


@dataclass(frozen=True, slots=True)
class ShortLong:
    """Short prompts with a share of long ones."""

    max_tokens: int
    short_words: int = SHORT_WORDS
    long_words: int = LONG_WORDS

    def draw(self, source: random.Random) -> Lengths:
        is_long = source.random() < LONG_SHARE
        return Lengths(self.long_words if is_long else self.short_words, self.max_tokens)


@dataclass(frozen=True, slots=True)
class LogNormal:
    """Tokens whose logarithm is normal, rounded, and cut to LEAST_TOKENS and MOST_TOKENS."""

    mu: float
    sigma: float

    @classmethod
    def of_mean(cls, mean: float, sigma: float) -> LogNormal:
        """The one with this mean before cutting: exp(mu + sigma² / 2)."""
        return cls(math.log(mean) - sigma**2 / 2, sigma)

    def draw(self, source: random.Random) -> int:
        drawn = round(source.lognormvariate(self.mu, self.sigma))
        return min(max(drawn, LEAST_TOKENS), MOST_TOKENS)


@dataclass(frozen=True, slots=True)
class TwoLogNormal:
    """Prompt and answer drawn apart. One word stands for one token."""

    prompt: LogNormal
    answer: LogNormal

    def draw(self, source: random.Random) -> Lengths:
        return Lengths(self.prompt.draw(source), self.answer.draw(source))


SHAREGPT = TwoLogNormal(LogNormal.of_mean(161.31, 1.0), LogNormal.of_mean(337.99, 1.0))
BURSTGPT_PROMPT = LogNormal(5.98, 1.49)
BURSTGPT_ANSWER = LogNormal(5.60, 0.90)
BURSTGPT = TwoLogNormal(BURSTGPT_PROMPT, BURSTGPT_ANSWER)


def parse_mix(text: str) -> Mix:
    """The mix that `--mix` names. Raises BadSetting."""
    name, _, numbers = text.partition(":")
    found = _whole_numbers(numbers)
    if name == "fixed" and len(found) == 2:
        return Fixed(Lengths(*found))
    if name == "short-long" and len(found) <= 1 and (":" in text) == bool(found):
        return ShortLong(*found or (SHORT_LONG_TOKENS,))
    if text == "sharegpt":
        return SHAREGPT
    if text == "burstgpt":
        return BURSTGPT
    raise BadSetting(
        f"--mix {text[:80]} is not known. Give fixed:IN,OUT (words of the prompt, tokens of the "
        "answer, such as fixed:128,64), short-long, short-long:OUT, sharegpt or burstgpt.",
        param="--mix",
    )


def _whole_numbers(text: str) -> tuple[int, ...]:
    """`128,64` as numbers above 0, of at most DIGITS digits; empty for anything else."""
    parts = text.split(",")
    if not all(part.isdecimal() and len(part) <= DIGITS and int(part) for part in parts):
        return ()
    return tuple(int(part) for part in parts)
