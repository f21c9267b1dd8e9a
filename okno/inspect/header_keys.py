"""Values of a GGUF header by key, as llama.cpp takes them: one number, or one per layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from okno.core.errors import ModelUnusable
from okno.inspect.gguf import Value

MAX_LAYERS = 512  # LLAMA_MAX_LAYERS in llama.cpp's llama-hparams.h
MAX_NUMBER = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Keys:
    """The values of a header under `architecture.`; where: for messages."""

    where: str
    values: Mapping[str, Value]
    architecture: str

    @property
    def n_layer(self) -> int:
        """All blocks. Raises ModelUnusable for an impossible number of them."""
        found = self.needed("block_count")
        if not 0 < found <= MAX_LAYERS:
            raise self._odd("block_count", found)
        return found

    @property
    def n_next(self) -> int:
        """Blocks at the end that only predict further tokens: they keep nothing."""
        return min(self.number("nextn_predict_layers"), self.n_layer)

    def number(self, key: str, default: int = 0) -> int:
        """One number; the first of an array."""
        found = self.values.get(self.full(key), default)
        if isinstance(found, tuple):
            found = found[0] if found else default
        return self._whole(key, found)

    def needed(self, key: str) -> int:
        """Raises ModelUnusable when it is missing."""
        if self.full(key) not in self.values:
            raise ModelUnusable(
                f"The header of {self.where} does not say its {self.full(key)}, so it cannot be "
                "planned or loaded. Is it a whole language model?"
            )
        return self.number(key)

    def has(self, key: str) -> bool:
        return self.full(key) in self.values

    def per_layer(self, key: str, default: int = 0) -> list[int]:
        """One number for each block, whether stored once or as an array
        (llama-model-loader.cpp, get_key_or_arr)."""
        found = self.values.get(self.full(key), default)
        if not isinstance(found, tuple):
            return [self._whole(key, found)] * self.n_layer
        if len(found) < self.n_layer:
            raise self._odd(key, len(found))
        return [self._whole(key, value) for value in found[: self.n_layer]]

    def flags(self, key: str) -> list[bool] | None:
        """One flag for each block; None when it is missing or no array."""
        if not isinstance(self.values.get(self.full(key)), tuple):
            return None
        return [bool(value) for value in self.per_layer(key)]

    def full(self, key: str) -> str:
        return f"{self.architecture}.{key}"

    def _whole(self, key: str, found: Value) -> int:
        if not isinstance(found, int) or not 0 <= found <= MAX_NUMBER:
            raise self._odd(key, found)
        return int(found)

    def _odd(self, key: str, found: Value) -> ModelUnusable:
        shown = repr(found)[:80]
        return ModelUnusable(
            f"The header of {self.where} gives {shown} for {self.full(key)}, which cannot be. "
            "The file is damaged or of a kind this version does not know."
        )
