"""Scratch memory of recurrent layers (src/models/mamba-base.cpp, lfm2.cpp)."""

from __future__ import annotations

from okno.plan.memory_blocks import Block, StepGraph, convolution_width


def recurrent(graph: StepGraph, index: int, block: Block, source: int) -> int:
    """The output of a state-space or convolution layer. Other kinds (RWKV, delta nets) are
    approximated by a state-space layer of their sizes."""
    if block.has("shortconv.in_proj.weight"):
        return _short_convolution(graph, index, block, source)
    return _state_space(graph, index, block, source)


def _state_space(graph: StepGraph, index: int, block: Block, source: int) -> int:
    """Mamba-2: project, convolve, scan, gate, normalise, project."""
    sizes = graph.sizes
    inner = block.depth("ssm_out.weight") or 2 * graph.n_embd
    mixed = block.width("ssm_conv1d.weight") or inner
    heads = block.width("ssm_a") or 1
    state = graph.state(index)
    projected = graph.view(graph.rows(block.width("ssm_in.weight"), source))
    convolved = _convolve(graph, block, state, graph.view(projected), mixed)
    steps = graph.over(graph.rows(heads, graph.view(projected)))
    scanned_bytes = 4 * (inner * sizes.rows + _state_values(block) * sizes.n_seq)
    convolved_x = graph.view(convolved)
    scanned = graph.compute(scanned_bytes, convolved_x, steps)
    graph.write(graph.view(scanned))
    graph.load_state(index + 1)
    gate = graph.rows(inner, graph.view(projected))
    skipped = graph.rows(inner, convolved_x)
    seen = graph.view(scanned)
    added = graph.compute(4 * inner * sizes.rows, seen, skipped, over=(seen, skipped))
    gated = graph.rows(inner, gate, added)
    if block.has("ssm_norm.weight"):
        gated = graph.over(graph.over(graph.view(gated)))
    return graph.rows(graph.n_embd, graph.view(gated))


def _convolve(graph: StepGraph, block: Block, state: int, part: int, mixed: int) -> int:
    """The convolution over what the state remembers and the new rows; bias and SiLU in place."""
    values = convolution_width(block) * graph.sizes.n_seq + mixed * graph.sizes.rows
    joined = graph.compute(4 * values, graph.view(state), graph.view(part))
    graph.write(graph.view(joined))
    return graph.over(graph.over(graph.rows(mixed, joined)))


def _state_values(block: Block) -> int:
    return block.layer.state_width - convolution_width(block)


def _short_convolution(graph: StepGraph, index: int, block: Block, source: int) -> int:
    """LFM2: two gates around a short convolution."""
    state = graph.state(index)
    projected = graph.rows(block.width("shortconv.in_proj.weight"), graph.view(source))
    gate_in, signal, gate_out = (graph.view(projected) for _ in range(3))
    gated = graph.rows(graph.n_embd, gate_in, signal)
    values = convolution_width(block) * graph.sizes.n_seq + graph.n_embd * graph.sizes.rows
    joined = graph.compute(4 * values, graph.view(state), graph.view(gated))
    graph.write(graph.view(joined))
    graph.load_state(index + 1)
    convolved = graph.rows(graph.n_embd, joined)
    result = graph.over(convolved, gate_out)
    return graph.view(graph.rows(graph.n_embd, result))
