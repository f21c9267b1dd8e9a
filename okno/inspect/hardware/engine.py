"""The engine's own view: which devices llama.cpp of this installation can really use.

Two ways to know: the backends its build has (names of files, instant), and asking it in a child
process (`engine_child.py`), because a driver that dies takes the process that asked with it.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cache
from hashlib import sha256
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from okno.core.machine import DEVICE_ORDER, Device, DeviceKind
from okno.core.python import import_path, module_command
from okno.inspect.cpu import machine_has_amx
from okno.inspect.hardware.devices import ID_PREFIX, Found, device_id
from okno.inspect.hardware.host import NotReadable, first_line, names_in

TIMEOUT_S = 30.0
BACKEND_OF_LIBRARY: dict[str, DeviceKind] = {
    "cuda": "cuda", "hip": "rocm", "musa": "cuda", "vulkan": "vulkan", "metal": "metal",
    "sycl": "sycl",
}  # fmt: skip
Backends = frozenset[DeviceKind]


@dataclass(frozen=True, slots=True)
class EngineDevice:
    """A device as llama.cpp lists it. type: cpu, gpu, igpu, accel or meta."""

    name: str
    description: str
    type: str
    free_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class EngineView:
    """version: of llama-cpp-python. system: llama.cpp's own line of what its build uses."""

    version: str
    system: str
    devices: tuple[EngineDevice, ...]


@cache
def backends() -> Backends | None:
    """Kinds of accelerators this installation's llama.cpp was built for; None when its libraries
    are not where they are expected. Loads nothing."""
    folder = _libraries()
    return None if folder is None else backends_from(names_in(PurePosixPath(folder)))


def engine_name() -> str:
    """The engine as what was measured with it is kept: its version, its build (the same source
    compiled otherwise has other kernels), and whether AMX is kept from it. Loads nothing."""
    is_kept_off = os.environ.get("OKNO_AMX") == "0" and machine_has_amx()
    without = " without AMX" if is_kept_off else ""
    return f"llama-cpp-python {version('llama-cpp-python')}{_build()}{without}"


@cache
def _build() -> str:
    folder = _libraries()
    kernels = sorted(Path(folder).glob("*ggml-cpu*")) if folder else []
    return f" {sha256(kernels[0].read_bytes()).hexdigest()[:8]}" if kernels else ""


def _libraries() -> str | None:
    """The folder of llama.cpp's libraries; None without the package."""
    folder = os.environ.get("LLAMA_CPP_LIB_PATH")
    if folder is not None:
        return folder
    spec = find_spec("llama_cpp")
    if spec is None or not spec.submodule_search_locations:
        return None
    return str(Path(spec.submodule_search_locations[0]) / "lib")


def backends_from(names: Sequence[str]) -> Backends | None:
    """From file names: libggml-cuda.so, libggml-metal.dylib, ggml-vulkan.dll, ..."""
    libraries = [name.removeprefix("lib") for name in names if "ggml" in name]
    if not libraries:
        return None
    return frozenset(
        kind
        for word, kind in BACKEND_OF_LIBRARY.items()
        if any(library.startswith(f"ggml-{word}") for library in libraries)
    )


def through_backend(found: Found, built: Backends | None) -> Found:
    """A device whose own backend this build has not, but which Vulkan reaches too."""
    reachable = built is not None and "vulkan" in built and found.kind in ("cuda", "rocm", "sycl")
    if reachable and built is not None and found.kind not in built:
        return replace(found, kind="vulkan")
    return found


def marked(device: Device, built: Backends | None) -> Device:
    """With why the engine cannot use it, if its build cannot."""
    if device.unusable or built is None or device.kind in built:
        return device
    return replace(device, unusable=no_backend(device.kind))


def no_backend(kind: DeviceKind) -> str:
    flag = {"cuda": "GGML_CUDA", "rocm": "GGML_HIP", "metal": "GGML_METAL",
            "vulkan": "GGML_VULKAN", "sycl": "GGML_SYCL"}[kind]  # fmt: skip
    return (
        f"this build of llama.cpp has no {ID_PREFIX[kind]} backend; reinstall llama-cpp-python "
        f"with CMAKE_ARGS=-D{flag}=on to use it"
    )


