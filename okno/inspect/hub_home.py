"""Where huggingface_hub keeps what it keeps: its home folder, its cache, the access token.

As huggingface_hub/constants.py reads the environment, without importing it.
"""

from __future__ import annotations

import os
from pathlib import Path

from okno.core.errors import BadSetting
from okno.core.files import read_file

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
    none sent (HF_HUB_DISABLE_IMPLICIT_TOKEN). Raises BadSetting for what no header can carry."""
    if os.environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").lower() in YES:
        return ""
    given = _cleaned(os.environ.get("HF_TOKEN", ""))
    if given:
        return _checked(given, "HF_TOKEN")
    named = os.environ.get("HF_TOKEN_PATH")
    path = _path(named) if named else hub_home() / "token"
    try:
        found = read_file(path, MAX_TOKEN_BYTES).decode("utf-8", errors="replace")
    except OSError:
        return ""
    return _checked(_cleaned(found), str(path))


def _cleaned(token: str) -> str:
    """As huggingface_hub does: a pasted token may bring line ends."""
    return token.replace("\r", "").replace("\n", "").strip()


def _checked(token: str, where: str) -> str:
    """Never shows it: a message is no place for a secret."""
    if not token or (token.isascii() and token.isprintable()):
        return token
    raise BadSetting(
        f"{where} holds characters that no access token has. Copy the token again, or remove it."
    )


def is_offline() -> bool:
    """The user wants no network."""
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return any(os.environ.get(name, "").lower() in YES for name in names)


def _path(text: str) -> Path:
    return Path(os.path.expandvars(text)).expanduser()
