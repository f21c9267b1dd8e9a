"""The losses of okno depth are those the real server gives."""

from __future__ import annotations

from typing import Literal

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from okno.bench.depth import run_child, with_text
from okno.bench.depth_job import Job, floats
from okno.bench.depth_text import text_for
from okno.inspect.models import demo_model
from tests.e2e.server import serving

POSITIONS = 60
END = 1  # ends an answer of the demo model: the server gives no logprob for it


@pytest.mark.parametrize("flash_attention", ["off", "auto"])
def test_losses_by_position_are_the_logprobs_of_the_server(
    flash_attention: Literal["off", "auto"],
) -> None:
    """Within 1e-3 nats each without flash attention (1e-7 with AMX; 1.5e-3 where AVX-512's kernels
    for one row and for many add up in another order). llama.cpp's fused kernel adds up in f16 when
    a step has few rows, as the server's do: single tokens then move by some 1e-3 (docs/depth.md),
    and the mean stays within 1e-3."""
    tokens, losses = measured(flash_attention)
    asked = [p for p in np.linspace(1, len(tokens) - 1, POSITIONS, dtype=int) if tokens[p] != END]
    flags = ("--model", "demo", "--ctx", "1024", "--flash-attention", flash_attention)
    with serving(*flags) as server:
        served = [logprob_of(server.url, tokens[:p], tokens[p]) for p in asked]
    differences = np.abs(losses[asked] + served)
    assert len(asked) > POSITIONS // 2
    assert differences.mean() < 1e-3
    assert differences.max() < (2e-3 if flash_attention == "off" else 3e-2)


def measured(flash_attention: Literal["off", "auto"]) -> tuple[list[int], NDArray[np.float64]]:
    """The first chat of the default text: its tokens, and their losses in nats."""
    text = text_for(None, special=False, is_demo=True)
    job = Job(
        str(demo_model().path), "demo", (), kv_types=(), judged_tokens=16, max_tokens=1024,
        flash_attention=flash_attention,
    )  # fmt: skip
    found = run_child(with_text(job, text), lambda stage, fraction: None)
    tokens: list[int] = np.frombuffer(found.tokens[0], dtype=np.int32).tolist()
    return tokens, floats(found.losses[0])


def logprob_of(url: str, before: list[int], token: int) -> float:
    """What the server says the model gives `token` after the tokens `before`: the token is forced,
    and logprobs are those of the model's own distribution."""
    body = {
        "model": "demo", "prompt": before, "max_tokens": 1, "temperature": 0, "logprobs": 0,
        "logit_bias": {str(token): 100},
    }  # fmt: skip
    answer = httpx.post(f"{url}/v1/completions", json=body, timeout=60).raise_for_status().json()
    (logprob,) = answer["choices"][0]["logprobs"]["token_logprobs"]
    return float(logprob)
