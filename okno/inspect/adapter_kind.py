"""Whether what looks like a model is an adapter: seen in the beginning of a file, or by its
files.
"""

from __future__ import annotations

import struct

from okno.core.commands import quoted
from okno.core.errors import ModelUnusable
from okno.core.files import read_file
from okno.inspect.listing import Checkpoint, LocalModel

FIRST_BYTES = 64 * 1024  # an adapter has no vocabulary: all of its values are in these
KEY, VALUE, TEXT = b"general.type", b"adapter", 8  # 8: gguf_metadata_value_type of a string
MARKS = tuple(
    struct.pack(f"{order}Q", len(KEY)) + KEY + struct.pack(f"{order}IQ", TEXT, len(VALUE)) + VALUE
    for order in "<>"
)
PEFT = "adapter_config.json"


def is_adapter(found: LocalModel | Checkpoint) -> bool:
    """A GGUF file that says so, or a folder that PEFT saved. What cannot be read is none."""
    try:
        if isinstance(found, Checkpoint):
            return (found.path / PEFT).is_file() and not (found.path / "config.json").is_file()
        first = read_file(found.path, FIRST_BYTES)
    except OSError:
        return False
    return any(mark in first for mark in MARKS)


def no_model(found: LocalModel | Checkpoint) -> ModelUnusable:
    """Why an adapter cannot be loaded as a model."""
    return ModelUnusable(
        f"{found.path} is a LoRA adapter, a change to a model and no model itself. Give the model "
        f"it was trained on to --model, and this with `--lora {quoted(found.path)}`."
    )
