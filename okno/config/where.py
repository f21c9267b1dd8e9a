"""Which settings file counts."""

from __future__ import annotations

from pathlib import Path

import platformdirs

from okno.config.file import SettingsFile, read_file
from okno.core.errors import BadSetting
from okno.core.paths import expanded

FILE_NAME = "generation_config.yaml"
NO_FILE = "none"


def user_file() -> Path:
    """The file in okno's user config folder."""
    return Path(platformdirs.user_config_dir("okno", appauthor=False)) / FILE_NAME


def default_files() -> tuple[Path, Path]:
    """Where a file is looked for when none is named, the first one there wins."""
    return Path(FILE_NAME), user_file()


def find_file(named: str | None) -> SettingsFile | None:
    """The settings file: the `named` one (`none`: no file), else the first default one there is.

    Raises BadSetting when it cannot be read.
    """
    if named == NO_FILE:
        return None
    if named is not None:
        return read_file(expanded(named, BadSetting))
    here, user = default_files()
    if _is_there(here):
        return read_file(here, found=True)
    return read_file(user) if _is_there(user) else None


def _is_there(path: Path) -> bool:
    """Something of that name exists, a broken link included, which is then an error."""
    try:
        return path.is_symlink() or path.exists()
    except OSError:
        return False
