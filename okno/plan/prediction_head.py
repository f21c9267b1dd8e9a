"""The model's own prediction head (multi-token prediction, MTP): a block after its layers that
takes their last hidden state and a token, and guesses the token after that one.

Known from the header, so that the planner and the worker agree on whether it is loaded.
"""

from __future__ import annotations

from okno.core.errors import BadSetting
from okno.core.header import ModelHeader

# Families with plain attention whose heads the pinned engine has graphs for (llama.cpp,
# src/models/*.cpp, graph_mtp).
RUNS = frozenset({"glm4moe", "deepseek2", "deepseek32", "glm-dsa", "hy_v3"})
TENSORS = ("eh_proj", "enorm", "hnorm")  # those that every head has


def n_heads(header: ModelHeader) -> int:
    """Prediction blocks that the header declares; a file may still be without their weights."""
    found = header.metadata.get(f"{header.architecture}.nextn_predict_layers", 0)
    return found if isinstance(found, int) else 0


def head_trouble(header: ModelHeader) -> str:
    """Why the engine cannot guess with the head of this file, as the end of a sentence; empty: it
    can."""
    heads = n_heads(header)
    if not heads:
        return "the model has no prediction head"
    block = header.n_layer - heads
    stored = {tensor.name for tensor in header.tensors}
    if any(f"blk.{block}.nextn.{name}.weight" not in stored for name in TENSORS):
        return "this file was made without the weights of the model's prediction head"
    if header.architecture not in RUNS or not header.shares_prefixes:
        return f"okno cannot run the prediction head of models of type {header.architecture}"
    if heads > 1:
        return f"the model has {heads} prediction heads, and okno can run one"
    return ""


def uses_head(speculate: str, header: ModelHeader, *, has_draft_model: bool) -> bool:
    """Settings and model together ask for the head. Raises BadSetting where `mtp` was asked for by
    name and cannot be had."""
    if speculate == "mtp":
        if trouble := head_trouble(header):
            raise BadSetting(
                f"--speculate mtp is not possible with {header.name}: {trouble}. --speculate "
                "lookup needs none, and --draft takes a small model of the same vocabulary."
            )
        return True
    return speculate == "auto" and not has_draft_model and not head_trouble(header)
