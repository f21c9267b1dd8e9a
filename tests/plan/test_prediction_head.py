"""Which models guess with a head of their own, and what is said of the others."""

from __future__ import annotations

from dataclasses import replace

import pytest

from okno.core.errors import BadSetting
from okno.core.header import Layer, ModelHeader, TensorInfo
from okno.plan.prediction_head import head_trouble, uses_head
from tests.plan.fakes import a_header

NAMES = ("eh_proj", "enorm", "hnorm")


def with_head(
    architecture: str = "glm4moe", heads: int = 1, names: tuple[str, ...] = NAMES
) -> ModelHeader:
    """Four layers, the last of them a head."""
    base = a_header(n_layer=4)
    tensors = [TensorInfo(f"blk.3.nextn.{name}.weight", "F32", (8,), 32) for name in names]
    return replace(
        base,
        architecture=architecture,
        tensors=(*base.tensors, *tensors),
        metadata={f"{architecture}.nextn_predict_layers": heads},
    )


def test_a_model_with_a_head_uses_it_unless_another_guesses() -> None:
    header = with_head()
    assert head_trouble(header) == ""
    assert uses_head("auto", header, has_draft_model=False)
    assert uses_head("mtp", header, has_draft_model=False)
    assert not uses_head("auto", header, has_draft_model=True)
    for how in ("lookup", "draft", "off"):
        assert not uses_head(how, header, has_draft_model=False)


STATE = replace(with_head("qwen35"), layers=(Layer(state_width=8), *with_head().layers[1:]))


@pytest.mark.parametrize(
    ("header", "why"),
    [
        (a_header(n_layer=4), "the model has no prediction head"),
        (with_head(names=()), "made without the weights"),
        (with_head(names=("eh_proj", "enorm")), "made without the weights"),
        (with_head("llama"), "cannot run the prediction head of models of type llama"),
        (STATE, "cannot run the prediction head of models of type qwen35"),
        (replace(with_head(heads=2), n_layer=5), "has 2 prediction heads"),
    ],
)
def test_without_a_head_that_runs_only_its_name_is_refused(header: ModelHeader, why: str) -> None:
    assert not uses_head("auto", header, has_draft_model=False)
    with pytest.raises(BadSetting, match=f"--speculate mtp is not possible.*{why}"):
        uses_head("mtp", header, has_draft_model=False)
