"""From what a person writes for a model to its bytes: a path, an address, a repository."""

from __future__ import annotations

from pathlib import Path

from okno.core.errors import ModelNotFound, ModelUnusable
from okno.core.paths import expanded
from okno.inspect.listing import is_model_file
from okno.inspect.paths import kind_at, names_in
from okno.inspect.safetensors import only_weights
from okno.inspect.source import LocalSource, Source
from okno.inspect.source_hub import open_address, open_reference, parse_reference

MAX_CHARS = 4096
CONFIG = "config.json"


def open_source(where: str | Path) -> Source:
    """A GGUF file, a safetensors file, or the config.json of a folder or repository with these.

    where: a path; an http(s) address; `owner/repo`, `owner/repo:Q4_K_M`, `owner/repo/file.gguf` on
    the Hugging Face hub (what exists here under that path comes first). Raises ModelNotFound,
    ModelUnusable, AccessDenied, SourceUnreachable.
    """
    text = str(where)
    if not text.strip() or len(text) > MAX_CHARS or not text.isprintable():
        raise ModelNotFound("A model is named by a path, an address or owner/repository.")
    if isinstance(where, str) and text.startswith(("http://", "https://")):
        return open_address(text)
    path = expanded(where)
    kind = kind_at(path)
    if kind is not None:
        return _in_folder(path) if kind == "folder" else LocalSource(path)
    reference = parse_reference(text) if isinstance(where, str) else None
    if reference is None or path.is_absolute() or text.startswith(("./", "../", "~")):
        raise ModelNotFound(f"There is no file {text}.")
    return open_reference(reference)


def _in_folder(folder: Path) -> Source:
    """The one GGUF model of a folder, else its config.json, or the weights beside that where only
    their name tells of them."""
    names = names_in(folder)
    ggufs = [name for name in names if is_model_file(name)]
    if len(ggufs) == 1:
        return LocalSource(folder / ggufs[0])
    if ggufs:
        shown = ", ".join(ggufs[:12])
        raise ModelNotFound(f"{folder} has {len(ggufs)} models: {shown}. Give one of these files.")
    if CONFIG in names:
        return LocalSource(folder / (only_weights(names) or CONFIG))
    raise ModelUnusable(f"{folder} has neither a GGUF file nor a config.json with weights.")
