"""`python -m okno.inspect.hardware.engine_child`: what llama.cpp sees, as one line of JSON.

Runs in a process of its own (engine.py): nothing else may load llama.cpp or meet its drivers.
"""

from __future__ import annotations

import ctypes
import json
import sys
from importlib.metadata import version
from typing import Any

TYPES = ("cpu", "gpu", "igpu", "accel", "meta")  # enum ggml_backend_dev_type, ggml-backend.h


def main() -> None:
    import llama_cpp.llama_cpp as lib
    from llama_cpp import _ggml

    said = {
        "version": version("llama-cpp-python"),
        "system": lib.llama_print_system_info().decode(errors="replace").strip(),
        "devices": devices(_ggml.libggml),
    }
    sys.stdout.write(json.dumps(said) + "\n")


def devices(ggml: Any) -> list[dict[str, object]]:
    """Name, description, type, free and total bytes of each (ggml-backend.h)."""
    _declare(ggml)
    if ggml.ggml_backend_dev_count() == 0:  # a build whose backends are loaded at run time
        ggml.ggml_backend_load_all()
    return [_device(ggml, index) for index in range(ggml.ggml_backend_dev_count())]


def _declare(ggml: Any) -> None:
    device = [ctypes.c_void_p]
    ggml.ggml_backend_load_all.restype = None
    ggml.ggml_backend_dev_count.restype = ctypes.c_size_t
    ggml.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    ggml.ggml_backend_dev_get.restype = ctypes.c_void_p
    for name in ("name", "description"):
        function = getattr(ggml, f"ggml_backend_dev_{name}")
        function.argtypes, function.restype = device, ctypes.c_char_p
    ggml.ggml_backend_dev_type.argtypes = device
    ggml.ggml_backend_dev_type.restype = ctypes.c_int
    size = ctypes.POINTER(ctypes.c_size_t)
    ggml.ggml_backend_dev_memory.argtypes = [ctypes.c_void_p, size, size]
    ggml.ggml_backend_dev_memory.restype = None


def _device(ggml: Any, index: int) -> dict[str, object]:
    pointer = ggml.ggml_backend_dev_get(index)
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    ggml.ggml_backend_dev_memory(pointer, ctypes.byref(free), ctypes.byref(total))
    kind = ggml.ggml_backend_dev_type(pointer)
    return {
        "name": (ggml.ggml_backend_dev_name(pointer) or b"").decode(errors="replace"),
        "description": (ggml.ggml_backend_dev_description(pointer) or b"").decode(errors="replace"),
        "type": TYPES[kind] if 0 <= kind < len(TYPES) else "other",
        "free_bytes": free.value,
        "total_bytes": total.value,
    }


if __name__ == "__main__":
    main()
