"""llama.cpp's own account of a context's memory: bytes per kind of buffer.

`llama_get_memory_breakdown` (llama-ext.h) returns a std::map, so this reads the nodes of the C++
library's red-black tree. tests/engines/test_dry_run.py fails when the layout moves.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any

import llama_cpp.llama_cpp as lib

SYMBOL = "_Z26llama_get_memory_breakdownPK13llama_context"
MAX_KINDS = 64


class _GnuMap(ctypes.Structure):
    """std::map of libstdc++ (bits/stl_tree.h): comparator, header node, count."""

    _fields_ = (
        ("compare", ctypes.c_size_t),
        ("color", ctypes.c_size_t),
        ("root", ctypes.c_void_p),
        ("leftmost", ctypes.c_void_p),
        ("rightmost", ctypes.c_void_p),
        ("count", ctypes.c_size_t),
    )


class _AppleMap(ctypes.Structure):
    """std::map of libc++ (__tree): first node, root, count."""

    _fields_ = (
        ("first", ctypes.c_void_p),
        ("root", ctypes.c_void_p),
        ("count", ctypes.c_size_t),
    )


_VALUE = (
    ("kind", ctypes.c_void_p),
    ("model", ctypes.c_size_t),
    ("context", ctypes.c_size_t),
    ("compute", ctypes.c_size_t),
)


class _GnuNode(ctypes.Structure):
    _fields_ = (
        ("color", ctypes.c_size_t),
        ("parent", ctypes.c_void_p),
        ("left", ctypes.c_void_p),
        ("right", ctypes.c_void_p),
        *_VALUE,
    )


class _AppleNode(ctypes.Structure):
    _fields_ = (
        ("left", ctypes.c_void_p),
        ("right", ctypes.c_void_p),
        ("parent", ctypes.c_void_p),
        ("is_black", ctypes.c_size_t),
        *_VALUE,
    )


def breakdown(context: Any) -> dict[str, tuple[int, int, int]]:
    """Bytes of (model, context, compute) by the buffer's kind: `CPU`, `CPU_REPACK`, `CUDA0`.

    Raises OSError where the engine does not offer it.
    """
    function, node_type = _function()
    name_of = _name_function()
    found = function(context)
    return {
        name_of(node.kind).decode(): (node.model, node.context, node.compute)
        for node in _nodes(found.root, node_type)
    }


def _nodes(root: int | None, node_type: Any) -> Iterator[Any]:
    """Every node below `root`, which may be 0. Few: bounded against a moved layout."""
    waiting, seen = [root], 0
    while waiting:
        address = waiting.pop()
        if not address:
            continue
        seen += 1
        if seen > MAX_KINDS:
            raise OSError(f"{SYMBOL} returned more than {MAX_KINDS} kinds of buffers")
        node = node_type.from_address(address)
        waiting += [node.left, node.right]
        yield node


@cache
def _function() -> tuple[Any, Any]:
    map_type, node_type = (
        (_AppleMap, _AppleNode) if sys.platform == "darwin" else (_GnuMap, _GnuNode)
    )
    library = ctypes.CDLL(lib._lib._name)
    try:
        function = library[SYMBOL]
    except AttributeError as error:
        raise OSError(f"this build of llama.cpp has no {SYMBOL}") from error
    function.argtypes = [ctypes.c_void_p]
    function.restype = map_type
    return function, node_type


@cache
def _name_function() -> Any:
    from llama_cpp import _ggml

    function = _ggml.libggml.ggml_backend_buft_name
    function.argtypes = [ctypes.c_void_p]
    function.restype = ctypes.c_char_p
    return function
