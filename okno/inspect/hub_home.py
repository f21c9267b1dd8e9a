"""Where huggingface_hub keeps what it keeps: its home folder, its cache, the access token.

As huggingface_hub/constants.py reads the environment, without importing it.
"""

from __future__ import annotations

import os
from pathlib import Path

MAX_TOKEN_BYTES = 4096
YES = ("1", "on", "yes", "true")


def hub_home() -> Path:
    """HF_HOME, else `huggingface` in the user's cache folder (also on Windows and macOS)."""
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return _path(os.environ.get("HF_HOME") or os.path.join(caches, "huggingface"))


def hub_cache() -> Path:
    """Where repositories are: HF_HUB_CACHE, else `hub` in the home."""
    named = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    return _path(named) if named else hub_home() / "hub"


def hub_token() -> str:
    """HF_TOKEN, else what `hf auth login` has stored; empty without either, or when the user wants
    none sent (HF_HUB_DISABLE_IMPLICIT_TOKEN)."""
    if os.environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").lower() in YES:
        return ""
    given = os.environ.get("HF_TOKEN", "").strip()
    if given:
        return given
    named = os.environ.get("HF_TOKEN_PATH")
    try:
        with (_path(named) if named else hub_home() / "token").open("rb") as file:
            return file.read(MAX_TOKEN_BYTES).decode("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def is_offline() -> bool:
    """The user wants no network."""
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return any(os.environ.get(name, "").lower() in YES for name in names)


def _path(text: str) -> Path:
    return Path(os.path.expandvars(text)).expanduser()
