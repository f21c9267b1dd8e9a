"""Scratch memory of the feed-forward part (llama-graph.cpp: build_ffn, build_moe_ffn)."""

from __future__ import annotations

from okno.plan.memory_blocks import Block, StepGraph

# Whether the chosen experts' weights are made to add up to one: the header says it, or never; else
# always (the argument norm_w of build_moe_ffn in src/models).
AS_THE_HEADER_SAYS = (
    "afmoe", "bailingmoe", "bailingmoe2", "cohere2moe", "deepseek2", "deepseek2-ocr", "deepseek32",
    "deepseek4", "dots1", "exaone-moe", "glm-dsa", "glm4moe", "glm5-next", "hy_v3", "laguna",
    "minimax-m3", "mistral4", "nemotron_h_moe", "step35",
)  # fmt: skip
NEVER = ("deepseek", "jamba", "llada-moe", "llama4", "nomic-bert-moe", "olmoe", "qwen2moe")
BY_SOFTMAX = ("gpt-oss",)  # of the chosen ones


def feed_forward(graph: StepGraph, block: Block, source: int) -> int:
    """The layer's feed-forward result for the rows of `source`."""
    rows = graph.rows_of(source)
    if not block.has("ffn_gate_inp.weight"):
        return _dense(graph, block, source, rows)
    result = _experts(graph, block, source, rows)
    if block.has("ffn_up_shexp.weight"):
        result = graph.over(result, _dense(graph, block, source, rows, suffix="_shexp"))
    return result


def _dense(graph: StepGraph, block: Block, source: int, rows: int, suffix: str = "") -> int:
    up, gate, down = (f"ffn_{part}{suffix}.weight" for part in ("up", "gate", "down"))
    wide = 4 * rows * block.width(up)
    inner = 4 * rows * block.depth(down)
    if block.has(gate):
        gated = _biased(graph, block, gate, graph.compute(wide, source))
        raised = _biased(graph, block, up, graph.compute(wide, source))
        active = graph.compute(inner, gated, raised)
    elif inner < wide:  # gate and up in one
        active = graph.compute(inner, graph.compute(wide, source))
    else:
        active = graph.over(_biased(graph, block, up, graph.compute(wide, source)))
    return _biased(graph, block, down, graph.compute(4 * rows * graph.n_embd, active))


def _biased(graph: StepGraph, block: Block, weight: str, result: int) -> int:
    has_bias = block.has(weight.replace(".weight", ".bias"))
    return graph.over(result) if has_bias else result


def _experts(graph: StepGraph, block: Block, source: int, rows: int) -> int:
    chosen, weights = _route(graph, block, source, rows)
    used = graph.header.n_expert_used
    inner = 4 * rows * used * block.depth("ffn_down_exps.weight")
    read = graph.view(source)
    if block.has("ffn_gate_up_exps.weight"):
        both = graph.compute(2 * inner, read, chosen)
        active = graph.compute(inner, graph.view(both), graph.view(both))
    else:
        gated = graph.compute(inner, read, chosen)
        gated = _with_bias(graph, block, "ffn_gate_exps.bias", gated, chosen)
        raised = graph.compute(inner, read, chosen)
        raised = _with_bias(graph, block, "ffn_up_exps.bias", raised, chosen)
        active = graph.compute(inner, gated, raised)
    wide = graph.compute(4 * rows * used * graph.n_embd, active, chosen)
    wide = _with_bias(graph, block, "ffn_down_exps.bias", wide, chosen)
    return _summed(graph, graph.over(wide, weights), rows, used)


def _with_bias(graph: StepGraph, block: Block, name: str, result: int, chosen: int) -> int:
    return graph.over(result, chosen) if block.has(name) else result


def _summed(graph: StepGraph, weighted: int, rows: int, used: int) -> int:
    """The experts' results added up, one after the other."""
    parts = [graph.view(weighted) for _ in range(used)]
    if used == 1:
        return graph.compute(4 * rows * graph.n_embd, parts[0])
    total = graph.compute(4 * rows * graph.n_embd, parts[0], parts[1])
    for part in parts[2:]:
        total = graph.over(total, part)
    return total


def _route(graph: StepGraph, block: Block, source: int, rows: int) -> tuple[int, int]:
    """The experts chosen for each row, and their weights."""
    scores = 4 * rows * block.width("ffn_gate_inp.weight")
    weights_bytes = 4 * rows * graph.header.n_expert_used
    logits = graph.over(graph.compute(scores, source))
    if block.has("exp_probs_b.bias"):
        order = graph.compute(scores, graph.compute(scores, logits))
    else:
        order = graph.compute(scores, logits)
    chosen = graph.view(order)
    weights = graph.compute(weights_bytes, graph.view(logits), chosen)
    if graph.architecture in BY_SOFTMAX:
        return chosen, graph.view(graph.compute(weights_bytes, graph.view(weights)))
    if not _add_up(graph):
        return chosen, graph.view(weights)
    total = graph.compute(4 * rows, graph.view(weights))
    return chosen, graph.view(graph.over(graph.view(weights), total))


def _add_up(graph: StepGraph) -> bool:
    """The weights of a row's experts are divided by their sum."""
    name = graph.architecture
    if name in AS_THE_HEADER_SAYS:
        return bool(graph.header.metadata.get(f"{name}.expert_weights_norm", False))
    return name not in NEVER
