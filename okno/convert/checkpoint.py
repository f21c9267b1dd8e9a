"""A checkpoint of safetensors files and config.json: every tensor read when it is asked for.

Values are read, not memory-mapped: a file that another program cuts short ends in an error that
can be said, not in a signal that kills the process, and what was read is not kept in memory. Where
each tensor lies was checked against the file's size when the headers were read
(okno/inspect/safetensors.py).
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from okno.core.errors import ModelNotFound, ModelUnusable
from okno.core.files import open_file
from okno.inspect.header_safetensors import Described, describe
from okno.inspect.paths import names_in
from okno.inspect.safetensors import INDEX, SINGLE, StoredTensor, only_weights
from okno.inspect.source import LocalSource
from okno.inspect.source_open import CONFIG

PICKLES = (".bin", ".pt", ".pth", ".ckpt")
# The types a checkpoint may store weights in, as numpy holds them: BF16 as the bits it consists of.
DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2"),
    "I64": np.dtype("<i8"), "I32": np.dtype("<i4"), "I16": np.dtype("<i2"), "I8": np.dtype("i1"),
    "U8": np.dtype("u1"), "BOOL": np.dtype("?"), "U16": np.dtype("<u2"), "U32": np.dtype("<u4"),
    "U64": np.dtype("<u8"),
}  # fmt: skip

Array = npt.NDArray[Any]


class Checkpoint:
    """A checkpoint in `folder`; may be read by several threads at once.

    Raises ModelNotFound, ModelUnusable: for a folder without weights that can be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.described = _described(folder)

    @property
    def tensors(self) -> dict[str, StoredTensor]:
        return self.described.weights.tensors

    def read(self, name: str) -> Array:
        """The whole tensor in its own shape; BF16 as uint16. Raises ModelUnusable."""
        stored = self._stored(name)
        return self._values(name, stored, 0, stored.n_values).reshape(stored.shape)

    def rows(self, name: str, first: int, count: int) -> Array:
        """`count` rows of the tensor seen as (rows, columns), where a row is its last dimension.
        Raises ModelUnusable."""
        stored = self._stored(name)
        columns = stored.shape[-1] if stored.shape else 1
        assert 0 <= first * columns <= (first + count) * columns <= stored.n_values, (name, first)
        return self._values(name, stored, first * columns, count * columns).reshape(count, columns)

    def mapped(self, name: str) -> Array:
        """The whole tensor without reading it: for a look at few of its rows. Raises ModelUnusable.

        Only safe while nobody cuts the file short.
        """
        stored = self._stored(name)
        if not stored.n_values:
            return np.empty(stored.shape, DTYPES[stored.dtype])
        path = self.folder / stored.part
        kind = DTYPES[stored.dtype]
        return np.memmap(path, kind, "r", stored.offset, stored.shape)

    def _stored(self, name: str) -> StoredTensor:
        stored = self.tensors.get(name)
        if stored is None:
            raise ModelUnusable(
                f"{self.folder} has no tensor {name!r}, which its model needs. Get the checkpoint "
                "again, all files of it."
            )
        if stored.dtype not in DTYPES:
            known = ", ".join(("F32", "F16", "BF16"))
            raise ModelUnusable(
                f"{self.folder / stored.part} stores {name!r} as {stored.dtype}, which cannot be "
                f"converted; {known}, GPTQ and AWQ can. Get the model in one of these, or as GGUF."
            )
        return stored

    def _values(self, name: str, stored: StoredTensor, first: int, count: int) -> Array:
        kind = DTYPES[stored.dtype]
        found: Array = np.empty(count, kind)
        path = self.folder / stored.part
        try:
            with open_file(path) as file:
                file.seek(stored.offset + first * kind.itemsize)
                got = file.readinto(found.view(np.uint8).data)
        except OSError as error:
            raise ModelUnusable(f"{path} cannot be read: {error.strerror}.") from None
        if got != found.nbytes:
            raise ModelUnusable(
                f"{path} was cut short while {name!r} was read. Get the file again."
            )
        return found


def model_name(folder: Path) -> str:
    """What the model in `folder` is called: its folder, or its repository in the cache of the hub
    (`models--owner--name/snapshots/revision`)."""
    path = folder.absolute()
    cached = path.parent.parent.name
    if path.parent.name == "snapshots" and cached.startswith("models--"):
        return cached.removeprefix("models--").rsplit("--", 1)[-1]
    return path.name or "model"


def _described(folder: Path) -> Described:
    names = names_in(folder)
    _check_format(folder, names)
    start = only_weights(names) or CONFIG
    if CONFIG not in names:
        raise ModelNotFound(
            f"{folder} has weights and no {CONFIG}, which says what model they are. Get that file "
            "from where the weights came from."
        )
    with closing(LocalSource(folder / start)) as source:
        return describe(source, model_name(folder))


def _check_format(folder: Path, names: list[str]) -> None:
    """Raises ModelUnusable for pickles, and for a folder without weights."""
    if any(name.endswith(".safetensors") for name in names) or INDEX in names:
        return
    pickles = sorted(name for name in names if name.endswith(PICKLES))
    if pickles:
        raise ModelUnusable(
            f"{folder} has its weights as {pickles[0]}, which is a pickle: a program that Python "
            "runs to read it, and that may do anything on this machine, so okno does not open it. "
            "Get the model as safetensors or GGUF (most publishers have both), or convert it where "
            "you trust the file: AutoModelForCausalLM.from_pretrained(folder)"
            ".save_pretrained(other_folder)."
        )
    raise ModelNotFound(f"{folder} has no weights: neither {SINGLE} nor {INDEX} nor a GGUF file.")
