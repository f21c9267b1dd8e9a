"""What a user wants of a window, and which of two windows serves that better.

A preference is a key: a tuple of numbers, compared from left to right, larger is better. Every
pick is the largest key of what fits, so nothing better by the stated rule is left unpicked.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from okno.core.errors import BadSetting
from okno.core.plan import PlannedLoad, SpeedPlan
from okno.core.window import MAX_BATCH_SIZE, KVType

Prefer = Literal["speed", "quality", "context", "users"]
Key = tuple[float, ...]

PREFERENCES: tuple[Prefer, ...] = get_args(Prefer)
MIN_CTX = 16
DEFAULT_MAX_TTFT_S = 30.0
DEFAULT_MIN_TOK_S = 5.0  # about reading speed: 250 words a minute at 1.3 tokens a word
DEFAULT_PROMPT_TOKENS = 512
USEFUL_CTX = 4096  # a chat with a few turns and a page of text; below, answers forget
USEFUL_CTX_OF_USERS = 2048
ANSWER_TOKENS = 256
BATCH_WITHOUT_SPEED = 4
SAME_SPEED = 1.01  # rates within 1 % are one: no prediction is finer
SAME_MISS = 1.25
KV_RANK: dict[KVType, int] = {"f32": 3, "f16": 3, "bf16": 3, "q8_0": 2, "q4_0": 1}
AUTO_KV_TYPES: tuple[KVType, ...] = ("f16", "q8_0", "q4_0")
# The KV type below which none is looked at once a useful window is found.
SETTLES: dict[Prefer, KVType] = {
    "speed": "f16", "quality": "f16", "users": "f16", "context": "q8_0",
}  # fmt: skip

MEANING: dict[Prefer, str] = {
    "speed": "the most tokens/s in all, within the limits, with a window of at least "
    f"{USEFUL_CTX:,} tokens if the model and memory allow it; then the widest window",
    "quality": "16-bit KV and the widest window that still helps the model, within the limits; "
    "then the most tokens/s",
    "context": "the widest window, within the limits; then the most tokens/s",
    "users": "the most sequences at once, within the limits, each with a window of at least "
    f"{USEFUL_CTX_OF_USERS:,} tokens if the model and memory allow it",
}


@dataclass(frozen=True, slots=True)
class Goal:
    """What to pick for. batch_size, ctx None: okno chooses; kv_types empty: f16, and fewer bits
    only where f16 cannot reach a useful window.

    max_ttft_s: to the first token of the last of batch_size prompts of prompt_tokens that arrive
    at once. min_tok_s: per user, all sequences decoding at fill_tokens. None: okno's default.
    When nothing meets the limits, the window that misses them least is picked and that is said;
    limits that were given count before okno's own. depth_ctx: of the depth curve, the window
    beyond which the model gains nothing; None: unknown. fill_tokens None: as many as
    prompt_tokens, so that rates are those of answers to such prompts.
    """

    prefer: Prefer = "speed"
    max_ttft_s: float | None = None
    min_tok_s: float | None = None
    batch_size: int | None = None
    ctx: int | None = None
    kv_types: tuple[KVType, ...] = ()
    prompt_tokens: int = DEFAULT_PROMPT_TOKENS
    fill_tokens: int | None = None
    depth_ctx: int | None = None

    def __post_init__(self) -> None:
        _check(self)

    @property
    def ttft_limit_s(self) -> float:
        return DEFAULT_MAX_TTFT_S if self.max_ttft_s is None else self.max_ttft_s

    @property
    def tok_s_floor(self) -> float:
        return DEFAULT_MIN_TOK_S if self.min_tok_s is None else self.min_tok_s

    @property
    def fill(self) -> int:
        """Tokens in each window when rates are judged."""
        return self.prompt_tokens if self.fill_tokens is None else self.fill_tokens

    @property
    def is_fixed(self) -> bool:
        """One window is asked for: there is nothing to choose but the KV type."""
        return self.batch_size is not None and self.ctx is not None


def key_of(goal: Goal, ctx_train: int) -> Callable[[PlannedLoad], Key]:
    """The order of windows under `goal`, for a model trained on ctx_train tokens: first a useful
    window with KV of as many bits as it allows, then the limits, then what the preference says."""
    order = {"speed": _speed, "quality": _quality, "context": _context, "users": _users}

    def key(planned: PlannedLoad) -> Key:
        window = planned.load.window
        useful = min(window.ctx, useful_ctx(goal, ctx_train))
        missed = miss(planned.speed, goal)
        limits = (-missed.asked, -missed.default)
        return (useful, _kv(window.kv_type, goal), *limits, *order[goal.prefer](planned, goal))

    return key


def useful_ctx(goal: Goal, ctx_train: int) -> int:
    """The window below which nothing else counts: it holds the prompt and the answer, a chat, and
    never more than the model was trained on or gains from. An asked ctx is the useful one."""
    if goal.ctx is not None:
        return goal.ctx
    least = USEFUL_CTX_OF_USERS if goal.prefer == "users" else USEFUL_CTX
    holds = goal.prompt_tokens + max(goal.fill, ANSWER_TOKENS)
    gains = goal.depth_ctx if goal.prefer == "quality" and goal.depth_ctx else ctx_train
    return min(max(least, holds), ctx_train, max(gains, holds))


@dataclass(frozen=True, slots=True)
class Miss:
    """By how much limits are missed, in steps of a quarter, summed; 0: met, or speed is unknown.
    asked: the user's own limits; default: okno's."""

    asked: int = 0
    default: int = 0

    @property
    def none(self) -> bool:
        return self.asked == 0 and self.default == 0


def miss(speed: SpeedPlan | None, goal: Goal) -> Miss:
    """How far a window is from the limits of `goal`."""
    if speed is None:
        return Miss()
    late = _steps(speed.ttft_loaded_s.value, goal.ttft_limit_s)
    decodes = speed.user_tok_s.value > 0  # an embedding model does not
    slow = _steps(goal.tok_s_floor, speed.user_tok_s.value) if decodes else 0
    asked = (late if goal.max_ttft_s else 0) + (slow if goal.min_tok_s else 0)
    default = (0 if goal.max_ttft_s else late) + (0 if goal.min_tok_s else slow)
    return Miss(asked, default)


def _steps(value: float, most: float) -> int:
    """By how many quarters `value` is above `most`, upwards; 0: it is not."""
    return max(0, math.ceil((_log(value) - _log(most)) / math.log(SAME_MISS)))


def _kv(kv_type: KVType, goal: Goal) -> float:
    """More bits are better; for the widest window 8 bits are as good as 16."""
    rank = KV_RANK[kv_type]
    return min(rank, KV_RANK["q8_0"]) if goal.prefer == "context" else rank


def _speed(planned: PlannedLoad, goal: Goal) -> Key:
    window = planned.load.window
    return _rate(planned), window.ctx, -window.batch_size


def _users(planned: PlannedLoad, goal: Goal) -> Key:
    window = planned.load.window
    return window.batch_size, window.ctx, _rate(planned)


def _context(planned: PlannedLoad, goal: Goal) -> Key:
    window = planned.load.window
    return window.ctx, KV_RANK[window.kv_type], _rate(planned), -window.batch_size


def _quality(planned: PlannedLoad, goal: Goal) -> Key:
    window = planned.load.window
    helps = min(window.ctx, goal.depth_ctx or window.ctx)
    return helps, _rate(planned), -window.ctx, -window.batch_size


def _rate(planned: PlannedLoad) -> float:
    """Total tokens/s in steps of 1 % (of a model that only embeds: of prompts); without figures,
    the batch up to a modest one."""
    speed = planned.speed
    if speed is None:
        return min(planned.load.window.batch_size, BATCH_WITHOUT_SPEED)
    tok_s = speed.total_tok_s.value or speed.prefill_tok_s.value
    return round(_log(tok_s) / math.log(SAME_SPEED))


def _log(value: float) -> float:
    return math.log(max(value, 1e-9))


def _check(goal: Goal) -> None:
    """Raise BadSetting for what no window can mean."""
    if goal.prefer not in PREFERENCES:
        raise BadSetting(
            f"prefer is {goal.prefer!r}; it is one of {', '.join(PREFERENCES)}.", param="prefer"
        )
    if goal.batch_size is not None and not 1 <= goal.batch_size <= MAX_BATCH_SIZE:
        raise BadSetting(
            f"batch_size is {goal.batch_size}; 1 to {MAX_BATCH_SIZE} requests can be decoded at "
            "once.",
            param="batch_size",
            batch_size=goal.batch_size,
        )
    if goal.ctx is not None and not MIN_CTX <= goal.ctx <= 1 << 24:
        raise BadSetting(
            f"ctx is {goal.ctx}; it is {MIN_CTX} to {1 << 24:,} tokens.", param="ctx", ctx=goal.ctx
        )
    for name in ("max_ttft_s", "min_tok_s", "prompt_tokens", "depth_ctx"):
        value = getattr(goal, name)
        if value is not None and not 0 < value < math.inf:
            raise BadSetting(f"{name} is {value}; it must be more than 0.", param=name)
    if not 0 <= goal.fill < 1 << 31:
        raise BadSetting(
            f"fill_tokens is {goal.fill_tokens}; it must be 0 or more.", param="fill_tokens"
        )
