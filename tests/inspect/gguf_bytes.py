"""GGUF headers byte by byte, sound or not, for tests."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field


@dataclass
class Header:
    """A GGUF header to be. Pairs and tensors are appended in order; any number may lie."""

    order: str = "<"
    version: int = 3
    magic: bytes = b"GGUF"
    n_pairs: int | None = None
    n_tensors: int | None = None
    pairs: list[bytes] = field(default_factory=list)
    tensors: list[bytes] = field(default_factory=list)

    def number(self, code: str, value: int | float) -> bytes:
        return struct.pack(self.order + code, value)

    def text(self, text: str | bytes) -> bytes:
        data = text.encode() if isinstance(text, str) else text
        return self.number("Q", len(data)) + data

    def pair(self, key: str | bytes, kind: int, value: bytes) -> Header:
        self.pairs.append(self.text(key) + self.number("I", kind) + value)
        return self

    def u32(self, key: str, value: int) -> Header:
        return self.pair(key, 4, self.number("I", value))

    def string(self, key: str, value: str) -> Header:
        return self.pair(key, 8, self.text(value))

    def array(self, key: str, kind: int, count: int, items: bytes) -> Header:
        return self.pair(key, 9, self.number("I", kind) + self.number("Q", count) + items)

    def words(self, key: str, *words: str) -> Header:
        return self.array(key, 8, len(words), b"".join(map(self.text, words)))

    def tensor(
        self, name: str, dimensions: tuple[int, ...], kind: int = 0, offset: int = 0,
        n_dimensions: int | None = None,
    ) -> Header:  # fmt: skip
        count = len(dimensions) if n_dimensions is None else n_dimensions
        sizes = b"".join(self.number("Q", size) for size in dimensions)
        place = self.number("I", kind) + self.number("Q", offset)
        self.tensors.append(self.text(name) + self.number("I", count) + sizes + place)
        return self

    def bytes(self, data_bytes: int = 0) -> bytes:
        """The header, padded to 32, with data_bytes of zeros behind."""
        counts = (
            len(self.tensors) if self.n_tensors is None else self.n_tensors,
            len(self.pairs) if self.n_pairs is None else self.n_pairs,
        )
        start = self.magic + self.number("I", self.version)
        start += b"".join(self.number("Q", count) for count in counts)
        made = start + b"".join(self.pairs) + b"".join(self.tensors)
        return made + bytes(-len(made) % 32) + bytes(data_bytes)


def llama(order: str = "<", version: int = 3, n_layer: int = 2) -> Header:
    """A small but whole llama header: 2 layers, a vocabulary of 3 words."""
    made = Header(order, version).string("general.architecture", "llama")
    made.string("general.name", "small")
    for key, value in (
        ("context_length", 512), ("embedding_length", 64), ("block_count", n_layer),
        ("feed_forward_length", 128), ("attention.head_count", 4),
        ("attention.head_count_kv", 2),
    ):  # fmt: skip
        made.u32(f"llama.{key}", value)
    made.u32("general.file_type", 15)
    made.words("tokenizer.ggml.tokens", "a", "bc", "")
    made.array("tokenizer.ggml.scores", 6, 3, bytes(12))
    made.pair("tokenizer.ggml.add_bos_token", 7, b"\x01")
    made.tensor("token_embd.weight", (64, 3), 0, 0)
    made.tensor("output.weight", (64, 3), 8, 768)
    return made


LLAMA_DATA_BYTES = 768 + 224  # 64 x 3 x 4, then 6 blocks of 34 bytes, padded to 32
