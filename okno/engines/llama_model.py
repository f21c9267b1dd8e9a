"""Loading a GGUF file through llama.cpp: parameters, progress, log, metadata."""

from __future__ import annotations

import ctypes
import os
from collections import deque
from collections.abc import Callable
from pathlib import Path

import llama_cpp.llama_cpp as lib

from okno.core.errors import ModelUnusable
from okno.engines.amx import settle_amx
from okno.engines.protocol import WorkerOptions

WARNING = 3  # GGML_LOG_LEVEL_WARN of enum ggml_log_level (ggml.h); errors are 4
_log_lines: deque[tuple[int, str]] = deque(maxlen=200)


def _log(level: int, text: bytes | None, _data: object) -> None:
    if text:
        _log_lines.append((level, text.decode(errors="replace").rstrip()))


_log_callback = lib.llama_log_callback(_log)


def start_backend() -> None:
    """Once per process: llama.cpp initialised, its log kept in memory instead of on stderr, and
    an internal assert ends the process without starting a debugger."""
    os.environ["GGML_NO_BACKTRACE"] = "1"
    keep_log()
    lib.llama_backend_init()


def keep_log() -> None:
    """What the engine says from now on is kept for recent_log."""
    lib.llama_log_set(_log_callback, ctypes.c_void_p(0))


def recent_log(count: int = 20) -> list[str]:
    """The last lines llama.cpp logged."""
    return [line for _, line in list(_log_lines)[-count:]]


def recent_problems(count: int = 4) -> list[str]:
    """The last lines it logged as warnings or errors."""
    return [line for level, line in _log_lines if level >= WARNING][-count:]


class LlamaModel:
    """A loaded model: the pointer, its metadata, and what decides how it can be run. with_head:
    also its prediction head."""

    def __init__(
        self,
        options: WorkerOptions,
        on_progress: Callable[[float], None],
        *,
        with_head: bool = False,
    ) -> None:
        path = Path(options.model_path)
        _check_file(path)

        def progress(fraction: float, _data: object) -> bool:
            on_progress(fraction)
            return True

        params = lib.llama_model_default_params()
        params.n_gpu_layers = options.gpu_layers
        params.load_mtp = with_head
        params.use_extra_bufts = settle_amx(path)
        params.load_mode = lib.LLAMA_LOAD_MODE_MMAP if options.mmap else lib.LLAMA_LOAD_MODE_NONE
        callback = lib.llama_progress_callback(progress)
        params.progress_callback = callback
        pointer = lib.llama_model_load_from_file(str(path).encode(), params)
        if not pointer:
            raise ModelUnusable(_load_failure(path))
        self.pointer = pointer
        self.metadata = _metadata(pointer)
        self.architecture = self.metadata.get("general.architecture", "unknown")
        self.ctx_train: int = lib.llama_model_n_ctx_train(pointer)
        self.n_embd: int = lib.llama_model_n_embd(pointer)
        self.n_layer: int = lib.llama_model_n_layer(pointer)
        self.size_bytes: int = lib.llama_model_size(pointer)
        self.n_params: int = lib.llama_model_n_params(pointer)

    @property
    def description(self) -> str:
        out = ctypes.create_string_buffer(256)
        lib.llama_model_desc(self.pointer, out, len(out))
        return out.value.decode(errors="replace")

    @property
    def chat_template(self) -> str | None:
        template = lib.llama_model_chat_template(self.pointer, None)
        return template.decode(errors="replace") if template else None

    @property
    def pooling(self) -> int:
        """The pooling type an embedding model declares; LLAMA_POOLING_TYPE_NONE without one."""
        return int(self.metadata.get(f"{self.architecture}.pooling_type", "0") or 0)

    @property
    def causal(self) -> bool:
        return self.metadata.get(f"{self.architecture}.attention.causal", "true") != "false"

    @property
    def is_embedding_model(self) -> bool:
        return self.pooling != lib.LLAMA_POOLING_TYPE_NONE or not self.causal

    @property
    def keeps_state(self) -> bool:
        """Recurrent or hybrid: a state per sequence, which cannot be rolled back."""
        pointer = self.pointer
        return bool(lib.llama_model_is_recurrent(pointer) or lib.llama_model_is_hybrid(pointer))

    @property
    def has_window_attention(self) -> bool:
        return int(lib.llama_model_n_swa(self.pointer)) > 0

    @property
    def has_plain_attention(self) -> bool:
        """Every token sees all before it, and nothing else is kept: prefixes can be shared and a
        sequence can be cut anywhere."""
        return not (self.keeps_state or self.has_window_attention)


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise ModelUnusable(f"There is no file {path}.")
    with path.open("rb") as file:
        magic = file.read(4)
    if magic not in (b"GGUF", b"FUGG"):
        raise ModelUnusable(
            f"{path.name} is not a GGUF file (it starts with {magic!r}). Give a GGUF model, "
            "or the folder of a safetensors one, which okno converts."
        )


def _load_failure(path: Path) -> str:
    lines = [line for _, line in _log_lines if "error" in line.lower() or "fail" in line.lower()]
    reason = lines[0].split("llama_model_load: error loading model: ")[-1] if lines else "no reason"
    return (
        f"{path.name} cannot be loaded: {reason}. The file may be damaged or of a newer format; "
        "get it again, or try another quantisation."
    )


def _metadata(pointer: lib.llama_model_p) -> dict[str, str]:
    found = {}
    for index in range(lib.llama_model_meta_count(pointer)):
        key = _string(lib.llama_model_meta_key_by_index, pointer, index)
        if not key.startswith("tokenizer."):
            found[key] = _string(lib.llama_model_meta_val_str_by_index, pointer, index)
    return found


def _string(function: Callable[..., int], pointer: lib.llama_model_p, index: int) -> str:
    out = ctypes.create_string_buffer(4096)
    length = function(pointer, index, out, len(out))
    if length >= len(out):
        out = ctypes.create_string_buffer(length + 1)
        function(pointer, index, out, len(out))
    return out.value.decode(errors="replace")
