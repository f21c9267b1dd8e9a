"""What a window buys in quality: the measured losses of one text under windows of growing size.

All losses are in bits per token (log2 of the perplexity): `okno depth` measures them
(bench/depth.py), the plan shows them beside memory and speed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from okno.core.plan import Figure

WORTH_BITS = 0.02  # bits per token; 1.4 % of perplexity


@dataclass(frozen=True, slots=True)
class PositionLoss:
    """Mean loss of the tokens at positions first <= i < last of one uncut pass: token i was
    predicted from the i tokens before it. n_tokens: how many were judged, over all passes."""

    first: int
    last: int
    n_tokens: int
    bits: Figure


@dataclass(frozen=True, slots=True)
class WindowLoss:
    """The same late tokens under a window of ctx tokens. lost_bits: against the widest window.
    gain_bits: against the next narrower one, None for the narrowest. Both of paired tokens."""

    ctx: int
    bits: Figure
    lost_bits: Figure
    gain_bits: Figure | None = None

    @property
    def perplexity(self) -> float:
        return math.pow(2.0, self.bits.value)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a variant loses against its reference, per token. name: `q8_0`, `q4_0` (KV type
    against f16), or the name of a model (weights against the reference model). kl_bits: mean
    KL(reference || variant). top1: share of tokens with the same most probable next token.
    lost_bits: mean loss of the text, variant minus reference."""

    name: str
    reference: str
    kl_bits: Figure
    top1: Figure
    lost_bits: Figure


@dataclass(frozen=True, slots=True)
class DepthCurve:
    """One model on one text. model, text: identities (hex digests), names for people beside them.

    n_tokens: of the text, all passes. n_passes: how often the text fills the model's trained
    context. n_judged: tokens each window was judged on. windows: narrowest first, the widest sees
    everything. notes: what could not be measured, and why.
    """

    model: str
    model_name: str
    text: str
    text_name: str
    ctx_train: int
    n_tokens: int
    n_passes: int
    n_judged: int
    positions: tuple[PositionLoss, ...]
    windows: tuple[WindowLoss, ...]
    kv_types: tuple[Cost, ...] = ()
    weights: Cost | None = None
    notes: tuple[str, ...] = ()


def quality_of_window(curve: DepthCurve, ctx: int) -> Figure:
    """Bits per token lost with a window of `ctx` tokens against the widest measured one.

    Measured where ctx was measured, interpolated in log2(ctx) between two, 0 from the widest on.
    Below the narrowest: that one's loss, a lower bound, with no upper end (high is inf).
    """
    windows = curve.windows
    if ctx < windows[0].ctx:
        narrowest = windows[0].lost_bits
        return Figure(narrowest.value, narrowest.low, math.inf, "predicted")
    if ctx >= windows[-1].ctx:
        return windows[-1].lost_bits
    at = max(i for i, window in enumerate(windows) if window.ctx <= ctx)
    below, above = windows[at], windows[at + 1]
    if ctx == below.ctx:
        return below.lost_bits
    share = math.log2(ctx / below.ctx) / math.log2(above.ctx / below.ctx)
    return _between(below.lost_bits, above.lost_bits, share)


def enough_ctx(curve: DepthCurve, worth_bits: float = WORTH_BITS) -> int | None:
    """The narrowest measured window that loses less than `worth_bits` per token against every
    wider one; None if only the widest does."""
    for index, window in enumerate(curve.windows[:-1]):
        wider = min(other.bits.value for other in curve.windows[index + 1 :])
        if window.bits.value - wider < worth_bits:
            return window.ctx
    return None


def in_words(curve: DepthCurve, worth_bits: float = WORTH_BITS) -> str:
    """The result in one sentence."""
    widest = curve.windows[-1].ctx
    if len(curve.windows) < 2:
        return f"Only one window ({widest:,} tokens) was measured."
    enough = enough_ctx(curve, worth_bits)
    if enough is not None:
        return (
            f"Beyond {enough:,} tokens this text gains less than {worth_bits:g} bits per token "
            f"(measured up to {widest:,})."
        )
    gain = curve.windows[-1].gain_bits
    value = gain.value if gain else 0.0
    return (
        f"This text gains from every window measured: the last widening, to {widest:,} tokens, "
        f"still gains {value:.3f} bits per token."
    )


def _between(low: Figure, high: Figure, share: float) -> Figure:
    def mix(a: float, b: float) -> float:
        return a + (b - a) * share

    return Figure(
        mix(low.value, high.value), mix(low.low, high.low), mix(low.high, high.high), "predicted"
    )
