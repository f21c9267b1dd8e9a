"""What `--load-in-4bit` stores: Q4_K_M, or Q4_0 where this machine computes it clearly faster.

Q4_K_M loses less (of Llama-like weights its error is about 0.88 of Q4_0's, and every second down
projection and value projection has 6 bits), so it is the default, and Q4_0 must earn its place.
"""

from __future__ import annotations

from typing import Literal

from okno.core.calibration import Calibration, Curve
from okno.plan.speed_curve import at

FASTER = 1.1  # by so much Q4_0 must be
# Of the weights of a Llama in Q4_K_M (7B to 70B), those in Q6_K.
SHARE_Q6_K = 0.15
# A request as they are measured with: rows of its prompt at once, tokens of its answer.
PROMPT_TOKENS, ANSWER_TOKENS = 512, 128


def four_bit_type(calibration: Calibration | None) -> Literal["Q4_K_M", "Q4_0"]:
    """The type, by how long the matrices of one request take; Q4_K_M where nothing is measured."""
    measured = calibration.weights if calibration else {}
    if not {"Q4_0", "Q4_K", "Q6_K"} <= measured.keys():
        return "Q4_K_M"
    plain, fine, finer = (_request_s(measured[name]) for name in ("Q4_0", "Q4_K", "Q6_K"))
    mixed = (1 - SHARE_Q6_K) * fine + SHARE_Q6_K * finer
    return "Q4_0" if plain * FASTER < mixed else "Q4_K_M"


def _request_s(curve: Curve) -> float:
    """Seconds per weight, of all products of the request."""
    return at(curve, PROMPT_TOKENS) + ANSWER_TOKENS * at(curve, 1)
