"""What a GGUF field of a converted model holds, as plain Python values."""

from __future__ import annotations

# Written as: bool BOOL, int UINT32, float FLOAT32, str STRING, bytes an array of UINT8, a tuple of
# texts an array of STRING, of whole numbers an array of INT32, of floats an array of FLOAT32.
Field = str | bool | int | float | bytes | tuple[str, ...] | tuple[int, ...] | tuple[float, ...]
