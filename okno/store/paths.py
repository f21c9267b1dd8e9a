"""Where okno keeps what it learns."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import platformdirs

from okno.core.errors import BadSetting
from okno.core.paths import expanded

DATA_DIR = "OKNO_DATA_DIR"
FILE_NAME = "okno.db"


def data_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """OKNO_DATA_DIR, else the user data folder of this system. It need not exist yet. Raises
    BadSetting for the home folder of nobody."""
    given = environment.get(DATA_DIR)
    if given:
        return expanded(given, BadSetting).absolute()
    return Path(platformdirs.user_data_dir("okno", appauthor=False))


def database_path(environment: Mapping[str, str] = os.environ) -> Path:
    """The one SQLite file."""
    return data_folder(environment) / FILE_NAME
