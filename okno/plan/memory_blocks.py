"""A layer as the memory of a step sees it, and the graph that layers are added to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from okno.core.header import Layer, ModelHeader, TensorInfo
from okno.plan.memory_graph import Graph
from okno.plan.memory_sizes import Sizes

POST_NORM = ("bert", "nomic-bert", "jina-bert-v2", "nomic-bert-moe", "jina-bert-v3")


@dataclass(frozen=True)
class Block:
    """A layer and its tensors by their names within it (`attn_q.weight`)."""

    layer: Layer
    tensors: Mapping[str, TensorInfo]
    architecture: str

    def has(self, name: str) -> bool:
        return name in self.tensors

    def width(self, name: str) -> int:
        """Values a projection gives per row (ne1); 0 without that tensor."""
        tensor = self.tensors.get(name)
        return tensor.dimensions[1] if tensor and len(tensor.dimensions) > 1 else 0

    def depth(self, name: str) -> int:
        """Values a projection takes (ne0); 0 without that tensor."""
        tensor = self.tensors.get(name)
        return tensor.dimensions[0] if tensor and tensor.dimensions else 0

    @cached_property
    def kind(self) -> tuple[object, ...]:
        """Layers of one kind need the same scratch memory."""
        shapes = frozenset((name, t.dimensions) for name, t in self.tensors.items())
        return (self.layer, shapes)

    @property
    def is_recurrent(self) -> bool:
        return self.layer.state_width > 0

    @property
    def normalises_after(self) -> bool:
        """BERT normalises after each part instead of before it."""
        return self.architecture in POST_NORM

    @property
    def has_feed_forward(self) -> bool:
        return any(name.startswith("ffn_down") for name in self.tensors)


class StepGraph(Graph):
    """The graph of one step of `sizes` through `blocks`, with the inputs every step has."""

    def __init__(self, header: ModelHeader, sizes: Sizes, blocks: tuple[Block, ...]) -> None:
        super().__init__()
        self.header, self.sizes, self.blocks = header, sizes, blocks
        self.n_embd, self.architecture = header.n_embd, header.architecture
        self.top_names = frozenset(t.name for t in header.tensors if not t.name.startswith("blk."))
        self.tokens = self.input(4 * sizes.rows)
        self.input(4 * self.n_embd * sizes.rows)  # vectors instead of tokens: never read
        attends = any(block.layer.n_head for block in blocks)
        self.positions = self.input(4 * sizes.rows if attends else 0)
        self._output_ids: int | None = None
        self._state_ids = self.input(4 * sizes.n_seq) if header.is_recurrent else 0
        self._states: dict[int, int] = {}

    def rows(self, width: int, *sources: int) -> int:
        """`width` float32 values for every row of the step."""
        return self.compute(4 * width * self.sizes.rows, *sources)

    def rows_of(self, source: int) -> int:
        """Rows of a result that has n_embd values each."""
        return self._nodes[self._root(source)].n_bytes // (4 * self.n_embd)

    def norm(self, source: int) -> int:
        """Normalised and scaled, not over its source: that is read again."""
        root = self._root(source)
        n_bytes = self._nodes[root].n_bytes
        return self.over(self.compute(n_bytes, source, over=(source,)))

    def output_rows(self, source: int) -> int:
        """Only the rows whose logits are wanted."""
        if self._output_ids is None:
            self._output_ids = self.input(4 * self.sizes.outputs)
        return self.compute(4 * self.n_embd * self.sizes.outputs, source, self._output_ids)

    def add(self, first: int, second: int) -> int:
        """A sum, written over the first operand that nobody else reads."""
        n_bytes = self._nodes[self._root(first)].n_bytes
        return self.compute(n_bytes, first, second, over=(first, second))

    def load_state(self, index: int) -> None:
        """Read the convolution state of layer `index`, if it has one: the graph does so before
        it finishes the layer before."""
        if index < len(self.blocks) and self.blocks[index].is_recurrent:
            n_bytes = 4 * convolution_width(self.blocks[index]) * self.sizes.n_seq
            self._states[index] = self.compute(n_bytes, self._state_ids)

    def state(self, index: int) -> int:
        """The state read by `load_state`, read now if nobody did."""
        if index not in self._states:
            self.load_state(index)
        return self._states.pop(index)


def convolution_width(block: Block) -> int:
    """Values of convolution state per sequence (n_embd_r in llama-hparams.cpp)."""
    for name in ("ssm_conv1d.weight", "shortconv.conv.weight"):
        if block.has(name):
            return (block.depth(name) - 1) * block.width(name)
    return block.layer.state_width
