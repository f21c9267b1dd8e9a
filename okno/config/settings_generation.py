"""Settings of generation, with Hugging Face's names: what a request gets that does not say.

Bounds and off values are those of a request (core/request.py).
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field

from okno.config.fields import GENERATION, Auto, MinusOneIsOff, Part, Texts, stop_texts
from okno.config.flag import Flag
from okno.core.request import BOUNDS, MAX_INT32, Sampling

OFF = Sampling()


def within(name: str) -> Any:
    """The bounds of a request's field `name`."""
    bounds = BOUNDS[name]
    if bounds.above:
        return Field(gt=bounds.low, le=bounds.high)
    return Field(ge=bounds.low, le=bounds.high)


FINITE = Field(allow_inf_nan=False)


class GenerationSettings(Part):
    """Defaults of generation. None means `auto`: no limit, or a random seed."""

    max_new_tokens: Annotated[
        int | None,
        Field(ge=1, le=MAX_INT32),
        Auto,
        Flag(
            ("--max-new-tokens",), GENERATION, "most tokens of an answer",
            "auto: until the window is full.", metavar="N|auto",
            also=("--max-tokens", "--n-predict", "--predict", "-n"),
        ),
    ] = None  # fmt: skip
    do_sample: Annotated[
        bool,
        Flag(
            ("--do-sample/--no-do-sample",), GENERATION, "draw the next token at random",
            "Off means temperature 0: always the most probable token.",
        ),
    ] = True  # fmt: skip
    temperature: Annotated[
        float, within("temperature"), FINITE,
        Flag(
            ("--temperature",), GENERATION, "how evenly the next token is drawn",
            "0 always takes the most probable one.", metavar="T", also=("--temp",),
        ),
    ] = OFF.temperature  # fmt: skip
    top_p: Annotated[
        float, within("top_p"), FINITE,
        Flag(
            ("--top-p",), GENERATION, "draw from the smallest set of tokens with this probability",
            "1 is off.", metavar="P",
        ),
    ] = OFF.top_p  # fmt: skip
    top_k: Annotated[
        int, within("top_k"), MinusOneIsOff,
        Flag(
            ("--top-k",), GENERATION, "draw from the k most probable tokens", "0 is off.",
            metavar="K",
        ),
    ] = OFF.top_k  # fmt: skip
    min_p: Annotated[
        float, within("min_p"), FINITE,
        Flag(
            ("--min-p",), GENERATION,
            "draw from tokens with at least this share of the best one's probability", "0 is off.",
            metavar="P",
        ),
    ] = OFF.min_p  # fmt: skip
    typical_p: Annotated[
        float, within("typical_p"), FINITE,
        Flag(
            ("--typical-p",), GENERATION, "locally typical sampling with this probability",
            "1 is off.", metavar="P", also=("--typical",),
        ),
    ] = OFF.typical_p  # fmt: skip
    repetition_penalty: Annotated[
        float, within("repetition_penalty"), FINITE,
        Flag(
            ("--repetition-penalty",), GENERATION, "divisor of the logits of recent tokens",
            "1 is off.", metavar="X", also=("--repeat-penalty",),
        ),
    ] = OFF.repetition_penalty  # fmt: skip
    repeat_last_n: Annotated[
        int, within("penalty_last_n"),
        Flag(
            ("--repeat-last-n",), GENERATION, "last tokens that the repetition penalty sees",
            "-1: all of them; 0: none.", metavar="N",
        ),
    ] = OFF.penalty_last_n  # fmt: skip
    frequency_penalty: Annotated[
        float, within("frequency_penalty"), FINITE,
        Flag(
            ("--frequency-penalty",), GENERATION,
            "taken off a token's logit for each time it is in the answer already", "0 is off.",
            metavar="X",
        ),
    ] = OFF.frequency_penalty  # fmt: skip
    presence_penalty: Annotated[
        float, within("presence_penalty"), FINITE,
        Flag(
            ("--presence-penalty",), GENERATION,
            "taken off a token's logit once it is in the answer", "0 is off.", metavar="X",
        ),
    ] = OFF.presence_penalty  # fmt: skip
    seed: Annotated[
        int | None, within("seed"), Auto,
        Flag(
            ("--seed", "-s"), GENERATION, "seed of every request's draw",
            "auto: another one for each request.", metavar="N|auto",
        ),
    ] = None  # fmt: skip
    stop_strings: Annotated[
        tuple[str, ...],
        Texts,
        AfterValidator(stop_texts),
        Flag(
            ("--stop-strings",), GENERATION, "text before which an answer ends",
            "May be given several times. A variable or file may hold a list: "
            '["</s>", "User:"].', metavar="TEXT", also=("--stop",),
        ),
    ] = ()  # fmt: skip
