"""What can be asked of a plan, and the words people write it in.

`plan_request` reads text and numbers as the command line and JSON give them; each refusal names
the field.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast, get_args

from okno.advisor.beside import Beside
from okno.core.errors import BadSetting
from okno.core.load import FlashAttention, Load
from okno.core.window import KVType
from okno.inspect.hardware.overrides import Overrides
from okno.plan.goals import (
    DEFAULT_PROMPT_TOKENS,
    PREFERENCES,
    Goal,
    Prefer,
)
from okno.plan.search import LOAD

AUTO = "auto"
Word = str | int | float | None


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """A question to the planner. quant: another number format of the model than its file's; wanted:
    the same, but only for weights that are quantised to it (okno/inspect/fewer_bits.py).
    template: what of the load is not searched. dry_run: ask the engine where it can answer.
    by_name: the model is a name, never a path or an address. beside: what else is loaded."""

    model: str
    models_dir: Path | None = None
    quant: str | None = None
    wanted: str | None = None
    goal: Goal = field(default_factory=Goal)
    overrides: Overrides = field(default_factory=Overrides)
    template: Load = LOAD
    dry_run: bool = True
    by_name: bool = False
    beside: Beside = field(default_factory=Beside)


@dataclass(frozen=True, slots=True)
class Words:
    """A question as it was written. Numbers may be text; `auto` and None leave the choice."""

    model: str = "demo"
    quant: str | None = None
    batch_size: Word = None
    ctx: Word = None
    kv_type: str | None = None
    prefer: str = "speed"
    max_ttft: Word = None
    min_tok_s: Word = None
    prompt_tokens: Word = None
    fill: Word = None


def goal_of(words: Words, depth_ctx: int | None = None) -> Goal:
    """The goal in `words`. Raises BadSetting naming the field."""
    return Goal(
        prefer=_prefer(words.prefer),
        max_ttft_s=_number("max_ttft", words.max_ttft),
        min_tok_s=_number("min_tok_s", words.min_tok_s),
        batch_size=count_of("batch_size", words.batch_size),
        ctx=count_of("ctx", words.ctx),
        kv_types=_kv_types(words.kv_type),
        prompt_tokens=_or(count_of("prompt_tokens", words.prompt_tokens), DEFAULT_PROMPT_TOKENS),
        fill_tokens=count_of("fill", words.fill),
        depth_ctx=depth_ctx,
    )


def plan_request(
    words: Words, *, overrides: Overrides, models_dir: Path | None = None, template: Load = LOAD,
    by_name: bool = False, beside: Beside | None = None,
) -> PlanRequest:  # fmt: skip
    """`words` as a request. Raises BadSetting."""
    return PlanRequest(
        words.model, models_dir, words.quant, None, goal_of(words), overrides, template,
        by_name=by_name, beside=beside or Beside(),
    )  # fmt: skip


def load_template(
    *, mmap: bool = False, gpu_layers: int = -1, step_tokens: int = LOAD.window.step_tokens,
    flash_attention: FlashAttention = "auto",
) -> Load:  # fmt: skip
    """What of a load is given and not searched."""
    window = replace(LOAD.window, step_tokens=step_tokens)
    return Load(window, mmap, flash_attention, gpu_layers)


def _prefer(word: str) -> Prefer:
    if word not in PREFERENCES:
        raise BadSetting(
            f"prefer is {word[:40]!r}; it is one of {', '.join(PREFERENCES)}.", param="prefer"
        )
    return word


def _kv_types(word: str | None) -> tuple[KVType, ...]:
    if word is None or word == AUTO:
        return ()
    known = get_args(KVType)
    found = tuple(part.strip() for part in word.split(","))
    for part in found:
        if part not in known:
            raise BadSetting(
                f"kv_type is {part[:40]!r}; it is auto or one of {', '.join(known)}.",
                param="kv_type",
            )
    return cast("tuple[KVType, ...]", found)


def count_of(name: str, word: Word) -> int | None:
    """A whole number; None for None and `auto`. Raises BadSetting."""
    found = _number(name, word)
    if found is None:
        return None
    if found != int(found):
        raise BadSetting(f"{name} is {word}; give a whole number.", param=name)
    return int(found)


def _number(name: str, word: Word) -> float | None:
    if word is None or word == AUTO:
        return None
    try:
        found = float(word)
        int(found)  # neither infinite nor NaN
    except (ValueError, OverflowError):
        raise BadSetting(
            f"{name} is {str(word)[:40]!r}; give a number{_unit(name)}.", param=name
        ) from None
    return found


def _unit(name: str) -> str:
    return {"max_ttft": " of seconds", "min_tok_s": " of tokens/s"}.get(name, " or auto")


def _or(found: int | None, default: int) -> int:
    return default if found is None else found
