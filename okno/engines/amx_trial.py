"""Try llama.cpp's AMX kernels where a crash costs nothing: in a forked child.

The child does what may kill it and is gone; this process has not asked llama.cpp for AMX yet. It
has registered the accelerators: a fork has no use of CUDA after that (any call ends it), so the
child is given none. Linux only, as AMX is; some 30 ms, and for a model what reading its header
takes.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import resource
import signal
from collections.abc import Callable
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import NoReturn

import llama_cpp._ggml as _ggml_library
import llama_cpp.llama_cpp as lib

TIMEOUT_S = 60
SIDE, ROWS = 64, 32  # of the product that is tried: a matrix of SIDE x SIDE, and two tiles of rows
F32, Q8_0 = 0, 8  # enum ggml_type (ggml.h)
SCRATCH_BYTES = 1 << 20
CPU_DEVICE = 0  # ggml-backend.h, GGML_BACKEND_DEVICE_TYPE_CPU
EXTRA_LAYOUTS = b"ggml_backend_dev_get_extra_bufts"
LONG = ctypes.c_int64
NO_DEVICES = ctypes.c_void_p()  # a list that ends at once


def survives(job: Callable[[], None]) -> bool:
    """Whether a copy of this process lives through `job`. What the job raises does not count: it
    comes again, with its words, when the same is done in earnest. A trial that could not be made or
    whose end is not known (no process or file is left for it, SIGCHLD is ignored) has failed."""
    try:
        child = os.fork() or _end_after(job)
        _, status = os.waitpid(child, 0)
    except OSError:
        return False
    return status == 0


def _end_after(job: Callable[[], None]) -> NoReturn:
    try:
        _alone()
        with suppress(Exception):
            job()
        os._exit(0)
    finally:
        os._exit(1)


def _alone() -> None:
    """Say nothing, leave no core file, end in time."""
    faulthandler.disable()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(TIMEOUT_S)


class _InitParams(ctypes.Structure):
    """ggml_init_params of ggml.h."""

    _fields_ = (
        ("mem_size", ctypes.c_size_t),
        ("mem_buffer", ctypes.c_void_p),
        ("no_alloc", ctypes.c_bool),
    )


def multiply() -> None:
    """One product with a quantised matrix, in tiles where llama.cpp has them."""
    scratch = _ggml("ggml_init", _InitParams(SCRATCH_BYTES, None, True))
    matrix = _ggml("ggml_new_tensor_2d", scratch, Q8_0, LONG(SIDE), LONG(SIDE))
    rows = _ggml("ggml_new_tensor_2d", scratch, F32, LONG(SIDE), LONG(ROWS))
    product = _ggml("ggml_mul_mat", scratch, matrix, rows)
    n_bytes = SIDE * SIDE // 32 * 34  # Q8_0: 34 bytes for 32 numbers
    held = _ggml("ggml_backend_buft_alloc_buffer", _tiles(), LONG(2 * n_bytes))
    _ggml("ggml_backend_tensor_alloc", held, matrix, _ggml("ggml_backend_buffer_get_base", held))
    plain = _ggml("ggml_backend_cpu_buffer_type")
    _ggml("ggml_backend_alloc_ctx_tensors_from_buft", scratch, plain)
    zeros = ctypes.create_string_buffer(n_bytes)
    _ggml("ggml_backend_tensor_set", matrix, zeros, LONG(0), LONG(n_bytes))
    graph = _ggml("ggml_new_graph", scratch)
    _ggml("ggml_build_forward_expand", graph, product)
    backend = _ggml("ggml_backend_cpu_init")
    _ggml("ggml_backend_cpu_set_n_threads", backend, 1)
    _ggml("ggml_backend_graph_compute", backend, graph)


def plan_graph(model: Path) -> None:
    """Lay out `model`, without its weights, and plan a step of it. llama.cpp gives tensors to the
    AMX layout that some architectures use in ways it cannot compute (MLA's `attn_k_b`: an assert
    in ggml_backend_sched_split_graph)."""
    loading = lib.llama_model_default_params()
    loading.no_alloc = True
    loading.load_mode = lib.LLAMA_LOAD_MODE_NONE
    loading.devices = ctypes.addressof(NO_DEVICES)
    loaded = lib.llama_model_load_from_file(str(model).encode(), loading)
    if not loaded:
        return
    params = lib.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = ROWS
    params.n_threads = params.n_threads_batch = 1  # OpenMP's threads do not outlive a fork
    lib.llama_init_from_model(loaded, params)


def weight_layouts() -> list[ctypes.c_void_p]:
    """The CPU's own layouts of weights (buffer types). llama.cpp asks for AMX at the first call in
    a process, and keeps the answer."""
    device = _ggml("ggml_backend_dev_by_type", CPU_DEVICE)
    registry = _ggml("ggml_backend_dev_backend_reg", device)
    listing = _ggml("ggml_backend_reg_get_proc_address", registry, EXTRA_LAYOUTS)
    if not listing.value:
        return []
    found = ctypes.CFUNCTYPE(ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p)(listing.value)(
        device
    )
    return [ctypes.c_void_p(address) for address in takewhile(bool, found)]


def _tiles() -> ctypes.c_void_p:
    """The AMX layout; where there is none the trial is over, and passed."""
    for layout in weight_layouts():
        if ctypes.string_at(_ggml("ggml_backend_buft_name", layout).value or 0) == b"AMX":
            return layout
    os._exit(0)


def _ggml(name: str, *values: object) -> ctypes.c_void_p:
    """Call a function of ggml that llama-cpp-python has no prototype for and that gives a pointer
    (or nothing)."""
    function = _ggml_library.libggml[name]  # another object each time: its prototype is ours alone
    function.restype = ctypes.c_void_p
    return ctypes.c_void_p(function(*values))