def ask() -> tuple[EngineView | None, tuple[str, ...]]:
    """The view, or a sentence why there is none."""
    try:
        return parse_view(_ask_child()), ()
    except NotReadable as error:
        return None, (f"The engine's own view is not readable: {error}.",)


def _ask_child() -> str:
    try:
        done = subprocess.run(
            module_command("okno.inspect.hardware.engine_child"),
            stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S, check=False,
            env={**DEVICE_ORDER, **os.environ, "GGML_NO_BACKTRACE": "1",
                 "PYTHONPATH": import_path()},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise NotReadable(f"llama.cpp did not answer within {TIMEOUT_S:g} s") from None
    except OSError as error:
        raise NotReadable(f"a child process cannot be started: {error.strerror}") from None
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        said = first_line(lines[-1] if lines else "")
        raise NotReadable(f"llama.cpp ended with status {done.returncode}: {said}")
    return done.stdout.decode(errors="replace")


def parse_view(text: str) -> EngineView:
    """The last line of the child's output, JSON. Raises NotReadable."""
    lines = [line for line in text.splitlines() if line.strip()]
    try:
        said = json.loads(lines[-1])
        return EngineView(
            str(said["version"]), str(said["system"]),
            tuple(EngineDevice(**device) for device in said["devices"]),
        )  # fmt: skip
    except (IndexError, ValueError, KeyError, TypeError, RecursionError):
        raise NotReadable("the child process printed something other than its JSON") from None


def merged(devices: Sequence[Device], view: EngineView) -> tuple[Device, ...]:
    """Devices as the engine sees them: its ids and sizes where it lists one, a reason where it does
    not, and those that only it found. A device is the one of its name, else the one of its id."""
    rest = [one for one in view.devices if one.type in ("gpu", "igpu") and _kind(one.name)]
    seen: dict[str, EngineDevice] = {}
    for is_same in (_same_name, _same_id):
        for device in devices:
            found = [one for one in rest if is_same(device, one)]
            if found and device.id not in seen:
                one = next((one for one in found if _same_id(device, one)), found[0])
                seen[device.id] = one
                rest.remove(one)
    ids = {_id(one.name) for one in view.devices}
    known = tuple(
        _confirmed(device, seen[device.id]) if device.id in seen else _unlisted(device, ids)
        for device in devices
    )
    return known + tuple(_only_engine(one) for one in rest)


def _same_name(device: Device, seen: EngineDevice) -> bool:
    return seen.description == device.name and _kind(seen.name) == device.kind


def _same_id(device: Device, seen: EngineDevice) -> bool:
    return _id(seen.name) == device.id


def _id(name: str) -> str:
    """Our id of the engine's device. (Older builds call Metal's `Metal`.)"""
    return device_id("metal", 0) if name == "Metal" else name


def _unlisted(device: Device, ids: Collection[str]) -> Device:
    """With why the engine does not use it, and no id that the engine has for another one."""
    why = device.unusable or marked(device, backends()).unusable
    own = f"{device.id} unlisted" if device.id in ids else device.id
    return replace(
        device, id=own, unusable=why or "llama.cpp does not list it on this machine"
    )  # fmt: skip


def _confirmed(device: Device, seen: EngineDevice) -> Device:
    free = seen.free_bytes
    if device.unified and device.free_bytes is not None:
        free = min(free, device.free_bytes)  # main memory, with the limits on this process
    return replace(
        device, id=_id(seen.name), total_bytes=seen.total_bytes or device.total_bytes,
        free_bytes=free, source=f"{device.source}, engine", unusable="",
    )  # fmt: skip


def _only_engine(seen: EngineDevice) -> Device:
    kind = _kind(seen.name)
    assert kind is not None
    return Device(
        _id(seen.name), kind, seen.description, seen.total_bytes, seen.free_bytes,
        unified=seen.type == "igpu", source="engine",
    )  # fmt: skip


def _kind(name: str) -> DeviceKind | None:
    """`CUDA0` is cuda; None for a backend okno does not plan for."""
    word = name.rstrip("0123456789").lower()
    return next(
        (kind for kind, prefix in ID_PREFIX.items() if word in (prefix.lower(), kind)), None
    )
