"""The compute buffer: the graph of a step, built from the header, and its peak.

The order of tensors follows src/llama-graph.cpp and src/models/*.cpp of llama.cpp. Which parts a
layer has is read from the names of its tensors, so architectures built of the same parts need no
code of their own. Layers that repeat are computed a few times only: the peak is reached by then.
"""

from __future__ import annotations

from collections import defaultdict

from okno.core.header import ModelHeader, TensorInfo
from okno.plan.memory_attention import Attention
from okno.plan.memory_blocks import Block, StepGraph
from okno.plan.memory_experts import feed_forward
from okno.plan.memory_recurrent import recurrent
from okno.plan.memory_sizes import Sizes

REPEATS = 3  # layers of one kind in a row that are computed
RESIDUAL_FIRST = ("lfm2", "lfm2moe")  # the first operand of a sum is written over
FEED_FORWARD_SECOND = ("lfm2", "lfm2moe", "phi3", "phimoe")
# Where a prediction head may read every row's state, the rows without logits are dropped only after
# the last layer, or only after the norm behind it, and that state is kept to the end.
OUTPUTS_LAST = ("gpt-oss", "step35")
OUTPUTS_AFTER_NORM = (
    "qwen3next", "qwen35", "qwen35moe", "gemma4", "hy_v3", "cohere2moe", "bailingmoe3",
    "nemotron_h", "nemotron_h_moe",
)  # fmt: skip


def blocks_of(header: ModelHeader) -> tuple[Block, ...]:
    """The layers with what decides their scratch memory."""
    tensors: dict[int, dict[str, TensorInfo]] = defaultdict(dict)
    for tensor in header.tensors:
        prefix, _, rest = tensor.name.partition(".")
        number, _, name = rest.partition(".")
        if prefix == "blk" and number.isdigit():
            tensors[int(number)][name] = tensor
    return tuple(
        Block(header.layers[index], tensors.get(index, {}), header.architecture)
        for index in range(len(header.layers))
    )


def compute_bytes(header: ModelHeader, blocks: tuple[Block, ...], sizes: Sizes) -> int:
    """Bytes of the compute buffer the engine reserves on the CPU."""
    chosen = _chosen(blocks)
    graph = StepGraph(header, sizes, chosen)
    current = _embed(graph)
    attention = Attention(graph)
    graph.load_state(0)
    for index, block in enumerate(chosen):
        current = _layer(graph, attention, index, block, current)
    _head(graph, current)
    return graph.peak_bytes()


def _chosen(blocks: tuple[Block, ...]) -> tuple[Block, ...]:
    """The first few of every run of like layers, and the last layer."""
    chosen: list[Block] = []
    run = 0
    for index, block in enumerate(blocks):
        run = run + 1 if index and block.kind == blocks[index - 1].kind else 1
        if run <= REPEATS or index == len(blocks) - 1:
            chosen.append(block)
    return tuple(chosen)


def _embed(graph: StepGraph) -> int:
    """Rows of the embedding table; BERT adds position and type, then normalises."""
    embedded = graph.rows(graph.n_embd, graph.tokens)
    names = graph.top_names
    if graph.architecture.startswith("gemma"):
        embedded = graph.over(embedded)
    if "position_embd.weight" in names:
        embedded = graph.over(graph.rows(graph.n_embd, graph.positions), graph.over(embedded))
    elif "token_types.weight" in names:
        embedded = graph.over(embedded)
    if "token_embd_norm.weight" in names and "token_embd_norm.bias" in names:
        embedded = graph.over(graph.norm(embedded))
    return embedded


def _layer(graph: StepGraph, attention: Attention, index: int, block: Block, before: int) -> int:
    last = index == len(graph.blocks) - 1
    if block.normalises_after:
        mixed = attention.compute(block, before)
    else:
        normed = graph.norm(before)
        if block.is_recurrent:
            mixed = recurrent(graph, index, block, normed)
        else:
            mixed = attention.compute(block, normed, then=lambda: graph.load_state(index + 1))
        if block.has("post_ffw_norm.weight") and block.has("post_attention_norm.weight"):
            mixed = graph.over(graph.over(mixed))
    if last and graph.architecture not in (*OUTPUTS_LAST, *OUTPUTS_AFTER_NORM):
        mixed, before = graph.output_rows(mixed), graph.output_rows(before)
    first = graph.architecture in RESIDUAL_FIRST
    joined = graph.add(before, mixed) if first else graph.add(mixed, before)
    if not block.has_feed_forward:
        return joined
    if block.normalises_after:
        normed = graph.over(graph.norm(joined))
        return graph.over(graph.norm(graph.add(feed_forward(graph, block, normed), normed)))
    result = feed_forward(graph, block, graph.norm(joined))
    if block.has("post_ffw_norm.weight"):
        result = graph.over(graph.over(result))
    first = graph.architecture in FEED_FORWARD_SECOND
    return graph.add(joined, result) if first else graph.add(result, joined)


def _head(graph: StepGraph, current: int) -> None:
    if graph.architecture in OUTPUTS_LAST:
        graph.keep(current)
        current = graph.output_rows(current)
    if graph.sizes.embeds:
        _pool(graph, current)
        return
    normed = graph.over(graph.over(current), kept=True)
    if graph.architecture in OUTPUTS_AFTER_NORM:
        normed = graph.output_rows(normed)
        graph.keep(normed)
    graph.compute(4 * graph.header.n_vocab * graph.sizes.outputs, normed, kept=True)


def _pool(graph: StepGraph, current: int) -> None:
    """Mean pooling is a product with a matrix of (rows, sequences); cls and last pick a row."""
    pooling = graph.header.metadata.get(f"{graph.architecture}.pooling_type", 0)
    kept = graph.over(current, kept=True)
    if pooling == 1:
        mean = graph.input(4 * graph.sizes.rows * graph.sizes.n_seq)
        turned = graph.compute(4 * graph.n_embd * graph.sizes.outputs, graph.view(kept))
        graph.compute(4 * graph.n_embd * graph.sizes.n_seq, turned, mean, kept=True)
