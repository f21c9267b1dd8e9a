"""Intel's AMX tiles for llama.cpp: used where they work, kept from it where it would crash.

Most steps are shorter with them, 0.4 to 1.2 times as long (docs/benchmarks/amx.md). Two things can
go wrong:

* GCC before 11.5, 12.4 and 13.3 tells its optimiser that `ldtilecfg` reads 8 bytes instead of 64
  (gcc PR 114098), drops the stores that fill the tile configuration, and the first product of a
  quantised weight dies of a general protection fault (llama.cpp issue 20824). okno's pyproject.toml
  has uv compile llama-cpp-python without the pass that does it; an engine compiled otherwise may
  still have the fault.
* llama.cpp gives some architectures' tensors to the AMX layout and cannot use them there.

Both are tried in a child (amx_trial.py) before a model is loaded. Without AMX llama.cpp uses its
AVX-512 kernels.

llama.cpp asks the kernel for AMX once per process. Linux refuses it (arch/x86/kernel/fpu/xstate.c,
validate_sigaltstack) to a process with a signal stack too small for the tile registers, so we
hold one up while llama.cpp asks. OKNO_AMX=0 keeps AMX off, OKNO_AMX=1 leaves the trials out.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from okno.engines.amx_trial import multiply, plan_graph, survives, weight_layouts
from okno.inspect.cpu import machine_has_amx

SMALL_STACK_BYTES = 8192  # AVX-512 frames fit (about 3.6 kB), those with tiles (11 kB) do not.


class _Stack(ctypes.Structure):
    """stack_t of sigaltstack(2)."""

    _fields_ = (
        ("start", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("size", ctypes.c_size_t),
    )


_granted: bool | None = None  # whether llama.cpp may ask for AMX here; None: not settled yet


def settle_amx(model: Path) -> bool:
    """Before `model` is loaded: let llama.cpp have AMX in this process, or not.

    The first model settles it. Returns whether this one's weights may be laid out for the processor
    (`use_extra_bufts`): not where a later model cannot do with what an earlier one settled.
    """
    global _granted
    if _granted is False or not machine_has_amx():
        return True
    sound = _sound(model)
    if _granted is None:
        _granted = sound
        if not sound:
            _refuse()
        return True
    return sound


def _sound(model: Path) -> bool:
    asked = os.environ.get("OKNO_AMX")
    if asked in ("0", "1"):
        return asked == "1"
    return _kernels_work() and _can_use_them(model)


@cache
def _kernels_work() -> bool:
    return survives(multiply)


@cache
def _can_use_them(model: Path) -> bool:
    """Found once: what a dry run in this process was told holds when the model is loaded."""
    return survives(lambda: plan_graph(model))


def _refuse() -> None:
    """Make llama.cpp do without AMX in this process; before its first model."""
    libc = ctypes.CDLL(None, use_errno=True)
    before, memory = _Stack(), ctypes.create_string_buffer(SMALL_STACK_BYTES)
    small = _Stack(ctypes.addressof(memory), 0, SMALL_STACK_BYTES)
    if libc.sigaltstack(ctypes.byref(small), ctypes.byref(before)) != 0:
        return
    try:
        with _silent_stderr():  # it says there that it was refused
            weight_layouts()
    finally:
        libc.sigaltstack(ctypes.byref(before), None)


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
