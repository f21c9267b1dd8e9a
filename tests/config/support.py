"""Settings files as text, and what they give."""

from __future__ import annotations

from pathlib import Path

import pytest

from okno.config.file import SettingsFile, file_of, layer_of
from okno.config.load import Loaded, merge
from okno.core.errors import BadSetting


def a_file(text: str, name: str = "generation_config.yaml", *, found: bool = False) -> SettingsFile:
    return file_of(Path(name), text.encode(), found=found)


def from_file(text: str, name: str = "generation_config.yaml", **environment: str) -> Loaded:
    return merge([], environment, a_file(text, name))


def refusal(text: str, name: str = "generation_config.yaml") -> str:
    """The message with which `text` is refused as a settings file."""
    with pytest.raises(BadSetting) as caught:
        from_file(text, name)
    return caught.value.message


def errors(text: str) -> list[str]:
    return [error.message for error in layer_of(a_file(text)).errors]
