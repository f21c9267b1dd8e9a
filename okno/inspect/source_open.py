"""From what a person writes for a model to its bytes: a path, an address, a repository."""

from __future__ import annotations

from pathlib import Path

from okno.core.errors import ModelNotFound, ModelUnusable
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
    path = Path(where).expanduser()
    if _is_there(path):
        return _in_folder(path) if path.is_dir() else LocalSource(path)
    reference = parse_reference(text) if isinstance(where, str) else None
    if reference is None or path.is_absolute() or text.startswith(("./", "../", "~")):
        raise ModelNotFound(f"There is no file {text}.")
    return open_reference(reference)


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _in_folder(folder: Path) -> Source:
    """The one GGUF model of a folder, else its config.json."""
    ggufs = [
        path
        for path in sorted(folder.glob("*.gguf"))
        if not path.name.startswith("mmproj") and _is_first(path.name)
    ]
    if len(ggufs) == 1:
        return LocalSource(ggufs[0])
    if ggufs:
        names = ", ".join(path.name for path in ggufs[:12])
        raise ModelNotFound(f"{folder} has {len(ggufs)} models: {names}. Give one of these files.")
    if (folder / CONFIG).is_file():
        return LocalSource(folder / CONFIG)
    raise ModelUnusable(f"{folder} has neither a GGUF file nor a config.json with weights.")


def _is_first(name: str) -> bool:
    return "-of-" not in name or "-00001-of-" in name
