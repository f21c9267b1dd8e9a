"""Keep llama.cpp off Intel's AMX tiles, where a widespread compiler bug makes it crash.

GCC before 11.5, 12.4 and 13.3 tells its optimiser that `ldtilecfg` reads 8 bytes instead of 64
(gcc PR 114098), drops the stores that fill the tile configuration, and the first product of a
quantised weight dies of a general protection fault (llama.cpp issue 20824). llama-cpp-python is
compiled on the user's machine, so on an AMX machine with such a compiler (Debian 12 has one) no
quantised model answers at all. Without AMX llama.cpp uses its AVX-512 kernels.

llama.cpp asks the kernel for AMX once. Linux refuses it (arch/x86/kernel/fpu/xstate.c,
validate_sigaltstack) to a process with a signal stack too small for the tile registers, so we
hold one up while llama.cpp asks. Set OKNO_AMX=1 to let it have AMX after all.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SMALL_STACK_BYTES = 8192  # AVX-512 frames fit (about 3.6 kB), those with tiles (11 kB) do not.
CPU_DEVICE = 0  # ggml-backend.h, GGML_BACKEND_DEVICE_TYPE_CPU


class _Stack(ctypes.Structure):
    """stack_t of sigaltstack(2)."""

    _fields_ = (
        ("start", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("size", ctypes.c_size_t),
    )


def machine_has_amx(cpuinfo: str | None = None) -> bool:
    """Whether this Linux machine offers AMX tiles; `cpuinfo` stands in for /proc/cpuinfo."""
    if cpuinfo is None:
        if platform.system() != "Linux" or platform.machine() != "x86_64":
            return False
        cpuinfo = Path("/proc/cpuinfo").read_text()
    return any("amx_tile" in line.split() for line in cpuinfo.splitlines() if "flags" in line)


def refuse_amx() -> bool:
    """Make llama.cpp do without AMX in this process; call it before the first model is loaded.

    Returns whether anything had to be done. Does nothing on other machines, or with OKNO_AMX=1.
    """
    if os.environ.get("OKNO_AMX") == "1" or not machine_has_amx():
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    before, memory = _Stack(), ctypes.create_string_buffer(SMALL_STACK_BYTES)
    small = _Stack(ctypes.addressof(memory), 0, SMALL_STACK_BYTES)
    if libc.sigaltstack(ctypes.byref(small), ctypes.byref(before)) != 0:
        return False
    try:
        with _silent_stderr():  # it says there that it was refused
            _ask_for_weight_buffers()
    finally:
        libc.sigaltstack(ctypes.byref(before), None)
    return True


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """File descriptor 2 leads nowhere for a moment: what C code writes there is not seen."""
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _ask_for_weight_buffers() -> None:
    """Have llama.cpp list the CPU's weight layouts: it asks for AMX then and keeps the answer."""
    from llama_cpp import _ggml

    ggml = _ggml.libggml
    for name in ("ggml_backend_dev_by_type", "ggml_backend_dev_backend_reg"):
        getattr(ggml, name).restype = ctypes.c_void_p
    ggml.ggml_backend_reg_get_proc_address.restype = ctypes.c_void_p
    device = ctypes.c_void_p(ggml.ggml_backend_dev_by_type(CPU_DEVICE))
    registry = ctypes.c_void_p(ggml.ggml_backend_dev_backend_reg(device))
    address = ggml.ggml_backend_reg_get_proc_address(registry, b"ggml_backend_dev_get_extra_bufts")
    if address:
        ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(address)(device)
