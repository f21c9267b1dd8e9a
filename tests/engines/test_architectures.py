"""Models that are not plain attention: what they share, what they refuse, that they answer.

Random weights in tiny shapes of each family, through a real worker.
"""

from __future__ import annotations

import numpy as np
import pytest

from okno.core.errors import BadRequest
from okno.core.request import Prompt
from okno.engines.protocol import WorkerOptions
from tests.conftest import MakeModel
from tests.engines.drive import ask, ask_all, chat, running


def served(make_model: MakeModel, shape: str, **changes: object) -> WorkerOptions:
    path = make_model(shape)
    settings: dict[str, object] = {"batch_size": 4, "ctx": 512, **changes}
    return WorkerOptions(model_path=str(path), name=shape, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", ["tiny", "qwen3-tiny", "gemma3-tiny", "mamba2-tiny"])
async def test_together_they_answer_as_alone(make_model: MakeModel, shape: str) -> None:
    texts = ["hello " * (5 + 10 * k) for k in range(6)]
    async with running(served(make_model, shape)) as supervisor:
        alone = [await ask(supervisor, chat(text, max_tokens=20)) for text in texts]
        together = await ask_all(supervisor, *(chat(text, max_tokens=20) for text in texts))
        assert [a.tokens for a in together] == [a.tokens for a in alone]
        assert supervisor.status().restarts == 0


@pytest.mark.parametrize(
    ("shape", "shares"),
    [("tiny", True), ("qwen3-tiny", True), ("gemma3-tiny", False), ("mamba2-tiny", False)],
)
async def test_only_plain_attention_shares_a_diverging_prefix(
    make_model: MakeModel, shape: str, shares: bool
) -> None:
    first, second = list(range(300, 400)), [*range(300, 380), *range(420, 440)]
    async with running(served(make_model, shape)) as supervisor:
        facts = supervisor.status().facts
        assert facts is not None
        assert facts.shares_prefixes is shares
        for tokens in (first, second):
            request = chat("", prompt=Prompt(tokens=tuple(tokens)), max_tokens=3)
            answer = await ask(supervisor, request)
        assert answer.finished.usage.cached_tokens == (80 if shares else 0)


@pytest.mark.parametrize("shape", ["tiny", "gemma3-tiny", "mamba2-tiny"])
async def test_every_model_goes_on_from_a_whole_conversation(
    make_model: MakeModel, shape: str
) -> None:
    start = list(range(300, 360))
    async with running(served(make_model, shape)) as supervisor:
        first = await ask(supervisor, chat("", prompt=Prompt(tokens=tuple(start)), max_tokens=8))
        following = Prompt(tokens=(*start, *first.tokens, 301, 302))
        reused = await ask(supervisor, chat("", prompt=following, max_tokens=8))
        assert reused.finished.usage.cached_tokens == len(start) + len(first.tokens) - 1
    async with running(served(make_model, shape, prefix_cache=False)) as supervisor:
        fresh = await ask(supervisor, chat("", prompt=following, max_tokens=8))
        assert fresh.finished.usage.cached_tokens == 0
        assert fresh.tokens == reused.tokens


async def test_an_embedding_model_embeds_and_refuses_to_chat(make_model: MakeModel) -> None:
    async with running(served(make_model, "bert-tiny", ctx=128)) as supervisor:
        inputs = ["a window", "a window", "something else entirely"]
        answer = await supervisor.embed(inputs)
        vectors = [np.frombuffer(v, dtype="<f4") for v in answer.vectors]
        assert np.allclose([np.linalg.norm(v) for v in vectors], 1, atol=1e-5)
        assert np.array_equal(vectors[0], vectors[1])
        assert not np.allclose(vectors[0], vectors[2], atol=1e-3)
        assert answer.note == ""
        with pytest.raises(BadRequest, match=r"/v1/embeddings"):
            await ask(supervisor, chat("hello"))
        with pytest.raises(BadRequest, match="1 to 128 can be embedded"):
            await supervisor.embed(["word " * 500])


async def test_a_generative_model_embeds_in_pieces_and_says_what_the_vectors_are(
    make_model: MakeModel,
) -> None:
    tokens = tuple(300 + k % 150 for k in range(500))
    async with running(served(make_model, "tiny")) as supervisor:
        answer = await supervisor.embed([tokens, tokens[:100]], normalize=False)
        assert "not an embedding model" in answer.note
        assert answer.tokens == 600
        with pytest.raises(BadRequest, match="1 to 512 can be embedded"):
            await supervisor.embed([tokens + tokens])
