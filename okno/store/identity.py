"""Names of model files and texts by what is in them, for what was learnt of them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from okno.core.errors import ModelUnusable
from okno.core.files import open_file

HEAD_BYTES = 1 << 20
SAMPLES = 64
SAMPLE_BYTES = 4096


def model_identity(path: Path) -> str:
    """16 hex digits of a model file: its size, its first MiB (the header) and 64 samples of its
    weights. Milliseconds for a file of any size; a copy or a new name has the same identity,
    another quantisation or fine-tune another one. Raises ModelUnusable when it cannot be read."""
    try:
        size = path.stat().st_size
        digest = hashlib.sha256(size.to_bytes(8, "little"))
        with open_file(path) as file:
            digest.update(file.read(HEAD_BYTES))
            for number in range(SAMPLES):
                file.seek(max(0, size - SAMPLE_BYTES) * number // max(1, SAMPLES - 1))
                digest.update(file.read(SAMPLE_BYTES))
    except OSError as error:
        reason = error.strerror or str(error)
        raise ModelUnusable(f"{path} cannot be read: {reason}. Check the path.") from None
    return digest.hexdigest()[:16]


def text_identity(text: str) -> str:
    """16 hex digits of a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
