"""The parts that JSON bodies and SSE chunks share: usage, timings, log probabilities, ids."""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence

from okno.core.events import Finished, FinishReason, TokenLogprob, Usage

LEAST_LOGPROB = -9999.0  # what OpenAI sends for "never": JSON has no infinity

FINISH_REASONS: dict[FinishReason, str] = {"stop": "stop", "length": "length"}


def new_id(kind: str) -> str:
    return f"{kind}-{secrets.token_hex(12)}"


def usage_body(per_prompt: Sequence[Sequence[Usage]]) -> dict[str, object]:
    """OpenAI's usage. The choices of one prompt share its tokens, which therefore count once."""
    prompt = sum(choices[0].prompt_tokens for choices in per_prompt)
    cached = sum(choices[0].cached_tokens for choices in per_prompt)
    completion = sum(usage.completion_tokens for choices in per_prompt for usage in choices)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def timings_body(ends: Sequence[Finished]) -> dict[str, float]:
    """llama-server's timings of one choice, or of several that ran together: tokens summed, times
    the longest. The first token comes with the prompt, so predicted_per_second counts the rest."""
    cached = sum(e.usage.cached_tokens for e in ends)
    prompt = sum(e.usage.prompt_tokens for e in ends) - cached
    made = sum(e.usage.completion_tokens for e in ends)
    prefill_s = max(e.timings.prefill_s for e in ends)
    decode_s = max(e.timings.decode_s for e in ends)
    return {
        "queue_ms": milliseconds(max(e.timings.queue_s for e in ends)),
        "cache_n": cached,
        "prompt_n": prompt,
        "prompt_ms": milliseconds(prefill_s),
        "prompt_per_second": rate(prompt, prefill_s),
        "predicted_n": made,
        "predicted_ms": milliseconds(decode_s),
        "predicted_per_second": rate(made - len(ends), decode_s),
    }


def milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)


def rate(count: int, seconds: float) -> float:
    return round(max(count, 0) / seconds, 3) if seconds > 0 else 0.0


def token_text(piece: bytes) -> str:
    return piece.decode("utf-8", "replace")


def finite(logprob: float) -> float:
    return logprob if math.isfinite(logprob) else LEAST_LOGPROB


def chat_logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, object]:
    """`logprobs` of a chat choice."""
    entries = [
        {**logprob_entry(t), "top_logprobs": [logprob_entry(x) for x in t.top]} for t in tokens
    ]
    return {"content": entries, "refusal": None}


def logprob_entry(token: TokenLogprob) -> dict[str, object]:
    return {
        "token": token_text(token.piece),
        "logprob": finite(token.logprob),
        "bytes": list(token.piece),
    }


def text_offsets(tokens: Sequence[TokenLogprob], text: str, start: int) -> list[int]:
    """Where in the answer each of `tokens` begins; `text` was emitted with them and begins at
    character `start`. A control token, or text that is held back, takes no place in it."""
    offsets = []
    at = 0
    for token in tokens:
        offsets.append(start + at)
        piece = token_text(token.piece)
        if text.startswith(piece, at):
            at += len(piece)
    return offsets


def text_logprobs(tokens: Sequence[TokenLogprob], offsets: list[int]) -> dict[str, object]:
    """`logprobs` of a text completion; `offsets` as text_offsets gives them."""
    return {
        "tokens": [token_text(t.piece) for t in tokens],
        "token_logprobs": [finite(t.logprob) for t in tokens],
        "top_logprobs": [{token_text(x.piece): finite(x.logprob) for x in t.top} for t in tokens],
        "text_offset": offsets,
    }
